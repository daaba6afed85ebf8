//! Istio's own node proxy beside ours, under our control plane, authority and node agent: node1 has ours, node2 Istio's. Root, the
//! images of `cargo xtask image`, and a binary of Istio's proxy that `CULVERT_STOCK_ZTUNNEL` names: `make test-interop`.

mod common;
mod mesh {
    pub(crate) mod blame;
    pub(crate) mod calls;
    pub(crate) mod culvert;
    pub(crate) mod scenes;
    pub(crate) mod shop;
    pub(crate) mod wire;
}
mod istiod {
    pub(crate) mod tools;
}
mod stock {
    pub(crate) mod image;
}

use std::io::BufReader;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use common::{Check, SOON};
use e2e_cluster::{Cluster, Options, eventually};
use istiod::tools::Tools;
use mesh::calls::{Calls, Kind};
use mesh::culvert::{VALUES, culvert};
use mesh::scenes::{self, NEW};
use mesh::{shop, wire};
use serde_json::Value;
use stock::image::{Image, NAME};

/// Names the binary of Istio's proxy.
const BINARY: &str = "CULVERT_STOCK_ZTUNNEL";
const HOW: &str =
    "build it from github.com/istio/ztunnel (cargo build --release) and name the binary in CULVERT_STOCK_ZTUNNEL";

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check<Cluster>] = &[
    ("install lets Istio's service account in; our proxy is on node1 alone", install),
    ("Istio's chart with Istio's proxy: ready on node2", proxy),
    ("a shop outside the mesh works", shop::open),
    ("labelling a namespace: running pods of both nodes are enrolled, 0 failed", label),
    ("between the proxies: 0 bytes in clear", scenes::encrypted),
    ("both ways: by Service, headless, pod address, same node and other node", scenes::matrix),
    ("identities at both ends, as each proxy tells them", identities),
    ("a tunnel is used again, both ways", reuse),
    ("a policy by identity: judged by Istio's proxy", |c| scenes::policy(c, "server-two", || Ok(()))),
    ("a policy by identity: judged by ours", |c| scenes::policy(c, "server-one", || Ok(()))),
    ("STRICT refuses who is outside of the mesh, and probes pass", scenes::strict_and_probes),
    ("a new pod beside our proxy calls one beside Istio's from its first init container on", newborn),
    ("Istio's proxy replaced by surge: nothing fails", |c| replaced(c, "istio-system")),
    ("our proxy replaced by surge: nothing fails", |c| replaced(c, "culvert-system")),
    ("un-labelling: 0 failed", unlabel),
];

#[test]
#[ignore = "raises a cluster as root: make test-interop"]
fn the_mesh_holds_with_istios_proxy_on_a_node() -> Result<(), common::Told> {
    let Some(binary) = std::env::var_os(BINARY) else {
        println!("SKIPPED: Istio's proxy beside ours: {HOW}");
        return Ok(());
    };
    Ok(holds(Path::new(&binary))?)
}

fn holds(binary: &Path) -> Result<()> {
    let _alone = common::alone();
    ensure!(binary.is_file(), "{BINARY}: there is no {}; {HOW}", binary.display());
    let image = Image::make(binary)?;
    let cluster = common::up(Options::default())?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    cluster.load_image(&image.archive())?;
    common::in_order(&cluster, CHECKS, shop::tell_all)?;
    cluster.down()?;
    Ok(())
}

fn install(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    // What docs/beside-istio.md says.
    arguments.push("--set=ca.trustedNodeAccounts={istio-system/ztunnel}");
    arguments.push("--set=node.proxyAccounts={istio-system/ztunnel}");
    culvert(cluster, &arguments)?;
    let only = r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node1"}}}}}"#;
    cluster.kubectl(&["patch", "-n", "culvert-system", "ds/ztunnel", "-p", only])?;
    eventually("our proxy is on node1 alone", SOON, || {
        ensure!(proxies(cluster, "node2")?.is_empty(), "{:?}", proxies(cluster, "node2")?);
        ensure!(proxies(cluster, "node1")?.len() == 1, "{:?}", proxies(cluster, "node1")?);
        anyhow::Ok(())
    })?;
    Ok(())
}

fn proxy(cluster: &Cluster) -> Result<()> {
    let tools = Tools::find()?;
    cluster.kubectl(&["create", "namespace", "istio-system"])?;
    let chart = tools.chart("ztunnel");
    let settings = [
        &format!("--set=image={NAME}"),
        "--set=imagePullPolicy=IfNotPresent",
        "--set=xdsAddress=culvert-control.culvert-system.svc:15012",
        "--set=caAddress=culvert-ca.culvert-system.svc:15012",
        "--set=trustBundleName=culvert-ca-root-cert",
        "--set=nodeSelector.kubernetes\\.io/hostname=node2",
    ];
    tools
        .helm(cluster, &[&["upgrade", "--install", "ztunnel", &chart, "-n", "istio-system"][..], &settings].concat())?;
    cluster.kubectl(&["rollout", "status", "-n", "istio-system", "ds/ztunnel", "--timeout=120s"])?;
    Ok(())
}

/// Namespaces and names of the proxies on a node.
fn proxies(cluster: &Cluster, node: &str) -> Result<Vec<(String, String)>> {
    let field = format!("spec.nodeName={node}");
    let pods =
        cluster.kubectl(&["get", "pods", "-A", "-l", "app=ztunnel", "--field-selector", &field, "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let text = |pod: &Value, key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
    let all = pods["items"].as_array().context("no pods")?;
    Ok(all.iter().map(|pod| (text(pod, "namespace"), text(pod, "name"))).collect())
}

fn log(cluster: &Cluster, node: &str) -> Result<String> {
    let (namespace, name) = proxies(cluster, node)?.into_iter().next().context("no proxy")?;
    Ok(cluster.kubectl(&["logs", "-n", &namespace, &name, "--tail=200"])?)
}

fn label(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &NEW, || {
        culvert(cluster, &["enroll", "ns/shop"])?;
        shop::until_enrolled(cluster, SOON)
    })
}

fn identities(cluster: &Cluster) -> Result<()> {
    for node in ["node1", "node2"] {
        scenes::identities(cluster, node, |node| log(cluster, node))?;
    }
    Ok(())
}

/// Many calls, few new connections on the wire between the nodes.
fn reuse(cluster: &Cluster) -> Result<()> {
    for (client, server) in [("client-one", "server-two"), ("client-two", "server-one")] {
        let mut command = cluster.command("tcpdump");
        command.args(["-l", "-n", "-i", "br0", "tcp dst port 15008 and tcp[tcpflags] == tcp-syn"]);
        let mut capture = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut complaint = BufReader::new(capture.stderr.take().context("no stderr")?);
        wire::until_listening(&mut complaint)?;
        let load = Calls::start(cluster, client, Kind::Calls, &shop::address(cluster, server)?)?;
        load.wait_for_good()?;
        let seen = load.finish()?;
        capture.kill()?;
        let new = String::from_utf8_lossy(&capture.wait_with_output()?.stdout).lines().count();
        seen.must_be_good(cluster)?;
        println!("      {seen}; {new} new tunnels");
        // A pool for each worker, and more than one connection for a busy peer.
        ensure!(seen.good > 20 && new <= 8, "{client} -> {server}: {new} new tunnels for {seen}");
    }
    Ok(())
}

fn newborn(cluster: &Cluster) -> Result<()> {
    let pod = scenes::newborn(cluster)?;
    cluster.delete(&pod.to_string())?;
    Ok(())
}

fn replaced(cluster: &Cluster, namespace: &str) -> Result<()> {
    scenes::undisturbed(cluster, &NEW, || {
        cluster.kubectl(&["rollout", "restart", "-n", namespace, "ds/ztunnel"])?;
        // Old ones go when their connections have ended, or their time is over.
        cluster.kubectl(&["rollout", "status", "-n", namespace, "ds/ztunnel", "--timeout=180s"])?;
        Ok(())
    })?;
    scenes::encrypted(cluster)
}

fn unlabel(cluster: &Cluster) -> Result<()> {
    scenes::undisturbed(cluster, &NEW, || {
        culvert(cluster, &["unenroll", "ns/shop"])?;
        shop::until_left(cluster, SOON)
    })
}
