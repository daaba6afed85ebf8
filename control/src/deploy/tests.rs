//! The deployer against an API server in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use telemetry::Metrics;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;
use crate::object::Key;
use crate::testing::failure;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(20);

const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/waypoint";
const CLASSES: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/waypoint";
const SERVICE: &str = "/api/v1/namespaces/shop/services/waypoint";

/// Objects by path. A watch ends at once as one that is too old, so that every look is a new list.
#[derive(Clone, Default)]
struct Server(Arc<State>);

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Value>>,
    refused: Mutex<Vec<String>>,
    changed: Notify,
}

impl Server {
    fn put(&self, path: &str, object: Value) -> &Self {
        self.0.objects.lock().unwrap().insert(path.to_owned(), object);
        self
    }

    fn find(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().unwrap().get(path).cloned()
    }

    fn get(&self, path: &str) -> Value {
        self.find(path).unwrap_or_default()
    }

    fn change(&self, path: &str, with: &Value) {
        let mut objects = self.0.objects.lock().unwrap();
        merge::merge(objects.entry(path.to_owned()).or_default(), with, "").unwrap();
    }

    fn refuse(&self, path: &str) {
        self.0.refused.lock().unwrap().push(path.to_owned());
    }

    /// Waits until an object is so.
    async fn until(&self, path: &str, good: impl Fn(&Value) -> bool) -> Value {
        let waits = async {
            loop {
                let changed = self.0.changed.notified();
                let now = self.get(path);
                if good(&now) {
                    return now;
                }
                changed.await;
            }
        };
        timeout(SOON, waits).await.unwrap_or_else(|_| panic!("{path} is {}", self.get(path)))
    }

    fn answer(&self, method: &str, path: &str, query: &str, body: Value) -> (u16, Value) {
        if method != "GET" && self.0.refused.lock().unwrap().iter().any(|refused| refused == path) {
            return failure(422, "Invalid");
        }
        match method {
            "GET" if query.contains("watch=true") => (
                200,
                json!({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "", "status": "Failure"}}),
            ),
            "GET" => match self.find(path) {
                Some(object) => (200, object),
                None if path.rsplit('/').next().is_some_and(|last| last.ends_with('s'))
                    && !path.contains("/namespaces/") =>
                {
                    (200, self.list(path, query))
                }
                None => failure(404, "NotFound"),
            },
            "PATCH" => {
                let path = path.strip_suffix("/status").unwrap_or(path);
                let mut objects = self.0.objects.lock().unwrap();
                let object = objects.entry(path.to_owned()).or_default();
                // Enough of a server-side apply: maps are merged, lists replaced.
                let uid = object["metadata"]["uid"].as_str().map_or_else(|| format!("uid-of-{path}"), str::to_owned);
                lay(object, &body);
                lay(&mut object["metadata"], &json!({"uid": uid, "resourceVersion": "1"}));
                (200, object.clone())
            }
            "DELETE" => match self.0.objects.lock().unwrap().remove(path) {
                Some(object) => (200, object),
                None => failure(404, "NotFound"),
            },
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let (prefix, plural) = path.rsplit_once('/').unwrap();
        let objects = self.0.objects.lock().unwrap();
        let of_kind = objects
            .iter()
            .filter(|(p, _)| p.starts_with(prefix) && p.rsplit('/').nth(1).is_some_and(|last| last == plural));
        let ours = |o: &Value| o["metadata"]["labels"][plan::MADE_BY.0] == plan::MADE_BY.1;
        let named = |o: &Value| o["metadata"]["name"] == "istiod";
        let wanted = of_kind.filter(|(_, o)| !query.contains("labelSelector") || ours(o));
        let wanted = wanted.filter(|(_, o)| !query.contains("fieldSelector") || named(o));
        let items: Vec<&Value> = wanted.map(|(_, o)| o).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
    }
}

fn lay(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(into), Some(from)) => {
            from.iter().for_each(|(key, value)| lay(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        _ => *into = from.clone(),
    }
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (method, uri) = (request.method().to_string(), request.uri().clone());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let (code, answer) = server.answer(&method, uri.path(), uri.query().unwrap_or_default(), body);
            if method != "GET" {
                server.0.changed.notify_waiters();
            }
            let body = Body::from(format!("{answer}\n").into_bytes());
            Ok(Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap())
        })
    }
}

fn gateway(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("u-{name}"), "generation": 1},
        "spec": {"gatewayClassName": class, "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    })
}

/// A deployer that leads, ended with the returned handle.
fn deploy(server: &Server) -> (watch::Sender<bool>, JoinSet<()>) {
    let (leads, running, _) = deploy_where(server, &[], watch::channel(Waiting::default()).1);
    (leads, running)
}

/// The same, where Gateways of these namespaces are wanted, and these services wait.
fn deploy_where(
    server: &Server,
    wanted: &[&str],
    waiting: watch::Receiver<Waiting>,
) -> (watch::Sender<bool>, JoinSet<()>, JoinSet<()>) {
    let (asks, mut asked) = mpsc::channel(1);
    let wanted: Vec<(Arc<str>, Arc<str>)> = wanted.iter().map(|ns| (Arc::from(*ns), Arc::from("waypoint"))).collect();
    let mut world = JoinSet::new();
    world.spawn(async move {
        while let Some(Ask::Waypoints(to)) = asked.recv().await {
            to.send(wanted.iter().cloned().collect()).ok();
        }
    });
    let text = "certificate: {ca: {}}\nwaypoint: {image: 'culvert.dev/waypoint:1'}\n";
    let config: crate::config::Config = document::parse("control.yaml", text).unwrap();
    let (leads, leader) = watch::channel(true);
    let deployer = Deployer {
        client: Client::new(server.clone(), "default"),
        leader,
        values: config.waypoint.unwrap(),
        mesh: config.mesh,
        waiting,
        asks,
        done: Metrics::new().counters("t", "t", &["result"]),
    };
    let mut running = JoinSet::new();
    running.spawn(deployer.run());
    (leads, running, world)
}

fn condition(object: &Value, kind: &str) -> (String, String) {
    let list = object.pointer("/status/conditions").and_then(Value::as_array);
    let found = list.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default();
    (found["status"].as_str().unwrap_or_default().to_owned(), found["reason"].as_str().unwrap_or_default().to_owned())
}

fn is(object: &Value, kind: &str, status: &str, reason: &str) -> bool {
    condition(object, kind) == (status.to_owned(), reason.to_owned())
}

#[tokio::test]
async fn a_gateway_becomes_a_waypoint() {
    let server = Server::default();
    server.put(GATEWAY, gateway("waypoint", "culvert-waypoint"));
    let (_leads, _running) = deploy(&server);
    let class = server.until(&format!("{CLASSES}/culvert-waypoint"), |c| is(c, "Accepted", "True", "Accepted")).await;
    assert_eq!(class["status"]["supportedFeatures"].as_array().unwrap().len(), class::FEATURES.len());
    server.until(GATEWAY, |g| is(g, "Programmed", "False", "AddressNotAssigned")).await;
    server.change(SERVICE, &json!({"spec": {"clusterIPs": ["10.96.0.9"]}}));
    server.until(GATEWAY, |g| is(g, "Programmed", "False", "Pending")).await;
    server.change(DEPLOYMENT, &json!({"status": {"readyReplicas": 1}}));
    let done = server.until(GATEWAY, |g| is(g, "Programmed", "True", "Programmed")).await;
    assert_eq!(done["status"]["addresses"][0]["value"], "waypoint.shop.svc.cluster.local");
    assert_eq!(done["status"]["addresses"][1]["value"], "10.96.0.9");
    let owner = server.get(DEPLOYMENT)["metadata"]["ownerReferences"][0]["uid"].clone();
    assert_eq!(owner, "u-waypoint");
    // Changed by hand, it is put back.
    server.change(SERVICE, &json!({"spec": {"selector": {"gateway.networking.k8s.io/gateway-name": "other"}}}));
    server.until(SERVICE, |s| s["spec"]["selector"]["gateway.networking.k8s.io/gateway-name"] == "waypoint").await;
}

#[tokio::test]
async fn a_broken_gateway_stops_no_other_and_says_what_is_wrong() {
    let server = Server::default();
    let other = |name: &str| GATEWAY.replace("waypoint", name);
    let mut odd = gateway("odd", "culvert-waypoint");
    odd["spec"]["infrastructure"] = json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "gone"}});
    server.put(&other("odd"), odd).put(&other("refused"), gateway("refused", "culvert-waypoint"));
    server
        .put(&other("taken"), gateway("taken", "culvert-waypoint"))
        .put(GATEWAY, gateway("waypoint", "culvert-waypoint"));
    server.refuse(&DEPLOYMENT.replace("waypoint", "refused"));
    let theirs =
        json!({"kind": "Deployment", "metadata": {"name": "taken", "namespace": "shop", "uid": "x"}, "spec": {"a": 1}});
    server.put(&DEPLOYMENT.replace("waypoint", "taken"), theirs.clone());
    let (_leads, _running) = deploy(&server);
    let odd = server.until(&other("odd"), |g| is(g, "Accepted", "False", "InvalidParameters")).await;
    assert!(odd.to_string().contains("there is no ConfigMap shop/gone"), "{odd}");
    let refused = server.until(&other("refused"), |g| is(g, "Programmed", "False", "Invalid")).await;
    assert!(refused.to_string().contains("apply Deployment shop/refused"), "{refused}");
    let taken = server.until(&other("taken"), |g| is(g, "Programmed", "False", "Invalid")).await;
    assert!(taken.to_string().contains("is there already and was not made for this Gateway"), "{taken}");
    assert_eq!(server.get(&DEPLOYMENT.replace("waypoint", "taken")), theirs);
    server.until(DEPLOYMENT, |d| d["spec"]["replicas"] == 2).await;
}

#[tokio::test]
async fn gateways_of_others_are_never_touched() {
    let server = Server::default();
    let theirs = gateway("edge", "edge");
    let path = GATEWAY.replace("waypoint", "edge");
    server.put(&path, theirs.clone()).put(GATEWAY, gateway("waypoint", "culvert-waypoint"));
    server.put(
        &format!("{CLASSES}/edge"),
        json!({"metadata": {"name": "edge"}, "spec": {"controllerName": "example.org/x"}}),
    );
    // With an istiod, its class is not ours either.
    let istios = gateway("istios", "istio-waypoint");
    let istio_path = GATEWAY.replace("waypoint", "istios");
    server.put(&istio_path, istios.clone());
    server.put(
        &format!("{CLASSES}/istio-waypoint"),
        json!({"metadata": {"name": "istio-waypoint"}, "spec": {"controllerName": "istio.io/mesh-controller"}}),
    );
    server.put(
        "/api/v1/namespaces/istio-system/services/istiod",
        json!({"metadata": {"name": "istiod", "namespace": "istio-system"}}),
    );
    let (_leads, _running) = deploy(&server);
    server.until(GATEWAY, |g| is(g, "Accepted", "True", "Accepted")).await;
    assert_eq!((server.get(&path), server.get(&istio_path)), (theirs, istios));
    assert_eq!(server.get(&format!("{CLASSES}/edge"))["status"], Value::Null);
}

#[tokio::test]
async fn what_is_not_wanted_any_more_goes() {
    let server = Server::default();
    server.put(GATEWAY, gateway("waypoint", "culvert-waypoint"));
    let (leads, mut running) = deploy(&server);
    let budget = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/waypoint";
    server.until(budget, Value::is_object).await;
    server.change(GATEWAY, &json!({"metadata": {"annotations": {"gateway.istio.io/name-override": "renamed"}}}));
    server.until(DEPLOYMENT, Value::is_null).await;
    server.until(budget, Value::is_null).await;
    assert!(server.get(&DEPLOYMENT.replace("waypoint", "renamed")).is_object());
    // Over to another's class: all goes.
    server.put(
        &format!("{CLASSES}/edge"),
        json!({"metadata": {"name": "edge", "generation": 1}, "spec": {"controllerName": "example.org/x"}}),
    );
    server.change(GATEWAY, &json!({"spec": {"gatewayClassName": "edge"}}));
    server.until(&SERVICE.replace("waypoint", "renamed"), Value::is_null).await;
    drop(leads);
    timeout(SOON, running.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_gateway_that_is_wanted_is_made_and_deployed() {
    let server = Server::default();
    let (_leads, _running, _world) = deploy_where(&server, &["shop"], watch::channel(Waiting::default()).1);
    let made = server.until(GATEWAY, |g| is(g, "Accepted", "True", "Accepted")).await;
    assert_eq!(made["spec"]["gatewayClassName"], "culvert-waypoint");
    server.until(DEPLOYMENT, Value::is_object).await;
}

#[tokio::test]
async fn a_gateway_is_programmed_when_no_node_goes_past_it_any_more() {
    let server = Server::default();
    server.put(GATEWAY, gateway("waypoint", "culvert-waypoint"));
    let (waits, waiting) = watch::channel(Waiting::default());
    let (_leads, _running, _world) = deploy_where(&server, &[], waiting);
    server.until(SERVICE, Value::is_object).await;
    server.change(SERVICE, &json!({"spec": {"clusterIPs": ["10.96.0.9"]}}));
    server.until(DEPLOYMENT, Value::is_object).await;
    server.change(DEPLOYMENT, &json!({"status": {"readyReplicas": 2}}));
    server.until(GATEWAY, |g| is(g, "Programmed", "True", "Programmed")).await;
    let service = Key::new(crate::object::Kind::Service, "shop", "cart");
    let gateway = (Arc::from("shop"), Arc::from("waypoint"));
    waits.send(Waiting { revision: 7, services: BTreeMap::from([(service, gateway)]) }).unwrap();
    let told = server.until(GATEWAY, |g| is(g, "Programmed", "False", "Pending")).await;
    assert!(told.to_string().contains("shop/cart"), "{told}");
    waits.send(Waiting::default()).unwrap();
    server.until(GATEWAY, |g| is(g, "Programmed", "True", "Programmed")).await;
}
