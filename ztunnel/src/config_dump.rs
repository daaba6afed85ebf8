//! `/config_dump`, in the shape that istioctl and Kiali decode (telemetry.md 6). Never key material.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{CertificateState, State};
use mesh::Direction;
use serde::Serialize;
use telemetry::timestamp::Timestamp;
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
    certificates: Vec<Certificates>,
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
            certificates: shared.identities.dump().iter().map(Certificates::from).collect(),
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

/// The certificates of one identity.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificates {
    identity: String,
    state: &'static str,
    cert_chain: Vec<Certificate>,
    root_certs: Vec<Certificate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    pem: String,
    serial_number: String,
    valid_from: Option<Timestamp>,
    expiration_time: Option<Timestamp>,
}

impl From<&CertificateState> for Certificates {
    fn from(held: &CertificateState) -> Self {
        let (from, until) = (held.valid_from.map(Timestamp), held.expires.map(Timestamp));
        let part = |(at, pem): (usize, &String)| Certificate {
            pem: pem.clone(),
            // The manager knows the leaf's numbers; who wants those of the others reads their PEM.
            serial_number: if at == 0 { held.serial.clone() } else { String::new() },
            valid_from: from.filter(|_| at == 0),
            expiration_time: until.filter(|_| at == 0),
        };
        let roots = Some(held.roots_pem.clone()).filter(|pem| !pem.is_empty());
        Self {
            identity: held.identity.to_string(),
            state: match held.state {
                State::Available => "Available",
                State::Expired => "Expired",
                State::Initializing => "Initializing",
                State::Unavailable => "Unavailable",
            },
            cert_chain: held.chain_pem.iter().enumerate().map(part).collect(),
            root_certs: roots
                .map(|pem| Certificate { pem, serial_number: String::new(), valid_from: None, expiration_time: None })
                .into_iter()
                .collect(),
        }
    }
}
