use std::sync::Mutex;

use rcgen::KeyPair;

use super::*;
use crate::issue;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

/// A clock that stands until it is set.
pub(crate) struct Set(Mutex<SystemTime>, tokio::sync::Notify);

impl Set {
    pub(crate) fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self(Mutex::new(SystemTime::now()), tokio::sync::Notify::new()))
    }

    pub(crate) fn pass(&self, length: Duration) {
        *self.0.lock().unwrap() += length;
        self.1.notify_waiters();
    }
}

impl identity::Clock for Set {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, length: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let end = self.now() + length;
        Box::pin(async move {
            loop {
                let passed = self.1.notified();
                tokio::pin!(passed);
                passed.as_mut().enable();
                if self.now() >= end {
                    return;
                }
                passed.await;
            }
        })
    }
}

/// A root that signs itself, as cert-manager gives one.
pub(crate) fn root(now: SystemTime) -> AuthorityFiles {
    let key = KeyPair::generate().unwrap();
    let pem = issue::root("cluster.local", now).self_signed(&key).unwrap().pem();
    AuthorityFiles {
        roots: pem.clone(),
        chain: String::new(),
        certificate: pem,
        key: Zeroizing::new(key.serialize_pem()),
    }
}

fn trusts(kept: &Kept, files: &AuthorityFiles) -> bool {
    let trusted = all(&kept.files().roots);
    all(&files.roots).iter().all(|root| trusted.contains(root))
}

fn signs(kept: &Kept, files: &AuthorityFiles) -> bool {
    kept.files().certificate == files.certificate && kept.files().key == files.key
}

#[test]
fn another_root_is_published_then_signs_then_is_alone() {
    let now = SystemTime::now();
    let (old, new) = (root(now), root(now));
    let steady = Kept::first(&old, now + DAY);
    let Plan { kept, stage, due } = steady.follow(&old, now);
    assert!(kept == steady && stage == Stage::Steady && due.is_none());

    let published = kept.follow(&new, now);
    assert!(matches!(published.stage, Stage::Publishing(at) if at >= now + DAY && Some(at) == published.due));
    assert!(signs(&published.kept, &old) && trusts(&published.kept, &old) && trusts(&published.kept, &new));
    // A certificate of the former key that brings both, and whose end its root has to see.
    let kept = published.kept.noting(now + DAY + DAY);
    let waits = kept.follow(&new, now + DAY - MINUTE);
    assert!(waits.kept == kept && waits.due == published.due, "what is issued meanwhile brings both");

    let switched = kept.follow(&new, now + DAY + MINUTE);
    assert!(matches!(switched.stage, Stage::Retiring(at) if at >= now + DAY * 2));
    assert!(signs(&switched.kept, &new) && trusts(&switched.kept, &old) && trusts(&switched.kept, &new));
    let later = switched.kept.clone().noting(now + DAY * 3).follow(&new, now + DAY * 2 - MINUTE);
    assert!(trusts(&later.kept, &old) && later.stage == switched.stage, "the wait does not grow");
    let done = later.kept.follow(&new, now + DAY * 2 + MINUTE);
    assert!(done.stage == Stage::Steady && done.due.is_none() && !trusts(&done.kept, &old) && signs(&done.kept, &new));
}

#[test]
fn what_was_published_long_ago_signs_at_once_and_an_ended_signer_cannot_wait() {
    let now = SystemTime::now();
    let (old, new) = (root(now), root(now));
    // The owner adds the root first.
    let both = AuthorityFiles { roots: format!("{}{}", old.roots, new.roots), ..old.clone() };
    let added = Kept::first(&old, now + DAY).follow(&both, now);
    assert!(matches!(added.stage, Stage::Publishing(_)) && signs(&added.kept, &old));
    let moved = AuthorityFiles { roots: both.roots.clone(), ..new.clone() };
    assert!(signs(&added.kept.follow(&moved, now + MINUTE).kept, &old), "too early");
    let known = added.kept.follow(&both, now + DAY + MINUTE);
    assert!(known.stage == Stage::Steady);
    let switched = known.kept.follow(&moved, now + DAY + MINUTE);
    assert!(switched.stage == Stage::Steady && signs(&switched.kept, &new) && trusts(&switched.kept, &old));
    // And takes the old one out too early.
    let kept = switched.kept.noting(now + DAY * 3);
    let early = kept.follow(&new, now + DAY + MINUTE);
    assert!(matches!(early.stage, Stage::Retiring(at) if at >= now + DAY * 3) && trusts(&early.kept, &old));

    let years = DAY * 366 * 10;
    let ended = Kept::first(&old, now + years + DAY).follow(&root(now + years), now + years);
    assert!(matches!(ended.stage, Stage::Retiring(_)) && !signs(&ended.kept, &old) && trusts(&ended.kept, &old));
}

#[test]
fn owners_may_change_their_mind() {
    let now = SystemTime::now();
    let (a, b, c) = (root(now), root(now), root(now));
    let publishing = Kept::first(&a, now + DAY).follow(&b, now).kept;
    let back = publishing.follow(&a, now + MINUTE);
    assert!(matches!(back.stage, Stage::Retiring(_)) && signs(&back.kept, &a) && trusts(&back.kept, &b));
    let again = publishing.noting(now + DAY * 2).follow(&c, now + DAY - MINUTE);
    assert!(matches!(again.stage, Stage::Publishing(at) if at >= now + DAY * 2));
    assert!(signs(&again.kept, &a) && trusts(&again.kept, &b) && trusts(&again.kept, &c));
    let last = again.kept.follow(&c, now + DAY * 2 + MINUTE);
    assert!(signs(&last.kept, &c) && trusts(&last.kept, &a));
}

#[test]
fn what_is_kept_survives_and_a_stranger_field_is_no_silence() {
    let now = SystemTime::now();
    let kept = Kept::first(&root(now), now + DAY).follow(&root(now), now).kept;
    let text = serde_json::to_string(&kept).unwrap();
    assert!(serde_json::from_str::<Kept>(&text).unwrap() == kept);
    assert!(serde_json::from_str::<Kept>(&text.replacen('{', "{\"new\":1,", 1)).is_err());
    assert!(kept.covers(now + DAY) && !kept.covers(now + DAY + MINUTE));
}
