//! What stands around the suite: the API's definitions, Culvert, and one waypoint that the suite's namespaces use by labels.

use anyhow::{Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::suite::Suite;
use crate::common::SOON;
use crate::mesh::culvert::{VALUES, culvert};

/// Where the waypoint is: a namespace that is not the suite's, which makes and deletes its own.
pub(crate) const NAMESPACE: &str = "waypoints";
/// Its name.
pub(crate) const NAME: &str = "waypoint";
/// The labels that put a namespace into the mesh and let its Services use that waypoint.
pub(crate) const LABELS: [(&str, &str); 3] = [
    ("istio.io/dataplane-mode", "ambient"),
    ("istio.io/use-waypoint", NAME),
    ("istio.io/use-waypoint-namespace", NAMESPACE),
];

/// Installs what is needed; what is there already stays.
pub(crate) fn install(cluster: &Cluster, suite: &Suite) -> Result<()> {
    let definitions = suite.definitions.display().to_string();
    // Twice in one cluster is no error, so that a kept one can be used again.
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definitions])?;
    let group = ["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all"];
    cluster.kubectl(&group)?;
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    Ok(())
}

/// The Gateway as a user writes it, in use by every namespace that names it.
pub(crate) fn waypoint(cluster: &Cluster) -> Result<()> {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"gatewayClassName": "culvert-waypoint", "listeners": [
            {"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": "All"}}},
        ]},
    });
    cluster.apply(&crate::common::list(vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        gateway,
    ]))?;
    eventually("the waypoint's Gateway is programmed", SOON, || {
        let gateway = cluster.kubectl(&["get", "gateway", "-n", NAMESPACE, NAME, "-o", "json"])?;
        let gateway: Value = serde_json::from_str(&gateway)?;
        let is = |wanted: &str| {
            let conditions = gateway["status"]["conditions"].as_array();
            conditions.is_some_and(|all| all.iter().any(|c| c["type"] == wanted && c["status"] == "True"))
        };
        ensure!(is("Accepted") && is("Programmed"), "{}", gateway["status"]);
        ensure!(gateway["status"]["addresses"][0]["value"].is_string(), "it has no address: {}", gateway["status"]);
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Prints what helps to understand a failure.
pub(crate) fn tell_all(cluster: &Cluster) {
    let tell = |what: &[&str]| match cluster.kubectl(what) {
        Ok(said) => println!("--- kubectl {}\n{said}", what.join(" ")),
        Err(error) => println!("--- kubectl {}: {error}", what.join(" ")),
    };
    tell(&["get", "pods", "-A", "-o", "wide"]);
    tell(&["get", "services", "-A", "-o", "wide"]);
    tell(&["get", "gatewayclasses,gateways,httproutes,grpcroutes", "-A", "-o", "yaml"]);
    tell(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
    let culvert = ["culvert-control", "culvert-node", "ztunnel"];
    for name in culvert {
        let label = format!("app.kubernetes.io/name={name}");
        tell(&["logs", "-n", "culvert-system", "-l", &label, "--tail=40", "--prefix"]);
    }
    let label = format!("gateway.networking.k8s.io/gateway-name={NAME}");
    tell(&["logs", "-n", NAMESPACE, "-l", &label, "--tail=80", "--prefix"]);
}
