//! `/config_dump`, in the shape that istioctl and Kiali decode (telemetry.md 6). Never key material.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::Direction;
use serde::Serialize;
use xds::local;

use crate::config::Config;
use crate::here::Shared;
use crate::pod::{LiveConnection, Pod, PodInfo};
use crate::pods::Pods;

/// Everything at one moment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dump {
    workloads: Vec<local::Workload>,
    services: Vec<local::Service>,
    policies: Vec<local::Policy>,
    certificates: Vec<identity::CertificateState>,
    workload_state: BTreeMap<Arc<str>, PodState>,
    version: Version,
    config: Config,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PodState {
    state: &'static str,
    connections: Connections,
    info: Info,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<LiveConnection>,
    outbound: Vec<LiveConnection>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(flatten)]
    pod: PodInfo,
    trust_domain: Arc<str>,
}

impl Dump {
    /// What is true now.
    pub(crate) fn now(shared: &Shared, pods: &Pods) -> Self {
        let directory = shared.world.directory();
        let policies = shared.world.policies();
        let state = pods.all().into_iter().map(|pod| (pod.uid().clone(), pod_state(shared, &pod)));
        Self {
            workloads: directory.workloads().map(|w| local::Workload::from(&**w)).collect(),
            services: directory.services().map(|s| local::Service::from(&**s)).collect(),
            policies: policies.iter().map(|p| local::Policy::from(&**p)).collect(),
            certificates: shared.identities.dump(),
            workload_state: state.collect(),
            version: Version { version: env!("CARGO_PKG_VERSION") },
            config: shared.config.clone(),
        }
    }
}

fn pod_state(shared: &Shared, pod: &Pod) -> PodState {
    let mut connections = Connections::default();
    for connection in pod.connections() {
        match connection.direction {
            Direction::Inbound => connections.inbound.push(connection),
            Direction::Outbound => connections.outbound.push(connection),
        }
    }
    let trust_domain = shared.world.local_now(pod).map_or_else(|| "".into(), |w| w.trust_domain.clone());
    PodState { state: "Up", connections, info: Info { pod: pod.info().clone(), trust_domain } }
}
