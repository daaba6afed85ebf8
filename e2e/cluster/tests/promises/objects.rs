//! What is said of Services, and what is made beside a waypoint's pods.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::json;

use super::vault::{self, get, until_says};
use crate::common::SOON;
use crate::mesh::culvert::{VALUES, culvert};

const BOUND: &str = "istio.io/WaypointBound";

/// Every reason of the condition.
pub(crate) fn bound(cluster: &Cluster) -> Result<()> {
    let label = |key: &str, value: &str| {
        cluster.kubectl(&["label", "--overwrite", "service", "-n", "shop", "server-two", &format!("{key}{value}")])
    };
    let says = |wanted: &str, part: &str| until_says(cluster, &["service", "server-two"], BOUND, wanted, part);
    says("True WaypointAccepted", "unused: no L7 policy")?;
    label("istio.io/use-waypoint", "=gone")?;
    says("False WaypointIsNotReady", "there is no such Gateway")?;
    label("istio.io/use-waypoint", "=waypoint")?;
    cluster.kubectl(&["label", "gateway", "-n", "shop", "waypoint", "istio.io/waypoint-for=workload"])?;
    says("False UnsupportedTrafficType", "istio.io/waypoint-for: all")?;
    cluster.kubectl(&["label", "gateway", "-n", "shop", "waypoint", "istio.io/waypoint-for-"])?;
    says("True WaypointAccepted", "")?;
    // One of another namespace, which does not let it in.
    let away = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "away", "namespace": "outside"},
        "spec": {"gatewayClassName": "culvert-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    });
    cluster.apply(&away.to_string())?;
    label("istio.io/use-waypoint", "=away")?;
    label("istio.io/use-waypoint-namespace", "=outside")?;
    says("False AttachmentDenied", "extend allowedRoutes.namespaces")?;
    cluster.delete(&away.to_string())?;
    label("istio.io/use-waypoint-namespace", "-")?;
    label("istio.io/use-waypoint", "=none")?;
    eventually("nothing is said where nothing is asked for", SOON, || {
        let (status, ..) = vault::condition(&get(cluster, &["service", "server-two"])?, BOUND);
        ensure!(status.is_empty(), "{status}");
        anyhow::Ok(())
    })?;
    label("istio.io/use-waypoint", "-")?;
    Ok(())
}

/// Installs again, with further values.
fn install(cluster: &Cluster, more: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "--reset-values"];
    arguments.extend(VALUES);
    arguments.extend(more);
    culvert(cluster, &arguments)?;
    Ok(())
}

fn gone(cluster: &Cluster, kind: &str) -> Result<()> {
    eventually(&format!("no {kind} is left"), SOON, || {
        let left = cluster.kubectl(&["get", kind, "-n", "shop", "-l", vault::NAME, "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        anyhow::Ok(())
    })?;
    Ok(())
}

pub(crate) fn scaled(cluster: &Cluster) -> Result<()> {
    install(cluster, &["--set=waypoint.autoscaling.enabled=true", "--set=waypoint.autoscaling.maxReplicas=7"])?;
    eventually("the autoscaler is there", SOON, || {
        let scaler = get(cluster, &["horizontalpodautoscaler", "waypoint"])?;
        let spec = &scaler["spec"];
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "waypoint"});
        ensure!(spec["scaleTargetRef"] == target && spec["maxReplicas"] == 7, "{spec}");
        ensure!(spec["metrics"][0]["resource"]["name"] == "cpu", "{spec}");
        ensure!(spec["metrics"][0]["resource"]["target"]["type"] == "Utilization", "{spec}");
        ensure!(scaler["metadata"]["ownerReferences"][0]["kind"] == "Gateway", "{scaler}");
        // A share of the CPU is one of what is requested.
        let deployment = get(cluster, &["deployment", "waypoint"])?;
        let container = deployment.pointer("/spec/template/spec/containers/0").context("no container")?;
        ensure!(container["resources"]["requests"]["cpu"].is_string(), "{container}");
        anyhow::Ok(())
    })?;
    install(cluster, &[])?;
    gone(cluster, "horizontalpodautoscalers")
}

pub(crate) fn network_policy(cluster: &Cluster) -> Result<()> {
    install(cluster, &["--set=networkPolicies.enabled=true"])?;
    eventually("the network policy is there", SOON, || {
        let policy = get(cluster, &["networkpolicy", "waypoint"])?;
        let spec = &policy["spec"];
        ensure!(spec["podSelector"]["matchLabels"] == json!({(vault::NAME): "waypoint"}), "{spec}");
        let ports = spec["ingress"][0]["ports"].as_array().context("no ports")?;
        let numbers: Vec<_> = ports.iter().filter_map(|p| p["port"].as_u64()).collect();
        ensure!(numbers == [15008, 15020, 15021] && spec["ingress"][0]["from"].is_null(), "{spec}");
        anyhow::Ok(())
    })?;
    vault::until_programmed(cluster)?;
    install(cluster, &[])?;
    gone(cluster, "networkpolicies")
}
