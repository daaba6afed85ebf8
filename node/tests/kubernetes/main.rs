//! The agent and the CNI plug-in on a node of Kubernetes: real programs, real namespaces and kernel programs. The test plays the
//! API server, the runtime and the node proxy.
//!
//! Needs root; without it the test says so and passes nothing.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub, reason = "a test fails by panicking")]

mod api;
mod host;

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::Api;
use host::{Host, PROXY_UID, result};
use serde_json::{Value, json};
use zds::proxy::{Client, Event};

const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "ptp"}]}"#;

fn uid(number: u8) -> String {
    format!("bbbbbbbb-0000-4000-8000-0000000000{number:02}")
}

fn pod(name: &str, number: u8, ip: bool) -> Value {
    let ips = if ip { json!([{"ip": format!("10.177.{number}.2")}]) } else { json!([]) };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": uid(number)},
        "spec": {"nodeName": "node1", "serviceAccountName": "web", "containers": []},
        "status": {"phase": if ip { "Running" } else { "Pending" }, "podIPs": ips},
    })
}

fn namespace(label: Option<&str>) -> Value {
    let labels = label.map_or(json!({}), |l| json!({"istio.io/dataplane-mode": l}));
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "shop", "uid": "n", "labels": labels}})
}

/// What the proxy has, and what it dropped because a snapshot did not name it.
#[derive(Default)]
struct Taken {
    /// Name of pods that it refuses.
    refused: &'static str,
    pods: BTreeSet<String>,
    dropped: Vec<String>,
}

/// A proxy that takes every pod but those of a name.
fn proxy(path: std::path::PathBuf) -> Arc<Mutex<Taken>> {
    let pods = Arc::new(Mutex::new(Taken { refused: "refused", ..Taken::default() }));
    let shared = pods.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut client = Client::new(&path);
            let mut named = BTreeSet::new();
            loop {
                match client.next().await {
                    Event::Add { info, ack, .. }
                        if info.name.is_empty() || &*info.name == shared.lock().unwrap().refused =>
                    {
                        ack.failed("not this one");
                    }
                    Event::Add { uid, ack, .. } => {
                        named.insert(uid.to_string());
                        shared.lock().unwrap().pods.insert(uid.to_string());
                        ack.ok();
                    }
                    Event::Del { uid, ack } => {
                        shared.lock().unwrap().pods.remove(&*uid);
                        ack.ok();
                    }
                    Event::Keep { uid, ack } => {
                        named.insert(uid.to_string());
                        ack.ok();
                    }
                    Event::SnapshotSent { ack } => {
                        let mut shared = shared.lock().unwrap();
                        let (kept, dropped): (BTreeSet<_>, _) =
                            std::mem::take(&mut shared.pods).into_iter().partition(|uid| named.contains(uid));
                        shared.pods = kept;
                        shared.dropped.extend(dropped);
                        ack.ok();
                    }
                    Event::Connected => named.clear(),
                    Event::Disconnected(_) => {}
                }
            }
        });
    });
    pods
}

#[test]
fn pods_enter_and_leave_the_mesh() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: making network namespaces and loading kernel programs needs root");
        return;
    }
    let mut host = Host::new();
    let listener = host.listen();
    host.configure(listener.local_addr().unwrap());
    let api = Api::start(listener);
    api.put("namespaces", "shop", namespace(None));
    let mut own = pod("ztunnel-1", 0, true);
    own["metadata"] = json!({"name": "ztunnel-1", "namespace": "culvert-system", "uid": PROXY_UID});
    own["spec"]["serviceAccountName"] = json!("ztunnel");
    api.put("pods", "culvert-system/ztunnel-1", own);
    host.sandbox("running", &uid(1), 1);
    api.put("pods", "shop/running", pod("running", 1, true));
    fs::write(host.path("net.d/10-lab.conflist"), LIST).unwrap();
    host.start_agent();
    let taken = proxy(host.path("z.sock"));
    host.eventually("readiness", || host.get(15021, "/healthz/ready").is_some());

    a_labelled_namespace_takes_its_running_pod(&host, &api, &taken);
    a_new_pod_comes_by_the_plug_in(&mut host, &api, &taken);
    a_pod_that_no_proxy_takes_does_not_start(&mut host, &api);
    a_running_pod_that_no_proxy_takes_is_told(&mut host, &api, &taken);
    a_pod_that_came_around_the_plug_in_is_told(&mut host, &api);
    an_overwritten_chain_is_repaired(&host);
    damage_is_repaired(&host, &api);
    a_restart_changes_nothing(&mut host, &api);
    a_pod_that_ends_is_forgotten(&mut host, &api, &taken);
    leaving_is_announced_first(&mut host, &api, &taken);
    nothing_is_left_after_unload(&mut host, &api);
}

fn a_labelled_namespace_takes_its_running_pod(host: &Host, api: &Api, taken: &Mutex<Taken>) {
    assert_eq!(host.state("running"), None);
    assert!(!host.has_rules("running") && api.patches().is_empty());
    let began = Instant::now();
    api.put("namespaces", "shop", namespace(Some("ambient")));
    host.eventually("annotation", || api.redirection("shop/running").is_some());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Published after it was captured, and never half.
    assert_eq!(api.patches(), [("shop/running".to_owned(), Some("enabled".to_owned()))]);
    assert_eq!(host.state("running").as_deref(), Some("captured"));
    assert!(host.has_rules("running") && taken.lock().unwrap().pods.contains(&uid(1)));
    let metrics = host.get(15021, "/metrics").unwrap();
    assert!(metrics.contains("culvert_node_pods{state=\"captured\"} 1"), "{metrics}");
}

fn a_new_pod_comes_by_the_plug_in(host: &mut Host, api: &Api, taken: &Mutex<Taken>) {
    api.put("pods", "shop/new", pod("new", 2, false));
    host.sandbox("new", &uid(2), 2);
    let (good, answer) = host.plug_in("ADD", "new", &uid(2), 2);
    assert!(good, "{answer:#}\n{}", host.log());
    assert_eq!(answer, result(2));
    // Captured when the plug-in returns, before any container of the pod exists.
    assert_eq!(host.state("new").as_deref(), Some("captured"));
    assert!(host.has_rules("new"));
    // The agent is restarted while the pod's images are pulled: its status has no address yet.
    restart(host);
    host.eventually("capture", || host.state("new").as_deref() == Some("captured"));
    assert!(taken.lock().unwrap().pods.contains(&uid(2)) && taken.lock().unwrap().dropped.is_empty());
    api.modify("pods", "shop/new", |pod| pod["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.177.2.2"}]}));
    host.eventually("annotation", || api.redirection("shop/new").as_deref() == Some("enabled"));
    assert_eq!(host.plug_in("DEL", "new", &uid(2), 2), (true, Value::Null));
    // One that the watch has not brought yet is asked for, and one that declines starts at once.
    host.sandbox("declined", &uid(3), 3);
    let mut declined = pod("declined", 3, false);
    declined["metadata"]["labels"] = json!({"istio.io/dataplane-mode": "none"});
    api.put("pods", "shop/declined", declined);
    let (good, answer) = host.plug_in("ADD", "declined", &uid(3), 3);
    assert!(good && !host.has_rules("declined"), "{answer}");
}

fn a_pod_that_no_proxy_takes_does_not_start(host: &mut Host, api: &Api) {
    api.put("pods", "shop/refused", pod("refused", 4, false));
    host.sandbox("refused", &uid(4), 4);
    let (good, answer) = host.plug_in("ADD", "refused", &uid(4), 4);
    assert!(!good);
    let message = answer["msg"].as_str().unwrap();
    assert!(message.contains("no node proxy has taken it") && message.contains("not this one"), "{answer}");
    // Its annotation said that it was not ready, and is gone with it.
    let mine: Vec<_> = api.patches().into_iter().filter(|(key, _)| key == "shop/refused").map(|(_, v)| v).collect();
    assert_eq!(mine.first(), Some(&Some("pending".to_owned())));
    // It stays closed until its sandbox is taken down, which the runtime does next.
    host.end_sandbox("refused");
    host.eventually("the refused pod is gone", || host.state("refused").is_none());
    api.delete("pods", "shop/refused");
}

fn a_running_pod_that_no_proxy_takes_is_told(host: &mut Host, api: &Api, taken: &Mutex<Taken>) {
    taken.lock().unwrap().refused = "stubborn";
    host.sandbox("stubborn", &uid(6), 6);
    api.put("pods", "shop/stubborn", pod("stubborn", 6, true));
    host.eventually("failure", || host.state("stubborn").as_deref() == Some("failed"));
    let status = host.status().unwrap();
    let shown = status["pods"].as_array().unwrap().iter().find(|p| p["name"] == "stubborn").unwrap();
    let error = shown["error"].as_str().unwrap();
    assert!(error.contains("not this one") && error.contains("remedy"), "{error}");
    host.eventually("the Event", || api.event_reasons().contains(&"CaptureFailed".to_owned()));
    let metrics = host.get(15021, "/metrics").unwrap();
    assert!(metrics.contains("culvert_node_pods{state=\"failed\"} 1"), "{metrics}");
    assert!(!host.has_rules("stubborn") && api.redirection("shop/stubborn").is_none());
    // It is sent again.
    taken.lock().unwrap().refused = "refused";
    host.eventually("capture", || host.state("stubborn").as_deref() == Some("captured"));
    host.eventually("annotation", || api.redirection("shop/stubborn").as_deref() == Some("enabled"));
}

fn a_pod_that_came_around_the_plug_in_is_told(host: &mut Host, api: &Api) {
    api.put("pods", "shop/late", pod("late", 5, false));
    host.eventually("the agent knows the pod", || host.log().contains("ready"));
    host.sandbox("late", &uid(5), 5);
    api.put("pods", "shop/late", pod("late", 5, true));
    host.eventually("capture", || host.state("late").as_deref() == Some("captured"));
    host.eventually("the Event", || api.event_reasons().contains(&"NotCapturedFromBirth".to_owned()));
    assert!(host.get(15021, "/metrics").unwrap().contains("culvert_node_late_captures_total 1"));
}

fn an_overwritten_chain_is_repaired(host: &Host) {
    let path = host.path("net.d/10-lab.conflist");
    fs::write(&path, LIST).unwrap();
    let began = Instant::now();
    host.eventually("repair", || fs::read_to_string(&path).unwrap().contains("culvert-cni"));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

fn damage_is_repaired(host: &Host, api: &Api) {
    // Somebody takes the guard away.
    let pods = host.path("bpf/culvert/");
    let guard = find(&pods, "guard").expect("a guard's pin");
    fs::remove_file(&guard).unwrap();
    host.eventually("repair", || guard.exists());
    let metrics = host.get(15021, "/metrics").unwrap();
    assert!(metrics.contains("culvert_node_repairs_total{"), "{metrics}");
    // Or all rules within a pod: every connect would hang.
    host::ip(&format!("-n {} rule flush", host.ns("new")));
    assert!(!host.has_rules("new"));
    host.eventually("repair", || host.has_rules("new"));
    let counted = "culvert_node_repairs_total{what=\"its rules and routes do not lead to the proxy\"} 1";
    host.eventually("the metric", || host.get(15021, "/metrics").is_some_and(|m| m.contains(counted)));
    host.eventually("the Event", || api.event_reasons().contains(&"CaptureRepaired".to_owned()));
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { find(&path, name) } else { (path.file_name()? == name).then_some(path) }
    })
}

fn restart(host: &mut Host) {
    host.kill_agent();
    assert!(host.has_rules("running") && host.has_rules("new"));
    host.start_agent();
    host.eventually("readiness", || host.get(15021, "/healthz/ready").is_some());
    // The proxy is connected again and has the whole list.
    host.eventually("the proxy", || host.status().is_some_and(|s| s["proxies"][0]["synced"] == true));
}

fn a_restart_changes_nothing(host: &mut Host, api: &Api) {
    let before = api.patches().len();
    restart(host);
    for name in ["running", "new", "late"] {
        host.eventually("capture", || host.state(name).as_deref() == Some("captured"));
    }
    assert_eq!(api.patches().len(), before, "{:?}", api.patches());
}

fn a_pod_that_ends_is_forgotten(host: &mut Host, api: &Api, taken: &Mutex<Taken>) {
    // Deleted by force: its processes still run, and nothing of them may leak.
    api.delete("pods", "shop/late");
    host.eventually("the agent heard", || host.status().is_some());
    assert!(host.has_rules("late"));
    host.end_sandbox("late");
    host.eventually("the pod is gone", || {
        host.state("late").is_none() && !taken.lock().unwrap().pods.contains(&uid(5))
    });
}

fn leaving_is_announced_first(host: &mut Host, api: &Api, taken: &Mutex<Taken>) {
    api.put("namespaces", "shop", namespace(None));
    host.eventually("the annotation is gone", || api.redirection("shop/running").is_none());
    // Peers learn of it while tunnels are still accepted.
    assert!(host.has_rules("running"), "left before it was announced");
    assert!(taken.lock().unwrap().pods.contains(&uid(1)));
    // A restart meanwhile: what is captured goes on until it ends.
    restart(host);
    assert!(taken.lock().unwrap().dropped.is_empty(), "{:?}", taken.lock().unwrap().dropped);
    host.eventually("the pods are out", || !host.has_rules("running") && !host.has_rules("new"));
    host.eventually("the proxy let go", || taken.lock().unwrap().pods.is_empty());
    assert_eq!(host.state("running"), None);
}

fn nothing_is_left_after_unload(host: &mut Host, api: &Api) {
    api.put("namespaces", "shop", namespace(Some("ambient")));
    for name in ["running", "new"] {
        host.eventually("capture", || api.redirection(&format!("shop/{name}")).as_deref() == Some("enabled"));
    }
    host.kill_agent();
    let output = host.unload();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["running", "new"] {
        assert!(!host.has_rules(name), "{name} has rules");
        assert_eq!(api.redirection(&format!("shop/{name}")), None);
    }
    assert_eq!(api.event_reasons().last().map(String::as_str), Some("CaptureRemoved"));
    let list: Value = serde_json::from_str(&fs::read_to_string(host.path("net.d/10-lab.conflist")).unwrap()).unwrap();
    assert_eq!(list, serde_json::from_str::<Value>(LIST).unwrap());
    assert!(!host.path("bin/culvert-cni").exists() && !host.path("cni.sock").exists());
    assert!(!host.path("bpf/culvert/v1").exists() && find(&host.path("bpf"), "guard").is_none());
}
