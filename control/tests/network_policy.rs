//! NetworkPolicies through control and the crate `policy`, against what is written in `network_policy/*.yaml` and against
//! an oracle that knows neither; and the same again for policies, pods and changes made up at random.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "network_policy/cases.rs"]
mod cases;
#[path = "network_policy/cluster.rs"]
mod cluster;
#[path = "network_policy/oracle.rs"]
mod oracle;
#[path = "network_policy/random.rs"]
mod random;
#[path = "network_policy/reuse.rs"]
mod reuse;

use std::net::IpAddr;
use std::sync::Arc;

use control::object::{Labels, Pod};
use control::policies::Policies;
use k8s_openapi::api::core::v1;
use mesh::Workload;
use mesh::authz::Authorization;
use mesh::workload::Egress;
use policy::egress::{self, Target};
use policy::{Connection, PolicySet, Subject, Verdict, judge};

/// Whether the node proxy of a pod lets a connection in.
fn lets_in(policies: &Policies, set: &PolicySet, pod: &v1::Pod, source: IpAddr, port: u16) -> bool {
    let node: IpAddr = pod.status.as_ref().unwrap().host_ip.as_ref().unwrap().parse().unwrap();
    let pod = Pod::from(pod);
    let subject = Subject {
        node: Some([node].into()),
        namespace: pod.meta.namespace.clone(),
        policies: policies.names(&pod.meta.namespace, &pod.meta.labels, Some(&pod.meta.name)),
    };
    let destination_ip = pod.addresses[0];
    let connection = Connection { source: None, source_ip: source, destination_ip, destination_port: port };
    match judge(set, &subject, &connection).verdict {
        Verdict::Denied(_) => false,
        Verdict::Permitted(_) => true,
        Verdict::Unknown(names) => panic!("{names:?} are named and not there"),
    }
}

/// Whether the node proxy of a pod lets a connection out.
fn lets_out(policies: &Policies, set: &PolicySet, pod: &v1::Pod, destination: IpAddr, port: u16) -> bool {
    let node = pod.status.as_ref().unwrap().host_ip.as_ref().unwrap().parse().unwrap();
    let pod = Pod::from(pod);
    let named = policies.egress(&pod.meta.namespace, &pod.meta.name);
    let egress = named.map(|policy| Arc::new(Egress { policies: vec![policy], exempt: vec![node] }));
    let source = Workload { addresses: pod.addresses.to_vec(), egress, ..Workload::default() };
    match egress::judge(set, &source, vec![Target { ip: Some(destination), port }]) {
        egress::Verdict::Denied(_) => false,
        egress::Verdict::Permitted(_) => true,
        egress::Verdict::Unknown(names) => panic!("{names:?} are named and not there"),
    }
}

/// The resources as a proxy holds them.
fn held(resources: Vec<Authorization>) -> PolicySet {
    let mut set = PolicySet::default();
    resources.into_iter().for_each(|r| set.insert(r));
    set
}

/// Labels of an object.
fn labels(of: &std::collections::BTreeMap<String, String>) -> Labels {
    Labels::new(of.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}
