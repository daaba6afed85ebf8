//! Pods that come and go every second while somebody calls them, with so few addresses that these change hands all the time.
//! Root, and the images of `cargo xtask image`: `make test-cluster`.

mod common;
mod mesh {
    pub(crate) mod blame;
    pub(crate) mod calls;
    pub(crate) mod culvert;
    pub(crate) mod shop;
    pub(crate) mod wire;
}

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::list;
use e2e_cluster::{Cluster, Options};
use mesh::calls::{Calls, Kind};
use mesh::culvert::{VALUES, culvert};
use mesh::shop::{self, PORT};
use mesh::wire::Capture;
use serde_json::{Value, json};

/// 16 addresses a node, of which the cluster's own pods and the shop take ten: a new pod soon gets the address of one that is gone.
const FEW: u8 = 28;
/// How many pods come and go, one a second: long enough for every address to have changed hands, short enough for a suite.
/// `make test-cluster-long` asks for more.
const TURNS: usize = 40;
/// Environment variable with another number.
const ASKED: &str = "CULVERT_CHURN";
/// Pods that are there at a time.
const ALIVE: usize = 4;

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn addresses_that_change_hands_lead_nobody_astray() -> Result<(), common::Told> {
    Ok(astray()?)
}

fn astray() -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(Options { pod_cidr_bits: FEW, ..Options::default() })?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    arguments.push("--set=node.clearDeadline=3s");
    culvert(&cluster, &arguments)?;
    let done = churn(&cluster);
    if done.is_err() {
        shop::tell_all(&cluster);
    }
    done?;
    cluster.down()?;
    Ok(())
}

fn churn(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    cluster.apply(&list(vec![
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "churn", "namespace": "shop"},
        "spec": {"selector": {"role": "churn"}, "ports": [{"port": PORT}]}}),
    ]))?;
    let old = Calls::start(cluster, "client-one", Kind::Hold, &shop::address(cluster, "server-two")?)?;
    culvert(cluster, &["enroll", "ns/shop"])?;
    shop::until_enrolled(cluster, common::SOON)?;
    // It is older than the enrolment and goes on in clear, until its time is over.
    let seen = old.wait_for_end(common::SOON)?;
    println!("      {seen}");
    ensure!(seen.good > 100 && !seen.is_good(), "a connection in clear outlived clearDeadline: {seen}");
    for index in 0..ALIVE {
        cluster.apply(&server(index).to_string())?;
    }
    let names: Vec<String> = (0..ALIVE).map(|i| format!("pod/{}", name(i))).collect();
    let mut wait = vec!["wait", "-n", "shop", "--for=condition=Ready", "--timeout=60s"];
    wait.extend(names.iter().map(String::as_str));
    cluster.kubectl(&wait)?;

    let capture = Capture::start(cluster)?;
    let service = shop::address(cluster, "churn")?;
    let loads = [
        Calls::start(cluster, "client-one", Kind::Calls, &service)?,
        Calls::start(cluster, "client-two", Kind::Calls, &service)?,
    ];
    let (mut owners, mut reused) = (BTreeMap::<String, BTreeSet<String>>::new(), 0);
    let turns = std::env::var(ASKED).ok().map_or(Ok(TURNS), |asked| asked.parse()).context(ASKED)?;
    let begun = Instant::now();
    for turn in 0..turns {
        cluster.apply(&server(ALIVE + turn).to_string())?;
        cluster.kubectl(&["delete", "pod", "-n", "shop", &name(turn), "--wait=false"])?;
        reused += note(cluster, &mut owners)?;
        std::thread::sleep((begun + Duration::from_secs(turn as u64 + 1)).saturating_duration_since(Instant::now()));
    }
    println!("      {turns} pods came and went in {} s, {reused} addresses changed hands", begun.elapsed().as_secs());
    for load in loads {
        let seen = load.finish()?;
        println!("      {seen}");
        ensure!(seen.good > 100, "hardly a call was answered: {seen}");
        // A call to a pod that has just been killed fails; few are, and none may hang.
        ensure!(seen.failed() * 20 < seen.good, "too many calls failed: {}", seen.blame(cluster));
        let stuck = seen.slowest().max(seen.longest_failure());
        ensure!(stuck <= Duration::from_secs(5), "a call was stuck for {stuck:?}: {}", seen.blame(cluster));
    }
    let bytes = capture.finish()?;
    println!("      {bytes:?}");
    ensure!(bytes.frames > 10 && bytes.markers == 0, "{bytes:?}");
    ensure!(reused > 0, "no address changed hands: {owners:?}");
    identities(cluster)
}

/// Whom the callers' proxies reached, and who it was proven to be: by their access lines.
fn identities(cluster: &Cluster) -> Result<()> {
    let (mut proven, mut failed) = (0, 0);
    for node in cluster.nodes() {
        let log = shop::whole_proxy_log(cluster, node.name())?;
        for line in log.lines().filter(|line| line.contains("direction=\"outbound\"")) {
            let Some(pod) = field(line, "dst.workload").filter(|name| name.starts_with("churn-")) else { continue };
            let index: usize = pod.trim_start_matches("churn-").parse()?;
            let identity = format!("spiffe://cluster.local/ns/shop/sa/{}", identity(index));
            match field(line, "dst.identity") {
                Some(shown) => ensure!(shown == identity, "{pod} is {identity}: {line}"),
                // A call that reached nobody has an error, and is no call in clear.
                None => ensure!(line.contains("error="), "in clear: {line}"),
            }
            *if line.contains("error=") { &mut failed } else { &mut proven } += 1;
        }
    }
    println!("      {proven} calls to the pod that was meant, {failed} that failed");
    ensure!(proven > 100, "only {proven} access lines of calls");
    Ok(())
}

/// A field of an access line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(value, _)| value)
}

/// Of the pod of this number.
fn identity(index: usize) -> &'static str {
    ["server-one", "server-two"][index % 2]
}

fn name(index: usize) -> String {
    format!("churn-{index}")
}

/// A server with one of two identities, on one of the nodes.
fn server(index: usize) -> Value {
    let (name, identity, node) = (name(index), identity(index), ["node1", "node2"][index / 2 % 2]);
    let ready = json!({"readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1}});
    let mut pod = shop::pod(&name, node, &["e2e-load", "serve", identity, &PORT.to_string()], ready);
    pod["metadata"]["labels"]["role"] = json!("churn");
    pod["spec"]["serviceAccountName"] = json!(identity);
    pod
}

/// Notes who has which address; says how many new owners an address got that had another one.
fn note(cluster: &Cluster, owners: &mut BTreeMap<String, BTreeSet<String>>) -> Result<usize> {
    let pods: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "pods", "-n", "shop", "-l", "role=churn", "-o", "json"])?)?;
    let mut reused = 0;
    for pod in pods["items"].as_array().context("no pods")? {
        let (Some(ip), Some(name)) = (pod["status"]["podIP"].as_str(), pod["metadata"]["name"].as_str()) else {
            continue;
        };
        let had = owners.entry(ip.to_owned()).or_default();
        if had.insert(name.to_owned()) && had.len() > 1 {
            reused += 1;
        }
    }
    Ok(reused)
}
