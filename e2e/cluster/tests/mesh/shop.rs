//! The shop of these tests: a client and a server on each node, and somebody outside.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

/// What clients send; it must not be on the wire.
pub(crate) const MARKER: &str = "marker-of-the-shop";
/// Port of `e2e-load serve`.
pub(crate) const PORT: u16 = 7000;
/// Ports of `e2e-peer serve`, and one where nobody listens: see `manners`.
pub(crate) const MANNERS: [u16; 9] = [9001, 9002, 9003, 9004, 9005, 9006, 9007, 9008, 9100];
/// All pods.
pub(crate) const PODS: [&str; 4] = ["client-one", "client-two", "server-one", "server-two"];

/// Pods of another namespace, outside of the mesh, one on each node; each serves its name.
pub(crate) const OUTSIDERS: [&str; 2] = ["outside/outside", "outside/outside-two"];

/// Makes the shop, outside of the mesh.
pub(crate) fn open(cluster: &Cluster) -> Result<()> {
    let mut items = vec![namespace("shop"), namespace("outside")];
    for (name, node) in [("client-one", "node1"), ("client-two", "node2")] {
        items.push(account("shop", name));
        items.push(pod(name, node, &["sleep", "inf"], json!({"securityContext": {"runAsUser": 0}})));
    }
    for (name, node) in [("server-one", "node1"), ("server-two", "node2")] {
        items.push(account("shop", name));
        let serve = format!("e2e-load serve {name} {PORT} & e2e-peer serve & exec nginx -g 'daemon off;'");
        items.push(pod(
            name,
            node,
            &["sh", "-c", &serve],
            json!({"readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}}),
        ));
        items.extend(services(name));
    }
    items.push(account("outside", "outside"));
    for (name, node) in [("outside", "node1"), ("outside-two", "node2")] {
        let mut outside = pod(name, node, &["nginx", "-g", "daemon off;"], json!({}));
        outside["metadata"]["namespace"] = json!("outside");
        items.push(outside);
        items.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "outside"},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 8080}]}}));
    }
    cluster.apply(&crate::common::list(items))?;
    for (space, pods) in [("shop", &PODS[..]), ("outside", &["outside", "outside-two"])] {
        let names = pods.iter().map(|p| format!("pod/{p}"));
        let arguments: Vec<String> = ["wait", "-n", space, "--for=condition=Ready", "--timeout=90s"]
            .map(str::to_owned)
            .into_iter()
            .chain(names)
            .collect();
        cluster.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    for client in ["client-one", "client-two"].iter().chain(&OUTSIDERS) {
        for server in ["server-one", "server-two"] {
            eventually("a call in clear", Duration::from_secs(30), || {
                curl(cluster, client, &format!("http://{server}.shop:8080/"))
            })?;
        }
    }
    Ok(())
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

/// A pod of the shop, with a service account of its own name where there is one.
pub(crate) fn pod(name: &str, node: &str, command: &[&str], more: Value) -> Value {
    let mut pod = crate::common::pod(name, node, command, more);
    pod["metadata"]["namespace"] = json!("shop");
    if PODS.contains(&name) || name == "outside" {
        pod["spec"]["serviceAccountName"] = json!(name);
    }
    pod
}

/// A Service with all ports, a headless one, and a name that stands for the first.
fn services(name: &str) -> Vec<Value> {
    let mut ports = vec![json!({"name": "http", "port": 8080}), json!({"name": "tcp-load", "port": PORT})];
    ports.extend(MANNERS.map(|port| json!({"name": format!("tcp-{port}"), "port": port})));
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    vec![
        service(name, json!({"selector": {"app": name}, "ports": ports})),
        service(&format!("{name}-headless"), json!({"selector": {"app": name}, "clusterIP": "None", "ports": ports})),
        service(
            &format!("alias-{name}"),
            json!({"type": "ExternalName", "externalName": format!("{name}.shop.svc.cluster.local")}),
        ),
    ]
}

/// A NetworkPolicy that lets one pod through to one port of another.
pub(crate) fn allow_only(name: &str, to: &str, from: &str, port: u16) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": to}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": from}}}], "ports": [{"port": port}]}]}})
}

/// The Service's address and the port of `e2e-load`.
pub(crate) fn address(cluster: &Cluster, service: &str) -> Result<String> {
    let ip = cluster.kubectl(&["get", "service", "-n", "shop", service, "-o", "jsonpath={.spec.clusterIP}"])?;
    Ok(format!("{ip}:{PORT}"))
}

/// Address of a pod, `pod` or `namespace/pod`.
pub(crate) fn pod_ip(cluster: &Cluster, pod: &str) -> Result<String> {
    let (namespace, pod) = pod.split_once('/').unwrap_or(("shop", pod));
    Ok(cluster.kubectl(&["get", "pod", "-n", namespace, pod, "-o", "jsonpath={.status.podIP}"])?)
}

/// Waits until pods of the shop are ready.
pub(crate) fn until_ready(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    let names: Vec<String> = pods.iter().map(|p| format!("pod/{p}")).collect();
    let mut arguments = vec!["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments)?;
    Ok(())
}

/// Runs a shell line in a pod, `pod` or `namespace/pod`.
pub(crate) fn in_pod(cluster: &Cluster, pod: &str, line: &str) -> Result<String> {
    let (namespace, pod) = pod.split_once('/').unwrap_or(("shop", pod));
    Ok(cluster.kubectl(&["exec", "-n", namespace, pod, "--", "sh", "-c", line])?.trim().to_owned())
}

/// Fetches a page from a pod.
pub(crate) fn curl(cluster: &Cluster, pod: &str, url: &str) -> Result<String> {
    in_pod(cluster, pod, &format!("curl -sS -m 8 {url}"))
}

/// A page that a pod is refused: at once, and not by silence. Whoever could not be asked was not refused.
pub(crate) fn refused(cluster: &Cluster, pod: &str, url: &str) -> Result<()> {
    // curl(1): could not connect; an empty answer; a failure while receiving (a reset).
    const REFUSED: [&str; 3] = ["exit code 7", "exit code 52", "exit code 56"];
    let error = match curl(cluster, pod, url) {
        Ok(said) => bail!("{pod} -> {url}: it gets an answer: {said:?}"),
        Err(error) => format!("{error:#}"),
    };
    let refused = |line: &str| REFUSED.iter().any(|code| line.trim_end().ends_with(code));
    ensure!(error.lines().any(refused), "{pod} -> {url}: not refused, but: {error}");
    Ok(())
}

fn annotations(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let pods: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "-n", "shop", "-o", "json"])?)?;
    let of = |pod: &Value| {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/metadata/name"), text("/metadata/annotations/ambient.istio.io~1redirection"))
    };
    Ok(pods["items"].as_array().context("no pods")?.iter().map(of).collect())
}

/// Waits until every pod of the shop is reported as captured.
pub(crate) fn until_enrolled(cluster: &Cluster, limit: Duration) -> Result<()> {
    eventually("all pods enrolled", limit, || {
        let all = annotations(cluster)?;
        ensure!(all.iter().all(|(_, value)| value == "enabled"), "{all:?}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Waits until no pod of the shop is reported as captured, and no rule of ours is in one.
pub(crate) fn until_left(cluster: &Cluster, limit: Duration) -> Result<()> {
    eventually("all pods left", limit, || {
        let all = annotations(cluster)?;
        ensure!(all.iter().all(|(_, value)| value.is_empty()), "{all:?}");
        for pod in PODS {
            let rules = in_pod(cluster, pod, "ip rule; ip -6 rule")?;
            ensure!(!rules.contains("lookup 100"), "{pod}: {rules}");
        }
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Restarts a DaemonSet of ours and waits until a new pod is ready on every node.
pub(crate) fn restart(cluster: &Cluster, name: &str) -> Result<()> {
    begin_restart(cluster, name)?;
    until_restarted(cluster, name)
}

/// Restarts a DaemonSet of ours.
pub(crate) fn begin_restart(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", "-n", "culvert-system", &format!("ds/{name}")])?;
    Ok(())
}

/// Waits until a pod of the newest kind is ready on every node. `kubectl rollout status` would wait for the old ones too, which
/// drain for as long as somebody is connected.
pub(crate) fn until_restarted(cluster: &Cluster, name: &str) -> Result<()> {
    let what = format!("ds/{name}");
    let set: Value = serde_json::from_str(&cluster.kubectl(&["get", "-n", "culvert-system", &what, "-o", "json"])?)?;
    let generation = set.pointer("/metadata/annotations/deprecated.daemonset.template.generation");
    let newest = format!("pod-template-generation={}", generation.and_then(Value::as_str).context("no generation")?);
    let selector = format!("app.kubernetes.io/name={name},{newest}");
    eventually(&what, Duration::from_secs(120), || {
        let pods = cluster.kubectl(&["get", "pods", "-n", "culvert-system", "-l", &selector, "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let ready = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        let count = pods["items"].as_array().context("no pods")?.iter().filter(ready).count();
        ensure!(count == cluster.nodes().len(), "{count} ready");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Waits until every replaced proxy was told to end, and has had the time to stop listening (it goes on for 2 s).
pub(crate) fn until_handed_over(cluster: &Cluster) -> Result<()> {
    eventually("replaced proxies were told to end", Duration::from_secs(60), || {
        let pods = cluster.kubectl(&["get", "pods", "-n", "culvert-system", "-l", "app=ztunnel", "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let count = pods["items"].as_array().context("no pods")?.iter().filter(living).count();
        ensure!(count == cluster.nodes().len(), "{count} proxies that stay");
        anyhow::Ok(())
    })?;
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

/// The end of the log of a node's proxy.
pub(crate) fn proxy_log(cluster: &Cluster, node: &str) -> Result<String> {
    log(cluster, node, "--tail=200")
}

/// All that the kubelet has kept of it.
pub(crate) fn whole_proxy_log(cluster: &Cluster, node: &str) -> Result<String> {
    log(cluster, node, "--tail=-1")
}

fn log(cluster: &Cluster, node: &str, how_much: &str) -> Result<String> {
    let field = format!("spec.nodeName={node}");
    let names = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "culvert-system",
        "-l",
        "app=ztunnel",
        "--field-selector",
        &field,
        "-o",
        "name",
    ])?;
    let name = names.lines().next().context("no proxy")?;
    Ok(cluster.kubectl(&["logs", "-n", "culvert-system", name, how_much])?)
}

/// Nothing of ours is in the cluster or on a node.
pub(crate) fn nothing_left(cluster: &Cluster) -> Result<()> {
    let left = cluster.kubectl(&[
        "get",
        "all,configmaps,secrets,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets,networkpolicies",
        "-A",
        "-l",
        "app.kubernetes.io/part-of=culvert",
        "-o",
        "name",
    ])?;
    ensure!(left.is_empty(), "{left}");
    let kinds = "clusterroles,clusterrolebindings,crds,priorityclasses,validatingwebhookconfigurations";
    let roles = cluster.kubectl(&["get", kinds, "-o", "name"])?;
    for ours in ["culvert", "istio.io", "gateway.networking.k8s.io"] {
        ensure!(!roles.contains(ours), "{roles}");
    }
    let all = annotations(cluster)?;
    ensure!(all.iter().all(|(_, value)| value.is_empty()), "{all:?}");
    for pod in PODS {
        let rules = in_pod(
            cluster,
            pod,
            "for f in 4 6; do ip -$f rule; for t in 100 101; do ip -$f route show table $t 2>/dev/null; done; done",
        )?;
        ensure!(!rules.contains("lookup 10") && !rules.contains("dev lo"), "{pod}: {rules}");
    }
    for node in cluster.nodes() {
        for path in [
            "/sys/fs/bpf/culvert",
            "/opt/cni/bin/culvert-cni",
            "/var/run/culvert/cni.sock",
            "/var/run/ztunnel/ztunnel.sock",
        ] {
            ensure!(!node.path(Path::new(path)).exists(), "{}: {path} is still there", node.name());
        }
        let folder = node.path("/etc/cni/net.d");
        for entry in std::fs::read_dir(&folder)?.flatten() {
            let text = std::fs::read_to_string(entry.path())?;
            ensure!(!text.contains("culvert"), "{}: {}: {text}", node.name(), entry.path().display());
        }
    }
    Ok(())
}

/// Prints what helps to understand a failure.
pub(crate) fn tell_all(cluster: &Cluster) {
    let tell = |what: &[&str]| match cluster.kubectl(what) {
        Ok(said) => println!("--- kubectl {}\n{said}", what.join(" ")),
        Err(error) => println!("--- kubectl {}: {error}", what.join(" ")),
    };
    // A connect that nobody answered is there for two minutes, with the addresses that it was translated to.
    for node in cluster.nodes() {
        let waiting = "conntrack -L -p tcp 2>/dev/null | grep -e SYN_ -e UNREPLIED || true";
        match cluster.exec_on_node(node.name(), &["sh", "-c", waiting]) {
            Ok(said) => println!("--- {}: connections without an answer\n{said}", node.name()),
            Err(error) => println!("--- {}: conntrack: {error}", node.name()),
        }
    }
    // All but those in TIME_WAIT (06), of which there are thousands; the image has no ss.
    let open = "while read -r line; do case \"$line\" in *' 06 '*) ;; *) echo \"$line\" ;; esac; done </proc/net/tcp";
    for pod in PODS {
        match in_pod(cluster, pod, open) {
            Ok(said) => println!("--- {pod}: open sockets\n{said}"),
            Err(error) => println!("--- {pod}: open sockets: {error}"),
        }
    }
    tell(&["get", "pods", "-A", "-o", "wide"]);
    tell(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
    for app in ["culvert-ca", "culvert-control", "culvert-node", "ztunnel"] {
        tell(&[
            "logs",
            "-n",
            "culvert-system",
            "-l",
            &format!("app.kubernetes.io/name={app}"),
            "--tail=12",
            "--prefix",
        ]);
    }
}
