//! The cases of the YAML files.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use control::object::Pod;
use control::policies::{NetworkPolicy as Trimmed, Policies};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::cluster::{Cluster, ENDS, PORTS, cluster};
use super::{held, labels, lets_in, lets_out, oracle};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    policies: Vec<Entry>,
    /// Who is let in, by destination and port.
    #[serde(default)]
    expect: Option<Written>,
    /// Who is let out to, by source and port.
    #[serde(default)]
    out: Option<Written>,
    #[serde(default)]
    faults: usize,
}

/// By pods and port: the other ends.
type Written = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Elsewhere { r#in: String, spec: Box<NetworkPolicySpec> },
    Here(Box<NetworkPolicySpec>),
}

/// Everything of a cluster, with these policies.
pub(crate) fn policies(cluster: &Cluster, policies: &[NetworkPolicy]) -> Policies {
    let mut all = Policies::new("root");
    for (name, of) in &cluster.namespaces {
        all.set_namespace(&Arc::from(name.as_str()), &labels(of));
    }
    for pod in &cluster.pods {
        all.set_pod(&Pod::from(pod));
    }
    for policy in policies {
        all.set_network_policy(Trimmed::from(policy));
    }
    all
}

impl Case {
    fn objects(&self) -> Vec<NetworkPolicy> {
        let object = |(i, entry): (usize, &Entry)| {
            let (namespace, spec) = match entry {
                Entry::Elsewhere { r#in, spec } => (r#in.as_str(), spec),
                Entry::Here(spec) => ("shop", spec),
            };
            let metadata = ObjectMeta {
                name: Some(format!("p{i}")),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            };
            NetworkPolicy { metadata, spec: Some((**spec).clone()) }
        };
        self.policies.iter().enumerate().map(object).collect()
    }

    /// Who is let through, as it is written.
    fn expected(&self, written: &Written, pod: &str, port: u16) -> BTreeSet<&'static str> {
        let all: BTreeSet<&str> = ENDS.iter().map(|(name, _)| *name).collect();
        let Some((_, ports)) = written.iter().find(|(pods, _)| pods.split(' ').any(|p| p == pod)) else {
            return all;
        };
        let text = ports.get(&port.to_string()).or_else(|| ports.get("*"));
        let text = text.unwrap_or_else(|| panic!("{}: {pod} says nothing of {port}", self.name));
        let named = |text: &str| -> BTreeSet<&'static str> {
            let one = |n: &str| ENDS.iter().find(|(name, _)| *name == n).map(|(name, _)| *name);
            text.split(' ').map(|n| one(n).unwrap_or_else(|| panic!("{}: who is {n}?", self.name))).collect()
        };
        match text.as_str() {
            "all" => all,
            "none" => BTreeSet::new(),
            text => match text.strip_prefix("all but ") {
                Some(names) => &all - &named(names),
                None => named(text),
            },
        }
    }

    /// Everything that is not as it should be.
    fn run(&self, cluster: &Cluster) -> Vec<String> {
        let objects = self.objects();
        let all = policies(cluster, &objects);
        let set = held(all.resources());
        let mut wrong = Vec::new();
        let meshed = cluster.pods.iter().filter(|p| {
            let ended = p.status.as_ref().unwrap().phase.as_deref() != Some("Running");
            !ended && p.metadata.annotations.is_some()
        });
        for pod in meshed {
            let name = pod.metadata.name.as_deref().unwrap();
            let others = || ENDS.iter().filter(|(s, _)| s.trim_end_matches('6') != name);
            for (port, (end, ip)) in PORTS.iter().flat_map(|port| others().map(move |end| (*port, end))) {
                let ip: IpAddr = ip.parse().unwrap();
                let want = |written: &Written| self.expected(written, name, port).contains(end);
                let mut judge = |what: String, written: Option<bool>, oracle: bool, got: bool| {
                    if oracle != got || written.is_some_and(|w| w != got) {
                        wrong.push(format!("{what}: written {written:?}, oracle {oracle}, control {got}"));
                    }
                };
                let oracle = oracle::allows(cluster, &objects, pod, ip, port);
                let got = lets_in(&all, &set, pod, ip, port);
                judge(format!("{end} to {name}:{port}"), self.expect.as_ref().map(want), oracle, got);
                let oracle = oracle::lets_out(cluster, &objects, pod, ip, port);
                let got = lets_out(&all, &set, pod, ip, port);
                judge(format!("{name} out to {end}:{port}"), self.out.as_ref().map(want), oracle, got);
            }
        }
        if self.expect.is_none() && self.out.is_none() {
            wrong.push("says neither who is let in nor who is let out to".to_owned());
        }
        let faults: usize = objects.iter().map(|p| Trimmed::from(p).faults.iter().count()).sum();
        if faults != self.faults {
            wrong.push(format!("{faults} faults instead of {}", self.faults));
        }
        wrong
    }
}

#[test]
fn ingress_means_what_kubernetes_says() {
    hold(&["isolation.yaml", "peers.yaml", "blocks.yaml", "ports.yaml", "union.yaml", "hostile.yaml"]);
}

#[test]
fn egress_means_what_kubernetes_says() {
    hold(&["egress-isolation.yaml", "egress-peers.yaml", "egress-ports.yaml", "egress-hostile.yaml"]);
}

/// Runs all cases of these files.
fn hold(files: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/network_policy");
    let cluster = cluster();
    let (mut cases, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let read: Vec<Case> = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        cases += read.len();
        for case in &read {
            wrong.extend(case.run(&cluster).into_iter().map(|w| format!("{file}: {}: {w}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 60, "{cases}");
}

#[test]
fn one_resource_is_shared_by_pods_of_the_same_policies() {
    let cluster = cluster();
    let case = |yaml: &str| serde_saphyr::from_str::<Case>(yaml).unwrap();
    let names = |case: &Case| -> Vec<String> {
        policies(&cluster, &case.objects()).resources().iter().map(|r| r.key()).collect()
    };
    let one = case("{name: x, policies: [{podSelector: {}}, {podSelector: {matchLabels: {app: web}}}], expect: {}}");
    assert_eq!(names(&one), ["shop/culvert_network_policy_p0", "shop/culvert_network_policy_p0_p1"]);
    // A name of a port that has another number in another pod makes another resource.
    let ports = case("{name: x, policies: [{podSelector: {}, ingress: [{ports: [{port: http}]}]}], expect: {}}");
    assert_eq!(
        names(&ports),
        [
            "shop/culvert_network_policy_p0_http=80",
            "shop/culvert_network_policy_p0_http=8080",
            "shop/culvert_network_policy_p0_http=none",
        ]
    );
    // What is let out by name has the number that the other end gives it.
    let out = case(
        "{name: x, policies: [{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}, \
         {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}], expect: {}}",
    );
    assert_eq!(names(&out), ["shop/culvert_network_policy_egress__p0", "shop/culvert_network_policy_egress__p0_p1"]);
    assert_eq!(
        names(&case("{name: x, policies: [{podSelector: {}, policyTypes: [Egress], egress: [{}]}], expect: {}}")),
        [""; 0]
    );
    // Where everything is let in there is nothing to deny.
    assert_eq!(names(&case("{name: x, policies: [{podSelector: {}, ingress: [{}]}], expect: {}}")), [""; 0]);
    let odd = case("{name: x, policies: [{podSelector: {}, ingress: [{ports: [{port: a_b}]}]}], expect: {}}");
    let odd = names(&odd);
    assert_eq!(odd.len(), 1);
    assert!(odd[0].starts_with("shop/culvert_network_policy__") && odd[0].len() < 64, "{}", odd[0]);
}
