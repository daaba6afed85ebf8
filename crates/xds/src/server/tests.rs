mod groups;
mod parts;
mod property;

use std::collections::HashSet;

use mesh::Workload;
use mesh::workload::PortMap;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, ErrorDetail};
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tonic::Code;

use super::session::Session;
use super::*;
use crate::Change;
use crate::convert;

fn pod(name: &str, ip: [u8; 4]) -> Workload {
    Workload {
        uid: format!("c//Pod/s/{name}").into(),
        name: name.into(),
        namespace: "s".into(),
        addresses: vec![ip.into()],
        ..Workload::default()
    }
}

fn uid(name: &str) -> Arc<str> {
    format!("c//Pod/s/{name}").into()
}

fn put(store: &Store, workloads: &[Workload]) {
    let upserts = workloads.iter().map(Entry::workload).collect();
    store.apply(ADDRESS_TYPE, Batch { removals: vec![], upserts }).unwrap();
}

fn drop_pod(store: &Store, name: &str) {
    store.apply(ADDRESS_TYPE, Batch { removals: vec![uid(name)], upserts: vec![] }).unwrap();
}

fn session() -> Session {
    Session::new(Arc::new(Everybody), "ztunnel~1~a".into())
}

fn request(subscribe: &[&str], unsubscribe: &[&str], held: &[(&str, &str)]) -> DeltaDiscoveryRequest {
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: ADDRESS_TYPE.into(),
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        initial_resource_versions: held.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    }
}

fn ack(nonce: &str, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ADDRESS_TYPE.into(),
        response_nonce: nonce.into(),
        error_detail: error.map(|e| ErrorDetail { code: 0, message: e.into() }),
        ..Default::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.rsplit('/').next().unwrap()).collect()
}

/// The next response, as its bytes say it.
fn next(session: &mut Session, store: &Store) -> Option<DeltaDiscoveryResponse> {
    Some(session.next(store).unwrap()?.read())
}

/// The next response, acknowledged.
fn taken(session: &mut Session, store: &Store) -> Option<DeltaDiscoveryResponse> {
    let response = next(session, store)?;
    session.request(store, ack(&response.nonce, None)).unwrap();
    Some(response)
}

#[test]
fn a_wildcard_client_gets_everything_then_what_changes() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])]);
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = taken(&mut s, &store).unwrap();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first.resources[0].aliases, ["/10.0.0.1"]);
    assert_eq!(
        convert::address_from_resource(&first.resources[0]).unwrap(),
        convert::Address::Workload(pod("a", [10, 0, 0, 1]))
    );
    assert!(next(&mut s, &store).is_none());
    put(&store, &[pod("b", [10, 0, 0, 2])]);
    assert!(next(&mut s, &store).is_none(), "the same again is no change");
    put(&store, &[pod("b", [10, 0, 0, 9]), pod("c", [10, 0, 0, 3])]);
    drop_pod(&store, "a");
    let second = taken(&mut s, &store).unwrap();
    assert_eq!(names(&second), ["b", "c"]);
    assert_eq!(second.removed_resources, [&*uid("a")]);
    let report = &s.report().types[ADDRESS_TYPE];
    assert_eq!((report.held, report.acked, report.nacks), (2, store.revision(ADDRESS_TYPE).unwrap(), 0));
}

#[test]
fn an_empty_first_response_is_sent() {
    let store = Store::for_mesh();
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = taken(&mut s, &store).unwrap();
    assert!(first.resources.is_empty() && first.removed_resources.is_empty() && !first.nonce.is_empty());
    assert!(next(&mut s, &store).is_none());
}

#[test]
fn a_slow_client_gets_the_latest_and_not_every_step() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1])]);
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = next(&mut s, &store).unwrap();
    for i in 2..200 {
        put(&store, &[pod("a", [10, 0, 0, i])]);
        assert!(next(&mut s, &store).is_none(), "one response at a time");
    }
    // An answer to something else does not count.
    s.request(&store, ack("77", None)).unwrap();
    assert!(next(&mut s, &store).is_none());
    s.request(&store, ack(&first.nonce, None)).unwrap();
    let latest = taken(&mut s, &store).unwrap();
    assert_eq!(latest.resources[0].aliases, ["/10.0.0.199"]);
    assert!(next(&mut s, &store).is_none());
}

#[test]
fn what_a_client_holds_is_not_sent_again_and_what_is_gone_is_withdrawn() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])]);
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = taken(&mut s, &store).unwrap();
    let held = |r: &DeltaDiscoveryResponse| {
        r.resources.iter().map(|r| (r.name.clone(), r.version.clone())).collect::<Vec<_>>()
    };
    let held = held(&first);
    drop_pod(&store, "b");
    put(&store, &[pod("c", [10, 0, 0, 3])]);
    // Another replica, made from the same resources in another order, speaks the same versions.
    let replica = Store::for_mesh();
    put(&replica, &[pod("c", [10, 0, 0, 3])]);
    put(&replica, &[pod("a", [10, 0, 0, 1])]);
    let held: Vec<_> = held.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for store in [&store, &replica] {
        let mut s = session();
        s.request(store, request(&[], &[], &held)).unwrap();
        let again = taken(&mut s, store).unwrap();
        assert_eq!(names(&again), ["c"]);
        assert_eq!(again.removed_resources, [&*uid("b")]);
    }
    // Versions that are not ours, as of a stock client's policies: all of it again, removals by difference.
    let mut s = session();
    s.request(&store, request(&[], &[], &[(&uid("a"), ""), (&uid("gone"), "")])).unwrap();
    let again = taken(&mut s, &store).unwrap();
    assert_eq!(names(&again), ["a", "c"]);
    assert_eq!(again.removed_resources, [&*uid("gone")]);
}

#[test]
fn on_demand_gives_what_is_asked_for_and_what_comes_with_it() {
    let store = Store::for_mesh();
    let service = mesh::Service {
        namespace: "s".into(),
        hostname: "web".into(),
        vips: vec![mesh::NetworkAddress::new("", [10, 1, 0, 1].into())],
        ..Default::default()
    };
    let mut member = pod("a", [10, 0, 0, 1]);
    member.services.insert("s/web".into(), PortMap::default());
    let change = Change {
        services: vec![service],
        workloads: vec![member.clone(), pod("b", [10, 0, 0, 2])],
        ..Change::default()
    };
    store.apply_change(&change).unwrap();
    let mut s = session();
    s.request(&store, request(&["*"], &["*"], &[])).unwrap();
    assert!(taken(&mut s, &store).unwrap().resources.is_empty(), "nothing yet, but an answer");
    s.request(&store, request(&["/10.1.0.1"], &[], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["web", "a"], "the service and its workloads");
    // A new member of the service comes by itself; a stranger does not.
    let mut second = pod("c", [10, 0, 0, 3]);
    second.services.insert("s/web".into(), PortMap::default());
    put(&store, &[second, pod("d", [10, 0, 0, 4])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["c"]);
    // By address, and something that does not exist until later.
    s.request(&store, request(&["/10.0.0.2", "/10.9.9.9"], &[], &[])).unwrap();
    let answer = taken(&mut s, &store).unwrap();
    assert_eq!((names(&answer), answer.removed_resources.clone()), (vec!["b"], vec!["/10.9.9.9".to_owned()]));
    put(&store, &[pod("e", [10, 9, 9, 9])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["e"]);
    // Asked again: answered again.
    s.request(&store, request(&["/10.0.0.2"], &[], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["b"]);
    // No longer wanted.
    s.request(&store, request(&[], &[&uid("e"), "/10.9.9.9"], &[])).unwrap();
    put(&store, &[pod("e", [10, 9, 9, 8])]);
    assert!(next(&mut s, &store).is_none());
    drop_pod(&store, "b");
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("b")]);
}

#[test]
fn a_reconnecting_on_demand_client_keeps_following_and_gets_its_open_question_answered() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])]);
    let mut s = session();
    s.request(&store, request(&["*"], &["*"], &[(&uid("a"), "1"), ("/10.0.0.2", ""), ("/10.0.0.7", "")])).unwrap();
    let first = taken(&mut s, &store).unwrap();
    assert_eq!(names(&first).into_iter().collect::<HashSet<_>>(), HashSet::from(["a", "b"]));
    assert_eq!(first.removed_resources, ["/10.0.0.7"]);
    put(&store, &[pod("a", [10, 0, 0, 3])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a"]);
}

#[test]
fn a_stream_may_go_from_names_to_everything_and_back() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])]);
    let mut s = session();
    s.request(&store, request(&[&uid("a")], &[], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a"]);
    s.request(&store, request(&["*"], &[], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["b"], "what it lacks");
    s.request(&store, request(&[], &["*"], &[])).unwrap();
    put(&store, &[pod("a", [10, 0, 0, 8]), pod("b", [10, 0, 0, 9])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a"]);
}

#[test]
fn a_refusal_is_noted_not_repeated_and_holds_the_acknowledgement_up() {
    let store = Store::for_mesh();
    put(&store, &[pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])]);
    let mut s = session();
    s.request(&store, request(&[], &[], &[])).unwrap();
    let first = next(&mut s, &store).unwrap();
    s.request(&store, ack(&first.nonce, Some(&format!("{}: no", uid("b"))))).unwrap();
    assert!(next(&mut s, &store).is_none(), "the same would be refused again");
    put(&store, &[pod("c", [10, 0, 0, 3])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["c"]);
    let report = s.report().types.remove(ADDRESS_TYPE).unwrap();
    assert_eq!((report.acked, report.refused, report.nacks), (0, 1, 1));
    assert!(report.last_nack.unwrap().contains("b: no"));
    // In another form it is taken.
    put(&store, &[pod("b", [10, 0, 0, 9])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["b"]);
    let report = s.report().types.remove(ADDRESS_TYPE).unwrap();
    assert_eq!((report.acked, report.refused), (store.revision(ADDRESS_TYPE).unwrap(), 0));
    // A refusal that names nothing is a refusal of all of it, until it is gone.
    put(&store, &[pod("d", [10, 0, 0, 4])]);
    let bad = next(&mut s, &store).unwrap();
    s.request(&store, ack(&bad.nonce, Some("bad"))).unwrap();
    assert_eq!(s.report().types[ADDRESS_TYPE].refused, 1);
    drop_pod(&store, "d");
    taken(&mut s, &store).unwrap();
    assert_eq!(s.report().types[ADDRESS_TYPE].acked, store.revision(ADDRESS_TYPE).unwrap());
}

struct Picky;

impl Grant for Picky {
    fn wildcard(&self, type_url: &str) -> bool {
        type_url == AUTHORIZATION_TYPE
    }

    fn on_demand(&self, _: &str) -> bool {
        true
    }

    fn sees(&self, _: &str, entry: &Entry) -> bool {
        !entry.name.ends_with("secret")
    }

    fn unasked(&self, _: &str, entry: &Entry) -> bool {
        entry.name.ends_with("mine")
    }
}

#[test]
fn the_grant_decides_what_a_stream_sees() {
    let store = Store::for_mesh();
    put(&store, &[pod("secret", [10, 0, 0, 1]), pod("mine", [10, 0, 0, 2]), pod("other", [10, 0, 0, 3])]);
    let mut s = Session::new(Arc::new(Picky), String::new());
    let refused = s.request(&store, request(&[], &[], &[])).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut s = Session::new(Arc::new(Picky), String::new());
    s.request(&store, DeltaDiscoveryRequest { type_url: AUTHORIZATION_TYPE.into(), ..Default::default() }).unwrap();
    s.request(&store, request(&["*"], &["*"], &[])).unwrap();
    assert_eq!(next(&mut s, &store).unwrap().type_url, AUTHORIZATION_TYPE, "policies first");
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["mine"]);
    s.request(&store, request(&[&uid("secret"), "/10.0.0.1"], &[], &[])).unwrap();
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("secret"), "/10.0.0.1"]);
    // Neither that it changes nor that it goes.
    put(&store, &[pod("secret", [10, 0, 0, 8])]);
    assert!(next(&mut s, &store).is_none());
    drop_pod(&store, "secret");
    assert!(next(&mut s, &store).is_none());
    let unknown = DeltaDiscoveryRequest { type_url: "x".into(), ..Default::default() };
    assert_eq!(s.request(&store, unknown).unwrap_err().code(), Code::InvalidArgument);
}
