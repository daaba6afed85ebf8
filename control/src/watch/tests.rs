use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use telemetry::Metrics;
use tokio::time::timeout;

use super::*;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// An API server that answers by a script: what is asked for (path and the word `stream`, `watch` or `list`) and, in
/// order, what it says. The last answer of a place stays; a watch that has said its lines stays open.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: BTreeMap<String, Vec<(u16, String)>>,
    asked: Vec<String>,
}

impl Server {
    fn say(&self, place: &str, code: u16, body: impl ToString) -> &Self {
        self.0.lock().unwrap().answers.entry(place.to_owned()).or_default().push((code, body.to_string()));
        self
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    fn answer(&self, request: &Request<Body>) -> (u16, String, bool) {
        let query = request.uri().query().unwrap_or_default();
        let watches = query.contains("watch=true");
        let how = match () {
            () if query.contains("sendInitialEvents=true") => "stream ",
            () if watches => "watch ",
            () => "",
        };
        let place = format!("{how}{}", request.uri().path());
        let mut script = self.0.lock().unwrap();
        script.asked.push(format!("{place}?{query}"));
        let answers = script.answers.get_mut(&place).filter(|a| !a.is_empty());
        let (code, body) = match answers {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => (404, failure(404)),
        };
        (code, body, watches && code == 200)
    }
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Lines>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (code, text, open) = self.answer(&request);
        let body = Lines(Some(if open { text } else { format!("{text}END") }));
        let response = Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap();
        Box::pin(std::future::ready(Ok(response)))
    }
}

type Frame = hyper::body::Frame<bytes::Bytes>;

/// Lines of a watch, after which nothing comes, unless they end with `END`.
struct Lines(Option<String>);

impl hyper::body::Body for Lines {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Infallible>>> {
        match self.0.take() {
            Some(text) if text.ends_with("END") => {
                let text = text.trim_end_matches("END").to_owned();
                self.0 = Some("CLOSED".to_owned());
                Poll::Ready(Some(Ok(Frame::data(text.into()))))
            }
            Some(text) if text == "CLOSED" => Poll::Ready(None),
            Some(text) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
            // The watch stays open and says nothing more in this test.
            None => Poll::Pending,
        }
    }
}

fn failure(code: u16) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "as the test wants it",
           "reason": if code == 404 { "NotFound" } else { "Invalid" }})
    .to_string()
}

fn service(name: &str, version: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
           "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version},
           "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}})
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn bookmark(kind: &str, api: &str) -> String {
    line(
        "BOOKMARK",
        &json!({"apiVersion": api, "kind": kind, "metadata":
            {"resourceVersion": "10", "annotations": {"k8s.io/initial-events-end": "true"}}}),
    )
}

fn watch_of(server: &Server) -> (Watch, mpsc::Receiver<Feed>) {
    let (feed, fed) = mpsc::channel(16);
    let client = Client::new(server.clone(), "default");
    let errors = Metrics::new().counters("e", "e", &["kind"]);
    (Watch { client, feed, errors, look: Duration::from_millis(5) }, fed)
}

/// What comes, in short words.
async fn hear(fed: &mut mpsc::Receiver<Feed>) -> String {
    match timeout(SOON, fed.recv()).await.unwrap().unwrap() {
        Feed::Begin(kind) => format!("begin {kind}"),
        Feed::Finish(kind) => format!("finish {kind}"),
        Feed::Upsert(input) => format!("+{}", input.key()),
        Feed::Remove(key) => format!("-{key}"),
        other @ (Feed::Keys { .. } | Feed::Acknowledged(_)) => panic!("no watch says {other:?}"),
        Feed::Unreadable { key, uid, why } => format!("unreadable {key} {uid}: {why}"),
    }
}

async fn hear_all(fed: &mut mpsc::Receiver<Feed>, wanted: &[&str]) {
    for wanted in wanted {
        assert_eq!(hear(fed).await, *wanted);
    }
}

#[tokio::test]
async fn a_streamed_list_comes_whole_and_then_what_changes() {
    let server = Server::default();
    let text = [
        line("ADDED", &service("a", "5")),
        bookmark("Service", "v1"),
        line("MODIFIED", &service("a", "11")),
        line("DELETED", &service("a", "12")),
    ];
    server.say("stream /api/v1/services", 200, text.concat());
    let (watch, mut fed) = watch_of(&server);
    let task = tokio::spawn(watch.follow::<v1::Service>());
    let a = "Service shop/a";
    hear_all(&mut fed, &["begin Service", &format!("+{a}"), "finish Service", &format!("+{a}"), &format!("-{a}")])
        .await;
    assert!(server.asked()[0].contains("timeoutSeconds=60"), "{:?}", server.asked());
    drop(fed);
    task.abort();
}

#[tokio::test]
async fn where_lists_are_not_streamed_they_come_in_pages() {
    let server = Server::default();
    let page = |next: &str, name: &str| {
        let metadata = json!({"resourceVersion": "10", "continue": next});
        json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata, "items": [service(name, "5")]})
    };
    server
        .say("stream /api/v1/services", 422, failure(422))
        .say("/api/v1/services", 200, page("more", "a"))
        .say("/api/v1/services", 200, page("", "b"))
        .say("watch /api/v1/services", 200, line("ADDED", &service("c", "11")));
    let (watch, mut fed) = watch_of(&server);
    let task = tokio::spawn(watch.follow::<v1::Service>());
    let wanted = ["begin Service", "+Service shop/a", "+Service shop/b", "finish Service", "+Service shop/c"];
    hear_all(&mut fed, &wanted).await;
    let asked = server.asked();
    assert!(asked.iter().any(|a| a.contains("limit=500") && a.contains("continue=more")), "{asked:?}");
    task.abort();
}

#[tokio::test]
async fn a_streamed_list_that_breaks_off_because_etcd_is_old_is_done_in_pages() {
    let server = Server::default();
    let old = json!({"kind": "Status", "apiVersion": "v1", "code": 500, "reason": "InternalError", "message": "etcd"});
    let list = json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "10"},
        "items": [service("a", "5")]});
    server.say("stream /api/v1/services", 200, line("ERROR", &old)).say("/api/v1/services", 200, list).say(
        "watch /api/v1/services",
        200,
        line("ADDED", &service("b", "11")),
    );
    let (watch, mut fed) = watch_of(&server);
    let task = tokio::spawn(watch.follow::<v1::Service>());
    let begun = ["begin Service", "begin Service", "+Service shop/a", "finish Service", "+Service shop/b"];
    hear_all(&mut fed, &begun).await;
    task.abort();
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_listed_anew() {
    let server = Server::default();
    let gone = line(
        "ERROR",
        &json!({"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old"}),
    );
    let first = [line("ADDED", &service("a", "5")), line("ADDED", &service("b", "6")), bookmark("Service", "v1"), gone];
    let second = [line("ADDED", &service("b", "6")), bookmark("Service", "v1")];
    server.say("stream /api/v1/services", 200, first.concat()).say("stream /api/v1/services", 200, second.concat());
    let (watch, mut fed) = watch_of(&server);
    let task = tokio::spawn(watch.follow::<v1::Service>());
    hear_all(&mut fed, &["begin Service", "+Service shop/a", "+Service shop/b", "finish Service"]).await;
    // Between begin and finish without `a`: whoever takes it knows that `a` has vanished.
    hear_all(&mut fed, &["begin Service", "+Service shop/b", "finish Service"]).await;
    task.abort();
}

#[tokio::test]
async fn a_kind_that_is_not_defined_is_empty_until_it_is_defined_and_again_when_it_goes() {
    let server = Server::default();
    let discovery = "/apis/networking.istio.io/v1";
    let place = "stream /apis/networking.istio.io/v1/serviceentries";
    let list = |kinds: &[&str]| {
        let resources: Vec<_> = kinds
            .iter()
            .map(|k| json!({"name": k.to_lowercase(), "kind": k, "singularName": "", "namespaced": true, "verbs": []}))
            .collect();
        json!({"kind": "APIResourceList", "groupVersion": "networking.istio.io/v1", "resources": resources})
    };
    let entry = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "db", "namespace": "shop", "uid": "u-db", "resourceVersion": "5"},
        "spec": {"hosts": ["db.example"], "ports": [{"number": 5432, "name": "tcp", "protocol": "TCP"}]}});
    let mut bad = entry.clone();
    bad["metadata"]["name"] = json!("bad");
    bad["spec"]["hosts"] = json!("db.example");
    let lines = [line("ADDED", &entry), line("ADDED", &bad), bookmark("ServiceEntry", "networking.istio.io/v1")];
    server
        .say(discovery, 404, failure(404))
        .say(discovery, 200, list(&["WorkloadEntry"]))
        .say(discovery, 200, list(&["ServiceEntry"]))
        // Gone: the watch says so first, discovery confirms it.
        .say(discovery, 404, failure(404))
        .say(place, 200, format!("{}END", lines.concat()))
        .say("watch /apis/networking.istio.io/v1/serviceentries", 404, failure(404));
    let (watch, mut fed) = watch_of(&server);
    let task = tokio::spawn(watch.follow::<DeserializeGuard<api::ServiceEntry>>());
    let empty = ["begin ServiceEntry", "finish ServiceEntry"];
    hear_all(&mut fed, &empty).await;
    hear_all(&mut fed, &["begin ServiceEntry", "+ServiceEntry shop/db"]).await;
    let unreadable = hear(&mut fed).await;
    assert!(unreadable.starts_with("unreadable ServiceEntry shop/bad u-db: "), "{unreadable}");
    hear_all(&mut fed, &["finish ServiceEntry"]).await;
    hear_all(&mut fed, &empty).await;
    task.abort();
}

#[test]
fn an_error_is_waited_out_or_asked_about() {
    let status = |code: u16| serde_json::from_str::<kube::core::Status>(&failure(code)).unwrap().boxed();
    let api = |code| kube::Error::Api(status(code));
    for (case, error, custom, streams, wanted) in [
        ("no right", Error::WatchStartFailed(api(403)), true, true, Next::GoOn),
        ("gone", Error::WatchStartFailed(api(404)), true, true, Next::Look),
        ("gone while listing", Error::InitialListFailed(api(404)), true, false, Next::Look),
        ("a native kind", Error::InitialListFailed(api(404)), false, false, Next::GoOn),
        ("no streamed lists", Error::WatchStartFailed(api(422)), false, true, Next::Pages),
        ("refused in pages", Error::WatchStartFailed(api(422)), false, false, Next::GoOn),
        ("etcd cannot", Error::WatchError(status(500)), false, true, Next::Pages),
        ("trouble later", Error::WatchError(status(500)), false, false, Next::GoOn),
        ("too old while listing", Error::WatchError(status(410)), false, true, Next::GoOn),
        ("no version", Error::NoResourceVersion, true, true, Next::GoOn),
    ] {
        assert_eq!(next(&error, custom, streams), wanted, "{case}");
    }
}
