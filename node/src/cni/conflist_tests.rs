use super::*;

const CALICO: &str = r#"{"name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [
    {"type": "calico", "log_level": "info", "mtu": 0, "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"},
     "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}]}"#;
const FLANNEL: &str = r#"{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;
const CILIUM: &str =
    r#"{"cniVersion": "0.3.1", "name": "cilium", "plugins": [{"type": "cilium-cni", "enable-debug": false}]}"#;
const PTP: &str = r#"{"cniVersion": "1.0.0", "name": "lab", "disableCheck": true, "plugins": [
    {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "dataDir": "/run/x"}, "mtu": 1500}]}"#;
const BRIDGE: &str =
    r#"{"cniVersion": "0.4.0", "name": "mynet", "type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}"#;

fn own() -> OwnConfig {
    OwnConfig {
        socket: "/var/run/culvert/cni.sock".into(),
        system_namespace: "culvert-system".into(),
        exclude_namespaces: vec!["kube-system".into()],
        deadline_ms: 30_000,
    }
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn carry_out(files: &mut BTreeMap<String, String>, plan: &Plan) {
    for step in &plan.steps {
        match step {
            Step::Write { name, text } => drop(files.insert(name.clone(), text.clone())),
            Step::Rename { from, to } => {
                let text = files.remove(from).expect("what is renamed is there");
                files.insert(to.clone(), text);
            }
            Step::Remove { name } => drop(files.remove(name).expect("what is removed is there")),
        }
    }
}

fn json_of(files: &BTreeMap<String, String>, name: &str) -> Value {
    serde_json::from_str(&files[name]).unwrap()
}

#[test]
fn every_usual_list_gets_one_entry_at_its_end_and_comes_back_whole() {
    for (name, text) in [
        ("10-calico.conflist", CALICO),
        ("10-flannel.conflist", FLANNEL),
        ("05-cilium.conflist", CILIUM),
        ("1.conflist", PTP),
    ] {
        let mut there =
            files(&[(name, text), ("99-loopback.conf", r#"{"type": "loopback"}"#), ("calico-kubeconfig", "x: y")]);
        let plan = install(&there, &own());
        assert_eq!(plan.file.as_deref(), Some(name));
        carry_out(&mut there, &plan);
        let mut found = json_of(&there, name);
        assert_eq!(found["plugins"].as_array_mut().unwrap().pop(), Some(entry(&own())), "{name}");
        assert_eq!(found, serde_json::from_str::<Value>(text).unwrap(), "{name}: other fields changed");
        // Once is enough.
        assert_eq!(install(&there, &own()), Plan { file: Some(name.into()), ..Plan::default() });
        let undo = remove(&there);
        carry_out(&mut there, &undo);
        assert_eq!(json_of(&there, name), serde_json::from_str::<Value>(text).unwrap(), "{name}");
        assert!(remove(&there).steps.is_empty());
        assert_eq!(there.len(), 3);
    }
}

#[test]
fn a_single_plug_in_becomes_a_list_of_its_name_and_comes_back() {
    let original = files(&[("10-bridge.conf", BRIDGE)]);
    let mut there = original.clone();
    let plan = install(&there, &own());
    // The list comes first: at no time the folder has none.
    assert!(matches!(&plan.steps[..], [Step::Write { .. }, Step::Rename { .. }]), "{plan:?}");
    carry_out(&mut there, &plan);
    let list = json_of(&there, "10-bridge.conflist");
    assert_eq!((list["name"].as_str(), list["cniVersion"].as_str()), (Some("mynet"), Some("0.4.0")));
    let expected = json!([{"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}, entry(&own())]);
    assert_eq!(list["plugins"], expected);
    assert_eq!(install(&there, &own()).steps, []);
    // Its owner writes it again: ours follows.
    there.insert("10-bridge.conf".into(), BRIDGE.replace("cni0", "cni1"));
    let again = install(&there, &own());
    carry_out(&mut there, &again);
    assert_eq!(json_of(&there, "10-bridge.conflist")["plugins"][0]["bridge"], "cni1");
    let undo = remove(&there);
    carry_out(&mut there, &undo);
    assert_eq!(there, files(&[("10-bridge.conf", &BRIDGE.replace("cni0", "cni1"))]));
}

#[test]
fn a_single_plug_in_written_anew_stays_when_we_go() {
    let mut there = files(&[("10-bridge.conf", BRIDGE)]);
    let plan = install(&there, &own());
    carry_out(&mut there, &plan);
    there.insert("10-bridge.conf".into(), "{\"type\": \"new\"}".into());
    let undo = remove(&there);
    carry_out(&mut there, &undo);
    assert_eq!(there, files(&[("10-bridge.conf", "{\"type\": \"new\"}")]));
}

#[test]
fn an_entry_that_is_old_double_or_not_last_is_put_right() {
    let mut old = own();
    old.socket = "/old.sock".into();
    let one = entry(&old);
    let portmap = json!({"type": "portmap"});
    for plugins in [
        json!([portmap, one]),
        json!([portmap, entry(&own()), entry(&own())]),
        json!([entry(&own()), portmap]),
        json!([one, portmap, entry(&own())]),
    ] {
        let text = json!({"name": "n", "cniVersion": "1.0.0", "plugins": plugins}).to_string();
        let mut there = files(&[("10-n.conflist", &text)]);
        let plan = install(&there, &own());
        assert_eq!(plan.steps.len(), 1, "{plugins}");
        carry_out(&mut there, &plan);
        assert_eq!(json_of(&there, "10-n.conflist")["plugins"], json!([portmap, entry(&own())]));
    }
}

#[test]
fn what_cannot_be_read_is_named_and_the_next_counts() {
    for (name, text) in [
        ("00-broken.conflist", "{"),
        ("00-list.conflist", "[]"),
        ("00-empty.conflist", r#"{"plugins": []}"#),
        ("00-untyped.conflist", r#"{"plugins": [{"name": "x"}]}"#),
        ("00-none.conf", r#"{"name": "x"}"#),
        ("00-left.conflist", r#"{"name": "x", "plugins": [{"type": "culvert-cni"}]}"#),
    ] {
        let plan = install(&files(&[(name, text), ("10-flannel.conflist", FLANNEL)]), &own());
        assert_eq!(plan.file.as_deref(), Some("10-flannel.conflist"), "{name}");
        assert!(plan.notes.len() == 1 && plan.notes[0].contains(name), "{name}: {:?}", plan.notes);
    }
}

#[test]
fn without_a_network_there_is_nothing_to_do() {
    for there in [files(&[]), files(&[(".hidden.conflist", FLANNEL), ("x.conf.bak", BRIDGE), ("notes.txt", "x")])] {
        assert_eq!(install(&there, &own()), Plan::default());
        assert_eq!(remove(&there), Plan::default());
    }
}

#[test]
fn a_chain_with_istio_is_told() {
    let text = r#"{"name": "n", "plugins": [{"type": "ptp"}, {"type": "istio-cni"}]}"#;
    let plan = install(&files(&[("1.conflist", text)]), &own());
    assert!(plan.notes[0].contains("istio-cni"), "{plan:?}");
}
