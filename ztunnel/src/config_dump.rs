//! `/config_dump`, in the shape that istioctl and Kiali decode (telemetry.md 6). Never key material.

use std::collections::BTreeMap;
use std::sync::Arc;

use directory::Snapshot;
use identity::{CertificateState, Described, State, describe};
use mesh::Direction;
use mesh::service::Service;
use serde::Serialize;
use telemetry::timestamp::Timestamp;
use xds::local;

use crate::config::Config;
use crate::here::Shared;
use crate::pod::{LiveConnection, Pod, PodInfo};
use crate::pods::Pods;
use crate::world::OfPod as _;

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
    /// All blocks whose unknown addresses are not reached in clear, configured or not.
    pod_networks: Vec<String>,
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
            services: directory.services().map(|s| with_endpoints(s, &directory)).collect(),
            policies: policies.iter().map(|p| local::Policy::from(&**p)).collect(),
            certificates: shared.identities.dump().iter().map(Certificates::from).collect(),
            workload_state: state.collect(),
            version: Version { version: env!("CARGO_PKG_VERSION") },
            pod_networks: shared.world.pod_networks().iter().map(ToString::to_string).collect(),
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

impl From<Described> for Certificate {
    fn from(told: Described) -> Self {
        let facts = told.facts.as_ref();
        Self {
            pem: told.pem.clone(),
            serial_number: facts.map(|f| f.serial.clone()).unwrap_or_default(),
            valid_from: facts.map(|f| Timestamp(f.not_before)),
            expiration_time: facts.map(|f| Timestamp(f.not_after)),
        }
    }
}

impl From<&CertificateState> for Certificates {
    fn from(held: &CertificateState) -> Self {
        let told = |pem: &str| describe(pem).into_iter().map(Certificate::from).collect::<Vec<_>>();
        Self {
            identity: held.identity.to_string(),
            state: match held.state {
                State::Available => "Available",
                State::Expired => "Expired",
                State::Initializing => "Initializing",
                State::Unavailable => "Unavailable",
            },
            cert_chain: held.chain_pem.iter().flat_map(|pem| told(pem)).collect(),
            root_certs: told(&held.roots_pem),
        }
    }
}

/// A service with its endpoints, which discovery tells with the workloads.
fn with_endpoints(service: &Service, directory: &Snapshot) -> local::Service {
    let key = service.key().to_string();
    let endpoints = directory.endpoints(&key).map(|workload| {
        let own = workload.services.get(&*key);
        // A port of the workload's own goes before the service's (discovery.md 3).
        let target = |(port, target): (&u16, &u16)| (*port, *own.and_then(|own| own.0.get(port)).unwrap_or(target));
        let endpoint = local::Endpoint {
            workload_uid: workload.uid.to_string(),
            port: service.ports.0.iter().map(target).collect(),
            status: local::Workload::from(&**workload).status,
        };
        (workload.uid.to_string(), endpoint)
    });
    local::Service { endpoints: endpoints.collect(), ..local::Service::from(service) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh::workload::{PortMap, Workload};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_told_with_its_endpoints_as_istioctl_counts_them() {
        let mut directory = Snapshot::default();
        let service = Service {
            name: "web".into(),
            namespace: "shop".into(),
            hostname: "web.shop.svc.cluster.local".into(),
            ports: PortMap(BTreeMap::from([(80, 8080), (90, 0)])),
            ..Service::default()
        };
        let ports = PortMap(BTreeMap::from([(90, 9090)]));
        let services = BTreeMap::from([(service.key().to_string().into(), ports)]);
        directory.insert_workload(Workload { uid: "c//Pod/shop/web-1".into(), services, ..Workload::default() });
        let told = serde_json::to_value(with_endpoints(&service, &directory)).unwrap();
        let endpoint =
            json!({"workloadUid": "c//Pod/shop/web-1", "port": {"80": 8080, "90": 9090}, "status": "Healthy"});
        assert_eq!(told["endpoints"], json!({"c//Pod/shop/web-1": endpoint}));
    }
}
