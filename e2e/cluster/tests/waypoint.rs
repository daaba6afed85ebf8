//! Waypoints on a real Kubernetes: a Gateway becomes one, routes and policies are followed, a rollout is not noticed, and
//! deleting it leaves nothing. Root, and the images of `cargo xtask image`: `make test-cluster`.

mod common;
mod mesh {
    pub(crate) mod culvert;
    pub(crate) mod shop;
}
mod layer7 {
    pub(crate) mod requests;
}

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::{Check, SOON};
use e2e_cluster::{Cluster, Options, eventually};
use mesh::culvert::{VALUES, culvert, fails};
use mesh::shop;
use serde_json::{Value, json};

/// From `kubectl apply` to Programmed takes some 3 s on a quiet machine; this one builds and runs everything on two CPUs,
/// so that only an order of magnitude is asserted.
const PROGRAMMED: Duration = Duration::from_secs(60);

/// An automatic waypoint serves within 10 s on a quiet machine.
const AUTOMATIC: Duration = Duration::from_secs(60);

/// In this order: each goes on from where the one before left the cluster.
const CHECKS: &[Check<Cluster>] = &[
    ("install makes everything ready, and the class is accepted", install),
    ("a shop in the mesh", open),
    ("waypoint apply --wait: a Gateway becomes a waypoint", apply),
    ("its objects are owned, its pods have no rights, its status tells the truth", objects),
    ("bound and nothing L7: nothing passes it", unused),
    ("a canary: 90 to 10, and 1 % by header", canary),
    ("an L7 policy permits and denies by identity, method and path", policy),
    ("a RequestPolicy is followed, refused and told", layer7::requests::policies),
    ("a Telemetry is followed, and what of it is not is told", layer7::requests::telemetry),
    ("a rollout of the waypoint under load: 0 failed", rollout),
    ("overlays are laid over, and mistakes in them are named", overlay),
    ("status, list and check say what is so", says),
    ("deleting it leaves nothing, and calls go on", delete),
    ("a namespace that wants one gets one with its first route", automatic),
    ("uninstall leaves nothing of it", uninstall),
];

#[test]
#[ignore = "raises a cluster as root: make test-cluster"]
fn waypoints_hold_on_a_real_cluster() -> Result<(), common::Told> {
    Ok(holds()?)
}

fn holds() -> Result<()> {
    let _alone = common::alone();
    let cluster = common::up(Options::default())?;
    cluster.load_images(&common::workspace().join("target/images"))?;
    common::in_order(&cluster, CHECKS, tell)?;
    cluster.down()?;
    Ok(())
}

/// What a failure is understood by.
fn tell(cluster: &Cluster) {
    for arguments in [
        &["get", "gateways,httproutes,authorizationpolicies.security.istio.io", "-n", "shop", "-o", "yaml"][..],
        &["get", "pods,services", "-A", "-o", "wide"],
        &["logs", "-n", "shop", "-l", NAME, "--tail=80", "--prefix"],
        &["logs", "-n", "culvert-system", "-l", "app.kubernetes.io/name=culvert-control", "--tail=80", "--prefix"],
    ] {
        match cluster.kubectl(arguments) {
            Ok(said) => println!("--- kubectl {}\n{said}", arguments.join(" ")),
            Err(error) => println!("--- kubectl {}: {error}", arguments.join(" ")),
        }
    }
}

/// What waypoints' pods and objects are known by.
const NAME: &str = "gateway.networking.k8s.io/gateway-name";

fn install(cluster: &Cluster) -> Result<()> {
    let mut arguments = vec!["install"];
    arguments.extend(VALUES);
    culvert(cluster, &arguments)?;
    eventually("the classes are accepted", SOON, || {
        for class in ["culvert-waypoint", "istio-waypoint"] {
            let found = get(cluster, &["gatewayclass", class])?;
            ensure!(condition(&found, "Accepted") == ("True".into(), "Accepted".into()), "{found}");
            let features = found["status"]["supportedFeatures"].as_array().map_or(0, Vec::len);
            ensure!(features > 5, "{features} features");
        }
        anyhow::Ok(())
    })?;
    Ok(())
}

fn open(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    culvert(cluster, &["enroll", "ns/shop"])?;
    shop::until_enrolled(cluster, SOON)
}

fn get(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    let arguments = [&["get", "-o", "json"], what].concat();
    Ok(serde_json::from_str(&cluster.kubectl(&arguments)?)?)
}

fn condition(object: &Value, kind: &str) -> (String, String) {
    let list = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = list.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn apply(cluster: &Cluster) -> Result<()> {
    fails(cluster, &["waypoint", "apply", "-n", "shop", "--class", "nope"])?;
    let begun = Instant::now();
    culvert(cluster, &["waypoint", "apply", "-n", "shop", "--enroll-namespace", "--wait"])?;
    let took = begun.elapsed();
    println!("      Programmed after {} ms", took.as_millis());
    ensure!(took < PROGRAMMED, "{took:?}");
    Ok(())
}

fn objects(cluster: &Cluster) -> Result<()> {
    let gateway = get(cluster, &["gateway", "-n", "shop", "waypoint"])?;
    let generation = &gateway["metadata"]["generation"];
    for kind in ["Accepted", "Programmed", "ResolvedRefs"] {
        ensure!(condition(&gateway, kind).0 == "True", "{kind} of {gateway}");
    }
    for condition in gateway["status"]["conditions"].as_array().context("no conditions")? {
        ensure!(condition["observedGeneration"] == *generation, "{condition}");
    }
    let addresses = gateway["status"]["addresses"].as_array().context("no addresses")?;
    ensure!(addresses[0]["value"] == "waypoint.shop.svc.cluster.local" && addresses.len() == 2, "{addresses:?}");
    let listener = &gateway["status"]["listeners"][0];
    ensure!(listener["supportedKinds"].as_array().map_or(0, Vec::len) == 4, "{listener}");
    for kind in ["deployment", "service", "serviceaccount", "poddisruptionbudget"] {
        let object = get(cluster, &[kind, "-n", "shop", "waypoint"])?;
        ensure!(object["metadata"]["ownerReferences"][0]["uid"] == gateway["metadata"]["uid"], "{kind}: {object}");
    }
    let pods = get(cluster, &["pods", "-n", "shop", "-l", &format!("{NAME}=waypoint")])?;
    for pod in pods["items"].as_array().context("no pods")? {
        let container = &pod["spec"]["containers"][0];
        ensure!(container["securityContext"]["capabilities"]["drop"] == json!(["ALL"]), "{container}");
        ensure!(pod["metadata"]["annotations"]["ambient.istio.io/redirection"].is_null(), "a waypoint is not captured");
    }
    Ok(())
}

/// Requests from a pod, and how many answers of each kind there were, by what `curl -w` says.
fn requests(cluster: &Cluster, pod: &str, url: &str, count: u32, more: &str) -> Result<BTreeMap<String, u32>> {
    // nginx says its host name; a refusal says something else.
    let line = format!("curl -sS -m 10 {more} -w '%{{http_code}}\\n' '{url}?[1-{count}]' | sort | uniq -c");
    let said = shop::in_pod(cluster, pod, &line)?;
    let counted = said.lines().filter_map(|l| l.trim().split_once(' '));
    Ok(counted.filter_map(|(n, what)| Some((what.trim().to_owned(), n.parse().ok()?))).collect())
}

/// Requests that were answered by waypoints of the shop, as their metrics say.
fn passed(cluster: &Cluster) -> Result<f64> {
    let pods = get(cluster, &["pods", "-n", "shop", "-l", &format!("{NAME}=waypoint")])?;
    let mut sum = 0.0;
    for pod in pods["items"].as_array().context("no pods")? {
        let ip = pod["status"]["podIP"].as_str().context("no address")?;
        let metrics =
            shop::in_pod(cluster, "outside/outside", &format!("curl -sS -m 8 http://{ip}:15020/stats/prometheus"))?;
        let counted = metrics.lines().filter(|l| l.starts_with("istio_requests_total"));
        sum += counted.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

const URL: &str = "http://server-one:8080/";

fn unused(cluster: &Cluster) -> Result<()> {
    let bound = get(cluster, &["service", "-n", "shop", "server-one"])?;
    ensure!(condition(&bound, "istio.io/WaypointBound").0 == "True", "{bound}");
    let before = passed(cluster)?;
    let seen = requests(cluster, "client-one", URL, 20, "-o /dev/null")?;
    ensure!(seen == BTreeMap::from([("200".to_owned(), 20)]), "{seen:?}");
    let after = passed(cluster)?;
    ensure!(after.total_cmp(&before).is_eq(), "{} requests passed the waypoint", after - before);
    Ok(())
}

fn route(rules: Value) -> String {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "canary", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "server-one", "port": 8080}], "rules": rules},
    })
    .to_string()
}

fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "port": 8080, "weight": weight})
}

fn canary(cluster: &Cluster) -> Result<()> {
    let header = json!([{"headers": [{"name": "x-canary", "value": "yes"}]}]);
    let rules = json!([
        {"matches": header, "backendRefs": [backend("server-two", 1)]},
        {"backendRefs": [backend("server-one", 90), backend("server-two", 10)]},
    ]);
    cluster.apply(&route(rules))?;
    eventually("the header leads to the canary", SOON, || {
        let said = shop::in_pod(cluster, "client-one", &format!("curl -sS -m 8 -H 'x-canary: yes' {URL}"))?;
        ensure!(said == "server-two", "{said}");
        anyhow::Ok(())
    })?;
    let before = passed(cluster)?;
    let seen = requests(cluster, "client-one", URL, 400, "-o -")?;
    let of = |name: &str| f64::from(seen.get(name).copied().unwrap_or_default());
    // 400 draws: three standard deviations of a fair choice are 18; a smooth choice is exact for each replica.
    ensure!(of("server-one") + of("server-two") >= 400.0 && (of("server-two") - 40.0).abs() <= 18.0, "{seen:?}");
    let counted = passed(cluster)? - before;
    ensure!(counted >= 400.0, "{counted} of 400 requests were counted by the waypoint");
    let found = get(cluster, &["httproute", "-n", "shop", "canary"])?;
    let parent = &found["status"]["parents"][0];
    ensure!(parent["controllerName"].is_string(), "{found}");
    let object = json!({"status": {"conditions": parent["conditions"]}});
    for kind in ["Accepted", "ResolvedRefs"] {
        ensure!(condition(&object, kind).0 == "True", "{kind} of {found}");
    }
    Ok(())
}

fn policy(cluster: &Cluster) -> Result<()> {
    let principal = "cluster.local/ns/shop/sa/client-one";
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "l7", "namespace": "shop"},
        "spec": {
            "targetRefs": [{"group": "", "kind": "Service", "name": "server-one"}],
            "rules": [{"from": [{"source": {"principals": [principal]}}],
                       "to": [{"operation": {"methods": ["GET"], "paths": ["/ok/*"]}}]}],
        },
    })
    .to_string();
    cluster.apply(&policy)?;
    let code = |pod: &str, more: &str| {
        shop::in_pod(cluster, pod, &format!("curl -sS -m 8 -o /dev/null -w '%{{http_code}}' {more}"))
    };
    eventually("who is not named is refused", SOON, || {
        let said = code("client-two", &format!("{URL}ok/a"))?;
        ensure!(said == "403", "{said}");
        anyhow::Ok(())
    })?;
    for (pod, more, wanted) in [
        ("client-one", format!("{URL}ok/a"), "200"),
        ("client-one", format!("{URL}secret"), "403"),
        ("client-one", format!("-X POST {URL}ok/a"), "403"),
        ("client-one", format!("--path-as-is {URL}ok/../secret"), "403"),
        ("client-two", format!("{URL}ok/a"), "403"),
    ] {
        let said = code(pod, &more)?;
        ensure!(said == wanted, "{pod} {more}: {said}, not {wanted}");
    }
    cluster.delete(&policy)?;
    eventually("without the policy all may", SOON, || {
        let said = code("client-two", &format!("{URL}ok/a"))?;
        ensure!(said == "200", "{said}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Requests that go on until they are told to end, each on a connection of its own or all on few.
fn rollout(cluster: &Cluster) -> Result<()> {
    let stop = |pod: &str| shop::in_pod(cluster, pod, "touch /tmp/stop");
    let load = |pod: &'static str, each: u32| {
        let url = format!("{URL}?[1-{each}]");
        let line = format!(
            "rm -f /tmp/stop; while [ ! -e /tmp/stop ]; do curl -sS -m 10 -o /dev/null -w '%{{http_code}}\\n' '{url}'; done \
             2>&1 | sort | uniq -c"
        );
        let mut command = cluster.kubectl_command();
        command.args(["exec", "-n", "shop", pod, "--", "sh", "-c", &line]);
        command.stdout(std::process::Stdio::piped()).spawn()
    };
    let loads = [load("client-one", 1)?, load("client-two", 50)?];
    cluster.kubectl(&["rollout", "restart", "-n", "shop", "deploy/waypoint"])?;
    cluster.kubectl(&["rollout", "status", "-n", "shop", "deploy/waypoint", "--timeout=120s"])?;
    // The old pods serve what they have until it ends.
    eventually("the old pods are gone", Duration::from_secs(120), || {
        let pods = get(cluster, &["pods", "-n", "shop", "-l", &format!("{NAME}=waypoint")])?;
        let count = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(count == 2, "{count} pods");
        anyhow::Ok(())
    })?;
    stop("client-one")?;
    stop("client-two")?;
    for load in loads {
        let output = load.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        println!("      {said}");
        ensure!(said.lines().count() == 1 && said.ends_with(" 200"), "not every request was answered: {said}");
    }
    Ok(())
}

fn overlay(cluster: &Cluster) -> Result<()> {
    let map = |deployment: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "options", "namespace": "shop"},
               "data": {"deployment": deployment}})
        .to_string()
    };
    cluster.apply(&map(
        "spec:\n  template: {spec: {containers: [{name: istio-proxy, env: [{name: EXTRA, value: x}]}]}}\n",
    ))?;
    let patch = json!({"spec": {"infrastructure": {"labels": {"team": "shop"},
        "parametersRef": {"group": "", "kind": "ConfigMap", "name": "options"}}}})
    .to_string();
    cluster.kubectl(&["patch", "gateway", "-n", "shop", "waypoint", "--type=merge", "-p", &patch])?;
    eventually("the overlay is laid over", SOON, || {
        let deployment = get(cluster, &["deployment", "-n", "shop", "waypoint"])?;
        ensure!(deployment["metadata"]["labels"]["team"] == "shop", "{deployment}");
        let env = deployment.pointer("/spec/template/spec/containers/0/env").context("no env")?;
        ensure!(env.to_string().contains("EXTRA"), "{env}");
        anyhow::Ok(())
    })?;
    cluster.apply(&map("spec: {selector: {matchLabels: {a: b}}}\n"))?;
    eventually("the mistake is named", SOON, || {
        let gateway = get(cluster, &["gateway", "-n", "shop", "waypoint"])?;
        ensure!(condition(&gateway, "Accepted") == ("False".into(), "InvalidParameters".into()), "{gateway}");
        ensure!(gateway.to_string().contains("ConfigMap shop/options, key deployment.spec.selector"), "{gateway}");
        ensure!(gateway["status"]["addresses"].as_array().map_or(0, Vec::len) == 2, "addresses stay");
        anyhow::Ok(())
    })?;
    let back = json!({"spec": {"infrastructure": null}}).to_string();
    cluster.kubectl(&["patch", "gateway", "-n", "shop", "waypoint", "--type=merge", "-p", &back])?;
    cluster.kubectl(&["wait", "-n", "shop", "gateway/waypoint", "--for=condition=Programmed", "--timeout=60s"])?;
    Ok(())
}

fn says(cluster: &Cluster) -> Result<()> {
    let listed: Vec<Value> = serde_json::from_str(&culvert(cluster, &["waypoint", "list", "-A", "-o", "json"])?)?;
    ensure!(listed.len() == 1 && listed[0]["programmed"] == "True", "{listed:?}");
    ensure!(listed[0]["bound"] == json!(["namespace shop"]), "{listed:?}");
    culvert(cluster, &["waypoint", "status", "-n", "shop", "waypoint"])?;
    let lines: Vec<Value> = serde_json::from_str(&culvert(cluster, &["check", "-o", "json"])?)?;
    for id in ["waypoint.class", "waypoint.ready", "waypoint.routes"] {
        ensure!(lines.iter().any(|l| l["id"] == id && l["state"] == "ok"), "{id}: {lines:?}");
    }
    // One that is named and is not there.
    cluster.kubectl(&["label", "service", "-n", "shop", "server-two", "istio.io/use-waypoint=gone"])?;
    let lines = culvert(cluster, &["check", "-o", "json"])?;
    ensure!(lines.contains("Service shop/server-two names waypoint shop/gone"), "{lines}");
    cluster.kubectl(&["label", "service", "-n", "shop", "server-two", "istio.io/use-waypoint-"])?;
    Ok(())
}

fn delete(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "httproute", "-n", "shop", "canary"])?;
    let said = culvert(cluster, &["waypoint", "delete", "-n", "shop", "waypoint", "--unenroll-namespace"])?;
    ensure!(said.contains("waypoint shop/waypoint deleted") && !said.contains("note:"), "{said}");
    gone(cluster)?;
    let seen = requests(cluster, "client-one", URL, 20, "-o /dev/null")?;
    ensure!(seen == BTreeMap::from([("200".to_owned(), 20)]), "{seen:?}");
    Ok(())
}

/// Waits until nothing of a waypoint is in the shop.
fn gone(cluster: &Cluster) -> Result<()> {
    eventually("nothing is left", Duration::from_secs(120), || {
        let kinds = "deployments,replicasets,pods,services,serviceaccounts,poddisruptionbudgets,endpointslices";
        let left = cluster.kubectl(&["get", kinds, "-n", "shop", "-l", NAME, "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        anyhow::Ok(())
    })?;
    Ok(())
}

fn automatic(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["label", "namespace", "shop", "culvert.dev/auto-waypoint=enabled"])?;
    let begun = Instant::now();
    cluster.apply(&route(json!([{"backendRefs": [backend("server-two", 1)]}])))?;
    eventually("the route is followed", AUTOMATIC, || {
        let said = shop::curl(cluster, "client-one", URL)?;
        ensure!(said == "server-two", "{said}");
        anyhow::Ok(())
    })?;
    println!("      served after {} ms", begun.elapsed().as_millis());
    Ok(())
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    culvert(cluster, &["uninstall"])?;
    gone(cluster)?;
    // The definition itself is gone when no object of its kind is left.
    let classes = cluster.kubectl(&["get", "gatewayclasses", "-o", "name"]).unwrap_or_default();
    ensure!(classes.trim().is_empty(), "{classes}");
    Ok(())
}
