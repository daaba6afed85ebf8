//! The vault: two pods on two nodes that write down every request, the objects that guard them, and what is said of these.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use crate::common::{SOON, list};
use crate::mesh::shop;

/// Its pods, one on each node.
pub(crate) const PODS: [(&str, &str); 2] = [("vault-one", "node1"), ("vault-two", "node2")];
/// Port of it, of its pods and of its Services.
pub(crate) const PORT: u16 = 8080;
/// Who alone may ask, for what begins with `/ok/`.
pub(crate) const WELCOME: &str = "client-one";
/// Label of the pods and objects of a waypoint.
pub(crate) const NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// A pod whose nginx writes a line for every request.
pub(crate) fn pod(name: &str, app: &str, node: &str) -> Value {
    let serve = "sed 's#access_log off#access_log /tmp/access.log#' /etc/nginx/nginx.conf > /tmp/nginx.conf; \
                 exec nginx -c /tmp/nginx.conf -g 'daemon off;'";
    let mut pod = shop::pod(name, node, &["sh", "-c", serve], json!({}));
    pod["metadata"]["labels"] = json!({"app": app});
    pod
}

/// A Service of the shop; headless without address.
pub(crate) fn service(name: &str, app: &str, headless: bool) -> Value {
    let mut spec = json!({"selector": {"app": app}, "ports": [{"name": "http", "port": PORT}]});
    if headless {
        spec["clusterIP"] = json!("None");
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// Makes it.
pub(crate) fn open(cluster: &Cluster) -> Result<()> {
    let mut items: Vec<Value> = PODS.iter().map(|(name, node)| pod(name, "vault", node)).collect();
    items.extend([service("vault", "vault", false), service("vault-headless", "vault", true)]);
    cluster.apply(&list(items))?;
    shop::until_ready(cluster, &PODS.map(|(name, _)| name))
}

/// What guards it: a policy for requests, and one for tokens.
pub(crate) fn policies() -> String {
    let targets: Vec<Value> =
        ["vault", "vault-headless"].iter().map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    list(vec![
        reads("vault", &targets),
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
            "metadata": {"name": "vault", "namespace": "shop"},
            "spec": {"targetRefs": targets, "jwtRules": [{"issuer": "https://issuer.example", "jwks": "{\"keys\": []}"}]},
        }),
    ])
}

/// Lets one caller read.
pub(crate) fn reads(name: &str, targets: &[Value]) -> Value {
    let principal = format!("cluster.local/ns/shop/sa/{WELCOME}");
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "targetRefs": targets,
            "rules": [{"from": [{"source": {"principals": [principal]}}],
                       "to": [{"operation": {"methods": ["GET"], "paths": ["/ok/*"]}}]}],
        },
    })
}

/// The waypoint's Gateway, with a ConfigMap that is laid over its Deployment.
pub(crate) fn gateway() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "waypoint", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "culvert-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            "infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "options"}},
        },
    })
}

/// That ConfigMap.
pub(crate) fn options(deployment: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "options", "namespace": "shop"},
           "data": {"deployment": deployment}})
}

pub(crate) fn get(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    let arguments = [&["get", "-n", "shop", "-o", "json"], what].concat();
    Ok(serde_json::from_str(&cluster.kubectl(&arguments)?)?)
}

/// Status, reason and message of a condition; empty when it is not there.
pub(crate) fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let all = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = all.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"), text("message"))
}

/// Waits until an object says so: `True Enforced`, and a part of the message.
pub(crate) fn until_says(cluster: &Cluster, what: &[&str], kind: &str, wanted: &str, part: &str) -> Result<()> {
    eventually(&format!("{} is {kind} {wanted}", what.join(" ")), SOON, || {
        let object = get(cluster, what)?;
        let (status, reason, message) = condition(&object, kind);
        let said = format!("{status} {reason}");
        ensure!(said == wanted && message.contains(part), "{said}: {message}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Waits until the waypoint serves.
pub(crate) fn until_programmed(cluster: &Cluster) -> Result<()> {
    until_says(cluster, &["gateway", "waypoint"], "Programmed", "True Programmed", "2 of 2 pods are ready")
}

/// Addresses of the waypoint's pods.
pub(crate) fn waypoint_pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let pods = get(cluster, &["pods", "-l", &format!("{NAME}=waypoint")])?;
    Ok(pods["items"].as_array().context("no list")?.clone())
}

/// How often a pod was asked for what has this in its path.
pub(crate) fn reached(cluster: &Cluster, pod: &str, tag: &str) -> Result<u64> {
    let said = shop::in_pod(cluster, pod, &format!("grep -c '{tag}' /tmp/access.log || true"))?;
    said.trim().parse().with_context(|| format!("{pod} said {said:?}"))
}

/// What a failure is understood by.
pub(crate) fn tell(cluster: &Cluster) {
    shop::tell_all(cluster);
    for arguments in [
        &["get", "gateways,services,httproutes,authorizationpolicies.security.istio.io", "-n", "shop", "-o", "yaml"][..],
        &["logs", "-n", "shop", "-l", NAME, "--tail=60", "--prefix"],
        &["logs", "-n", "culvert-system", "-l", "app=ztunnel", "--tail=40", "--prefix"],
    ] {
        match cluster.kubectl(arguments) {
            Ok(said) => println!("--- kubectl {}\n{said}", arguments.join(" ")),
            Err(error) => println!("--- kubectl {}: {error}", arguments.join(" ")),
        }
    }
}
