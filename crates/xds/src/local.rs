//! The world from a file, in Istio's local format (fact sheet discovery.md 5), for a proxy without a control plane.
//!
//! Stock proxies read the same file once; ours also watches it ([`Watcher`]). Unknown keys are mistakes, all mistakes
//! come at once with their lines, and a file that becomes wrong later changes nothing.

mod file;
mod model;
mod watch;
mod world;
mod write;
mod yaml;

#[cfg(test)]
mod tests;

use std::path::Path;

use document::{Check, Mistakes, Report};

pub use file::{
    AppTunnel, AppTunnelProtocol, CidrVip, Egress, Endpoint, File, Gateway, HealthPolicy, IpFamilies, LoadBalancer,
    LoadBalancerMode, Locality, Match, NetworkMode, Policy, PolicyAction, PolicyScope, Protocol, RoutingScope, Service,
    ServiceAccount, Status, StringMatch, Visibility, Weighted, Workload,
};
pub use watch::{Event, OpenError, Watcher};
pub use world::World;

/// Reads a world from a file.
///
/// # Errors
/// All mistakes in it, with their lines; also when it cannot be read.
pub fn load(path: &Path) -> Result<World, Mistakes> {
    document::load::<File>(path).map(|file| model::build(&file).0)
}

/// Reads a world from text (variable `LOCAL_XDS`). `name` stands for the file in mistakes.
///
/// # Errors
/// All mistakes in it, with their lines.
pub fn parse(name: &str, text: &str) -> Result<World, Mistakes> {
    document::parse::<File>(name, text).map(|file| model::build(&file).0)
}

impl Check for File {
    fn check(&self, report: &mut Report) {
        for finding in model::build(self).1 {
            let mut place = report.at("");
            for segment in &finding.path {
                place = place.at(segment);
            }
            place.mistake(finding.what, finding.remedy);
        }
    }
}
