use std::sync::Arc;

use identity::Key;

use super::super::api::Api as Server;
use super::super::secret::SecretSigner;
use super::super::secret::tests::{PATH, open};
use super::*;
use crate::authority::Issued;
use crate::csr::PublicKey;
use crate::rotation::PROPAGATION;
use crate::signers::Signers;

fn rotator(server: &Server) -> Rotator {
    Rotator::new(server.client(), "culvert-system", "culvert-ca-key")
}

async fn issue(signer: &SecretSigner, now: SystemTime) -> Issued {
    let id = mesh::Identity::new("cluster.local", "shop", "web").unwrap();
    let key = PublicKey::from_csr_pem(&Key::generate().unwrap().csr_pem(&id).unwrap()).unwrap();
    let authority = signer.until(now + Duration::from_secs(24 * 3600)).await.unwrap();
    authority.issue(&key, &id, &[], 24 * 3600, now).unwrap()
}

fn count(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

/// Two replicas that follow the Secret.
async fn replicas(server: &Server) -> (Vec<Arc<SecretSigner>>, tokio::task::JoinSet<()>) {
    let mut following = tokio::task::JoinSet::new();
    let mut all = Vec::new();
    for _ in 0..2 {
        let signer = open(server).await;
        let follows = signer.clone();
        following.spawn(async move { match follows.follow().await {} });
        all.push(signer);
    }
    (all, following)
}

async fn until_roots(all: &[Arc<SecretSigner>], bundle: &[Root]) {
    let wanted = bundle.len();
    for signer in all {
        signer
            .watch()
            .wait_for(|authority| {
                let held = roots(content::ROOTS, authority.roots_pem()).unwrap();
                held.len() == wanted && held.iter().all(|root| bundle.contains(root))
            })
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_root_is_changed_step_by_step_and_no_certificate_is_orphaned() {
    let server = Server::new();
    let (all, _following) = replicas(&server).await;
    let (rotator, now) = (rotator(&server), SystemTime::now());
    let first = issue(&all[0], now).await;
    let before = rotator.status(now).await.unwrap();
    assert_eq!((before.stage, before.trusted.len()), (Stage::Steady, 1));
    assert!(before.to_string().contains("then      prepare, safe now"), "{before}");

    let early = rotator.step(Step::Activate, false, now).await.unwrap_err();
    assert!(early.to_string().contains("begin with prepare"), "{early}");
    let prepared = rotator.step(Step::Prepare, false, now).await.unwrap();
    assert_eq!((prepared.trusted.len(), &prepared.signs), (2, &before.signs));
    until_roots(&all, &prepared.trusted).await;
    let second = issue(&all[1], now).await;
    assert_eq!((count(&first.chain.roots), count(&second.chain.roots)), (1, 2));

    // The first certificate knows the old root alone, and lives for a day.
    let early = rotator.step(Step::Activate, false, now + Duration::from_secs(3 * 3600)).await.unwrap_err();
    assert!(matches!(early, RotateError::Refused(Refused::Early { .. })), "{early}");
    assert!(early.to_string().contains("wait 22h"), "{early}");
    let later = first.not_after + Duration::from_secs(2 * 3600);
    // The last one of the old root, which brings both.
    assert_eq!(count(&issue(&all[0], later).await.chain.roots), 2);
    let activated = rotator.step(Step::Activate, false, later).await.unwrap();
    assert_eq!(Some(&activated.signs), prepared.next.as_ref());
    assert_eq!(activated.trusted.len(), 2);
    let secret = server.get(PATH).unwrap();
    assert!(secret["data"].get(content::NEXT_KEY).is_none(), "the new key is in one place");
    assert!(secret["data"].get(content::FORMER).is_some(), "what is retired later is noted");
    for signer in &all {
        let new = format!("{:?}", activated.signs.serial);
        signer
            .watch()
            .wait_for(|authority| {
                format!("{:?}", roots(content::ROOTS, authority.roots_pem()).unwrap()[0].serial) == new
            })
            .await
            .unwrap();
    }

    let early = rotator.step(Step::Retire, false, later + Duration::from_secs(600)).await.unwrap_err();
    assert!(early.to_string().contains("old root are in use"), "{early}");
    let done = rotator.step(Step::Retire, false, later + Duration::from_secs(3 * 86_400)).await.unwrap();
    assert_eq!((done.stage, done.trusted.len(), &done.trusted[0]), (Stage::Steady, 1, &activated.signs));
    until_roots(&all, &done.trusted).await;
    assert!(server.get(PATH).unwrap()["metadata"]["annotations"].get(content::UNTIL).is_none());
}

#[tokio::test]
async fn a_step_and_a_note_at_the_same_time_cannot_both_pass_on_one_state() {
    let server = Server::new();
    let signer = open(&server).await;
    let (rotator, now) = (rotator(&server), SystemTime::now());
    let (report, issued) = tokio::join!(rotator.step(Step::Prepare, false, now), issue(&signer, now));
    let report = report.unwrap();
    // Whichever came first: the wait covers the certificate, or the certificate brings both roots.
    let Stage::Prepared { until, .. } = report.stage else { panic!("{report}") };
    assert!(until >= issued.not_after || count(&issued.chain.roots) == 2);
}

#[tokio::test]
async fn what_operators_say_of_proxies_ends_the_wait_but_not_that_for_what_is_published() {
    let server = Server::new();
    let signer = open(&server).await;
    let (rotator, now) = (rotator(&server), SystemTime::now());
    issue(&signer, now).await;
    rotator.step(Step::Prepare, false, now).await.unwrap();
    assert!(rotator.step(Step::Activate, true, now + Duration::from_secs(60)).await.is_err());
    assert!(rotator.step(Step::Activate, true, now + Duration::from_secs(301)).await.is_ok());
}

/// Puts a root of another cluster beside ours.
fn add_foreign(server: &Server, now: SystemTime) -> String {
    let foreign = crate::succession::tests::root(now).roots;
    let mut secret = server.get(PATH).unwrap();
    let held: ByteString = serde_json::from_value(secret["data"][content::ROOTS].clone()).unwrap();
    let held = String::from_utf8(held.0).unwrap();
    secret["data"][content::ROOTS] = serde_json::to_value(bytes(&format!("{held}\n{foreign}"))).unwrap();
    server.put(PATH, secret);
    foreign
}

#[tokio::test]
async fn roots_that_an_operator_added_outlive_a_change_of_ours() {
    let server = Server::new();
    let signer = open(&server).await;
    let (rotator, now) = (rotator(&server), SystemTime::now());
    issue(&signer, now).await;
    let foreign = roots(content::ROOTS, &add_foreign(&server, now)).unwrap().remove(0);
    let old = rotator.status(now).await.unwrap().signs;
    rotator.step(Step::Prepare, true, now).await.unwrap();
    let later = now + PROPAGATION * 2;
    let new = rotator.step(Step::Activate, true, later).await.unwrap().signs;
    let late = roots(content::ROOTS, &add_foreign(&server, now)).unwrap().remove(0);
    let noted = server.get(PATH).unwrap();
    let done = rotator.step(Step::Retire, true, later + PROPAGATION * 2).await.unwrap();
    assert_eq!(done.trusted.len(), 3, "{done}");
    for (root, stays) in [(&old, false), (&new, true), (&foreign, true), (&late, true)] {
        assert_eq!(done.trusted.contains(root), stays, "{done}");
    }
    assert!(server.get(PATH).unwrap()["data"].get(content::FORMER).is_none());

    // Activated by a version that noted no former root: who is it?
    let mut unnoted = noted.clone();
    unnoted["data"].as_object_mut().unwrap().remove(content::FORMER);
    server.put(PATH, unnoted);
    let asked = rotator.step(Step::Retire, true, later + PROPAGATION * 2).await.unwrap_err().to_string();
    assert!(
        asked.contains(&old.serial) && asked.contains(&late.serial) && asked.contains("former-cert.pem"),
        "{asked}"
    );
    assert!(!asked.contains(&new.serial), "{asked}");
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone() {
    let server = Server::new();
    open(&server).await;
    let mut secret = server.get(PATH).unwrap();
    secret["metadata"]["labels"] = json!({});
    let kept = server.put(PATH, secret);
    let (rotator, now) = (rotator(&server), SystemTime::now());
    let refused = rotator.step(Step::Prepare, false, now).await.unwrap_err();
    assert!(matches!(refused, RotateError::NotOurs(_)), "{refused}");
    assert!(rotator.status(now).await.unwrap().to_string().contains("its owner"));
    assert_eq!(server.get(PATH).unwrap(), kept);
    server.delete(PATH);
    assert!(matches!(rotator.status(now).await, Err(RotateError::Call(CallError::NotFound { .. }))));
}
