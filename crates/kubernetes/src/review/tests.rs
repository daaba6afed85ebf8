use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::ByteString;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::*;

/// An API server that answers token reviews by a function, and keeps what it was asked.
#[derive(Clone)]
struct Server {
    answer: Arc<dyn Fn() -> (StatusCode, Value) + Send + Sync>,
    seen: Arc<Mutex<Vec<Value>>>,
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
            assert_eq!(request.uri().path(), "/apis/authentication.k8s.io/v1/tokenreviews");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            server.seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            let (code, answer) = (server.answer)();
            Ok(Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap())
        })
    }
}

fn token(payload: &Value) -> String {
    let standard = serde_json::to_value(ByteString(payload.to_string().into_bytes())).unwrap();
    format!("e30.{}.c2ln", standard.as_str().unwrap().replace('+', "-").replace('/', "_").replace('=', ""))
}

fn good_token() -> String {
    token(&json!({"aud": ["istio-ca"], "exp": 4_000_000_000_u64}))
}

fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:culvert-system:ztunnel",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:culvert-system", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["ztunnel-x"],
                "authentication.kubernetes.io/pod-uid": ["uid-1"],
                "authentication.kubernetes.io/node-name": ["node-a"],
                "authentication.kubernetes.io/node-uid": ["uid-n"],
            },
        },
    })
}

fn review(status: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status})
}

async fn ask(code: StatusCode, answer: Value, token: &str) -> (Result<Reviewed, ReviewError>, Vec<Value>) {
    let server = Server { answer: Arc::new(move || (code, answer.clone())), seen: Arc::default() };
    let seen = server.seen.clone();
    let reviewer = TokenReviewer::new(Client::new(server, "default"), AUDIENCE);
    let answer = reviewer.review(token).await;
    let seen = seen.lock().unwrap().clone();
    (answer, seen)
}

#[tokio::test]
async fn a_good_token_is_asked_for_with_the_audience_and_tells_who_where() {
    let (answer, seen) = ask(StatusCode::CREATED, review(&good()), &good_token()).await;
    let reviewed = answer.unwrap();
    let bound = |name: &str, uid: &str| Some(Bound { name: name.to_owned(), uid: uid.to_owned() });
    assert_eq!((reviewed.namespace.as_str(), reviewed.service_account.as_str()), ("culvert-system", "ztunnel"));
    assert_eq!((reviewed.pod, reviewed.node), (bound("ztunnel-x", "uid-1"), bound("node-a", "uid-n")));
    assert_eq!(reviewed.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)));
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["spec"]["audiences"], json!(["istio-ca"]));
    assert_eq!(seen[0]["spec"]["token"], good_token());
}

/// The good answer with one thing changed.
fn changed(at: &str, value: Value) -> Value {
    let mut status = good();
    *status.pointer_mut(at).unwrap() = value;
    status
}

#[tokio::test]
async fn answers_that_do_not_say_yes_are_denials_of_their_own() {
    let user = |name: &str| changed("/user/username", json!(name));
    let refused = json!({"authenticated": false, "error": "[invalid bearer token]"});
    let expired = json!({"error": "[invalid bearer token, service account token has expired]"});
    let for_others = token(&json!({"aud": ["https://kubernetes.default.svc"]}));
    let cases: Vec<(&str, Value, String)> = vec![
        ("NotAuthenticated", refused.clone(), good_token()),
        ("NotAuthenticated", json!({}), good_token()),
        ("Expired", expired, good_token()),
        ("Audience", refused, for_others.clone()),
        ("Audience", changed("/audiences", json!([])), good_token()),
        ("Audience", changed("/audiences", json!(["https://kubernetes.default.svc"])), for_others),
        ("NotServiceAccount", user("admin"), good_token()),
        ("NotServiceAccount", user("system:node:node-a"), good_token()),
        ("NotServiceAccount", user("system:serviceaccount:shop"), good_token()),
        ("NotServiceAccount", user("system:serviceaccount:shop:"), good_token()),
        ("NotServiceAccount", user("system:serviceaccount::web"), good_token()),
        ("NotServiceAccount", user("system:serviceaccount:shop:web:more"), good_token()),
        ("NotServiceAccount", user("xsystem:serviceaccount:shop:web"), good_token()),
        ("NotInGroup", changed("/user/groups", json!(["system:serviceaccounts:shop"])), good_token()),
    ];
    for (reason, status, token) in cases {
        match ask(StatusCode::CREATED, review(&status), &token).await.0 {
            Err(ReviewError::Denied(denied)) => {
                assert!(format!("{denied:?}").starts_with(reason), "{reason}: {denied}")
            }
            other => panic!("{reason}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_token_is_bound_to_a_pod_only_when_name_and_uid_are_told_once() {
    for (at, value) in [
        ("/user/extra/authentication.kubernetes.io~1pod-uid", json!([])),
        ("/user/extra/authentication.kubernetes.io~1pod-uid", json!([""])),
        ("/user/extra/authentication.kubernetes.io~1pod-name", json!(["a", "b"])),
    ] {
        let reviewed = ask(StatusCode::CREATED, review(&changed(at, value)), &good_token()).await.0.unwrap();
        assert_eq!(reviewed.pod, None, "{at}");
    }
}

#[tokio::test]
async fn what_is_no_token_or_has_ended_is_not_asked_for() {
    let ended = token(&json!({"aud": ["istio-ca"], "exp": 1000}));
    for (text, reason) in [("opaque", "Malformed"), (ended.as_str(), "Expired")] {
        let (answer, seen) = ask(StatusCode::CREATED, review(&good()), text).await;
        assert!(format!("{:?}", answer.unwrap_err()).contains(reason), "{text}");
        assert!(seen.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn an_api_server_that_cannot_say_is_no_denial() {
    let status = |code: u16, reason: &str| json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "m"});
    for (code, reason) in [(403, "Forbidden"), (401, "Unauthorized"), (500, "InternalError"), (422, "Invalid")] {
        let (answer, _) = ask(StatusCode::from_u16(code).unwrap(), status(code, reason), &good_token()).await;
        assert!(matches!(answer, Err(ReviewError::Unavailable(_))), "{code}: {answer:?}");
    }
    let (answer, _) = ask(StatusCode::OK, json!("nonsense"), &good_token()).await;
    assert!(matches!(answer, Err(ReviewError::Unavailable(_))), "{answer:?}");
}

/// Answers when it is told to, and counts.
#[derive(Default)]
struct Slow {
    asked: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    begun: Notify,
    go: Notify,
    unavailable: bool,
}

impl Reviewer for Slow {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.most.fetch_max(self.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            self.begun.notify_one();
            self.go.notified().await;
            self.open.fetch_sub(1, Ordering::SeqCst);
            match (self.unavailable, token.starts_with("bad")) {
                (true, _) => Err(ReviewError::Unavailable("away".to_owned())),
                (false, true) => Err(Denied::Malformed("bad").into()),
                (false, false) => Ok(Reviewed {
                    namespace: token.to_owned(),
                    service_account: "s".to_owned(),
                    pod: None,
                    node: None,
                    expires: None,
                }),
            }
        })
    }
}

fn limits(at_once: usize) -> Limits {
    Limits { at_once, patience: Duration::from_secs(30) }
}

#[tokio::test]
async fn the_same_token_is_asked_for_once_by_all_and_remembered() {
    let slow = Arc::new(Slow::default());
    let cached = Cached::new(slow.clone(), limits(4));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let cached = cached.clone();
            tokio::spawn(async move { cached.review("good").await })
        })
        .collect();
    slow.begun.notified().await;
    slow.go.notify_one();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().namespace, "good");
    }
    assert_eq!(cached.review("good").await.unwrap().namespace, "good");
    assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
    slow.go.notify_one();
    assert!(matches!(cached.review("bad").await, Err(ReviewError::Denied(_))));
    assert!(matches!(cached.review("bad").await, Err(ReviewError::Denied(_))));
    assert_eq!(cached.counts(), Counts { remembered: 9, accepted: 1, refused: 1, unavailable: 0 });
}

#[tokio::test]
async fn what_could_not_be_told_is_not_remembered() {
    let slow = Arc::new(Slow { unavailable: true, ..Slow::default() });
    let cached = Cached::new(slow.clone(), limits(4));
    for _ in 0..2 {
        slow.go.notify_one();
        assert!(matches!(cached.review("good").await, Err(ReviewError::Unavailable(_))));
    }
    assert_eq!(slow.asked.load(Ordering::SeqCst), 2);
    assert_eq!(cached.remembered(), 0);
}

#[tokio::test]
async fn few_are_asked_for_at_once_and_who_gets_no_turn_is_told_so() {
    let slow = Arc::new(Slow::default());
    let cached = Cached::new(slow.clone(), Limits { at_once: 2, patience: Duration::from_millis(20) });
    let tasks: Vec<_> = (0..5)
        .map(|i| {
            let cached = cached.clone();
            tokio::spawn(async move { cached.review(&format!("good-{i}")).await })
        })
        .collect();
    let mut unavailable = 0;
    for task in tasks.into_iter().rev() {
        if unavailable == 3 {
            slow.go.notify_waiters();
        }
        unavailable += usize::from(matches!(task.await.unwrap(), Err(ReviewError::Unavailable(_))));
    }
    assert_eq!(unavailable, 3);
    assert_eq!(slow.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_goes_away_leaves_nothing_behind_and_takes_nothing_from_others() {
    let slow = Arc::new(Slow::default());
    let cached = Cached::new(slow.clone(), limits(4));
    let ask = |token: &'static str| {
        let cached = cached.clone();
        tokio::spawn(async move { cached.review(token).await })
    };
    let (first, second) = (ask("good"), ask("good"));
    slow.begun.notified().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    slow.go.notify_one();
    assert!(second.await.unwrap().is_ok());
    let alone = ask("other");
    slow.begun.notified().await;
    alone.abort();
    assert!(alone.await.unwrap_err().is_cancelled());
    assert_eq!(cached.open(), 0);
}
