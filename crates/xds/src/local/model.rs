//! From the file to the model, with every mistake of meaning on the way.

mod cross;
mod policy;
mod service;
mod workload;

use std::fmt::Display;
use std::net::IpAddr;

use mesh::NetworkAddress;
use mesh::addr::Cidr;
use mesh::workload::{GatewayAddress, GatewayDestination, NamespacedHostname};

use super::file::{File, Gateway};
use super::world::World;

/// Something wrong at a place of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Keys and indices from the root.
    pub(super) path: Vec<String>,
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) remedy: String,
}

/// Builds the world and says what is wrong. With findings the world is not fit for use.
pub(super) fn build(file: &File) -> (World, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut at = At { findings: &mut findings, path: Vec::new() };
    let mut world = World::default();
    for (i, w) in file.workloads.iter().enumerate() {
        world.workloads.push(workload::workload(w, &mut at.at("workloads").at(i)));
    }
    for (i, s) in file.services.iter().enumerate() {
        let mut at = at.at("services");
        let mut at = at.at(i);
        world.services.push(service::service(s, &mut at));
        service::members(s, &mut world.workloads, &mut at);
    }
    for (i, p) in file.policies.iter().enumerate() {
        world.policies.push(policy::policy(p, &mut at.at("policies").at(i)));
    }
    world.warnings = cross::check(&world, &mut at);
    (world, findings)
}

/// A place in the file that findings can be filed under.
pub(super) struct At<'a> {
    findings: &'a mut Vec<Finding>,
    path: Vec<String>,
}

impl At<'_> {
    /// One level further.
    fn at(&mut self, segment: impl Display) -> At<'_> {
        let mut path = self.path.clone();
        path.push(segment.to_string());
        At { findings: self.findings, path }
    }

    fn mistake(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { path: self.path.clone(), what: what.into(), remedy: remedy.into() });
    }

    fn not_empty(&mut self, key: &str, text: &str) {
        if text.is_empty() {
            self.at(key).mistake("is empty", format!("give the {key}"));
        }
    }
}

fn address(text: &str) -> Option<NetworkAddress> {
    let (network, ip) = text.split_once('/')?;
    Some(NetworkAddress::new(network, ip.parse::<IpAddr>().ok()?))
}

fn cidr(text: &str, at: &mut At<'_>) -> Cidr {
    text.parse().unwrap_or_else(|_| {
        at.mistake(format!("{text:?} is not an address or a block"), "write 10.0.0.0/8, fd00::/64 or one address");
        Cidr::host(IpAddr::from([0, 0, 0, 0]))
    })
}

fn gateway(g: &Gateway, at: &mut At<'_>) -> GatewayAddress {
    if g.hbone_mtls_port == 0 {
        at.at("hboneMtlsPort").mistake("0 is not a port", "use 1 to 65535, or leave it out for 15008");
    }
    let named = |(namespace, hostname): (&str, &str)| {
        let fits = !namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/');
        fits.then(|| NamespacedHostname { namespace: namespace.into(), hostname: hostname.into() })
    };
    let destination = match address(&g.destination) {
        Some(a) => GatewayDestination::Address(a),
        None => GatewayDestination::Hostname(g.destination.split_once('/').and_then(named).unwrap_or_else(|| {
            at.at("destination").mistake(
                format!("{:?} is neither an address nor a service", g.destination),
                "write network/ip (the default network: /10.0.0.1) or namespace/hostname",
            );
            NamespacedHostname { namespace: "".into(), hostname: "".into() }
        })),
    };
    GatewayAddress { destination, hbone_port: g.hbone_mtls_port }
}
