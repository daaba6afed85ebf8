use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::testing::{client, failure};

fn seen(holder: &str, since: Instant) -> Seen {
    Seen { holder: holder.into(), version: "7".into(), duration: DURATION, since }
}

#[test]
fn a_lease_is_made_renewed_taken_or_left_alone() {
    let now = Instant::now() + Duration::from_secs(60);
    let ago = |seconds| now - Duration::from_secs(seconds);
    for (case, lease, wanted) in [
        ("none", None, Action::Create),
        ("ours", Some(seen("a", ago(1))), Action::Renew),
        ("ours and over", Some(seen("a", ago(60))), Action::Renew),
        ("another's, fresh", Some(seen("b", ago(14))), Action::Wait),
        ("another's, over", Some(seen("b", ago(15))), Action::Take),
        ("given up", Some(seen("", ago(0))), Action::Take),
    ] {
        assert_eq!(decide(lease.as_ref(), "a", now), wanted, "{case}");
    }
}

#[test]
fn a_lease_is_over_when_we_have_not_seen_it_change_for_its_duration() {
    let lease = |version: &str| Lease {
        metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
        // Renewed an hour ahead of us: the other's clock is wrong, and it must not matter.
        spec: Some(LeaseSpec {
            holder_identity: Some("b".into()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::now() + Duration::from_secs(3600))),
            ..LeaseSpec::default()
        }),
    };
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let first = look(&lease("1"), None, at(0));
    let same = look(&lease("1"), Some(&first), at(14));
    assert_eq!(decide(Some(&same), "a", at(14)), Action::Wait);
    assert_eq!(decide(Some(&same), "a", at(15)), Action::Take);
    let renewed = look(&lease("2"), Some(&same), at(14));
    assert_eq!(decide(Some(&renewed), "a", at(28)), Action::Wait);
}

#[test]
fn transitions_count_changes_of_the_holder() {
    let (t0, t1) = (Timestamp::from_second(0).unwrap(), Timestamp::from_second(9).unwrap());
    let spec = |lease: &Lease| lease.spec.clone().unwrap();
    let made = written(None, "l", "a", t0);
    assert_eq!(spec(&made).lease_transitions, Some(1));
    let renewed = written(Some(&made), "l", "a", t1);
    assert_eq!((spec(&renewed).lease_transitions, spec(&renewed).acquire_time), (Some(1), Some(MicroTime(t0))));
    assert_eq!(spec(&renewed).renew_time, Some(MicroTime(t1)));
    let given_up = written(Some(&renewed), "l", "", t1);
    assert_eq!(spec(&given_up).lease_transitions, Some(1));
    let taken = written(Some(&given_up), "l", "b", t1);
    assert_eq!((spec(&taken).lease_transitions, spec(&taken).acquire_time), (Some(2), Some(MicroTime(t1))));
}

/// One lease, kept as an API server does: a write with an old resourceVersion is a conflict.
fn server() -> (Client, Arc<Mutex<Option<Value>>>) {
    let kept = Arc::new(Mutex::new(None::<Value>));
    let lease = kept.clone();
    let answer = move |method: &str, _: &str, mut body: Value| {
        let mut lease = lease.lock().unwrap();
        let version = |l: &Value| l["metadata"]["resourceVersion"].as_str().map_or(0, |v| v.parse::<u64>().unwrap());
        match (method, lease.clone()) {
            ("GET", Some(there)) => (200, there),
            ("GET", None) => failure(404, "NotFound"),
            ("POST", Some(_)) => failure(409, "AlreadyExists"),
            ("PUT", Some(there)) if version(&there) != version(&body) => failure(409, "Conflict"),
            (_, there) => {
                body["metadata"]["resourceVersion"] = json!((there.map_or(0, |t| version(&t)) + 1).to_string());
                *lease = Some(body.clone());
                (200, body)
            }
        }
    };
    (client(answer), kept)
}

#[tokio::test]
async fn one_leads_and_the_next_one_follows_at_once_when_it_ends() {
    let (client, kept) = server();
    let holder = || kept.lock().unwrap().as_ref().map(|l| l["spec"]["holderIdentity"].as_str().unwrap().to_owned());
    let (a, b) = (Election::new(client.clone(), "ns", "l", "a"), Election::new(client, "ns", "l", "b"));
    let (mut a_leads, mut b_leads) = (a.leader(), b.leader());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let a = tokio::spawn(a.run(async move { drop(stopped.await) }));
    a_leads.wait_for(|leads| *leads).await.unwrap();
    assert_eq!(holder().as_deref(), Some("a"));
    let b = tokio::spawn(b.run(std::future::pending()));
    stop.send(()).unwrap();
    a.await.unwrap();
    // Given up, not run out: within two looks, which is far less than the 15 s of the lease.
    let soon = Duration::from_secs(10);
    tokio::time::timeout(soon, b_leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    assert_eq!(holder().as_deref(), Some("b"));
    b.abort();
}
