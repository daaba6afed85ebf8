//! A scripted API server: streamed lists, watches and token reviews, in plain HTTP on loopback, for one control plane.
//!
//! It answers what `control` asks of a current API server (watch with `sendInitialEvents`, then bookmarks) and nothing
//! else: custom kinds are not defined here, and nothing can be written.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::objects::{PROXY, SYSTEM};
use super::token;

/// Bytes that are sent at once.
const CHUNK: usize = 64 << 10;
/// A watch that names no end ends after this.
const WATCH: u64 = 300;

type Body = BoxBody<Bytes, Infallible>;

/// Paths that are served, with what their objects are.
const KINDS: &[(&str, &str, &str)] = &[
    ("/api/v1/namespaces", "v1", "Namespace"),
    ("/api/v1/nodes", "v1", "Node"),
    ("/api/v1/pods", "v1", "Pod"),
    ("/api/v1/services", "v1", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ("/apis/networking.k8s.io/v1/networkpolicies", "networking.k8s.io/v1", "NetworkPolicy"),
];

/// What is and what happened.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
    /// The resourceVersion of the last change.
    version: watch::Sender<u64>,
}

/// Ends the serving when it is dropped.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<Infallible>,
}

/// One kind: objects by name, and changes since the start.
#[derive(Default)]
struct Kind {
    objects: BTreeMap<String, Bytes>,
    log: Vec<(u64, Bytes)>,
}

impl Api {
    pub(crate) fn new() -> Self {
        let kinds = KINDS.iter().map(|(_, _, kind)| (*kind, Kind::default())).collect();
        Self(Arc::new(Inner { kinds: Mutex::new(kinds), version: watch::Sender::new(1) }))
    }

    fn kinds(&self) -> MutexGuard<'_, BTreeMap<&'static str, Kind>> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts objects in place, as if they had always been there. Before anybody watches.
    pub(crate) fn place(&self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            self.put(object, false);
        }
    }

    /// Makes or changes an object, and says when watchers could know.
    pub(crate) fn apply(&self, object: Value) -> Instant {
        self.put(object, true);
        Instant::now()
    }

    fn put(&self, mut object: Value, told: bool) {
        let mut kinds = self.kinds();
        let version = *self.0.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if let Some(kind) = object["kind"].as_str().and_then(|kind| kinds.get_mut(kind)) {
            let text = Bytes::from(object.to_string());
            let before = kind.objects.insert(name(&object), text.clone());
            if told {
                let how = if before.is_some() { "MODIFIED" } else { "ADDED" };
                kind.log.push((version, line(how, &text)));
            }
        }
        // Under the lock, so that nobody sees the version without the change.
        self.0.version.send_replace(version);
    }

    /// Removes an object.
    pub(crate) fn remove(&self, mut object: Value) {
        let mut kinds = self.kinds();
        let version = *self.0.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        if let Some(kind) = object["kind"].as_str().and_then(|kind| kinds.get_mut(kind)) {
            kind.objects.remove(&name(&object));
            kind.log.push((version, line("DELETED", &Bytes::from(object.to_string()))));
        }
        self.0.version.send_replace(version);
    }

    /// Serves on loopback, on a thread of its own, until what it gives back is dropped.
    pub(crate) fn serve(&self) -> Result<Serving> {
        self.serve_on(std::net::TcpListener::bind("127.0.0.1:0").context("the scripted API server")?)
    }

    /// The same, where a listener listens.
    pub(crate) fn serve_on(&self, listener: std::net::TcpListener) -> Result<Serving> {
        listener.set_nonblocking(true)?;
        let (address, api) = (listener.local_addr()?, self.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let run = async move {
            tokio::select! {
                // An error: what it would be sent by is gone.
                _stop = stopped => {}
                Err(error) = api.accept(listener) => eprintln!("bench: the scripted API server ended: {error}"),
            }
        };
        std::thread::Builder::new().name("api".to_owned()).spawn(move || runtime.block_on(run))?;
        Ok(Serving { address, _stop: stop })
    }

    async fn accept(self, listener: std::net::TcpListener) -> Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let api = self.clone();
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request| api.clone().answer(request));
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // The caller ends connections as it likes.
                served.await.ok();
            });
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        if path == "/apis/authentication.k8s.io/v1/tokenreviews" {
            let body = request.into_body().collect().await.map(|all| all.to_bytes()).unwrap_or_default();
            return Ok(full(StatusCode::CREATED, &review(&body)));
        }
        let Some((_, version, kind)) = KINDS.iter().find(|(p, _, _)| *p == path) else {
            return Ok(full(StatusCode::NOT_FOUND, &failure(404, "NotFound")));
        };
        if option(&query, "watch") != Some("true") {
            return Ok(full(StatusCode::METHOD_NOT_ALLOWED, &failure(405, "MethodNotAllowed")));
        }
        let from = option(&query, "resourceVersion").and_then(|v| v.parse().ok());
        let first = option(&query, "sendInitialEvents") == Some("true");
        let seconds = option(&query, "timeoutSeconds").and_then(|s| s.parse().ok()).unwrap_or(WATCH);
        // Bounded, so that a reader that is slow is not read for.
        let (lines, sent) = mpsc::channel::<Bytes>(16);
        tokio::spawn(async move {
            let told = self.tell((version, kind), if first { None } else { from }, &lines);
            // At its end the stream is ended, and taken up again by the caller.
            tokio::time::timeout(Duration::from_secs(seconds), told).await.ok();
        });
        let frames = stream::unfold(sent, async |mut sent| Some((Ok(Frame::data(sent.recv().await?)), sent)));
        Ok(response(StatusCode::OK, BodyExt::boxed(StreamBody::new(frames))))
    }

    /// Everything, or what came after a version, and then what comes; until nobody listens.
    async fn tell(&self, (api, kind): (&str, &str), from: Option<u64>, lines: &mpsc::Sender<Bytes>) -> Option<()> {
        let mut versions = self.0.version.subscribe();
        let mut seen = match from {
            Some(version) => version,
            None => {
                let (objects, version) = {
                    let kinds = self.kinds();
                    let objects: Vec<Bytes> = kinds.get(kind)?.objects.values().cloned().collect();
                    (objects, *self.0.version.borrow())
                };
                for part in chunks(objects.into_iter().map(|object| line("ADDED", &object))) {
                    lines.send(part).await.ok()?;
                }
                let mark = json!({"kind": kind, "apiVersion": api, "metadata": {"resourceVersion": version.to_string(),
                    "annotations": {"k8s.io/initial-events-end": "true"}}});
                lines.send(line("BOOKMARK", &Bytes::from(mark.to_string()))).await.ok()?;
                version
            }
        };
        loop {
            let news: Vec<Bytes> = {
                let kinds = self.kinds();
                let log = &kinds.get(kind)?.log;
                let start = log.partition_point(|(version, _)| *version <= seen);
                seen = log.last().map_or(seen, |(version, _)| seen.max(*version));
                log.get(start..)?.iter().map(|(_, line)| line.clone()).collect()
            };
            for part in chunks(news.into_iter()) {
                lines.send(part).await.ok()?;
            }
            tokio::select! {
                changed = versions.changed() => changed.ok()?,
                () = lines.closed() => return None,
            }
        }
    }
}

/// Lines, as many together as make a chunk.
fn chunks(lines: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let mut lines = lines.peekable();
    std::iter::from_fn(move || {
        let mut part = lines.next()?.to_vec();
        while part.len() < CHUNK
            && let Some(next) = lines.next()
        {
            part.extend_from_slice(&next);
        }
        Some(part.into())
    })
}

fn name(object: &Value) -> String {
    let meta = &object["metadata"];
    format!("{}/{}", meta["namespace"].as_str().unwrap_or_default(), meta["name"].as_str().unwrap_or_default())
}

fn line(how: &str, object: &Bytes) -> Bytes {
    let mut text = Vec::with_capacity(object.len() + 40);
    text.extend_from_slice(b"{\"type\":\"");
    text.extend_from_slice(how.as_bytes());
    text.extend_from_slice(b"\",\"object\":");
    text.extend_from_slice(object);
    text.extend_from_slice(b"}\n");
    text.into()
}

fn option<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
           "message": "the script of bench does not serve this"})
}

/// Believes what a token says of itself: the script has made it.
fn review(body: &[u8]) -> Value {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let pod = asked["spec"]["token"].as_str().and_then(token::pod);
    let status = pod.map_or_else(
        || json!({"authenticated": false, "error": "not made by the script"}),
        |pod| {
            json!({"authenticated": true, "audiences": ["istio-ca"], "user": {
                "username": format!("system:serviceaccount:{SYSTEM}:{PROXY}"), "groups": ["system:serviceaccounts"],
                "extra": {"authentication.kubernetes.io/pod-name": [pod.name], "authentication.kubernetes.io/pod-uid": [pod.uid]}}})
        },
    );
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
}

fn full(code: StatusCode, value: &Value) -> Response<Body> {
    response(code, BodyExt::boxed(Full::new(Bytes::from(value.to_string()))))
}

fn response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "namespace": "a"}})
    }

    #[tokio::test]
    async fn a_watch_gets_everything_once_and_then_what_comes() {
        let api = Api::new();
        api.place([pod("one"), pod("two")]);
        let (to, mut from) = mpsc::channel(16);
        let teller = api.clone();
        let told = tokio::spawn(async move { teller.tell(("v1", "Pod"), None, &to).await });
        let first = String::from_utf8(from.recv().await.unwrap().to_vec()).unwrap();
        assert_eq!(first.matches("ADDED").count(), 2);
        let mark = String::from_utf8(from.recv().await.unwrap().to_vec()).unwrap();
        assert!(mark.contains("initial-events-end") && mark.contains("\"resourceVersion\":\"3\""), "{mark}");
        for (change, wanted) in [(true, "MODIFIED"), (false, "DELETED")] {
            if change {
                api.apply(pod("one"));
            } else {
                api.remove(pod("one"));
            }
            let line = String::from_utf8(from.recv().await.unwrap().to_vec()).unwrap();
            assert!(line.contains(wanted) && line.ends_with("}\n"), "{line}");
        }
        drop(from);
        assert_eq!(told.await.unwrap(), None);
    }

    #[test]
    fn only_tokens_of_the_script_pass() {
        let ask = |token: &str| review(json!({"spec": {"token": token}}).to_string().as_bytes());
        let good = ask(&token::token(3));
        assert_eq!(good["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"][0], "ztunnel-3");
        assert_eq!(ask("a.b.c")["status"]["authenticated"], false);
    }
}
