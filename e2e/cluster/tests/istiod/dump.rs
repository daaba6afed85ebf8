//! `istioctl ztunnel-config` reads our proxy's state.
#![allow(dead_code, reason = "each test uses its part")]

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::Value;

use super::tools::Tools;
use super::world::proxy_on;
use crate::common::SOON;
use crate::mesh::calls::{Calls, Kind};
use crate::mesh::shop;

/// What istioctl makes of one part of a node's proxy.
fn part(cluster: &Cluster, tools: &Tools, what: &str, node: &str) -> Result<Vec<Value>> {
    let pod = format!("{}.istio-system", proxy_on(cluster, node)?);
    let said = tools.istioctl(cluster, &["ztunnel-config", what, &pod, "-o", "json"])?;
    Ok(serde_json::from_str::<Option<Vec<Value>>>(&said).with_context(|| said.clone())?.unwrap_or_default())
}

/// The same as a table, without its heading.
fn table(cluster: &Cluster, tools: &Tools, what: &str, node: &str) -> Result<Vec<Vec<String>>> {
    let pod = format!("{}.istio-system", proxy_on(cluster, node)?);
    let said = tools.istioctl(cluster, &["ztunnel-config", what, &pod])?;
    Ok(said.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}

fn named<'a>(list: &'a [Value], namespace: &str, name: &str) -> Result<&'a Value> {
    let found = list.iter().find(|v| v["namespace"] == namespace && v["name"] == name);
    found.with_context(|| format!("no {namespace}/{name} in {list:?}"))
}

/// Every proxy knows every pod of the shop as one to tunnel to, and who is outside as one that is reached in clear.
pub(crate) fn workloads(cluster: &Cluster, tools: &Tools) -> Result<()> {
    for node in cluster.nodes() {
        eventually("istioctl ztunnel-config workloads", SOON, || {
            let all = part(cluster, tools, "workloads", node.name())?;
            for pod in shop::PODS {
                let workload = named(&all, "shop", pod)?;
                let home = if pod.ends_with("one") { "node1" } else { "node2" };
                ensure!(workload["protocol"] == "HBONE" && workload["node"] == home, "{workload}");
                ensure!(workload["serviceAccount"] == pod && workload["status"] == "Healthy", "{workload}");
                ensure!(workload["workloadIps"].as_array().is_some_and(|ips| ips.len() == 1), "{workload}");
            }
            ensure!(named(&all, "outside", "outside")?["protocol"] == "TCP", "{all:?}");
            let rows = table(cluster, tools, "workloads", node.name())?;
            let tunnelled =
                rows.iter().filter(|row| row[0] == "shop" && row.last().is_some_and(|p| p == "HBONE")).count();
            ensure!(tunnelled == shop::PODS.len(), "{rows:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub(crate) fn services(cluster: &Cluster, tools: &Tools) -> Result<()> {
    let all = part(cluster, tools, "services", "node1")?;
    for server in ["server-one", "server-two"] {
        let service = named(&all, "shop", server)?;
        let ip = cluster.kubectl(&["get", "service", "-n", "shop", server, "-o", "jsonpath={.spec.clusterIP}"])?;
        let vips = service["vips"].as_array().with_context(|| service.to_string())?;
        ensure!(vips.iter().any(|v| v.as_str().is_some_and(|v| v.ends_with(&format!("/{ip}")))), "{ip}: {service}");
        ensure!(service["hostname"] == format!("{server}.shop.svc.cluster.local"), "{service}");
        ensure!(service["endpoints"].as_object().is_some_and(|e| e.len() == 1), "{service}");
        let rows = table(cluster, tools, "services", "node1")?;
        let row = rows.iter().find(|row| row[0] == "shop" && row[1] == server).with_context(|| format!("{rows:?}"))?;
        ensure!(row[2] == ip && row.last().is_some_and(|e| e == "1/1"), "{row:?}");
    }
    Ok(())
}

/// The proxies have a policy for one pod, or have it no more.
pub(crate) fn policy(cluster: &Cluster, tools: &Tools, name: &str, there: bool) -> Result<()> {
    eventually("istioctl ztunnel-config policies", SOON, || {
        let all = part(cluster, tools, "policies", "node2")?;
        let Ok(policy) = named(&all, "shop", name) else {
            ensure!(!there, "{all:?}");
            return Ok(());
        };
        ensure!(there, "{policy}");
        ensure!(policy["action"] == "Allow" && policy["scope"] == "WorkloadSelector", "{policy}");
        ensure!(policy["rules"].to_string().contains("client-one"), "{policy}");
        let rows = table(cluster, tools, "policies", "node2")?;
        ensure!(rows.iter().any(|row| row[..] == ["shop", name, "Allow", "WorkloadSelector"]), "{rows:?}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Each proxy has certificates of its own node's pods, and nobody else's.
pub(crate) fn certificates(cluster: &Cluster, tools: &Tools) -> Result<()> {
    for (node, own, foreign) in [("node1", "one", "two"), ("node2", "two", "one")] {
        let all = part(cluster, tools, "certificates", node)?;
        let of = |pod: String| {
            let identity = format!("spiffe://cluster.local/ns/shop/sa/{pod}");
            all.iter().find(|c| c["identity"] == identity)
        };
        let rows = table(cluster, tools, "certificates", node)?;
        for role in ["client", "server"] {
            let one = of(format!("{role}-{own}")).with_context(|| format!("{role}-{own} on {node}: {all:?}"))?;
            ensure!(one["state"] == "Available" && one["certChain"].as_array().is_some_and(|c| !c.is_empty()), "{one}");
            ensure!(of(format!("{role}-{foreign}")).is_none(), "{role}-{foreign} on {node}: {all:?}");
            let leaf = |row: &&Vec<String>| row[0].ends_with(&format!("/sa/{role}-{own}")) && row[1] == "Leaf";
            let row = rows.iter().find(leaf).with_context(|| format!("{rows:?}"))?;
            // Name, type, state, validity, serial number, end and begin.
            ensure!(row[2] == "Available" && row[3] == "true" && row.len() == 7, "{row:?}");
            ensure!(row[4].len() > 8 && row[4].bytes().all(|b| b.is_ascii_hexdigit()), "no serial number: {row:?}");
            let root = |row: &&Vec<String>| row[0].ends_with(&format!("/sa/{role}-{own}")) && row[1] == "Root";
            let row = rows.iter().find(root).with_context(|| format!("{rows:?}"))?;
            ensure!(row[3] == "true", "the root is not valid: {row:?}");
        }
    }
    Ok(())
}

/// Whether the proxy of a node has a certificate of an account of the shop.
pub(crate) fn has_certificate(cluster: &Cluster, tools: &Tools, node: &str, account: &str) -> Result<bool> {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    Ok(part(cluster, tools, "certificates", node)?.iter().any(|c| c["identity"] == identity))
}

/// Open connections, the whole, and the level of the log.
pub(crate) fn more(cluster: &Cluster, tools: &Tools) -> Result<()> {
    let address = shop::address(cluster, "server-two")?;
    let held = Calls::start(cluster, "client-one", Kind::Hold, &address)?;
    eventually("istioctl ztunnel-config connections", SOON, || {
        let rows = table(cluster, tools, "connections", "node1")?;
        let seen =
            rows.iter().any(|row| row.iter().any(|c| c.contains("client-one")) && row.iter().any(|c| c == "Outbound"));
        ensure!(seen, "{rows:?}");
        anyhow::Ok(())
    })?;
    let seen = held.finish()?;
    ensure!(seen.is_good(), "{seen}");
    let pod = format!("{}.istio-system", proxy_on(cluster, "node1")?);
    let all = tools.istioctl(cluster, &["ztunnel-config", "all", &pod])?;
    for wanted in ["client-one", "server-two", "spiffe://cluster.local/ns/shop/sa/client-one"] {
        ensure!(all.contains(wanted), "no {wanted} in {all}");
    }
    let level = tools.istioctl(cluster, &["ztunnel-config", "log", &pod, "--level=debug"])?;
    ensure!(level.contains("debug"), "{level}");
    let level = tools.istioctl(cluster, &["ztunnel-config", "log", &pod, "--level=info"])?;
    ensure!(level.contains("info"), "{level}");
    Ok(())
}
