//! What real programs do to a connection (`e2e-peer`, in the test image): talk first, half-close, reset, push a lot, and meet
//! nobody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::Value;

use super::shop;

const NOBODY: u16 = shop::MANNERS[8];
/// 8 MiB are beyond every buffer between two applications, so that flow control has to work end to end.
const BULK: &str = "8388608";

/// All manners between a client and a server of the shop, by the Service's address and by the pod's.
pub(crate) fn all(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    let service = shop::address(cluster, server)?;
    let service = service.rsplit_once(':').context("address:port")?.0;
    let pod = shop::pod_ip(cluster, server)?;
    for ip in [service, &*pod] {
        let what = || format!("{client} -> {server} ({ip})");
        for mode in ["banner", "upload", "download", "both"] {
            let seen = call(cluster, client, mode, ip, &["--bytes", BULK])?;
            ensure!(seen.get("error").is_none(), "{}: {mode}: {seen}", what());
        }
        addresses(cluster, client, server, ip).with_context(what)?;
        ends(cluster, client, ip).with_context(what)?;
    }
    Ok(())
}

/// What both ends see of each other.
fn addresses(cluster: &Cluster, client: &str, server: &str, ip: &str) -> Result<()> {
    let seen = call(cluster, client, "who", ip, &[])?;
    let host = |text: &Value| {
        let host = text.as_str().and_then(|t| t.rsplit_once(':')).map_or("", |(host, _)| host);
        host.trim_matches(['[', ']']).to_owned()
    };
    let (own, pod) = (shop::pod_ip(cluster, client)?, shop::pod_ip(cluster, server)?);
    ensure!(host(&seen["peer"]) == ip && host(&seen["local"]) == own, "the client sees {seen}");
    // Where nodes masquerade, the client's node stands for it.
    let nodes = cluster.nodes();
    let known: Vec<String> = nodes.iter().map(|node| node.address().to_string()).chain([own]).collect();
    ensure!(
        host(&seen["server"]["local"]) == pod && known.contains(&host(&seen["server"]["peer"])),
        "the server sees {seen}"
    );
    Ok(())
}

/// Resets are resets at the other end, and nobody's port is refused at once.
fn ends(cluster: &Cluster, client: &str, ip: &str) -> Result<()> {
    let seen = call(cluster, client, "reset-by-server", ip, &[])?;
    ensure!(seen["ended"] == "ConnectionReset", "a reset by the server: {seen}");
    let seen = call(cluster, client, "reset-by-client", ip, &[])?;
    ensure!(seen.get("error").is_none(), "a reset by the client: {seen}");
    eventually("the server sees the reset", Duration::from_secs(5), || {
        let seen = call(cluster, client, "last-end", ip, &[])?;
        ensure!(seen["server"] == "ConnectionReset", "the server saw {seen}");
        anyhow::Ok(())
    })?;
    let seen = call(cluster, client, "who", ip, &["--port", &NOBODY.to_string()])?;
    let kind = seen["kind"].as_str().unwrap_or_default();
    ensure!(kind == "ConnectionRefused" || kind == "ConnectionReset", "nobody listens: {seen}");
    // A SYN that gets no answer is sent again after a second.
    ensure!(seen["ms"].as_u64().is_some_and(|ms| ms < 1_000), "nobody listens: {seen}");
    Ok(())
}

fn call(cluster: &Cluster, client: &str, mode: &str, ip: &str, more: &[&str]) -> Result<Value> {
    let said = shop::in_pod(cluster, client, &format!("e2e-peer call {mode} {ip} {}", more.join(" ")))?;
    serde_json::from_str(&said).with_context(|| format!("{mode}: {said}"))
}
