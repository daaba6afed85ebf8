use k8s_openapi::jiff::Timestamp;

use super::*;
use serde_json::{Value, json};

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(kernel: &str) -> Node {
    of(json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
        "nodeInfo": {"kernelVersion": kernel, "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": kernel,
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}}))
}

fn well() -> Facts {
    let now = Timestamp::now();
    Facts {
        version: (1, 34),
        clocks: Some((now, now)),
        definitions: Some(crds().iter().map(ResourceExt::name_any).collect()),
        nodes: vec![node("6.18.1-generic")],
        leases: [("n1".to_owned(), of(json!({"spec": {"renewTime": now.to_string()}})))].into(),
        ..Facts::default()
    }
}

fn line(facts: &Facts, pre: bool, id: &str) -> Line {
    let lines = judge(facts, pre);
    lines.iter().find(|l| l.id == id).cloned().unwrap_or_else(|| panic!("{id} is not among {lines:?}"))
}

#[test]
fn a_fit_cluster_has_nothing_to_mend() {
    let lines = judge(&well(), true);
    assert!(lines.iter().all(|l| l.state == State::Ok && l.remedy.is_empty()), "{lines:?}");
    assert_eq!(lines.len(), 5);
}

#[test]
fn what_is_wrong_with_a_cluster_is_named_with_a_remedy() {
    type Breaking = fn(&mut Facts);
    let cases: [(&str, State, Breaking); 7] = [
        ("cluster.version", State::Fail, |f| f.version = (1, 29)),
        ("cluster.crds", State::Warn, |f| drop(f.definitions.as_mut().map(std::collections::BTreeSet::pop_first))),
        ("cluster.crds", State::Warn, |f| f.definitions = None),
        ("cluster.clock", State::Warn, |f| {
            let now = Timestamp::now();
            f.clocks = Some((now, Timestamp::from_second(now.as_second() - 300).unwrap()));
        }),
        ("node.kernel", State::Fail, |f| f.nodes = vec![node("5.15.0-100")]),
        ("node.clock", State::Fail, |f| {
            let ahead = Timestamp::from_second(Timestamp::now().as_second() + 400).unwrap();
            f.leases = [("n1".to_owned(), of(json!({"spec": {"renewTime": ahead.to_string()}})))].into();
        }),
        ("cluster.istiod", State::Warn, |f| f.istiod = true),
    ];
    for (id, state, breaking) in cases {
        let mut facts = well();
        breaking(&mut facts);
        let line = line(&facts, true, id);
        assert_eq!(line.state, state, "{line:?}");
        assert!(!line.remedy.is_empty(), "{line:?}");
    }
}

#[test]
fn an_installation_that_is_not_there_fails_in_each_of_its_parts() {
    for id in ["ca.ready", "control.ready", "node.agent", "node.proxy", "ca.roots"] {
        let mut facts = well();
        facts.namespaces = vec![of(json!({"metadata": {"name": "shop"}}))];
        assert_eq!(line(&facts, false, id).state, State::Fail, "{id}");
    }
    let mut facts = well();
    facts.definitions.as_mut().map(std::collections::BTreeSet::pop_first);
    assert_eq!(line(&facts, false, "cluster.crds").state, State::Fail);
}

/// The agent of a node, an older version's, whose container waits.
fn waiting_agent(restarts: u32, why: Value, before: Value) -> Pod {
    of(json!({"metadata": {"name": "culvert-node-x", "labels": {"app.kubernetes.io/name": "culvert-node"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "node", "image": "culvert.dev/culvert-node:0.0.1"}]},
        "status": {"containerStatuses": [{"name": "node", "ready": false, "image": "", "imageID": "",
            "restartCount": restarts, "state": {"waiting": why}, "lastState": before}]}}))
}

#[test]
fn a_program_that_does_not_start_tells_its_last_words() {
    let mut facts = well();
    facts.own = vec![waiting_agent(
        3,
        json!({"reason": "CrashLoopBackOff"}),
        json!({"terminated": {"exitCode": 1, "message": "this node cannot capture pods:\n  sk_lookup is missing"}}),
    )];
    let agent = line(&facts, false, "node.agent");
    assert_eq!(agent.state, State::Fail);
    assert!(
        agent.what.contains("CrashLoopBackOff: this node cannot capture pods:;   sk_lookup is missing"),
        "{}",
        agent.what
    );
    assert!(agent.remedy.contains("kubectl logs"), "{}", agent.remedy);
    let versions = line(&facts, false, "mesh.version");
    assert!(versions.state == State::Warn && versions.what.contains("culvert-node:0.0.1"), "{versions:?}");
}

#[test]
fn a_program_that_never_ran_is_told_by_the_kubelet() {
    let mut facts = well();
    let why = json!({"reason": "CreateContainerError", "message": "path \"/x\" is not a shared mount"});
    facts.own = vec![waiting_agent(0, why, json!({}))];
    let agent = line(&facts, false, "node.agent");
    assert!(agent.what.contains("CreateContainerError: path \"/x\" is not a shared mount"), "{}", agent.what);
    assert!(agent.remedy.contains("kubectl describe pods"), "{}", agent.remedy);
}

#[test]
fn a_cni_configuration_that_was_overwritten_is_named() {
    let mut facts = well();
    facts.agents.insert("n1".to_owned(), json!({"host": {"cni": "taken out of 10-calico.conflist"}}));
    let line = line(&facts, false, "node.cni");
    assert!(line.state == State::Fail && line.what.contains("10-calico"), "{line:?}");
}

#[test]
fn a_pod_network_that_nobody_says_is_missed() {
    let with = |config: &str, cidrs: Value| {
        let mut facts = well();
        let named: Node = of(json!({"metadata": {"name": "n2"}, "spec": {"podCIDRs": ["10.0.2.0/24"]}}));
        facts.nodes = vec![of(json!({"metadata": {"name": "n1"}, "spec": {"podCIDRs": cidrs}})), named];
        facts.proxy_config = Some(config.to_owned());
        line(&facts, false, "mesh.podcidrs")
    };
    let (given, none) = ("    podCIDRs: [\"10.0.0.0/8\"]\n", "    podCIDRs: []\n");
    let asked = format!("{none}    podCIDRsFromControl: true\n");
    let off = format!("{none}    podCIDRsFromControl: false\n");
    assert_eq!(with(given, json!([])).state, State::Ok);
    assert_eq!(with(&asked, json!(["10.0.1.0/24"])).state, State::Ok);
    let missing = with(&asked, json!([]));
    assert!(missing.state == State::Warn && missing.what.contains("n1 have no spec.podCIDRs"), "{missing:?}");
    assert!(missing.remedy.contains("mesh.podCIDRs="), "{missing:?}");
    for config in [&off, none] {
        assert_eq!(with(config, json!(["10.0.1.0/24"])).state, State::Warn, "{config}");
    }
    assert_eq!(line(&well(), false, "mesh.podcidrs").state, State::Warn, "there is no proxy");
}

#[test]
fn pods_are_judged_by_what_their_agents_say() {
    let pod = |state: &str, in_clear: bool| crate::status::PodStatus {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        node: "n1".to_owned(),
        state: state.to_owned(),
        in_clear,
        clear_connections: 0,
        note: "why".to_owned(),
    };
    for (pods, wanted) in [
        (vec![pod("captured", false), pod("leaving", false), pod("starting", false)], &[State::Ok][..]),
        (vec![pod("captured", false), pod("missing", false)], &[State::Fail]),
        (vec![pod("failed", false)], &[State::Fail]),
        (vec![pod("waiting", true)], &[State::Fail]),
        (vec![pod("waiting", false)], &[State::Warn]),
        (vec![pod("unknown", false)], &[State::Warn]),
        (vec![pod("captured", false), pod("left out", false)], &[State::Ok, State::Warn]),
    ] {
        let mut facts = well();
        let node = crate::status::NodeStatus { name: "n1".to_owned(), agent: None, proxies: Vec::new(), error: None };
        facts.status = Some(crate::status::Status { nodes: vec![node], pods });
        let lines: Vec<Line> = judge(&facts, false).into_iter().filter(|l| l.id == "mesh.pods").collect();
        assert_eq!(lines.iter().map(|l| l.state).collect::<Vec<_>>(), wanted, "{lines:?}");
        assert!(!lines[0].what.contains("3 pods"), "only what is captured is in the mesh: {lines:?}");
        facts.status.as_mut().unwrap().nodes[0].error = Some("no answer".to_owned());
        assert!(line(&facts, false, "node.status").what.contains("n1: no answer"));
    }
}

#[test]
fn what_an_agent_says_of_its_node_is_told() {
    let mut facts = well();
    let host = json!({"kubeletError": "nobody listens", "foreignHooks": ["a hook"], "repaired": ["shop/web: gone"]});
    facts.agents.insert("n1".to_owned(), json!({ "host": host }));
    for (id, text) in [("node.kubelet", "nobody listens"), ("node.hooks", "a hook"), ("node.repaired", "shop/web")] {
        let line = line(&facts, false, id);
        assert!(line.state == State::Warn && line.what.contains(text) && !line.remedy.is_empty(), "{line:?}");
    }
}

#[test]
fn a_policy_that_cuts_tunnels_off_fails() {
    let mut facts = well();
    assert_eq!(line(&facts, false, "mesh.tunnels").state, State::Ok);
    facts.namespaces =
        vec![of(json!({"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}}))];
    facts.pods = vec![of(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": []}}))];
    facts.policies = vec![of(json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}}))];
    let line = line(&facts, false, "mesh.tunnels");
    assert!(line.state == State::Fail && line.what.contains("shop/web") && line.remedy.contains("15008"), "{line:?}");
}

#[test]
fn only_tags_that_are_versions_are_compared() {
    let ours = env!("CARGO_PKG_VERSION");
    for (image, wanted) in [
        (format!("culvert.dev/ztunnel:{ours}"), (State::Ok, "every program is")),
        (format!("localhost:5000/ztunnel:v{ours}@sha256:00"), (State::Ok, "every program is")),
        ("localhost:5000/ztunnel@sha256:00".to_owned(), (State::Ok, "do not tell their version")),
        ("culvert.dev/ztunnel:v1-x".to_owned(), (State::Ok, "do not tell their version")),
        ("culvert.dev/ztunnel:v0.0.1-rc.1".to_owned(), (State::Warn, "there runs culvert.dev/ztunnel:v0.0.1-rc.1")),
    ] {
        let mut facts = well();
        facts.own =
            vec![of(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": image}]}}))];
        let line = line(&facts, false, "mesh.version");
        assert!(line.state == wanted.0 && line.what.contains(wanted.1), "{line:?}");
    }
}
