//! An API server in memory, as far as installing and removing ask one. It knows no kinds; objects are JSON, by path.
//! What is deleted in the foreground goes when it is watched, as if its pods took that long.

mod rights;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use self::rights::{Ask, Rights};
use crate::cluster::PROGRAM;

/// The API server; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// `GONE` and the path, when an object went.
    story: Vec<String>,
    version: u64,
    /// What may be done; everything when there are none.
    rights: Option<Rights>,
    /// What was asked for without the right to it.
    refused: Vec<String>,
}

type Answer = (StatusCode, String);

impl Fake {
    pub(crate) fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    /// Puts an object at a path such as `/api/v1/namespaces/shop/pods/web`, as made by this program.
    pub(crate) fn put(&self, path: &str, labels: &[(&str, &str)], rest: Value) {
        let mut object = if rest.is_null() { json!({}) } else { rest };
        object["metadata"]["labels"] = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        self.state.lock().unwrap().store(path, object);
    }

    /// Puts an object as made by another program.
    pub(crate) fn put_by(&self, path: &str, manager: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        state.store(path, object);
        let made = state.objects.get_mut(path).unwrap();
        made["metadata"]["managedFields"] = json!([{"manager": manager, "operation": "Update"}]);
    }

    /// The paths of what there is.
    pub(crate) fn left(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// From now on who asks is a service account of `culvert-system`, with the rights that these objects give it.
    pub(crate) fn limit(&self, objects: &[Value], account: &str) {
        self.state.lock().unwrap().rights = Some(Rights::of(objects, account));
    }

    /// What was asked for without the right to it.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.state.lock().unwrap().refused.clone()
    }

    /// What went, in order.
    pub(crate) fn story(&self) -> Vec<String> {
        self.state.lock().unwrap().story.clone()
    }

    /// `merges`: what is sent is merged into what there is.
    fn answer(&self, method: &Method, uri: &http::Uri, merges: bool, sent: &[u8]) -> Answer {
        let path = uri.path();
        let query = uri.query().unwrap_or_default().replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let query: HashMap<&str, &str> = query.split('&').filter_map(|q| q.split_once('=')).collect();
        let mut state = self.state.lock().unwrap();
        if let Some(answer) = state.refuse(&Ask::of(method, path, &query)) {
            return answer;
        }
        match *method {
            Method::DELETE => state.delete(path),
            Method::PATCH if merges => state.merge(path, &serde_json::from_slice(sent).unwrap()),
            Method::PATCH => state.apply(path, serde_json::from_slice(sent).unwrap(), query.contains_key("dryRun")),
            _ if query.contains_key("watch") => state.watch(path, &query),
            _ if is_list(path) => {
                let found = state.selected(path, &query);
                let items: Vec<&Value> = found.iter().map(|at| &state.objects[at]).collect();
                (StatusCode::OK, json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string())
            }
            _ => state.objects.get(path).map_or_else(none, |object| (StatusCode::OK, object.to_string())),
        }
    }
}

fn none() -> Answer {
    let status = json!({"code": 404, "status": "Failure", "reason": "NotFound", "message": ""});
    (StatusCode::NOT_FOUND, status.to_string())
}

/// Whether a path is that of a collection: below the version, a plural or a namespace and a plural.
fn is_list(path: &str) -> bool {
    let parts = path.trim_start_matches('/').split('/').count();
    path.starts_with("/api") && (parts - if path.starts_with("/api/") { 2 } else { 3 }) % 2 == 1
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return *into = patch.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(into) = into.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.remove(key)),
            value => merge(into.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

impl State {
    fn refuse(&mut self, ask: &Ask) -> Option<Answer> {
        if self.rights.as_ref()?.allow(ask) {
            return None;
        }
        self.refused.push(ask.to_string());
        let status = json!({"code": 403, "status": "Failure", "reason": "Forbidden", "message": ask.to_string()});
        Some((StatusCode::FORBIDDEN, status.to_string()))
    }

    fn store(&mut self, path: &str, mut object: Value) -> &Value {
        let parts: Vec<&str> = path.split('/').collect();
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["name"] = json!(parts[parts.len() - 1]);
        meta["uid"] = json!(path);
        meta["resourceVersion"] = json!(self.version.to_string());
        meta["managedFields"] = json!([{"manager": PROGRAM, "operation": "Apply"}]);
        if let Some(at) = parts.iter().position(|p| *p == "namespaces").filter(|at| at + 2 < parts.len()) {
            meta["namespace"] = json!(parts[at + 1]);
        }
        self.objects.insert(path.to_owned(), object);
        &self.objects[path]
    }

    fn delete(&mut self, path: &str) -> Answer {
        let Some(object) = self.objects.get_mut(path) else { return none() };
        if path.ends_with("/daemonsets/culvert-node") || path.contains("/deployments/culvert-") {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        } else {
            self.objects.remove(path);
            self.story.push(format!("GONE {path}"));
        }
        (StatusCode::OK, json!({"kind": "Status", "status": "Success", "metadata": {}}).to_string())
    }

    /// One applier: what it sends is what there is.
    fn apply(&mut self, path: &str, sent: Value, dry_run: bool) -> Answer {
        let before = self.objects.get(path).cloned();
        let bare = |object: &Value| {
            let mut object = object.clone();
            for key in ["uid", "resourceVersion", "managedFields"] {
                object["metadata"].as_object_mut().unwrap().remove(key);
            }
            object
        };
        if let Some(before) = before.filter(|before| bare(before) == bare(&sent)) {
            return (StatusCode::OK, before.to_string());
        }
        (StatusCode::OK, if dry_run { sent.to_string() } else { self.store(path, sent).to_string() })
    }

    /// A JSON merge patch (RFC 7396).
    fn merge(&mut self, path: &str, patch: &Value) -> Answer {
        let Some(object) = self.objects.get(path) else { return none() };
        let mut object = object.clone();
        merge(&mut object, patch);
        (StatusCode::OK, self.store(path, object).to_string())
    }

    fn watch(&mut self, path: &str, query: &HashMap<&str, &str>) -> Answer {
        let mut lines = String::new();
        for at in self.selected(path, query) {
            if self.objects[&at]["metadata"]["deletionTimestamp"].is_string() {
                let object = self.objects.remove(&at).unwrap();
                lines.push_str(&format!("{}\n", json!({"type": "DELETED", "object": object})));
                self.story.push(format!("GONE {at}"));
            }
        }
        (StatusCode::OK, lines)
    }

    /// The paths of what a list or a watch selects.
    fn selected(&self, path: &str, query: &HashMap<&str, &str>) -> Vec<String> {
        let (base, plural) = path.rsplit_once('/').unwrap();
        let fits = |(at, object): &(&String, &Value)| {
            let (collection, name) = at.rsplit_once('/').unwrap();
            let elsewhere = !path.contains("/namespaces/")
                && collection.starts_with(&format!("{base}/namespaces/"))
                && collection.ends_with(&format!("/{plural}"));
            let field = query.get("fieldSelector").and_then(|f| f.strip_prefix("metadata.name="));
            let label = |one: &str| match one.split_once('=') {
                Some((key, value)) => object["metadata"]["labels"][key] == value,
                None => object["metadata"]["labels"][one].is_string(),
            };
            (collection == path || elsewhere)
                && field.is_none_or(|n| n == name)
                && query.get("labelSelector").is_none_or(|selector| selector.split(',').all(label))
        };
        self.objects.iter().filter(fits).map(|(at, _)| at.clone()).collect()
    }
}

impl tower_service::Service<Request<Body>> for Fake {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        // What is sent is in memory already.
        let sent = futures_util::FutureExt::now_or_never(body.collect()).unwrap().unwrap().to_bytes();
        let merges = parts.headers.get("content-type").is_some_and(|t| t == "application/merge-patch+json");
        let (status, body) = self.answer(&parts.method, &parts.uri, merges, &sent);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        ready(Ok(response))
    }
}
