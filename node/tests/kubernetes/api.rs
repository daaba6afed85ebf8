//! A scripted API server: lists, watches, the merge patch of a pod's status, and events, as far as the agent uses them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::watch;

type Body = UnsyncBoxBody<Bytes, Infallible>;

#[derive(Default)]
struct State {
    version: u64,
    /// By resource (`pods`, `namespaces`), then `namespace/name` or name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// All changes: version, resource, line of the watch.
    log: Vec<(u64, &'static str, String)>,
    /// Patches of pods' redirection annotation, in order.
    patches: Vec<(String, Option<String>)>,
    events: Vec<Value>,
}

/// The server. Clones share it.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    bell: Arc<watch::Sender<u64>>,
}

impl Api {
    /// Serves on a thread of its own, until the process ends.
    pub fn start(listener: TcpListener) -> Self {
        let api = Self { state: Arc::default(), bell: Arc::new(watch::Sender::new(0)) };
        let serving = api.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serving.serve(listener));
        });
        api
    }

    pub fn put(&self, resource: &'static str, key: &str, object: Value) {
        self.change(resource, key, Some(object));
    }

    pub fn delete(&self, resource: &'static str, key: &str) {
        self.change(resource, key, None);
    }

    pub fn patches(&self) -> Vec<(String, Option<String>)> {
        self.state.lock().unwrap().patches.clone()
    }

    pub fn event_reasons(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.events.iter().map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// A pod's annotation now.
    pub fn redirection(&self, key: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let found = &state.objects["pods"][key]["metadata"]["annotations"]["ambient.istio.io/redirection"];
        found.as_str().map(ToOwned::to_owned)
    }

    pub fn modify(&self, resource: &'static str, key: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.state.lock().unwrap().objects[resource][key].clone();
        change(&mut object);
        self.put(resource, key, object);
    }

    fn change(&self, resource: &'static str, key: &str, object: Option<Value>) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let kept = state.objects.entry(resource).or_default();
        let before = kept.remove(key);
        let (kind, mut shown) = match (&before, object) {
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old.clone()),
            (None, None) => return,
        };
        shown["metadata"]["resourceVersion"] = json!(version.to_string());
        if kind != "DELETED" {
            kept.insert(key.to_owned(), shown.clone());
        }
        let line = format!("{}\n", json!({ "type": kind, "object": shown }));
        state.log.push((version, resource, line));
        drop(state);
        self.bell.send_replace(version);
    }

    async fn serve(self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let api = self.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                // A client that leaves ends its connection with an error.
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (&method, &parts[..]) {
            (&Method::GET, ["api", "v1", "pods"]) => self.list_or_watch("pods", "Pod", &query),
            (&Method::GET, ["api", "v1", "namespaces"]) => {
                self.list_or_watch("namespaces", "PartialObjectMetadata", &query)
            }
            (&Method::GET, ["api", "v1", "namespaces", name]) => self.get("namespaces", name),
            (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
                self.get("pods", &format!("{namespace}/{name}"))
            }
            (&Method::GET, ["apis", "apps", "v1", "namespaces", namespace, "daemonsets", name]) => reply(
                200,
                &json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": {"name": name, "namespace": namespace, "uid": "agents"}}),
            ),
            (&Method::PATCH, ["api", "v1", "namespaces", namespace, "pods", name, "status"]) => {
                self.patch(&format!("{namespace}/{name}"), &serde_json::from_slice(&body).unwrap())
            }
            (&Method::POST, ["apis", "events.k8s.io", "v1", "namespaces", _, "events"]) => {
                let event: Value = serde_json::from_slice(&body).unwrap();
                self.state.lock().unwrap().events.push(event.clone());
                reply(201, &event)
            }
            _ => reply(404, &status(404, &format!("{method} {path} is not scripted"))),
        }
    }

    fn list_or_watch(&self, resource: &'static str, kind: &str, query: &str) -> Response<Body> {
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        if value("watch") == Some("true") {
            let from = value("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            let frames = self.changes(resource, from).map(|line| Ok(Frame::data(Bytes::from(line))));
            return Response::new(StreamBody::new(frames).boxed_unsync());
        }
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state.objects.get(resource).into_iter().flat_map(BTreeMap::values).collect();
        let version = state.version.to_string();
        let api = if kind == "Pod" { "v1" } else { "meta.k8s.io/v1" };
        reply(
            200,
            &json!({"kind": format!("{kind}List"), "apiVersion": api, "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    /// Lines of a watch, the old ones first.
    fn changes(&self, resource: &'static str, from: u64) -> BoxStream<'static, String> {
        let (api, bell) = (self.clone(), self.bell.subscribe());
        let start = (api, bell, from);
        futures_util::stream::unfold(start, move |(api, mut bell, seen)| async move {
            loop {
                bell.borrow_and_update();
                let next = {
                    let state = api.state.lock().unwrap();
                    state.log.iter().find(|(version, of, _)| *version > seen && *of == resource).cloned()
                };
                if let Some((version, _, line)) = next {
                    return Some((line, (api, bell, version)));
                }
                bell.changed().await.ok()?;
            }
        })
        .boxed()
    }

    fn get(&self, resource: &'static str, key: &str) -> Response<Body> {
        let state = self.state.lock().unwrap();
        match state.objects.get(resource).and_then(|o| o.get(key)) {
            Some(object) => reply(200, object),
            None => reply(404, &status(404, "not found")),
        }
    }

    fn patch(&self, key: &str, patch: &Value) -> Response<Body> {
        let object = self.state.lock().unwrap().objects["pods"].get(key).cloned();
        let Some(mut object) = object else { return reply(404, &status(404, "not found")) };
        if patch["metadata"]["uid"] != object["metadata"]["uid"] {
            return reply(409, &status(409, "another uid"));
        }
        for (name, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            let annotations = &mut object["metadata"]["annotations"];
            if !annotations.is_object() {
                *annotations = json!({});
            }
            match value {
                Value::Null => drop(annotations.as_object_mut().unwrap().remove(name)),
                value => annotations[name] = value.clone(),
            }
            self.state.lock().unwrap().patches.push((key.to_owned(), value.as_str().map(ToOwned::to_owned)));
        }
        self.put("pods", key, object.clone());
        reply(200, &object)
    }
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Test", "message": message})
}

fn reply(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}
