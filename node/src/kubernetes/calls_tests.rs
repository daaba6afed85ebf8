use tokio::sync::oneshot::Receiver;

use super::*;
use crate::cni::request::Address;
use crate::kubernetes::desk::tests::{desk, pod, views};
use crate::kubernetes::mirror::Change;

const DEADLINE: Duration = Duration::from_secs(30);

fn request(name: &str) -> AddRequest {
    AddRequest {
        netns: "/proc/self/ns/net".into(),
        pod_name: name.into(),
        pod_namespace: "shop".into(),
        ips: vec![Address { interface: None, address: "10.0.0.1/24".into(), gateway: None }],
        pod_uid: format!("uid-{name}"),
        device: "eth0".into(),
    }
}

fn ask(calls: &mut Calls, request: AddRequest, now: Instant) -> Receiver<Answer> {
    let (answer, answered) = oneshot::channel();
    calls.take(Asked { request, answer }, now);
    answered
}

fn calls() -> Calls {
    Calls::new(DEADLINE, telemetry::Metrics::new().counters("adds", "", &["result"]))
}

fn own() -> Option<crate::find::NsId> {
    Some(Held::open("/proc/self/ns/net".as_ref()).unwrap().id())
}

#[test]
fn a_pod_waits_until_it_is_captured() {
    let (mut calls, now) = (calls(), Instant::now());
    let mut desk = desk(Some("ambient"), &[pod("a", &[])]);
    let mut answer = ask(&mut calls, request("a"), now);
    assert!(calls.decide(&mut desk, now).is_empty());
    assert!(!desk.place_of("uid-a").unwrap().running);
    for phase in [Phase::Waiting { refusing: true }, Phase::Waiting { refusing: false }] {
        assert!(!calls.finish(&mut desk, &views(&[("a", phase)], own()), now));
        assert!(answer.try_recv().is_err());
    }
    // Captured, but its former sandbox.
    calls.finish(&mut desk, &views(&[("a", Phase::Captured)], Some((0, 0))), now);
    assert!(answer.try_recv().is_err());
    calls.finish(&mut desk, &views(&[("a", Phase::Captured)], own()), now);
    assert_eq!(answer.try_recv().unwrap(), Ok("captured".to_owned()));
    assert!(calls.is_empty() && desk.place_of("uid-a").is_some());
}

#[test]
fn a_pod_outside_the_mesh_starts_at_once_and_is_no_latecomer_later() {
    let (mut calls, now) = (calls(), Instant::now());
    let mut desk = desk(None, &[pod("a", &[])]);
    let mut answer = ask(&mut calls, request("a"), now);
    calls.decide(&mut desk, now);
    assert!(answer.try_recv().unwrap().unwrap().contains("not in the mesh"));
    desk.take_namespace(Change::Applied("shop".into(), Some("ambient".into())));
    assert!(!desk.is_expected("uid-a"));
}

#[test]
fn the_api_server_is_asked_once_for_a_pod_that_the_watch_does_not_have() {
    let (mut calls, now) = (calls(), Instant::now());
    let mut desk = desk(Some("ambient"), &[]);
    let mut answer = ask(&mut calls, request("a"), now);
    assert!(calls.decide(&mut desk, now).is_empty());
    let later = now + LAG;
    let expected = Order::Look { namespace: "shop".into(), name: "a".into() };
    assert_eq!(calls.decide(&mut desk, later), [expected]);
    assert!(calls.decide(&mut desk, later).is_empty());
    desk.learn(Some(pod("a", &[])), None);
    calls.decide(&mut desk, later);
    assert!(desk.place_of("uid-a").is_some());
    // One that is never found is refused: nobody can say that it is not in the mesh.
    let mut other = ask(&mut calls, request("b"), now);
    calls.decide(&mut desk, now + DEADLINE);
    assert!(other.try_recv().unwrap().unwrap_err().contains("does not know the pod"));
    assert!(answer.try_recv().is_err());
}

#[test]
fn a_namesake_of_another_life_is_not_taken_for_the_pod() {
    let (mut calls, now) = (calls(), Instant::now());
    let mut desk = desk(Some("ambient"), &[pod("a", &[])]);
    let _answer = ask(&mut calls, AddRequest { pod_uid: "uid-before".into(), ..request("a") }, now);
    calls.decide(&mut desk, now);
    assert!(desk.place_of("uid-a").is_none());
    // A runtime that does not tell the UID.
    let _answer = ask(&mut calls, AddRequest { pod_uid: String::new(), ..request("a") }, now);
    calls.decide(&mut desk, now);
    assert!(desk.place_of("uid-a").is_some());
}

#[test]
fn failure_deadline_and_a_killed_plug_in_fail_the_sandbox() {
    let now = Instant::now();
    let waiting = Phase::Waiting { refusing: true };
    for (case, phase, at, leaves, word) in [
        ("failed", Phase::Failed { error: "no veth".into() }, now, false, "no veth"),
        ("late", waiting.clone(), now + DEADLINE, false, "ztunnel"),
        ("killed", waiting, now, true, ""),
    ] {
        let mut calls = calls();
        let mut desk = desk(Some("ambient"), &[pod("a", &[])]);
        let mut answer = Some(ask(&mut calls, request("a"), now));
        calls.decide(&mut desk, now);
        if leaves {
            answer = None;
        }
        assert!(calls.finish(&mut desk, &views(&[("a", phase)], own()), at), "{case}");
        assert!(desk.place_of("uid-a").is_none() && calls.is_empty(), "{case}");
        if let Some(mut answer) = answer {
            let text = answer.try_recv().unwrap().unwrap_err();
            assert!(text.contains(word), "{case}: {text}");
        }
    }
}

#[test]
fn a_request_that_cannot_be_served_is_refused_at_once() {
    let (mut calls, now) = (calls(), Instant::now());
    for (request, word) in [
        (AddRequest { netns: "/nonexistent".into(), ..request("a") }, "HostToContainer"),
        (AddRequest { netns: "/proc/self/status".into(), ..request("a") }, "/proc/self/status"),
        (AddRequest { ips: Vec::new(), ..request("a") }, "no address"),
    ] {
        let text = ask(&mut calls, request, now).try_recv().unwrap().unwrap_err();
        assert!(text.contains(word), "{text}");
    }
}
