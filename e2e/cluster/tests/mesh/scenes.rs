//! What must hold in the shop whoever carries its calls: Culvert alone, under a real istiod, beside Istio's proxy.
#![allow(dead_code, reason = "each test uses its part")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::calls::{Calls, Kind};
use super::shop::{self, MARKER};
use super::wire::Capture;
use crate::common::{SOON, list};

/// Calls from a client to a server.
pub(crate) type Load = (&'static str, Kind, &'static str);

/// Between nodes and on one node, a new connection for each call and two that are held: more than [`ENOUGH`].
pub(crate) const ALL: [Load; 6] = [
    ("client-one", Kind::Calls, "server-two"),
    ("client-one", Kind::Calls, "server-one"),
    ("client-two", Kind::Calls, "server-two"),
    ("client-two", Kind::Calls, "server-one"),
    ("client-one", Kind::Hold, "server-two"),
    ("client-two", Kind::Hold, "server-two"),
];
/// Those of them that no drain ends, however long.
pub(crate) const NEW: [Load; 4] = [ALL[0], ALL[1], ALL[2], ALL[3]];

/// Calls a second, good ones, that something must go on under.
const ENOUGH: f64 = 200.0;
/// A call that takes longer lost more than one SYN, or waited for something that it should not have: SYNs are sent again after 1
/// and 3 s (RFC 6298 section 2).
const NOTICED: Duration = Duration::from_secs(2);

/// Loads that go on while something happens, and must not notice.
pub(crate) fn undisturbed(cluster: &Cluster, loads: &[Load], what: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = |(client, kind, server): &Load| Calls::start(cluster, client, *kind, &shop::address(cluster, server)?);
    let loads = loads.iter().map(start).collect::<Result<Vec<_>>>()?;
    let done = what();
    let (mut blame, mut rate) = (Vec::new(), 0.0);
    for load in loads {
        let seen = load.finish()?;
        println!("      {seen}");
        rate += seen.rate();
        if let Err(error) = seen.must_be_good(cluster) {
            blame.push(error.to_string());
        } else if seen.slowest() > NOTICED {
            blame.push(format!("{seen}: a call was slow"));
        }
    }
    done?;
    // All of them: which loads failed together tells as much as why each did.
    ensure!(blame.is_empty(), "{}", blame.join("\n"));
    ensure!(rate >= ENOUGH, "only {rate:.0} calls a second");
    Ok(())
}

/// Nothing that a client says to a server on the other node is on the wire in clear.
pub(crate) fn encrypted(cluster: &Cluster) -> Result<()> {
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let load = Calls::start(cluster, "client-one", Kind::Calls, &address)?;
    load.wait_for_good()?;
    let seen = load.finish()?;
    seen.must_be_good(cluster)?;
    ensure!(seen.good > 10, "{seen}");
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10, "the wire between the nodes was not seen: {bytes:?}");
    ensure!(bytes.markers == 0, "the marker was on the wire in clear: {bytes:?}");
    println!("      {bytes:?}");
    Ok(())
}

/// All ways to a server by name and address.
fn ways(cluster: &Cluster, server: &str) -> Result<Vec<String>> {
    let names = [
        format!("{server}.shop"),
        format!("{server}.shop.svc.cluster.local"),
        format!("{server}-headless.shop.svc.cluster.local"),
        format!("alias-{server}.shop.svc.cluster.local"),
    ];
    Ok(names.into_iter().chain([shop::pod_ip(cluster, server)?]).map(|host| format!("http://{host}:8080/")).collect())
}

/// Every client, of each node and outside of the mesh too, reaches every server by every kind of name; those of the mesh reach who
/// is outside of it.
pub(crate) fn matrix(cluster: &Cluster) -> Result<()> {
    for client in ["client-one", "client-two"].iter().chain(&shop::OUTSIDERS) {
        for server in ["server-one", "server-two"] {
            for url in ways(cluster, server)? {
                says(cluster, client, &url, server)?;
            }
        }
    }
    for client in ["client-one", "client-two"] {
        for name in shop::OUTSIDERS {
            let (space, name) = name.split_once('/').context("namespace/name")?;
            says(cluster, client, &format!("http://{name}.{space}:8080/"), name)?;
            let ip = shop::pod_ip(cluster, &format!("{space}/{name}"))?;
            says(cluster, client, &format!("http://{ip}:8080/"), name)?;
        }
    }
    Ok(())
}

/// The same under STRICT: what the mesh's own say goes through tunnels, or it would be refused, as everybody else is.
fn strict_matrix(cluster: &Cluster) -> Result<()> {
    for server in ["server-one", "server-two"] {
        for url in ways(cluster, server)? {
            for client in ["client-one", "client-two"] {
                says(cluster, client, &url, server)?;
            }
            for client in shop::OUTSIDERS {
                shop::refused(cluster, client, &url)?;
            }
        }
    }
    Ok(())
}

fn says(cluster: &Cluster, client: &str, url: &str, wanted: &str) -> Result<()> {
    let said = shop::curl(cluster, client, url).with_context(|| format!("{client} -> {url}"))?;
    ensure!(said == wanted, "{client} -> {url}: {said:?}");
    Ok(())
}

/// A proxy's log of a node has a line of a call as the server's side saw it, with both identities. `log` gives the log.
pub(crate) fn identities(cluster: &Cluster, node: &str, log: impl Fn(&str) -> Result<String>) -> Result<()> {
    let server = if node == "node1" { "server-one" } else { "server-two" };
    for client in ["client-one", "client-two"] {
        shop::curl(cluster, client, &format!("http://{server}.shop:8080/"))?;
        eventually("an access line with both identities", SOON, || {
            let log = log(node)?;
            let line = log.lines().rev().find(|l| l.contains("direction=\"inbound\"") && l.contains(server));
            let line = line.with_context(|| format!("no line in:\n{log}"))?;
            ensure!(line.contains(&format!("src.identity=\"spiffe://cluster.local/ns/shop/sa/{client}\"")), "{line}");
            ensure!(line.contains(&format!("dst.identity=\"spiffe://cluster.local/ns/shop/sa/{server}\"")), "{line}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// A pod whose first init container calls a server on the other node; nothing of that is on the wire in clear.
pub(crate) fn newborn(cluster: &Cluster) -> Result<Value> {
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let (ip, port) = address.rsplit_once(':').context("an address")?;
    let call =
        format!("for i in 1 2 3 4 5; do echo {MARKER} | nc -w 2 {ip} {port} | grep -q server-two || exit 1; done");
    let mut pod = shop::pod("newborn", "node1", &["sleep", "inf"], json!({}));
    pod["spec"]["initContainers"] =
        json!([{"name": "first", "image": "culvert.dev/echo:test", "command": ["sh", "-c", call]}]);
    cluster.apply(&pod.to_string())?;
    shop::until_ready(cluster, &["newborn"])?;
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10 && bytes.markers == 0, "{bytes:?}");
    Ok(pod)
}

/// A policy by which only one client may call a server.
pub(crate) fn only(name: &str, server: &str, client: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": server}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/shop/sa/{client}")]}}]}]}})
}

/// Waits until a client is refused, and sees that it stays so.
pub(crate) fn until_refused(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    const AGAIN: usize = 3;
    let url = format!("http://{server}.shop:8080/");
    eventually(&format!("{client} is refused by {server}"), SOON, || shop::refused(cluster, client, &url))?;
    (0..AGAIN).try_for_each(|_| shop::refused(cluster, client, &url))
}

/// Waits until a client gets an answer again.
pub(crate) fn until_answered(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    let what = format!("{client} is answered by {server}");
    eventually(&what, SOON, || shop::curl(cluster, client, &format!("http://{server}.shop:8080/")))?;
    Ok(())
}

/// A policy by identity allows one client and denies the other and who has none. `told` is asked while it is in force.
pub(crate) fn policy(cluster: &Cluster, server: &str, told: impl FnOnce() -> Result<()>) -> Result<()> {
    let other = if server == "server-two" { "server-one" } else { "server-two" };
    let policy = only("only-one", server, "client-one");
    cluster.apply(&policy.to_string())?;
    until_refused(cluster, "client-two", server)?;
    let url = |server: &str| format!("http://{server}.shop:8080/");
    ensure!(shop::curl(cluster, "client-one", &url(server))? == server, "client-one is denied");
    shop::refused(cluster, "outside/outside", &url(server)).context("who has no identity")?;
    ensure!(shop::curl(cluster, "client-two", &url(other))? == other, "{other} is denied too");
    told()?;
    cluster.delete(&policy.to_string())?;
    until_answered(cluster, "client-two", server)
}

/// STRICT refuses who is outside of the mesh; the kubelet's probes of all kinds pass, under a policy that allows nobody too, and
/// nobody else does.
pub(crate) fn strict_and_probes(cluster: &Cluster) -> Result<()> {
    strict_and_probes_of(cluster, false)
}

/// The same where whatever a node's own network sends counts as the kubelet's, as Istio's agent has it.
pub(crate) fn strict_and_probes_by_address(cluster: &Cluster) -> Result<()> {
    strict_and_probes_of(cluster, true)
}

fn strict_and_probes_of(cluster: &Cluster, node_passes: bool) -> Result<()> {
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let nobody = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"probe": "yes"}}}});
    // Its own cgroup and the node's addresses: what an attacker, or an exporter, on the node looks like.
    let mut of_node = shop::pod("of-node", "node2", &["sleep", "inf"], json!({}));
    of_node["spec"]["hostNetwork"] = json!(true);
    let mut objects = vec![strict, nobody, of_node];
    cluster.apply(&list(objects.clone()))?;
    until_refused(cluster, "outside/outside", "server-one")?;
    strict_matrix(cluster)?;
    let pods = probed();
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    cluster.apply(&list(pods.clone()))?;
    objects.extend(pods.clone());
    shop::until_ready(cluster, &[&names[..], &["of-node"]].concat())?;
    let url = |name: &str| anyhow::Ok(format!("http://{}:8080/", shop::pod_ip(cluster, name)?));
    eventually("a policy that lets nobody in", SOON, || shop::refused(cluster, "client-one", &url("probed-http")?))?;
    // Somebody else on the node's network is not the kubelet: a process of the node, and a pod; past STRICT alone, and past a policy.
    for name in ["probed-http", "server-two"] {
        let output = cluster.node("node2")?.command("curl").args(["-sS", "-m", "5", &url(name)?]).output()?;
        let passed = output.status.success();
        ensure!(passed == node_passes, "a process of the node calls {name}: answered {passed}");
        // Whom of these Istio's agent takes for the kubelet is its own business.
        if !node_passes {
            shop::refused(cluster, "of-node", &url(name)?).context("a pod of the node's network")?;
        }
    }
    // Longer than it takes three probes in a row to fail.
    std::thread::sleep(Duration::from_secs(5));
    for name in names {
        let pod: Value = serde_json::from_str(&cluster.kubectl(&["get", "pod", "-n", "shop", name, "-o", "json"])?)?;
        let state = &pod["status"]["containerStatuses"][0];
        ensure!(state["ready"] == true && state["restartCount"] == 0, "{name}, under a policy: {state}");
    }
    cluster.delete(&list(objects))?;
    until_answered(cluster, "outside/outside", "server-one")
}

/// A pod for each kind of probe, which has it for each purpose.
fn probed() -> Vec<Value> {
    let nginx = ["nginx", "-g", "daemon off;"];
    let kinds: [(&str, &str, &[&str], Value); 4] = [
        ("probed-http", "node2", &nginx, json!({"httpGet": {"port": 8080, "path": "/"}})),
        ("probed-tcp", "node1", &nginx, json!({"tcpSocket": {"port": 8080}})),
        ("probed-exec", "node2", &nginx, json!({"exec": {"command": ["true"]}})),
        ("probed-grpc", "node1", &["e2e-load", "health", "9000"], json!({"grpc": {"port": 9000}})),
    ];
    let pod = |(name, node, command, mut probe): (&str, &str, &[&str], Value)| {
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(3);
        let all = json!({"startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe});
        let mut pod = shop::pod(name, node, command, all);
        pod["metadata"]["labels"]["probe"] = json!("yes");
        pod
    };
    kinds.map(pod).to_vec()
}

/// Waits until a held connection is cut; calls say their end by themselves.
pub(crate) fn until_cut(held: &Calls, within: Duration) -> Result<()> {
    let begun = Instant::now();
    let said = eventually("a held connection is cut", within, || match held.wait_for_good() {
        Ok(()) => bail!("it is still held"),
        Err(end) => Ok(end.to_string()),
    })?;
    ensure!(said.contains("\"end\""), "{said}");
    println!("      cut after {} ms: {said}", begun.elapsed().as_millis());
    Ok(())
}
