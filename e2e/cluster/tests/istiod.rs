//! Judged by others: our proxy in Istio's own DaemonSet, under a real istiod, on a real Kubernetes. Root, the images of
//! `cargo xtask image`, and Istio's programs from its Go module: `make test-interop`.

mod common;
#[allow(dead_code, reason = "the shop is made for more than this")]
#[path = "mesh"]
mod mesh {
    pub(crate) mod calls;
    pub(crate) mod shop;
    pub(crate) mod wire;
}
mod istiod {
    pub(crate) mod dump;
    pub(crate) mod tools;
    pub(crate) mod world;
}

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use common::{SOON, list};
use e2e_cluster::{Cluster, Options, eventually};
use istiod::dump;
use istiod::tools::Tools;
use istiod::world::{self, Istiod};
use mesh::calls::{Calls, Kind};
use mesh::shop;
use mesh::wire::Capture;
use serde_json::{Value, json};

/// From a policy's change until it is in force on the other node, with istiod's own delay (it waits up to 100 ms for more
/// changes) and two busy CPUs.
const IN_FORCE: Duration = Duration::from_secs(10);

/// What this does not show, and why (docs/beside-istio.md says the same).
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "istio-cni",
        "its image is iptables and ipset around a Go program, and none can be pulled; Culvert's agent enrols instead",
    ),
    ("stock proxies on other nodes", "Istio's ztunnel is no Go module, and no image can be pulled"),
    (
        "answered look-ups (DNS_CAPTURE)",
        "with Istio's variables they are expected by istio-cni's redirection; names are left to the cluster's DNS",
    ),
    ("waypoints", "Istio's are Envoy, which is no Go module and whose image cannot be pulled"),
    ("NetworkPolicy on inner addresses", "istiod does not tell proxies of them"),
    (
        "destinations in the pod network that discovery does not know",
        "Istio has no variable for it: they are reached in clear, as by Istio",
    ),
    ("several clusters and networks", "one machine holds one cluster"),
];

/// What checks share.
struct Mesh {
    cluster: Cluster,
    tools: Tools,
    istiod: RefCell<Option<Istiod>>,
}

type Check = fn(&Mesh) -> Result<()>;

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[(&str, Check)] = &[
    ("istiod runs, and is reached as istiod.istio-system.svc", istiod_runs),
    ("our agent alone, which lets Istio's service account in", |m| world::agent(&m.cluster)),
    ("Istio's chart with our image: ready on both nodes", |m| world::proxy(&m.cluster, &m.tools)),
    ("a shop outside the mesh works", |m| shop::open(&m.cluster)),
    ("labelling a namespace: running pods are enrolled, 0 failed", label),
    ("istioctl ztunnel-config workloads: both proxies know the pods with HBONE", |m| {
        dump::workloads(&m.cluster, &m.tools)
    }),
    ("between nodes: 0 bytes in clear", encrypted),
    ("by Service, headless, pod address, same node and other node", matrix),
    ("identities are those that istiod signed", identities),
    ("a new pod is captured from birth, and istiod's policy finds it", newborn),
    ("a policy by identity denies and allows", policy),
    ("a policy's change is in force within seconds, and cuts", policy_cuts),
    ("STRICT refuses who is outside of the mesh, and probes pass", strict_and_probes),
    ("istioctl ztunnel-config services", |m| dump::services(&m.cluster, &m.tools)),
    ("istioctl ztunnel-config certificates", |m| dump::certificates(&m.cluster, &m.tools)),
    ("istioctl ztunnel-config connections, all, log", |m| dump::more(&m.cluster, &m.tools)),
    ("istiod away and back: calls go on, and policy arrives again", istiod_away),
    ("the DaemonSet's own update replaces the proxies: no call fails", replaced),
    ("un-labelling: 0 failed", unlabel),
];

#[test]
#[ignore = "raises a cluster as root: make test-interop"]
fn the_proxy_holds_under_a_real_istiod() -> Result<()> {
    let _alone = common::alone();
    let tools = Tools::find()?;
    let cluster = common::up(Options::default())?;
    for name in ["ztunnel", "culvert-node"] {
        cluster.load_image(&common::workspace().join(format!("target/images/{name}.tar")))?;
    }
    world::objects(&cluster, &tools)?;
    let mesh = Mesh { cluster, tools, istiod: RefCell::new(None) };
    for (name, check) in CHECKS {
        let begun = Instant::now();
        if let Err(error) = check(&mesh).with_context(|| (*name).to_owned()) {
            world::tell_all(&mesh.cluster);
            return Err(error);
        }
        println!("  ok  {name} ({} ms)", begun.elapsed().as_millis());
    }
    for (what, why) in LEFT_OUT {
        println!("  left out  {what}: {why}");
    }
    drop(mesh.istiod);
    mesh.cluster.down()?;
    Ok(())
}

fn istiod_runs(mesh: &Mesh) -> Result<()> {
    mesh.istiod.replace(Some(Istiod::start(&mesh.cluster, &mesh.tools)?));
    // What proxies know istiod by; it writes it into every namespace.
    eventually("ConfigMap istio-ca-root-cert", SOON, || {
        mesh.cluster.kubectl(&["get", "configmap", "-n", "istio-system", "istio-ca-root-cert"])
    })?;
    Ok(())
}

/// Calls on new connections, between nodes and on one, that must not notice what happens meanwhile.
fn undisturbed(mesh: &Mesh, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let cluster = &mesh.cluster;
    let two = shop::address(cluster, "server-two")?;
    let loads = [
        Calls::start(cluster, "client-one", Kind::Calls, &two)?,
        Calls::start(cluster, "client-two", Kind::Calls, &two)?,
    ];
    what()?;
    for load in loads {
        let seen = load.finish()?;
        ensure!(seen.is_good(), "{seen}");
        println!("      {seen}");
    }
    Ok(())
}

fn label(mesh: &Mesh) -> Result<()> {
    undisturbed(mesh, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"])?;
        shop::until_enrolled(&mesh.cluster, SOON)
    })
}

fn encrypted(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let load = Calls::start(cluster, "client-one", Kind::Calls, &address)?;
    load.wait_for_good()?;
    let seen = load.finish()?;
    ensure!(seen.is_good() && seen.good > 10, "{seen}");
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10, "the wire between the nodes was not seen: {bytes:?}");
    ensure!(bytes.markers == 0, "the marker was on the wire in clear: {bytes:?}");
    println!("      {bytes:?}");
    Ok(())
}

fn matrix(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    for client in ["client-one", "client-two", "outside/outside"] {
        for server in ["server-one", "server-two"] {
            let ip = cluster.kubectl(&["get", "pod", "-n", "shop", server, "-o", "jsonpath={.status.podIP}"])?;
            let headless = format!("{server}-headless.shop.svc.cluster.local");
            for target in [format!("{server}.shop"), headless, format!("alias-{server}.shop.svc.cluster.local"), ip] {
                let said = shop::curl(cluster, client, &format!("http://{target}:8080/"))?;
                ensure!(said == server, "{client} -> {target}: {said:?}");
            }
        }
    }
    Ok(())
}

/// The last line of the node's access log of a connection to a server, as the server's side saw it.
fn inbound(mesh: &Mesh, node: &str, server: &str) -> Result<String> {
    let log = world::proxy_log(&mesh.cluster, node)?;
    let line = log.lines().rev().find(|l| l.contains("direction=\"inbound\"") && l.contains(server));
    line.map(str::to_owned).with_context(|| format!("no line in:\n{log}"))
}

fn identities(mesh: &Mesh) -> Result<()> {
    for client in ["client-one", "client-two"] {
        shop::curl(&mesh.cluster, client, "http://server-two.shop:8080/")?;
        eventually("an access line with both identities", SOON, || {
            let line = inbound(mesh, "node2", "server-two")?;
            ensure!(line.contains(&format!("src.identity=\"spiffe://cluster.local/ns/shop/sa/{client}\"")), "{line}");
            ensure!(line.contains("dst.identity=\"spiffe://cluster.local/ns/shop/sa/server-two\""), "{line}");
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

fn newborn(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let capture = Capture::start(cluster)?;
    let address = shop::address(cluster, "server-two")?;
    let (ip, port) = address.rsplit_once(':').context("an address")?;
    let call = format!(
        "for i in 1 2 3 4 5; do echo {} | nc -w 2 {ip} {port} | grep -q server-two || exit 1; done",
        shop::MARKER
    );
    let mut pod = shop::pod("newborn", "node1", &["sleep", "inf"], json!({}));
    pod["spec"]["initContainers"] =
        json!([{"name": "first", "image": "culvert.dev/echo:test", "command": ["sh", "-c", call]}]);
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/newborn"])?;
    let bytes = capture.finish()?;
    ensure!(bytes.frames > 10 && bytes.markers == 0, "{bytes:?}");
    // It is the default account's, and may not when only another's may.
    let policy = only("newborn-not", "client-one");
    cluster.apply(&policy.to_string())?;
    eventually("the new pod is denied", SOON, || {
        ensure!(shop::curl(cluster, "newborn", "http://server-two.shop:8080/").is_err(), "it gets an answer");
        anyhow::Ok(())
    })?;
    cluster.delete(&list(vec![policy, pod]))?;
    answers_again(mesh, "client-two")
}

/// A policy by which only one client may call `server-two`.
fn only(name: &str, client: &str) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "server-two"}}, "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": [format!("cluster.local/ns/shop/sa/{client}")]}}]}]}})
}

fn answers_again(mesh: &Mesh, client: &str) -> Result<()> {
    eventually("the policy is gone", SOON, || shop::curl(&mesh.cluster, client, "http://server-two.shop:8080/"))?;
    Ok(())
}

fn policy(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let policy = only("only-one", "client-one");
    cluster.apply(&policy.to_string())?;
    let url = "http://server-two.shop:8080/";
    eventually("the policy denies client-two", SOON, || {
        ensure!(shop::curl(cluster, "client-two", url).is_err(), "client-two still gets an answer");
        anyhow::Ok(())
    })?;
    ensure!(shop::curl(cluster, "client-one", url)? == "server-two", "client-one is denied");
    ensure!(shop::curl(cluster, "outside/outside", url).is_err(), "who has no identity gets an answer");
    ensure!(
        shop::curl(cluster, "client-two", "http://server-one.shop:8080/")? == "server-one",
        "another server is denied"
    );
    dump::policy(cluster, &mesh.tools, "only-one", true)?;
    cluster.delete(&policy.to_string())?;
    answers_again(mesh, "client-two")?;
    dump::policy(cluster, &mesh.tools, "only-one", false)
}

/// Waits until a held connection is cut; calls say their end by themselves.
fn until_cut(held: &Calls, within: Duration) -> Result<()> {
    let begun = Instant::now();
    let said = eventually("a held connection is cut", within, || match held.wait_for_good() {
        Ok(()) => bail!("it is still held"),
        Err(end) => Ok(end.to_string()),
    })?;
    ensure!(said.contains("\"end\""), "{said}");
    println!("      cut after {} ms: {said}", begun.elapsed().as_millis());
    Ok(())
}

fn policy_cuts(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let (address, url) = (shop::address(cluster, "server-two")?, "http://server-two.shop:8080/");
    // From the other node and from the same one.
    let one = Calls::start(cluster, "client-one", Kind::Hold, &address)?;
    let two = Calls::start(cluster, "client-two", Kind::Hold, &address)?;
    cluster.apply(&only("changing", "client-one").to_string())?;
    until_cut(&two, IN_FORCE)?;
    ensure!(shop::curl(cluster, "client-two", url).is_err(), "client-two is cut and then answered");
    one.wait_for_good().context("client-one may call")?;
    cluster.apply(&only("changing", "client-two").to_string())?;
    until_cut(&one, IN_FORCE)?;
    ensure!(shop::curl(cluster, "client-one", url).is_err(), "client-one is cut and then answered");
    ensure!(shop::curl(cluster, "client-two", url)? == "server-two", "client-two is denied");
    cluster.delete(&only("changing", "client-two").to_string())?;
    answers_again(mesh, "client-one")
}

fn strict_and_probes(mesh: &Mesh) -> Result<()> {
    let cluster = &mesh.cluster;
    let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "strict", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
    let nobody = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "probed"}}}});
    cluster.apply(&list(vec![strict.clone(), nobody.clone()]))?;
    eventually("STRICT refuses clear text", SOON, || {
        ensure!(shop::curl(cluster, "outside/outside", "http://server-one.shop:8080/").is_err(), "answered");
        anyhow::Ok(())
    })?;
    for client in ["client-one", "client-two"] {
        ensure!(shop::curl(cluster, client, "http://server-one.shop:8080/")? == "server-one", "{client} is refused");
    }
    let probe = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 3});
    let more = json!({"readinessProbe": probe, "livenessProbe": probe});
    let pod = shop::pod("probed", "node2", &["nginx", "-g", "daemon off;"], more);
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s", "pod/probed"])?;
    let ip = cluster.kubectl(&["get", "pod", "-n", "shop", "probed", "-o", "jsonpath={.status.podIP}"])?;
    let url = format!("http://{ip}:8080/");
    eventually("a policy that lets nobody in", SOON, || {
        ensure!(shop::curl(cluster, "client-one", &url).is_err(), "client-one gets an answer");
        anyhow::Ok(())
    })?;
    cluster.delete(&list(vec![pod, strict, nobody]))?;
    eventually("clear text is answered again", SOON, || {
        shop::curl(cluster, "outside/outside", "http://server-one.shop:8080/")
    })?;
    Ok(())
}

fn istiod_away(mesh: &Mesh) -> Result<()> {
    // Long enough for anything that asks every few seconds.
    const AWAY: Duration = Duration::from_secs(10);
    undisturbed(mesh, || {
        mesh.istiod.take().context("istiod does not run")?.kill()?;
        std::thread::sleep(AWAY);
        mesh.istiod.replace(Some(Istiod::start(&mesh.cluster, &mesh.tools)?));
        Ok(())
    })?;
    policy(mesh)
}

fn replaced(mesh: &Mesh) -> Result<()> {
    undisturbed(mesh, || world::replace_proxies(&mesh.cluster))?;
    dump::workloads(&mesh.cluster, &mesh.tools)?;
    encrypted(mesh)
}

fn unlabel(mesh: &Mesh) -> Result<()> {
    undisturbed(mesh, || {
        mesh.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"])?;
        shop::until_left(&mesh.cluster, SOON)
    })
}
