//! Clusters, policies and changes made up at random: what control holds after any number of changes lets in what the
//! oracle says, and is the same as if everything had come at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use control::object::Pod;
use control::policies::{Effects, NetworkPolicy as Trimmed, Policies};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::cluster::{Cluster, Sketch, pairs, pod};
use super::{cases, held, labels, lets_in, lets_out, oracle};

const NAMESPACES: [&str; 2] = ["a", "b"];
const ADDRESSES: [&str; 6] = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.0", "fd00::1"];
const BLOCKS: [&str; 7] =
    ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/32", "0.0.0.0/0", "::/0", "10.0.0.0/23", "not-a-block"];
const PORTS: [u16; 5] = [1, 80, 81, 8080, 65535];
const LABELS: [&str; 5] = ["", "x=1", "x=2", "y=1", "x=1 y=1"];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Change {
    Namespace(&'static str, &'static str),
    Pod(Box<v1::Pod>),
    NoPod(&'static str, usize),
    Policy(Box<NetworkPolicy>),
    NoPolicy(&'static str, usize),
}

fn selectors() -> impl Strategy<Value = Value> {
    let of_labels = select(&LABELS[..]).prop_map(|l| json!({ "matchLabels": pairs(l) }));
    let operator = select(&["In", "NotIn", "Exists", "DoesNotExist", "Like"][..]);
    let expression = (select(&["x", "y"][..]), operator).prop_map(|(key, operator)| {
        let values = if operator.ends_with("In") { json!(["1"]) } else { json!([]) };
        json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] })
    });
    prop_oneof![3 => of_labels, 2 => expression]
}

fn peers() -> impl Strategy<Value = Value> {
    let block = (select(&BLOCKS[..]), vec(select(&BLOCKS[..6]), 0..3))
        .prop_map(|(cidr, except)| json!({ "ipBlock": { "cidr": cidr, "except": except } }));
    prop_oneof![
        2 => block,
        2 => selectors().prop_map(|s| json!({ "podSelector": s })),
        1 => selectors().prop_map(|s| json!({ "namespaceSelector": s })),
        2 => (selectors(), selectors()).prop_map(|(n, p)| json!({ "namespaceSelector": n, "podSelector": p })),
        1 => Just(json!({})),
    ]
}

fn ports() -> impl Strategy<Value = Value> {
    let number = || select(&PORTS[..]);
    prop_oneof![
        3 => number().prop_map(|p| json!({ "port": p })),
        2 => (number(), number()).prop_map(|(a, b)| json!({ "port": a, "endPort": b })),
        2 => select(&["http", "admin"][..]).prop_map(|n| json!({ "port": n })),
        1 => number().prop_map(|p| json!({ "port": p, "protocol": "UDP" })),
        1 => Just(json!({ "protocol": "TCP" })),
        1 => Just(json!({ "port": 0 })),
    ]
}

fn network_policies() -> impl Strategy<Value = NetworkPolicy> {
    let rule = || (vec(peers(), 0..3), vec(ports(), 0..3));
    let ingress = rule().prop_map(|(from, ports)| json!({ "from": from, "ports": ports }));
    let egress = rule().prop_map(|(to, ports)| json!({ "to": to, "ports": ports }));
    let types = select(vec![json!([]), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    let name = (select(&NAMESPACES[..]), 0..3_usize);
    let rules = (vec(ingress, 0..3), vec(egress, 0..3));
    (name, selectors(), rules, types).prop_map(|((ns, i), selector, (ingress, egress), types)| {
        serde_json::from_value(json!({
            "metadata": { "name": format!("p{i}"), "namespace": ns },
            "spec": { "podSelector": selector, "ingress": ingress, "egress": egress, "policyTypes": types }
        }))
        .unwrap()
    })
}

fn pods() -> impl Strategy<Value = v1::Pod> {
    let name = (select(&NAMESPACES[..]), 0..3_usize);
    let addresses = proptest::sample::subsequence(&ADDRESSES[..], 1..3);
    let ports = proptest::sample::subsequence(&[("http", 80), ("http", 81), ("admin", 8080)][..], 0..2);
    let odd = prop::bool::weighted;
    let odds = (odd(0.1), odd(0.1), odd(0.2), odd(0.8), select(&["10.0.1.0", "192.168.0.1"][..]));
    (name, select(&LABELS[..]), addresses, ports, odds).prop_map(|((ns, i), labels, addresses, ports, odds)| {
        let name = format!("pod{i}");
        let (host, ended, ending, meshed, node) = odds;
        let (addresses, ports) = (&addresses[..], &ports[..]);
        pod(&Sketch { namespace: ns, name: &name, labels, addresses, ports, host, ended, ending, meshed, node })
    })
}

fn changes() -> impl Strategy<Value = Change> {
    let place = || (select(&NAMESPACES[..]), 0..3_usize);
    prop_oneof![
        1 => (select(&NAMESPACES[..]), select(&LABELS[..])).prop_map(|(ns, l)| Change::Namespace(ns, l)),
        4 => pods().prop_map(|p| Change::Pod(Box::new(p))),
        1 => place().prop_map(|(ns, i)| Change::NoPod(ns, i)),
        4 => network_policies().prop_map(|p| Change::Policy(Box::new(p))),
        1 => place().prop_map(|(ns, i)| Change::NoPolicy(ns, i)),
    ]
}

/// What there is after some changes, as objects.
#[derive(Default)]
struct Model {
    cluster: Cluster,
    policies: Vec<NetworkPolicy>,
}

impl Model {
    fn new() -> Self {
        let mut new = Self::default();
        for ns in NAMESPACES {
            new.cluster.namespaces.insert(ns.to_owned(), pairs(&format!("kubernetes.io/metadata.name={ns}")));
        }
        new
    }

    fn apply(&mut self, change: &Change) {
        let same = |ns: &Option<String>, name: &Option<String>, n: &str, i: &str| {
            ns.as_deref() == Some(n) && name.as_deref() == Some(i)
        };
        let (pods, policies) = (&mut self.cluster.pods, &mut self.policies);
        let mut no_pod =
            |ns: &str, name: &str| pods.retain(|p| !same(&p.metadata.namespace, &p.metadata.name, ns, name));
        let mut no_policy =
            |ns: &str, name: &str| policies.retain(|p| !same(&p.metadata.namespace, &p.metadata.name, ns, name));
        match change {
            Change::Namespace(ns, text) => {
                let text = format!("kubernetes.io/metadata.name={ns} {text}");
                self.cluster.namespaces.insert((*ns).to_owned(), pairs(&text));
            }
            Change::Pod(pod) => {
                no_pod(pod.metadata.namespace.as_deref().unwrap(), pod.metadata.name.as_deref().unwrap());
                self.cluster.pods.push((**pod).clone());
            }
            Change::NoPod(ns, i) => no_pod(ns, &format!("pod{i}")),
            Change::Policy(p) => {
                no_policy(p.metadata.namespace.as_deref().unwrap(), p.metadata.name.as_deref().unwrap());
                self.policies.push((**p).clone());
            }
            Change::NoPolicy(ns, i) => no_policy(ns, &format!("p{i}")),
        }
    }
}

fn apply(all: &mut Policies, change: &Change) -> Effects {
    match change {
        Change::Namespace(ns, text) => {
            let of = pairs(&format!("kubernetes.io/metadata.name={ns} {text}"));
            all.set_namespace(&Arc::from(*ns), &labels(&of))
        }
        Change::Pod(pod) => all.set_pod(&Pod::from(&**pod)),
        Change::NoPod(ns, i) => all.remove_pod(ns, &format!("pod{i}")),
        Change::Policy(policy) => all.set_network_policy(Trimmed::from(&**policy)),
        Change::NoPolicy(ns, i) => all.remove_network_policy(ns, &format!("p{i}")),
    }
}

/// Resources by name, and names by pod: those of what it takes, and that of what it opens.
type Held =
    (BTreeMap<String, mesh::authz::Authorization>, BTreeMap<(String, String), (Vec<Arc<str>>, Option<Arc<str>>)>);

fn everything(all: &Policies) -> Held {
    let mut names = BTreeMap::new();
    for ns in NAMESPACES {
        for i in 0..3 {
            let pod = format!("pod{i}");
            let of = (all.names(ns, &Default::default(), Some(&pod)), all.egress(ns, &pod));
            names.insert((ns.to_owned(), pod.clone()), of);
        }
    }
    (all.resources().into_iter().map(|r| (r.key(), r)).collect(), names)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_changes_the_right_ones_are_let_through(list in vec(changes(), 1..24)) {
        let (mut all, mut model) = (Policies::new("root"), Model::new());
        for change in &list {
            let before = everything(&all);
            let effects = apply(&mut all, change);
            model.apply(change);
            // Nothing changes that is not told.
            let after = everything(&all);
            let keys: BTreeSet<&String> = before.0.keys().chain(after.0.keys()).collect();
            for key in keys.into_iter().filter(|k| before.0.get(*k) != after.0.get(*k)) {
                prop_assert!(effects.resources.contains(key.as_str()), "{key} after {change:?}");
            }
            for (pod, names) in &after.1 {
                let told = effects.workloads.pods.contains(&(pod.0.as_str().into(), pod.1.as_str().into()));
                prop_assert!(told || before.1[pod] == *names, "{pod:?} after {change:?}");
            }
            for (key, resource) in &after.0 {
                let asked = all.resource(key);
                prop_assert_eq!(asked.as_ref(), Some(resource));
            }
        }
        prop_assert_eq!(everything(&all), everything(&cases::policies(&model.cluster, &model.policies)));

        let set = held(all.resources());
        let own = model.cluster.pods.iter().filter(|p| {
            let host = p.spec.as_ref().unwrap().host_network == Some(true);
            p.status.as_ref().unwrap().phase.as_deref() == Some("Running") && !host
        });
        for pod in own {
            for (ip, port) in ADDRESSES.iter().flat_map(|ip| PORTS.map(|port| (ip, port))) {
                let ip: IpAddr = ip.parse().unwrap();
                if pod.metadata.annotations.is_some() {
                    let want = oracle::allows(&model.cluster, &model.policies, pod, ip, port);
                    let got = lets_in(&all, &set, pod, ip, port);
                    prop_assert_eq!(got, want, "{} to {:?}:{}", ip, pod.metadata.name, port);
                }
                let want = oracle::lets_out(&model.cluster, &model.policies, pod, ip, port);
                let got = lets_out(&all, &set, pod, ip, port);
                prop_assert_eq!(got, want, "{:?} out to {}:{}", pod.metadata.name, ip, port);
            }
        }
    }
}

#[test]
fn the_made_up_clusters_are_neither_open_nor_shut() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = [[0; 2]; 2];
    for _ in 0..300 {
        let list = vec(changes(), 1..24).new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        list.iter().for_each(|c| model.apply(c));
        for pod in &model.cluster.pods {
            let selected = model.policies.iter().any(|p| p.metadata.namespace == pod.metadata.namespace);
            for ip in ADDRESSES.iter().filter(|_| selected) {
                let ip = ip.parse().unwrap();
                let allowed = oracle::allows(&model.cluster, &model.policies, pod, ip, 80);
                counts[0][usize::from(allowed)] += 1;
                let allowed = oracle::lets_out(&model.cluster, &model.policies, pod, ip, 80);
                counts[1][usize::from(allowed)] += 1;
            }
        }
    }
    assert!(counts.iter().flatten().all(|n| *n > 500), "{counts:?}");
}
