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

/// Between nodes and on one node, a new connection for each call and one that is held.
pub(crate) const ALL: [Load; 4] = [
    ("client-one", Kind::Calls, "server-two"),
    ("client-one", Kind::Hold, "server-two"),
    ("client-one", Kind::Calls, "server-one"),
    ("client-two", Kind::Calls, "server-two"),
];
/// Those of them that no drain ends, however long.
pub(crate) const NEW: [Load; 3] = [ALL[0], ALL[2], ALL[3]];

/// Loads that go on while something happens, and must not notice.
pub(crate) fn undisturbed(cluster: &Cluster, loads: &[Load], what: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = |(client, kind, server): &Load| Calls::start(cluster, client, *kind, &shop::address(cluster, server)?);
    let loads = loads.iter().map(start).collect::<Result<Vec<_>>>()?;
    let done = what();
    let mut blame = Vec::new();
    for load in loads {
        let seen = load.finish()?;
        println!("      {seen}");
        if let Err(error) = seen.must_be_good(cluster) {
            blame.push(error.to_string());
        }
    }
    done?;
    // All of them: which loads failed together tells as much as why each did.
    ensure!(blame.is_empty(), "{}", blame.join("\n"));
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

/// Every client, one of them outside of the mesh, reaches every server by every kind of name.
pub(crate) fn matrix(cluster: &Cluster) -> Result<()> {
    for client in ["client-one", "client-two", "outside/outside"] {
        for server in ["server-one", "server-two"] {
            let targets = [
                format!("{server}.shop"),
                format!("{server}.shop.svc.cluster.local"),
                format!("{server}-headless.shop.svc.cluster.local"),
                format!("alias-{server}.shop.svc.cluster.local"),
                shop::pod_ip(cluster, server)?,
            ];
            for target in targets {
                let said = shop::curl(cluster, client, &format!("http://{target}:8080/"))?;
                ensure!(said == server, "{client} -> {target}: {said:?}");
            }
        }
    }
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

/// Waits until a client gets no answer any more.
pub(crate) fn until_refused(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    eventually(&format!("{client} is refused by {server}"), SOON, || {
        ensure!(shop::curl(cluster, client, &format!("http://{server}.shop:8080/")).is_err(), "it gets an answer");
        anyhow::Ok(())
    })?;
    Ok(())
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
    ensure!(shop::curl(cluster, "outside/outside", &url(server)).is_err(), "who has no identity gets an answer");
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
    cluster.apply(&list(vec![strict.clone(), nobody.clone()]))?;
    until_refused(cluster, "outside/outside", "server-one")?;
    for client in ["client-one", "client-two"] {
        let said = shop::curl(cluster, client, "http://server-one.shop:8080/")?;
        ensure!(said == "server-one", "{client} is refused");
    }
    let probe = |mut probe: Value| {
        probe["periodSeconds"] = json!(1);
        probe["failureThreshold"] = json!(3);
        probe
    };
    let (http, grpc) = (json!({"httpGet": {"port": 8080, "path": "/"}}), json!({"grpc": {"port": 9000}}));
    let probes = json!({
        "startupProbe": probe(json!({"tcpSocket": {"port": 8080}})),
        "readinessProbe": probe(http), "livenessProbe": probe(json!({"exec": {"command": ["true"]}})),
    });
    let by_grpc = json!({"readinessProbe": probe(grpc.clone()), "livenessProbe": probe(grpc)});
    let mut pods = vec![
        shop::pod("probed", "node2", &["nginx", "-g", "daemon off;"], probes),
        shop::pod("probed-grpc", "node1", &["e2e-load", "health", "9000"], by_grpc),
    ];
    pods.iter_mut().for_each(|pod| pod["metadata"]["labels"]["probe"] = json!("yes"));
    cluster.apply(&list(pods.clone()))?;
    shop::until_ready(cluster, &["probed", "probed-grpc"])?;
    let url = format!("http://{}:8080/", shop::pod_ip(cluster, "probed")?);
    eventually("a policy that lets nobody in", SOON, || {
        ensure!(shop::curl(cluster, "client-one", &url).is_err(), "client-one gets an answer");
        anyhow::Ok(())
    })?;
    // Somebody else on the node's network is not the kubelet.
    let output = cluster.node("node2")?.command("curl").args(["-sS", "-m", "5", &url]).output()?;
    let passed = output.status.success();
    ensure!(passed == node_passes, "a process of the node, past a policy that allows nobody: answered {passed}");
    shop::until_ready(cluster, &["probed", "probed-grpc"]).context("after the policy is in force")?;
    pods.extend([strict, nobody]);
    cluster.delete(&list(pods))?;
    until_answered(cluster, "outside/outside", "server-one")
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
