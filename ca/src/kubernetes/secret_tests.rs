use std::time::{Duration, SystemTime};

use identity::SystemClock;
use serde_json::{Value, json};

use super::super::api::Api as Server;
use super::*;

pub(in super::super) const PATH: &str = "/api/v1/namespaces/culvert-system/secrets/culvert-ca-key";

pub(in super::super) fn place(server: &Server, make: bool) -> Place {
    timed(server, make, Arc::new(SystemClock))
}

pub(in super::super) fn timed(server: &Server, make: bool, clock: Arc<dyn Clock>) -> Place {
    let hour = Duration::from_secs(3600);
    let ttl = Ttl { default: hour * 24, max: hour * 48, clamp: false };
    let source = SecretSource { make, ..SecretSource::default() };
    Place::new(server.client(), source, "cluster.local".to_owned(), ttl, clock)
}

pub(in super::super) async fn open(server: &Server) -> Arc<SecretSigner> {
    Arc::new(place(server, true).open().await.map_err(|(_, error)| error).unwrap())
}

fn end(hours: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(hours * 3600)
}

fn horizon(server: &Server) -> Option<String> {
    let secret = server.get(PATH).unwrap();
    secret["metadata"]["annotations"][content::HORIZON].as_str().map(str::to_owned)
}

#[tokio::test]
async fn replicas_that_start_at_once_have_one_root() {
    let server = Server::new();
    let all = futures_util::future::join_all((0..4).map(|_| open(&server))).await;
    let roots: std::collections::HashSet<_> = all.iter().map(|signer| signer.now().roots_pem().to_owned()).collect();
    assert_eq!(roots.len(), 1);
    let made = server.get(PATH).unwrap();
    assert_eq!(made["metadata"]["labels"][content::MANAGED_BY], content::US);
    // A later start reads it.
    assert_eq!(open(&server).await.now().roots_pem(), roots.into_iter().next().unwrap());
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_told_with_its_name_and_not_made_over() {
    let server = Server::new();
    let error = |make| {
        let server = server.clone();
        async move { place(&server, make).open().await.err().unwrap().1.to_string() }
    };
    let absent = error(false).await;
    assert!(absent.contains("culvert-system/culvert-ca-key") && absent.contains("make"), "{absent}");
    server.put(PATH, json!({"metadata": {}, "data": {"ca-cert.pem": "eA=="}}));
    let half = error(true).await;
    assert!(half.contains("ca-key.pem"), "{half}");
    assert_eq!(server.get(PATH).unwrap()["data"], json!({"ca-cert.pem": "eA=="}));
    server.fail(|method, _| (method == "GET").then_some(403));
    assert!(error(true).await.contains("forbidden"));
}

#[tokio::test]
async fn an_end_is_noted_before_and_not_for_every_certificate() {
    let server = Server::new();
    let signer = open(&server).await;
    let noted = |server: &Server| server.calls(&format!("PATCH {PATH}"));
    assert_eq!(horizon(&server), None);
    futures_util::future::join_all((0..8).map(|_| signer.until(end(24))))
        .await
        .into_iter()
        .for_each(|a| drop(a.unwrap()));
    assert_eq!(noted(&server), 1, "one write for all");
    let first = horizon(&server).unwrap();
    assert!(first > content::note(end(24)) && first < content::note(end(26)), "{first}");
    signer.until(end(12)).await.unwrap();
    assert_eq!(noted(&server), 1);
    signer.until(end(48)).await.unwrap();
    assert_eq!(noted(&server), 2);
    assert!(horizon(&server).unwrap() > first);
    // Another replica, with an older state, sees a conflict, reads, and finds it noted or notes it.
    server.fail(|method, _| (method == "PATCH").then_some(500));
    let refusal = signer.until(end(100)).await.err().unwrap();
    assert_eq!((refusal.name(), refusal.status().code()), ("end_not_noted", tonic::Code::Unavailable));
    assert!(signer.until(end(48)).await.is_ok(), "what is noted needs no write");
}

#[tokio::test]
async fn a_replica_with_an_old_state_cannot_sign_past_what_was_noted() {
    let server = Server::new();
    let (old, new) = (open(&server).await, open(&server).await);
    old.until(end(10)).await.unwrap();
    // The other one replaces the root, as `activate` does. Nobody tells `old`: it follows nothing here.
    let other = Server::new();
    let mut secret = {
        open(&other).await;
        other.get(PATH).unwrap()
    };
    secret["metadata"]["annotations"] = server.get(PATH).unwrap()["metadata"]["annotations"].clone();
    server.put(PATH, secret);
    drop(new);
    let before = old.until(end(10)).await.unwrap();
    let after = old.until(end(30)).await.unwrap();
    assert_ne!(before.roots_pem(), after.roots_pem(), "a later end is signed by what the Secret holds now");
}

#[tokio::test]
async fn a_changed_secret_signs_a_broken_one_does_not_and_a_deleted_one_is_put_back() {
    let server = Server::new();
    let signer = open(&server).await;
    let mut changes = signer.watch();
    let following = tokio::spawn({
        let signer = signer.clone();
        async move { match signer.follow().await {} }
    });
    let first = signer.now().roots_pem().to_owned();
    let held = server.get(PATH).unwrap();
    // Broken, then put right with another root: the first state in between is never used.
    let mut broken = held.clone();
    broken["data"]["ca-key.pem"] = json!("bm8=");
    server.put(PATH, broken);
    let other = Server::new();
    open(&other).await;
    server.put(PATH, other.get(PATH).unwrap());
    changes.changed().await.unwrap();
    let second = signer.now().roots_pem().to_owned();
    assert_ne!(first, second);
    server.delete(PATH);
    server.until("put back", |server| server.get(PATH).is_some()).await;
    let back: Value = server.get(PATH).unwrap();
    assert_eq!(back["data"], other.get(PATH).unwrap()["data"]);
    assert_eq!(signer.now().roots_pem(), second);
    following.abort();
}

#[test]
fn versions_of_one_object_grow() {
    assert!(older(Some("9"), "10"));
    assert!(!older(Some("10"), "10"));
    assert!(!older(Some("11"), "10"));
    assert!(!older(Some("opaque"), "10"));
    assert!(!older(None, "10"));
}
