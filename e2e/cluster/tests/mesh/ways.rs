//! The other ways to a pod of the mesh: names of ServiceEntries and StatefulSets, ports of nodes, itself.
#![allow(dead_code, reason = "each test uses its part")]

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::shop;
use crate::common::{SOON, list};

/// Port of a node that leads to a pod.
const HOST_PORT: u16 = 18080;
/// One of the range that Services' own come from.
const NODE_PORT: u16 = 31080;

/// Waits until a name is known, and sees that it stays so.
fn until_says(cluster: &Cluster, pod: &str, url: &str, wanted: &str) -> Result<()> {
    const AGAIN: usize = 3;
    let says = || {
        let said = shop::curl(cluster, pod, url)?;
        ensure!(said == wanted, "said {said:?}, wanted {wanted:?}");
        anyhow::Ok(())
    };
    eventually(&format!("{pod}: {url}"), SOON, says)?;
    (0..AGAIN).try_for_each(|_| says())
}

/// A host that only a ServiceEntry names.
pub(crate) const NAMED: &str = "named.example.test";

/// Such a host, with an address that control allocates and the proxy answers with.
pub(crate) fn service_entry(cluster: &Cluster) -> Result<()> {
    service_entry_and(cluster, || Ok(()))
}

/// The same, and what else is to be asked while the host is there.
pub(crate) fn service_entry_and(cluster: &Cluster, also: impl FnOnce() -> Result<()>) -> Result<()> {
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "named", "namespace": "shop"},
        "spec": {"hosts": [NAMED], "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": [{"number": 80, "targetPort": 8080, "name": "http", "protocol": "HTTP"}],
            "workloadSelector": {"labels": {"app": "server-two"}}}});
    cluster.apply(&entry.to_string())?;
    for client in ["client-one", "client-two"] {
        until_says(cluster, client, &format!("http://{NAMED}/"), "server-two")?;
    }
    // Nobody else knows the name.
    let outside = shop::curl(cluster, "outside/outside", &format!("http://{NAMED}/"));
    ensure!(outside.is_err(), "known outside of the mesh");
    also()?;
    cluster.delete(&entry.to_string())?;
    Ok(())
}

/// Pods of a StatefulSet by their own names.
pub(crate) fn stateful_set(cluster: &Cluster) -> Result<()> {
    let labels = json!({"app": "ordered"});
    let container = json!({"name": "main", "image": "culvert.dev/echo:test", "command": ["nginx", "-g", "daemon off;"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ordered", "namespace": "shop"},
            "spec": {"selector": labels, "clusterIP": "None", "ports": [{"name": "http", "port": 8080}]}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "ordered", "namespace": "shop"},
            "spec": {"serviceName": "ordered", "replicas": 2, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}}}),
    ];
    cluster.apply(&list(objects.to_vec()))?;
    cluster.kubectl(&["rollout", "status", "-n", "shop", "statefulset/ordered", "--timeout=90s"])?;
    for pod in ["ordered-0", "ordered-1"] {
        for client in ["client-one", "client-two"] {
            until_says(cluster, client, &format!("http://{pod}.ordered.shop.svc.cluster.local:8080/"), pod)?;
        }
    }
    cluster.delete(&list(objects.to_vec()))?;
    Ok(())
}

/// A port of the pod's node, and a port of every node that a Service has: callers are outside of the mesh.
pub(crate) fn node_ports(cluster: &Cluster) -> Result<()> {
    let port = json!({"ports": [{"containerPort": 8080, "hostPort": HOST_PORT}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}});
    let pod = shop::pod("by-host-port", "node2", &["nginx", "-g", "daemon off;"], port);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-node-port", "namespace": "shop"},
        "spec": {"type": "NodePort", "selector": {"app": "server-one"}, "ports": [{"port": 8080, "nodePort": NODE_PORT}]}});
    cluster.apply(&list(vec![pod.clone(), service.clone()]))?;
    shop::until_ready(cluster, &["by-host-port"])?;
    let [one, two] = [cluster.node("node1")?.address(), cluster.node("node2")?.address()];
    // By host port on its node; by node port on the pod's own node and on the other, which leads on to it.
    for (to, wanted) in [
        (format!("{two}:{HOST_PORT}"), "by-host-port"),
        (format!("{one}:{NODE_PORT}"), "server-one"),
        (format!("{two}:{NODE_PORT}"), "server-one"),
    ] {
        eventually(&format!("{to} from outside of the nodes"), SOON, || {
            let output = cluster.command("curl").args(["-sS", "-m", "5", &format!("http://{to}/")]).output()?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(said == wanted, "said {said:?}: {}", String::from_utf8_lossy(&output.stderr));
            anyhow::Ok(())
        })?;
        // From a pod of the mesh: a node's address is no pod's, and it is called in clear.
        until_says(cluster, "client-one", &format!("http://{to}/"), wanted)?;
    }
    cluster.delete(&list(vec![pod, service]))?;
    Ok(())
}

/// What a pod says to itself through its Service is let in whatever NetworkPolicies say (Kubernetes' own exemption).
pub(crate) fn itself(cluster: &Cluster, pod: &str) -> Result<()> {
    let said = shop::curl(cluster, pod, &format!("http://{pod}.shop:8080/")).context("a pod's call to itself")?;
    ensure!(said == pod, "said {said:?}");
    Ok(())
}

/// A policy that lets a pod through to one port of another keeps everybody else out, and not the pod from itself.
pub(crate) fn network_policy(cluster: &Cluster, policy: &Value) -> Result<()> {
    cluster.apply(&policy.to_string())?;
    for client in ["client-one", "client-two"] {
        super::scenes::until_refused(cluster, client, "server-two")?;
    }
    itself(cluster, "server-two")
}
