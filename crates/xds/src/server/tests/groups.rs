//! Services that are asked for, and the workloads that come with them.

use super::*;

#[test]
fn members_of_a_service_are_followed_while_they_are_members() {
    let store = Store::for_mesh();
    let service = |name: &str| mesh::Service {
        namespace: "s".into(),
        hostname: name.into(),
        vips: vec![mesh::NetworkAddress::new("", [10, 1, 0, name.len() as u8].into())],
        ..Default::default()
    };
    let member = |name: &str, ip: u8, services: &[&str]| {
        let mut pod = pod(name, [10, 0, 0, ip]);
        for service in services {
            pod.services.insert(format!("s/{service}").into(), PortMap::default());
        }
        pod
    };
    let put_services = |services: Vec<mesh::Service>| {
        store.apply_change(&Change { services, ..Change::default() }).unwrap();
    };
    let mut s = session();
    s.request(&store, request(&["*"], &["*"], &[])).unwrap();
    taken(&mut s, &store).unwrap();
    // Asked for before there is anything: answered, and not forgotten.
    s.request(&store, request(&["s/web", "s/store"], &[], &[])).unwrap();
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, ["s/web", "s/store"]);
    put(&store, &[member("a", 1, &["web"]), member("b", 2, &["web", "store"]), member("c", 3, &[])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a", "b"]);
    put_services(vec![service("web"), service("store")]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["store", "web"]);
    // A member changes, one joins, one leaves one of two, one leaves its only one.
    put(&store, &[member("a", 9, &["web"]), member("c", 3, &["store"]), member("b", 2, &["store"])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a", "b", "c"]);
    put(&store, &[member("b", 2, &[])]);
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("b")]);
    put(&store, &[member("b", 4, &[])]);
    assert!(next(&mut s, &store).is_none(), "no business of this client");
    // Held for itself: stays when it leaves.
    s.request(&store, request(&["/10.0.0.9"], &[], &[])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a"]);
    put(&store, &[member("a", 9, &[])]);
    let left = taken(&mut s, &store).unwrap();
    assert_eq!((names(&left), left.removed_resources.len()), (vec!["a"], 0));
    // A service that is not followed any more takes its members along, but not those of others.
    put(&store, &[member("d", 5, &["web", "store"]), member("e", 6, &["web"])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["d", "e"]);
    s.request(&store, request(&[], &["s/web"], &[])).unwrap();
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("e")]);
    put_services(vec![mesh::Service { vips: vec![], ..service("web") }]);
    assert!(next(&mut s, &store).is_none());
    // The service goes, its members stay; a member goes.
    store.apply(ADDRESS_TYPE, Batch { removals: vec!["s/store".into()], upserts: vec![] }).unwrap();
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, ["s/store"]);
    drop_pod(&store, "d");
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("d")]);
    assert_eq!(s.report().types[ADDRESS_TYPE].held, 2, "a and c");
}

#[test]
fn a_service_asked_for_by_its_address_is_followed_with_its_members() {
    let store = Store::for_mesh();
    let web = mesh::Service {
        namespace: "s".into(),
        hostname: "web".into(),
        vips: vec![mesh::NetworkAddress::new("", [10, 1, 0, 1].into())],
        ..Default::default()
    };
    store.apply_change(&Change { services: vec![web], ..Change::default() }).unwrap();
    let mut member = pod("a", [10, 0, 0, 1]);
    member.services.insert("s/web".into(), PortMap::default());
    let mut s = session();
    s.request(&store, request(&["*"], &["*"], &[("s/web", "7")])).unwrap();
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["web"]);
    put(&store, &[member.clone()]);
    assert_eq!(
        names(&taken(&mut s, &store).unwrap()),
        ["a"],
        "what is brought along from an earlier stream is followed"
    );
    // Everything, and then names again: what is followed stays.
    s.request(&store, request(&["*"], &[], &[])).unwrap();
    put(&store, &[pod("z", [10, 0, 0, 9])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["z"]);
    member.node = "b".into();
    put(&store, &[member.clone()]);
    s.request(&store, request(&[], &["*"], &[])).unwrap();
    put(&store, &[pod("z", [10, 0, 0, 8])]);
    assert_eq!(names(&taken(&mut s, &store).unwrap()), ["a", "web"]);
    member.services.clear();
    put(&store, &[member]);
    assert_eq!(taken(&mut s, &store).unwrap().removed_resources, [&*uid("a")]);
}
