//! An API server in memory: lists, watches, creates, patches, reviews tokens. It knows no kinds; objects are JSON.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, once, unfold};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::ByteString;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = StreamBody<BoxStream<'static, Result<hyper::body::Frame<Bytes>, Infallible>>>;
/// Says with which code a call fails, by method and path.
type Fault = Arc<dyn Fn(&str, &str) -> Option<u16> + Send + Sync>;

/// The API server; clones are the same one.
#[derive(Clone)]
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    version: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, String, Value)>,
    tokens: HashMap<String, Value>,
    calls: Vec<String>,
    fault: Option<Fault>,
}

impl Api {
    pub(crate) fn new() -> Self {
        // Versions begin somewhere, as in a real one.
        Self { state: Arc::default(), version: Arc::new(watch::Sender::new(1000)) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Puts an object at a path such as `/api/v1/namespaces/shop/pods/web`.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        self.store(&mut state, path, object)
    }

    pub(crate) fn delete(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        let mut was = state.objects.remove(path).unwrap_or_else(|| panic!("no {path}"));
        let version = *self.version.borrow() + 1;
        was["metadata"]["resourceVersion"] = json!(version.to_string());
        state.log.push((version, "DELETED", path.to_owned(), was));
        self.version.send_replace(version);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn token(&self, token: &str, status: Value) {
        self.state.lock().unwrap().tokens.insert(token.to_owned(), status);
    }

    pub(crate) fn fail(&self, fault: impl Fn(&str, &str) -> Option<u16> + Send + Sync + 'static) {
        self.state.lock().unwrap().fault = Some(Arc::new(fault));
    }

    pub(crate) fn heal(&self) {
        self.state.lock().unwrap().fault = None;
    }

    /// Calls so far that begin with this, such as `PATCH /api/v1/namespaces/shop`.
    pub(crate) fn calls(&self, begin: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| call.starts_with(begin)).count()
    }

    /// Waits until the objects are as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let mut changes = self.version.subscribe();
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while !wanted(self) {
            tokio::time::timeout_at(end, changes.changed()).await.unwrap_or_else(|_| panic!("never: {what}")).unwrap();
        }
    }

    fn store(&self, state: &mut State, path: &str, mut object: Value) -> Value {
        let version = *self.version.borrow() + 1;
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(version.to_string());
        meta["name"] = json!(parts.last().unwrap());
        if let Some(at) = parts.iter().position(|part| *part == "namespaces").filter(|at| at + 3 < parts.len()) {
            meta["namespace"] = json!(parts[at + 1]);
        }
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        state.log.push((version, kind, path.to_owned(), object.clone()));
        self.version.send_replace(version);
        object
    }

    async fn answer(&self, request: Request<Body>) -> (StatusCode, Answer) {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: HashMap<String, String> =
            parts.uri.query().unwrap_or_default().split('&').filter_map(pair).collect();
        let sent = body.collect().await.unwrap().to_bytes();
        let sent: Value = if sent.is_empty() { Value::Null } else { serde_json::from_slice(&sent).unwrap() };
        let mut state = self.state.lock().unwrap();
        state.calls.push(format!("{} {path}", parts.method));
        if let Some(code) = state.fault.clone().and_then(|fault| fault(parts.method.as_str(), &path)) {
            return failure(code, "Injected");
        }
        if path.ends_with("/tokenreviews") {
            let asked = sent["spec"]["token"].as_str().unwrap();
            let unknown = json!({"authenticated": false, "error": "[invalid bearer token]"});
            let status = state.tokens.get(asked).cloned().unwrap_or(unknown);
            return whole(StatusCode::CREATED, &json!({"metadata": {}, "spec": sent["spec"], "status": status}));
        }
        match parts.method {
            Method::GET if query.get("watch").is_some_and(|watch| watch == "true") => {
                drop(state);
                (StatusCode::OK, self.watch(&path, &query))
            }
            Method::GET => match state.objects.get(&path) {
                Some(object) => whole(StatusCode::OK, object),
                None if is_list(&path) => {
                    let items: Vec<&Value> =
                        state.objects.iter().filter(|(at, _)| selected(&path, &query, at)).map(|(_, o)| o).collect();
                    let version = self.version.borrow().to_string();
                    whole(StatusCode::OK, &json!({"metadata": {"resourceVersion": version}, "items": items}))
                }
                None => failure(404, "NotFound"),
            },
            Method::POST => {
                let at = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&at) {
                    return failure(409, "AlreadyExists");
                }
                whole(StatusCode::CREATED, &self.store(&mut state, &at, sent))
            }
            Method::PATCH => {
                let apply = parts.headers["content-type"].to_str().unwrap().contains("apply-patch");
                let known = state.objects.get(&path).cloned();
                let Some(mut object) = known.or_else(|| apply.then(|| json!({"metadata": {}}))) else {
                    return failure(404, "NotFound");
                };
                let wanted = &sent["metadata"]["resourceVersion"];
                if wanted.is_string() && *wanted != object["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                merge(&mut object, &sent);
                whole(StatusCode::OK, &self.store(&mut state, &path, object))
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn watch(&self, path: &str, query: &HashMap<String, String>) -> Answer {
        let from: u64 = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        let start = (self.clone(), self.version.subscribe(), from, path.to_owned(), query.clone());
        let lines = unfold(start, |(api, mut changes, seen, path, query)| async move {
            loop {
                changes.borrow_and_update();
                let next = {
                    let state = api.state.lock().unwrap();
                    let mut later =
                        state.log.iter().filter(|(version, _, at, _)| *version > seen && selected(&path, &query, at));
                    later.next().cloned()
                };
                if let Some((version, kind, at, object)) = next {
                    api.state.lock().unwrap().calls.push(format!("SENT {kind} {at}"));
                    let line = format!("{}\n", json!({"type": kind, "object": object}));
                    return Some((
                        Ok(hyper::body::Frame::data(Bytes::from(line))),
                        (api, changes, version, path, query),
                    ));
                }
                changes.changed().await.ok()?;
            }
        });
        StreamBody::new(lines.boxed())
    }
}

impl tower_service::Service<Request<Body>> for Api {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move {
            let (code, body) = api.answer(request).await;
            Ok(Response::builder().status(code).body(body).unwrap())
        })
    }
}

fn pair(text: &str) -> Option<(String, String)> {
    let (key, value) = text.split_once('=')?;
    Some((key.to_owned(), value.replace("%3D", "=")))
}

/// Collections end with the plural of a kind: the third part of `/api/v1/pods`, the fifth of `/api/v1/namespaces/x/pods`.
fn is_list(path: &str) -> bool {
    let parts = path.trim_start_matches('/').split('/').count();
    parts == 3 || parts == 5
}

/// Whether a collection's path, with its selector, has the object at `at`.
fn selected(path: &str, query: &HashMap<String, String>, at: &str) -> bool {
    let (folder, name) = at.rsplit_once('/').unwrap();
    let plural = path.rsplit_once('/').unwrap().1;
    let all = is_all(path) && folder.rsplit_once('/').unwrap().1 == plural;
    let named = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
    (folder == path || all) && named.is_none_or(|wanted| wanted == name)
}

fn is_all(path: &str) -> bool {
    path.trim_start_matches('/').split('/').count() == 3
}

fn whole(code: StatusCode, value: &Value) -> (StatusCode, Answer) {
    let frame = hyper::body::Frame::data(Bytes::from(value.to_string()));
    (code, StreamBody::new(once(async { Ok(frame) }).boxed()))
}

fn failure(code: u16, reason: &str) -> (StatusCode, Answer) {
    let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason, "metadata": {}});
    whole(StatusCode::from_u16(code).unwrap(), &status)
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}

/// A pod as the API server has it.
pub(crate) fn pod(uid: &str, account: &str, node: &str, phase: &str) -> Value {
    json!({
        "metadata": {"uid": uid, "labels": {"app": "x"}},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": [{"name": "a"}]},
        "status": {"phase": phase, "podIP": "10.0.0.1"},
    })
}

pub(crate) fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A token that says these claims of itself.
pub(crate) fn jwt(claims: &Value) -> String {
    let standard = serde_json::to_value(ByteString(claims.to_string().into_bytes())).unwrap();
    format!("e30.{}.c2ln", standard.as_str().unwrap().replace('+', "-").replace('/', "_").replace('=', ""))
}

/// What the API server says of a token that is bound to a pod.
pub(crate) fn status(namespace: &str, account: &str, pod: (&str, &str), node: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": format!("system:serviceaccount:{namespace}:{account}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}")],
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod.0],
                "authentication.kubernetes.io/pod-uid": [pod.1],
                "authentication.kubernetes.io/node-name": [node],
            },
        },
    })
}
