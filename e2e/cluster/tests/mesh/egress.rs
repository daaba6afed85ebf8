//! Egress NetworkPolicies. The cluster's network plug-in enforces none, so that whatever is refused here is refused by the proxy
//! of the source's node.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::calls::{Calls, Kind};
use super::culvert::{culvert, fails};
use super::scenes::{until_answered, until_refused};
use super::shop::{self, PORT};
use crate::common::SOON;

/// Port of the kubelet.
const KUBELET: u16 = 10250;

/// A policy by which a pod may dial another one on one port, and ask for names.
pub(crate) fn only(name: &str, from: &str, to: &str, port: u16) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": from}}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"podSelector": {"matchLabels": {"app": to}}}], "ports": [{"port": port}]},
            {"ports": [{"protocol": "UDP", "port": 53}]}]}})
}

pub(crate) fn keeps_its_meaning(cluster: &Cluster) -> Result<()> {
    let two = shop::address(cluster, "server-two")?;
    let victim = Calls::start(cluster, "client-one", Kind::Hold, &two)?;
    let bystander = Calls::start(cluster, "client-two", Kind::Hold, &two)?;
    let policy = only("only-two", "client-one", "server-two", 8080);
    cluster.apply(&policy.to_string())?;
    let cut = victim.wait_for_end(SOON).context("a connection that is not let out any more")?;
    ensure!(!cut.is_good(), "{cut}");

    until_refused(cluster, "client-one", "server-one")?;
    until_answered(cluster, "client-one", "server-two")?;
    let by_address = |pod: &str| anyhow::Ok(format!("http://{}:8080/", shop::pod_ip(cluster, pod)?));
    ensure!(shop::curl(cluster, "client-one", &by_address("server-one")?).is_err(), "server-one by its address");
    ensure!(
        shop::curl(cluster, "client-one", &by_address("server-two")?)? == "server-two",
        "server-two by its address"
    );
    another_port(cluster)?;
    for server in ["server-one", "server-two"] {
        ensure!(shop::curl(cluster, "client-two", &format!("http://{server}.shop:8080/"))? == server, "client-two");
    }
    bystander.finish()?.must_be_good(cluster).context("a connection of another pod")?;
    nodes(cluster)?;
    explained(cluster)?;
    tunnels(cluster)?;
    late(cluster)?;
    cluster.delete(&policy.to_string())?;
    until_answered(cluster, "client-one", "server-one")
}

/// The other port of the one that may be dialled.
fn another_port(cluster: &Cluster) -> Result<()> {
    let ip = shop::pod_ip(cluster, "server-two")?;
    let line = format!("echo x | nc -w 3 {ip} {PORT} | grep -q server-two");
    ensure!(shop::in_pod(cluster, "client-one", &line).is_err(), "another port of server-two");
    ensure!(shop::in_pod(cluster, "client-two", &line).is_ok(), "nobody answers there");
    Ok(())
}

/// The own node is exempt, another one is an address like any other.
fn nodes(cluster: &Cluster) -> Result<()> {
    let kubelet = |node: &str| -> Result<bool> {
        let line = format!("curl -sk -m 5 -o /dev/null https://{}:{KUBELET}/healthz", cluster.node(node)?.address());
        Ok(shop::in_pod(cluster, "client-one", &line).is_ok())
    };
    ensure!(kubelet("node1")?, "its own node is refused");
    ensure!(!kubelet("node2")?, "another node is not");
    Ok(())
}

/// The log of the source's node names the policy.
fn explained(cluster: &Cluster) -> Result<()> {
    let url = "http://server-one.shop:8080/";
    eventually("an access line that names the policy", SOON, || {
        ensure!(shop::curl(cluster, "client-one", url).is_err(), "it gets an answer");
        let log = shop::proxy_log(cluster, "node1")?;
        let of_ours =
            |l: &&str| l.contains("direction=\"outbound\"") && l.contains("culvert_network_policy_egress__only-two");
        log.lines().rev().find(of_ours).map(drop).with_context(|| format!("no line in:\n{log}"))
    })?;
    Ok(())
}

/// `check` says that tunnels need their port, and the remedy that it gives opens no other.
fn tunnels(cluster: &Cluster) -> Result<()> {
    let said = fails(cluster, &["check"])?;
    ensure!(said.contains("NetworkPolicy shop/only-two") && said.contains("spec.egress[0]"), "{said}");
    let patch = json!([{"op": "add", "path": "/spec/egress/0/ports/-", "value": {"protocol": "TCP", "port": 15008}}]);
    ensure!(said.contains(&patch.to_string()), "{said}\n{patch}");
    let patch = patch.to_string();
    cluster.kubectl(&["patch", "networkpolicy", "-n", "shop", "only-two", "--type=json", "-p", &patch])?;
    eventually("culvert check", SOON, || culvert(cluster, &["check"]))?;
    until_answered(cluster, "client-one", "server-two")?;
    another_port(cluster)
}

/// A pod that comes later is let out to as soon as it is known.
fn late(cluster: &Cluster) -> Result<()> {
    let policy = only("late", "client-one", "late", 8080);
    let ready = json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    let pod = shop::pod("late", "node2", &["nginx", "-g", "daemon off;"], ready);
    cluster.apply(&policy.to_string())?;
    cluster.apply(&pod.to_string())?;
    shop::until_ready(cluster, &["late"])?;
    let url = format!("http://{}:8080/", shop::pod_ip(cluster, "late")?);
    eventually("the pod that came late", SOON, || {
        let said = shop::curl(cluster, "client-one", &url)?;
        ensure!(said == "late", "{said:?}");
        anyhow::Ok(())
    })?;
    until_answered(cluster, "client-one", "server-two")?;
    until_refused(cluster, "client-one", "server-one")?;
    cluster.delete(&pod.to_string())?;
    cluster.delete(&policy.to_string())?;
    Ok(())
}
