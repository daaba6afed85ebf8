//! What is said of routes, Gateways and Services in their status.

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::case::HOME;
use super::suite::Suite;
use super::world::{NAME, NAMESPACE};
use crate::common::{SOON, list};

/// (condition, status, reason).
type Said = (&'static str, &'static str, &'static str);

const GOOD: &[Said] = &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "True", "ResolvedRefs")];

/// (kind, namespace, name, what has to be said): routes of the tables.
const ROUTES: &[(&str, &str, &str, &[Said])] = &[
    ("httproute", HOME, "redirect", GOOD),
    ("httproute", HOME, "rewrite", GOOD),
    ("httproute", HOME, "headers", GOOD),
    ("httproute", HOME, "cors", GOOD),
    ("httproute", HOME, "matching", GOOD),
    ("httproute", HOME, "patience", GOOD),
    ("httproute", HOME, "retry", GOOD),
    ("httproute", HOME, "shares", GOOD),
    ("httproute", HOME, "backends-good", GOOD),
    ("httproute", HOME, "ports-number", GOOD),
    ("httproute", HOME, "ports-name", GOOD),
    ("httproute", HOME, "callers-producer", GOOD),
    ("httproute", "routes-consumer", "callers-consumer", GOOD),
    ("httproute", HOME, "ports-absent", &[("Accepted", "False", "NoMatchingParent")]),
    (
        "httproute",
        HOME,
        "backends-missing",
        &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")],
    ),
    ("httproute", HOME, "backends-kind", &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "InvalidKind")]),
    (
        "httproute",
        HOME,
        "backends-port",
        &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")],
    ),
    ("grpcroute", HOME, "grpc", &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")]),
];

/// Every route of the tables.
pub(crate) fn routes(cluster: &Cluster, _: &Suite) -> Result<()> {
    let mut wrong = Vec::new();
    for (kind, namespace, name, wanted) in ROUTES {
        let what = format!("{kind} {namespace}/{name}");
        let checked = eventually(&what, SOON, || {
            let route = get(cluster, kind, namespace, name)?;
            let parent = ours(&route)?;
            let spec = &route["spec"]["parentRefs"][0];
            ensure!(parent["parentRef"] == *spec, "parentRef {} is not as written: {spec}", parent["parentRef"]);
            conditions(parent, wanted, &route["metadata"]["generation"])
        });
        wrong.extend(checked.err().map(|error| format!("{what}: {error:#}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A change is followed, and what is others' stays.
pub(crate) fn changes(cluster: &Cluster, _: &Suite) -> Result<()> {
    let other = json!({"controllerName": "example.com/other", "parentRef": {
        "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "elsewhere"}, "conditions": [{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
    // `parents` is one list: who writes it has to keep what others wrote.
    let route = get(cluster, "httproute", HOME, "shares")?;
    let mut parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
    parents.push(other.clone());
    let patch = json!({"status": {"parents": parents}}).to_string();
    cluster.kubectl(&[
        "patch",
        "httproute",
        "-n",
        HOME,
        "shares",
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ])?;
    let before = ours(&route)?.clone();
    let add = json!([{"op": "add", "path": "/spec/rules/-", "value": {
        "matches": [{"path": {"type": "Exact", "value": "/new"}}], "backendRefs": [{"name": "nowhere", "port": 80}]}}]);
    cluster.kubectl(&["patch", "httproute", "-n", HOME, "shares", "--type=json", "-p", &add.to_string()])?;
    let unresolved: &[Said] = &[("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")];
    eventually("a changed route", SOON, || {
        let route = get(cluster, "httproute", HOME, "shares")?;
        let parent = ours(&route)?;
        conditions(parent, unresolved, &route["metadata"]["generation"])?;
        // What did not change has the time at which it last did.
        let time = |parent: &Value| condition(parent, "Accepted").map(|c| c["lastTransitionTime"].clone());
        ensure!(time(parent) == time(&before), "Accepted has a new time, and is as it was");
        let kept = route["status"]["parents"].as_array().is_some_and(|all| all.contains(&other));
        ensure!(kept, "another controller's entry is gone: {}", route["status"]);
        anyhow::Ok(())
    })?;
    let remove = json!([{"op": "remove", "path": "/spec/parentRefs"}]).to_string();
    cluster.kubectl(&["patch", "httproute", "-n", HOME, "shares", "--type=json", "-p", &remove])?;
    eventually("a route without parents", SOON, || {
        let route = get(cluster, "httproute", HOME, "shares")?;
        ensure!(route["status"]["parents"] == json!([other]), "{}", route["status"]);
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Of two kinds of route on one port one wins, and the other says so.
pub(crate) fn conflict(cluster: &Cluster, _: &Suite) -> Result<()> {
    let route = |kind: &str, name: &str, port: u16| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name, "namespace": HOME},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "plain", "port": port}],
                "rules": [{"backendRefs": [{"name": "one", "port": port}]}]}})
    };
    let objects = list(vec![route("GRPCRoute", "wins", 7070), route("HTTPRoute", "loses", 7070)]);
    cluster.apply(&objects)?;
    eventually("the losing kind says so", SOON, || {
        let wins = get(cluster, "grpcroute", HOME, "wins")?;
        conditions(ours(&wins)?, GOOD, &wins["metadata"]["generation"])?;
        let loses = get(cluster, "httproute", HOME, "loses")?;
        conditions(ours(&loses)?, &[("Accepted", "False", "Conflicted")], &loses["metadata"]["generation"])
    })?;
    cluster.delete(&objects)?;
    Ok(())
}

/// The class, the Gateway that works, and one that cannot.
pub(crate) fn gateways(cluster: &Cluster, _: &Suite) -> Result<()> {
    let class = cluster.kubectl(&["get", "gatewayclass", "culvert-waypoint", "-o", "json"])?;
    let class: Value = serde_json::from_str(&class)?;
    conditions(&class["status"], &[("Accepted", "True", "Accepted")], &class["metadata"]["generation"])?;
    let features: Vec<_> = class["status"]["supportedFeatures"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = features.iter().filter_map(|f| f["name"].as_str()).collect();
    ensure!(!names.is_empty() && names.is_sorted(), "supportedFeatures are not sorted, or none: {names:?}");
    // Those are a mesh's, and have no place in a class.
    ensure!(!names.iter().any(|n| n.starts_with("Mesh")), "{names:?}");

    let gateway = get(cluster, "gateway", NAMESPACE, NAME)?;
    let generation = &gateway["metadata"]["generation"];
    let good = [("Accepted", "True", "Accepted"), ("Programmed", "True", "Programmed")];
    conditions(&gateway["status"], &good, generation)?;
    let listener = &gateway["status"]["listeners"][0];
    ensure!(listener["name"] == "mesh" && listener["attachedRoutes"].is_number(), "{}", gateway["status"]);
    let good: &[Said] = &[
        ("Accepted", "True", "Accepted"),
        ("Programmed", "True", "Programmed"),
        ("ResolvedRefs", "True", "ResolvedRefs"),
        ("Conflicted", "False", "NoConflicts"),
    ];
    conditions(listener, good, generation)?;
    let kinds: Vec<_> =
        listener["supportedKinds"].as_array().into_iter().flatten().filter_map(|k| k["kind"].as_str()).collect();
    ensure!(kinds.contains(&"HTTPRoute") && kinds.contains(&"GRPCRoute"), "{kinds:?}");

    let wrong = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "no-waypoint", "namespace": HOME},
        "spec": {"gatewayClassName": "culvert-waypoint", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}});
    cluster.apply(&wrong.to_string())?;
    eventually("a Gateway that no waypoint can be", SOON, || {
        let gateway = get(cluster, "gateway", HOME, "no-waypoint")?;
        let listener = &gateway["status"]["listeners"][0];
        let generation = &gateway["metadata"]["generation"];
        conditions(listener, &[("Accepted", "False", "UnsupportedProtocol")], generation)?;
        conditions(&gateway["status"], &[("Accepted", "False", "ListenersNotValid")], generation)
    })?;
    cluster.delete(&wrong.to_string())?;
    Ok(())
}

fn get(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.kubectl(&["get", kind, "-n", namespace, name, "-o", "json"])?)?)
}

/// The entry of our controller in a route's status.
fn ours(route: &Value) -> Result<&Value> {
    let parents = route["status"]["parents"].as_array().context("it has no status")?;
    let ours: Vec<_> = parents.iter().filter(|p| p["controllerName"] != "example.com/other").collect();
    match ours.as_slice() {
        [one] => Ok(*one),
        _ => bail!("not one entry: {}", route["status"]),
    }
}

fn condition<'a>(holder: &'a Value, kind: &str) -> Option<&'a Value> {
    holder["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

/// All conditions are of this generation, and these are among them.
fn conditions(holder: &Value, wanted: &[Said], generation: &Value) -> Result<()> {
    for (kind, status, reason) in wanted {
        let found = condition(holder, kind).with_context(|| format!("no condition {kind}: {holder}"))?;
        ensure!(found["status"] == *status && found["reason"] == *reason, "wanted {kind}={status} ({reason}): {found}");
    }
    for found in holder["conditions"].as_array().into_iter().flatten() {
        ensure!(found["observedGeneration"] == *generation, "of another generation than {generation}: {found}");
    }
    Ok(())
}
