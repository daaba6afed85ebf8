use std::time::Duration;

use identity::Clock;

use serde_json::json;
use tokio::task::JoinSet;

use super::super::api::Api as Server;
use super::super::secret::tests::{PATH, open, timed};
use super::*;
use crate::authority::{Authority, AuthorityFiles};
use crate::signers::Signers;
use crate::succession::Stage;
use crate::succession::tests::{Set, root};

const DAY: Duration = Duration::from_secs(86_400);
const BESIDE: &str = "/api/v1/namespaces/culvert-system/secrets/culvert-ca-key-held";

/// As cert-manager fills it.
fn give(server: &Server, files: &AuthorityFiles) {
    let bytes = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap();
    let data =
        json!({"tls.crt": bytes(&files.certificate), "tls.key": bytes(&files.key), "ca.crt": bytes(&files.roots)});
    server.put(PATH, json!({"metadata": {}, "type": "kubernetes.io/tls", "data": data}));
}

struct Replica {
    signer: Arc<SecretSigner>,
    _following: JoinSet<()>,
}

async fn replica(server: &Server, clock: &Arc<Set>) -> Replica {
    let signer = Arc::new(timed(server, true, clock.clone()).open().await.map_err(|(_, error)| error).unwrap());
    let mut following = JoinSet::new();
    let follows = signer.clone();
    following.spawn(async move { match follows.follow().await {} });
    Replica { signer, _following: following }
}

fn count(authority: &Authority) -> usize {
    authority.roots_pem().matches("BEGIN").count()
}

async fn until(replicas: [&Replica; 2], roots: usize) {
    for replica in replicas {
        let mut watch = replica.signer.watch();
        let seen = watch.wait_for(|authority| count(authority) == roots);
        tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap().unwrap();
    }
}

/// The stage is the last thing to change, and has no watch of its own.
async fn staged(replica: &Replica, wanted: impl Fn(&Stage) -> bool) {
    let mut held = replica.signer.held.subscribe();
    let seen = held.wait_for(|held| wanted(&held.stage));
    drop(tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap().unwrap());
}

fn same(authority: &Authority, files: &AuthorityFiles) -> bool {
    let now = std::time::SystemTime::now();
    let made = authority.issue_server(&["a.example".to_owned()], Duration::from_secs(60), now).unwrap();
    use rustls_pki_types::pem::PemObject;
    let der = |text: &str| rustls_pki_types::CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    let (leaf, root) = (der(&made.chain), der(&files.certificate));
    let read = |der| x509_parser::parse_x509_certificate(der).unwrap().1;
    read(&leaf).issuer() == read(&root).subject()
}

#[tokio::test]
async fn a_root_that_its_owner_replaces_is_no_outage() {
    let (server, clock) = (Server::new(), Set::new());
    let (old, new) = (root(clock.now()), root(clock.now()));
    give(&server, &old);
    let (one, two) = (replica(&server, &clock).await, replica(&server, &clock).await);
    let end = |clock: &Set| clock.now() + DAY;
    assert!(same(&one.signer.until(end(&clock)).await.unwrap(), &old));
    assert!(server.get(PATH).unwrap()["metadata"].get("annotations").is_none(), "the owner's Secret is left alone");

    give(&server, &new);
    until([&one, &two], 2).await;
    for replica in [&one, &two] {
        staged(replica, |stage| matches!(stage, Stage::Publishing(_))).await;
        assert!(same(&replica.signer.until(end(&clock)).await.unwrap(), &old), "nobody trusts the new one yet");
    }
    // Both start again while the given Secret has the new key alone.
    drop((one, two));
    let (one, two) = (replica(&server, &clock).await, replica(&server, &clock).await);
    assert!(same(&one.signer.now(), &old) && count(&one.signer.now()) == 2);
    clock.pass(DAY / 2);
    assert!(same(&one.signer.until(end(&clock)).await.unwrap(), &old));
    clock.pass(DAY);
    for replica in [&one, &two] {
        staged(replica, |stage| matches!(stage, Stage::Retiring(_))).await;
        assert!(same(&replica.signer.now(), &new) && count(&replica.signer.now()) == 2);
    }
    drop(two);
    let two = replica(&server, &clock).await;
    assert_eq!(count(&two.signer.now()), 2, "certificates of the former are in use");
    clock.pass(DAY * 2);
    until([&one, &two], 1).await;
    staged(&one, |stage| *stage == Stage::Steady).await;
}

#[tokio::test]
async fn a_replica_that_saw_nothing_of_a_replacement_cannot_sign_past_it() {
    let (server, clock) = (Server::new(), Set::new());
    let (old, new) = (root(clock.now()), root(clock.now()));
    give(&server, &old);
    // It follows nothing.
    let blind = timed(&server, true, clock.clone()).open().await.map_err(|(_, error)| error).unwrap();
    give(&server, &new);
    let seeing = replica(&server, &clock).await;
    staged(&seeing, |stage| matches!(stage, Stage::Publishing(_))).await;
    let authority = blind.until(clock.now() + DAY * 2).await.unwrap();
    assert_eq!(count(&authority), 2, "a later end brings both roots");
    server.fail(|method, path| (method == "PATCH" && path == BESIDE).then_some(403));
    let refusal = blind.until(clock.now() + DAY * 30).await.err().unwrap();
    assert_eq!(refusal.name(), "end_not_noted");
}

#[tokio::test]
async fn who_deletes_what_is_kept_has_the_former_roots_forgotten() {
    let (server, clock) = (Server::new(), Set::new());
    give(&server, &root(clock.now()));
    let one = replica(&server, &clock).await;
    let new = root(clock.now());
    give(&server, &new);
    staged(&one, |stage| matches!(stage, Stage::Publishing(_))).await;
    server.delete(BESIDE);
    staged(&one, |stage| *stage == Stage::Steady).await;
    assert!(same(&one.signer.now(), &new) && count(&one.signer.now()) == 1);
    server.until("kept again", |server| server.get(BESIDE).is_some()).await;
    server.put(BESIDE, json!({"metadata": {}, "data": {}}));
    let broken = timed(&server, true, clock.clone()).open().await.err().unwrap().1.to_string();
    assert!(broken.contains("culvert-ca-key-held") && broken.contains("delete it"), "{broken}");
}

#[tokio::test]
async fn an_owner_who_takes_over_from_us_is_followed_too() {
    let (server, clock) = (Server::new(), Set::new());
    let former = open(&server).await.now().roots_pem().to_owned();
    let one = replica(&server, &clock).await;
    one.signer.until(clock.now() + DAY).await.unwrap();
    assert!(server.get(BESIDE).is_none());
    give(&server, &root(clock.now()));
    staged(&one, |stage| matches!(stage, Stage::Publishing(_))).await;
    let authority = one.signer.now();
    assert!(authority.roots_pem().contains(former.trim()) && count(&authority) == 2);
    assert!(server.get(BESIDE).is_some());
}
