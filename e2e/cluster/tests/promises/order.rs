//! A security policy is switched on in order: the waypoint is ready, all nodes go through it, and only then nobody else may.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::json;

use super::deaths::{processes, signal};
use super::shots::{status, until_status};
use super::vault::{self, PORT, WELCOME};
use crate::common::{SOON, list};
use crate::mesh::shop;

const GATEWAY: [&str; 2] = ["gateway", "waypoint"];
const LATE: [&str; 2] = ["service", "late"];
const ENFORCED: &str = "culvert.dev/WaypointEnforced";

/// Processes that do not run; they go on whatever happens here.
struct Stopped(Vec<u32>);

impl Stopped {
    fn new(pids: Vec<u32>) -> Result<Self> {
        signal("STOP", &pids)?;
        Ok(Self(pids))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = signal("CONT", &self.0) {
            println!("      {error:#}");
        }
    }
}

fn policy() -> String {
    vault::reads("late", &[json!({"group": "", "kind": "Service", "name": "late"})]).to_string()
}

/// One node's proxy does not acknowledge.
pub(crate) fn in_order(cluster: &Cluster) -> Result<()> {
    cluster.apply(&list(vec![
        vault::options("spec: {}\n"),
        vault::gateway(),
        vault::pod("late-one", "late", "node1"),
        vault::service("late", "late", false),
    ]))?;
    shop::until_ready(cluster, &["late-one"])?;
    vault::until_programmed(cluster)?;
    let pod = format!("http://{}:{PORT}/ok/it", shop::pod_ip(cluster, "late-one")?);
    until_status(cluster, WELCOME, &pod, "200")?;
    let proxies = processes(cluster, "ztunnel", Some("node2"))?;
    ensure!(!proxies.is_empty(), "no proxy on node2");
    let stopped = Stopped::new(proxies)?;
    cluster.apply(&policy())?;
    vault::until_says(cluster, &GATEWAY, "Programmed", "False Pending", "shop/late")?;
    vault::until_says(cluster, &LATE, ENFORCED, "False Waiting", "not every node")?;
    // The node that runs goes through the waypoint already, and nobody is refused past it yet.
    until_status(cluster, WELCOME, "http://late.shop:8080/secret", "403")?;
    let said = status(cluster, WELCOME, &pod)?;
    ensure!(said == "200", "a caller of the pod gets {said} before all nodes go through the waypoint");
    drop(stopped);
    vault::until_says(cluster, &LATE, ENFORCED, "True Enforced", "nobody but the waypoint")?;
    vault::until_programmed(cluster)?;
    until_status(cluster, WELCOME, &pod, "000")?;
    until_status(cluster, WELCOME, "http://late.shop:8080/ok/it", "200")
}

/// Another Service without policy leads to the same port of the same pods.
pub(crate) fn shared(cluster: &Cluster) -> Result<()> {
    let pod = format!("http://{}:{PORT}/ok/it", shop::pod_ip(cluster, "late-one")?);
    let other = vault::service("late-other", "late", false).to_string();
    cluster.apply(&other)?;
    eventually("the shared port is named", SOON, || {
        let (_, _, message) = vault::condition(&vault::get(cluster, &LATE)?, ENFORCED);
        ensure!(message.contains("service late-other has too, without such a policy"), "{message}");
        anyhow::Ok(())
    })?;
    until_status(cluster, WELCOME, &pod, "200")?;
    until_status(cluster, "outside/outside", "http://late-other.shop:8080/", "200")?;
    // By its own Service the policy holds all the same.
    until_status(cluster, "client-two", "http://late.shop:8080/ok/it", "403")?;
    cluster.delete(&other)?;
    until_status(cluster, WELCOME, &pod, "000")?;
    let (_, _, message) = vault::condition(&vault::get(cluster, &LATE)?, ENFORCED);
    ensure!(!message.contains("late-other"), "{message}");
    cluster.delete(&policy())?;
    until_status(cluster, WELCOME, &pod, "200").context("without the policy the pod is anybody's")
}
