//! The world of our own tests, and the order in which it is made.

use anyhow::{Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};
use serde_json::{Value, json};

use super::ask::sh;
use super::case::{Case, HOME};
use super::suite::Suite;
use super::tables::CASES;
use super::world::{LABELS, NAME, NAMESPACE};
use crate::common::{SOON, list};

/// Services and producer routes; a consumer; somebody else.
pub(crate) const NAMESPACES: [&str; 3] = [HOME, "routes-consumer", "routes-other"];

/// Every case of every table. All faults are told, not only the first.
pub(crate) fn run(cluster: &Cluster, _: &Suite) -> Result<()> {
    let mut wrong = Vec::new();
    let mut asked = 0;
    for case in CASES {
        let found = case.check(cluster);
        asked += case.asks.len() + case.shares.len();
        println!(
            "      {}  {} ({} requests)",
            if found.is_empty() { "ok " } else { "BAD" },
            case.service,
            case.asks.len()
        );
        found.iter().for_each(|fault| println!("          {fault}"));
        wrong.extend(found);
    }
    ensure!(wrong.is_empty(), "{} of {asked} cases failed; they are above", wrong.len());
    println!("      {asked} cases");
    Ok(())
}

/// Namespaces, Services, servers, clients and routes of all tables.
pub(crate) fn objects(cluster: &Cluster, suite: &Suite) -> Result<()> {
    let labels: serde_json::Map<String, Value> = LABELS.iter().map(|(n, v)| ((*n).to_owned(), json!(v))).collect();
    let namespace =
        |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    cluster.apply(&list(NAMESPACES.iter().map(namespace).collect()))?;
    let services: String = CASES.iter().map(|c| c.service()).collect();
    cluster.apply(&services)?;
    let early: String = CASES.iter().map(|c| c.routes(true)).collect();
    cluster.apply(&early)?;
    cluster.apply(&list(pods(&suite.server_image()?)))?;
    for namespace in NAMESPACES {
        cluster.kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "--timeout=120s", "pod", "--all"])?;
    }
    let routes: String = CASES.iter().map(|c| c.routes(false)).collect();
    cluster.apply(&routes)?;
    Ok(())
}

fn pods(image: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for (name, namespace, node) in [("one", HOME, "node1"), ("two", HOME, "node2"), ("three", "routes-other", "node2")]
    {
        // A hostname of its own is the pod's name, by which answers tell who gave them.
        let arguments = ["--tcp=9090", "--port=8080", "--grpc=7070"];
        let mut pod = pod(
            name,
            namespace,
            node,
            json!({"image": image, "args": arguments,
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}),
        );
        pod["metadata"]["labels"]["half-deaf"] = json!(if name == "one" { "yes" } else { "no" });
        all.push(pod);
        all.push(service(name, namespace, json!({"name": name})));
    }
    let idle = json!({"image": "culvert.dev/echo:test", "command": ["sleep", "inf"]});
    for namespace in NAMESPACES {
        all.push(pod("client", namespace, "node1", idle.clone()));
    }
    // Ready, and listens on nothing.
    let mut deaf = pod("deaf", HOME, "node2", idle);
    deaf["metadata"]["labels"] = json!({"half-deaf": "yes"});
    all.push(deaf);
    all.push(service("half-deaf", HOME, json!({"half-deaf": "yes"})));
    all.push(service("empty", HOME, json!({"name": "nobody"})));
    all
}

fn pod(name: &str, namespace: &str, node: &str, container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("main");
    container["imagePullPolicy"] = json!("IfNotPresent");
    let app = if ["one", "two"].contains(&name) { "echo" } else { name };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"name": name, "app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]},
    })
}

fn service(name: &str, namespace: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": selector, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"},
            {"name": "http-alt", "port": 8080, "appProtocol": "http"},
            {"name": "grpc", "port": 7070, "appProtocol": "kubernetes.io/h2c"},
        ]},
    })
}

/// A copy goes to the mirror, which has no say in the answer.
pub(crate) fn mirror(cluster: &Cluster, _: &Suite) -> Result<()> {
    let route = |name: &str, target: &str, fraction: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {HOME}}}\nspec:\n  \
             parentRefs: [{{group: '', kind: Service, name: plain, port: 80}}]\n  rules:\n  \
             - matches: [{{path: {{type: PathPrefix, value: /{name}}}}}]\n    \
             filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: {target}, port: 80}}{fraction}}}}}]\n    \
             backendRefs: [{{name: one, port: 80}}]\n"
        )
    };
    let routes = [
        route("copied", "two", ""),
        route("rarely", "two", ", percent: 0"),
        route("lost", "empty", ""),
        route("slow", "two", ""),
    ]
    .concat();
    cluster.apply(&routes)?;
    let ask = |path: &str| {
        sh(cluster, "routes/client", &format!("curl -sS -m 5 http://plain.{HOME}{path} | grep -a Hostname="))
    };
    eventually("a mirrored request is answered", SOON, || {
        for path in ["/copied/now", "/rarely/now", "/lost/now", "/slow/now?delay=1ms"] {
            let said = ask(path)?;
            ensure!(said.trim() == "Hostname=one", "{path}: {said}");
        }
        anyhow::Ok(())
    })?;
    eventually("the mirror gets a copy", SOON, || {
        ask("/copied/seen")?;
        let log = cluster.kubectl(&["logs", "-n", HOME, "two"])?;
        ensure!(log.contains("/copied/seen"), "the mirror's log has no such request");
        anyhow::Ok(())
    })?;
    let log = cluster.kubectl(&["logs", "-n", HOME, "two"])?;
    ensure!(!log.contains("/rarely/"), "the mirror got a copy of what was to be copied never");
    // Nothing is left of it: the Service forwards as before.
    cluster.delete(&routes)?;
    eventually("without routes the Service is as any other", SOON, || {
        let said = ask("/whatever")?;
        ensure!(said.starts_with("Hostname="), "{said}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// Traffic of a Service with nothing of L7 does not pass the waypoint; that of one with a route does.
pub(crate) fn passed_only_when_needed(cluster: &Cluster, _: &Suite) -> Result<()> {
    let ip = |namespace: &str, what: &[&str]| -> Result<Vec<String>> {
        let path = "jsonpath={range .items[*]}{.status.podIP}{\" \"}{end}";
        let said = cluster.kubectl(&[&["get", "pods", "-n", namespace, "-o", path], what].concat())?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    };
    let waypoints = ip(NAMESPACE, &["-l", &format!("gateway.networking.k8s.io/gateway-name={NAME}")])?;
    let client = ip(HOME, &["-l", "name=client"])?;
    let callers = |case: &Case| -> Result<String> {
        let line = format!("curl -sS -m 5 http://{}/one | grep -a ^IP=", case.host());
        Ok(sh(cluster, "routes/client", &line)?.trim().trim_start_matches("IP=").to_owned())
    };
    for case in CASES.iter().filter(|c| ["plain", "backends"].contains(&c.service)) {
        let seen = callers(case)?;
        let wanted = if case.routes.is_empty() { &client } else { &waypoints };
        if !wanted.contains(&seen) {
            bail!("{}: the server saw {seen}, and was to see one of {wanted:?}", case.service);
        }
    }
    Ok(())
}
