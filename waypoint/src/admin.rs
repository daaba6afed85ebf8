//! The admin server's own routes, beside those that every program has.

use std::sync::Arc;
use std::time::Duration;

use chassis::Drain;
use chassis::admin::{Reply, Router, admin_routes, flow_routes};
use identity::State;
use serde::Serialize;
use telemetry::LogHandle;
use xds::local;

use crate::config::Config;
use crate::here::Shared;

/// Everything at one moment. Never key material.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    identity: String,
    certificates: Vec<Certificate>,
    /// Services that are bound to this waypoint.
    bound: Vec<Bound>,
    workloads: Vec<local::Workload>,
    services: Vec<local::Service>,
    version: &'static str,
    config: Config,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    identity: String,
    state: &'static str,
    serial: String,
    last_error: Option<Arc<str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    service: Arc<str>,
    has_routes: bool,
    has_policies: bool,
    has_authentication: bool,
    follows: Vec<Arc<str>>,
    /// What could not be understood.
    mistakes: Vec<String>,
}

impl Dump {
    fn now(shared: &Shared) -> Self {
        let directory = shared.world.directory();
        let tables = shared.tables.load();
        let bound = tables.iter().map(|(key, bound)| Bound {
            service: key.clone(),
            has_routes: !bound.router.is_empty(),
            has_policies: !bound.policies.is_empty(),
            has_authentication: !bound.authentications.is_empty(),
            follows: bound.follows.clone(),
            mistakes: bound.mistakes.clone(),
        });
        let certificates = shared.identities.dump().into_iter().map(|held| Certificate {
            identity: held.identity.to_string(),
            state: match held.state {
                State::Available => "Available",
                State::Expired => "Expired",
                State::Initializing => "Initializing",
                State::Unavailable => "Unavailable",
            },
            serial: held.serial,
            last_error: held.last_error,
        });
        Self {
            identity: shared.own.to_string(),
            certificates: certificates.collect(),
            bound: bound.collect(),
            workloads: directory.workloads().map(|w| local::Workload::from(&**w)).collect(),
            services: directory.services().map(|s| local::Service::from(&**s)).collect(),
            version: env!("CARGO_PKG_VERSION"),
            config: shared.config.clone(),
        }
    }
}

/// All routes of port 15000.
pub(crate) fn routes(shared: &Arc<Shared>, log: &LogHandle, drain: &Drain, deadline: Duration) -> Router {
    let dumped = shared.clone();
    admin_routes(log, drain, deadline)
        .get("/config_dump", "bound services with what they follow, workloads, services, certificates", move |_| {
            let dump = Dump::now(&dumped);
            async move { Reply::json(&dump) }
        })
        .merge(flow_routes(&shared.telemetry))
}
