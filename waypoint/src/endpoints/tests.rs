use std::collections::BTreeMap;
use std::time::Duration;

use mesh::workload::{PortMap, TunnelProtocol};

use super::*;

fn pod(last: u8) -> Workload {
    Workload {
        uid: format!("pod-{last}").into(),
        name: format!("pod-{last}").into(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, last].into()],
        tunnel: TunnelProtocol::Hbone,
        services: BTreeMap::from([("shop/api".into(), PortMap::default())]),
        ..Workload::default()
    }
}

struct World {
    directory: Snapshot,
    own: Workload,
    identity: Identity,
    turn: u64,
    endpoints: Endpoints,
}

impl World {
    fn new(pods: u8) -> Self {
        let mut directory = Snapshot::default();
        directory.insert_service(Service {
            name: "api".into(),
            namespace: "shop".into(),
            hostname: "api".into(),
            ports: PortMap(BTreeMap::from([(80, 8080)])),
            ..Service::default()
        });
        (1..=pods).for_each(|last| directory.insert_workload(pod(last)));
        let identity = Identity::new("cluster.local", "shop", "waypoint").unwrap();
        Self { directory, own: pod(200), identity, turn: 1, endpoints: Endpoints::default() }
    }

    fn set(&mut self) -> Rc<Set> {
        let view = View { directory: &self.directory, own: &self.own, identity: &self.identity, turn: self.turn };
        self.endpoints.of(&view, "shop/api", 80).unwrap()
    }
}

fn picks(set: &Set, wish: Wish<'_>, count: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..count {
        let endpoint = set.pick(wish, &Chosen::default()).unwrap();
        *all.entry(endpoint.workload.name.to_string()).or_default() += 1;
    }
    all
}

#[test]
fn what_is_known_of_an_endpoint_outlives_changes_of_others() {
    let mut world = World::new(2);
    let first = world.set();
    assert!(Rc::ptr_eq(&first, &world.set()), "the same view gives the same set");
    world.turn += 1;
    world.directory.insert_workload(pod(3));
    world.directory.remove("pod-1");
    let second = world.set();
    let names: Vec<_> = second.list.iter().map(|e| e.workload.name.to_string()).collect();
    assert_eq!(names, ["pod-2", "pod-3"]);
    assert!(Rc::ptr_eq(&first.list[1], &second.list[0]));
    world.turn += 1;
    let moved = Workload { addresses: vec![[10, 0, 9, 2].into()], ..pod(2) };
    world.directory.insert_workload(moved);
    assert!(!Rc::ptr_eq(&second.list[0], &world.set().list[0]), "another address is another endpoint");
    let view = View { directory: &world.directory, own: &world.own, identity: &world.identity, turn: world.turn };
    assert!(world.endpoints.of(&view, "shop/other", 80).is_none());
}

#[test]
fn turns_are_taken_and_hashes_stay() {
    let set = World::new(4).set();
    let turns = picks(&set, Wish { balance: Balance::RoundRobin, ..Wish::default() }, 40);
    assert!(turns.len() == 4 && turns.values().all(|n| *n == 10), "{turns:?}");
    let hashed = picks(&set, Wish { balance: Balance::Hash, hash: Some(7), ..Wish::default() }, 20);
    assert_eq!(hashed.len(), 1, "{hashed:?}");
    let stayed = picks(&set, Wish { stay_with: Some("pod-3"), ..Wish::default() }, 20);
    assert_eq!(stayed, BTreeMap::from([("pod-3".to_owned(), 20)]));
    let random = picks(&set, Wish { balance: Balance::Random, ..Wish::default() }, 400);
    assert!(random.len() == 4 && random.values().all(|n| *n > 40), "{random:?}");
}

#[test]
fn the_less_loaded_of_two_gets_the_request() {
    let set = World::new(2).set();
    let _busy: Vec<_> = (0..5).map(|_| set.list[0].enter()).collect();
    assert_eq!(picks(&set, Wish::default(), 50), BTreeMap::from([("pod-2".to_owned(), 50)]));
    let slow = set.list[1].enter();
    slow.failed();
    drop(slow);
    assert_eq!(picks(&set, Wish::default(), 50), BTreeMap::from([("pod-1".to_owned(), 50)]), "failed just now");
}

#[test]
fn another_endpoint_is_tried_again_and_the_same_when_there_is_no_other() {
    let set = World::new(3).set();
    let mut tried = Chosen::default();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let endpoint = set.pick(Wish::default(), &tried).unwrap();
        assert!(!seen.contains(&endpoint.workload.uid));
        seen.push(endpoint.workload.uid.clone());
        tried.add(&endpoint);
    }
    assert!(set.pick(Wish::default(), &tried).is_some());
    assert!(World::new(0).set().pick(Wish::default(), &Chosen::default()).is_none());
}

#[test]
fn an_outlier_comes_back_and_never_takes_the_others_with_it() {
    let set = World::new(4).set();
    let rules = Outliers {
        consecutive_5xx: 2,
        consecutive_gateway_errors: 0,
        base_ejection: Duration::from_secs(30),
        max_ejection_percent: 50,
        min_health_percent: 0,
    };
    let now = Instant::now();
    let fail = |at: usize, status: u16, now: Instant| set.list[at].judge(status, &rules, &set.list, now);
    fail(0, 500, now);
    fail(0, 200, now);
    fail(0, 500, now);
    assert!(!set.list[0].is_ejected(now), "not in a row");
    fail(0, 503, now);
    assert!(set.list[0].is_ejected(now));
    assert!(!picks(&set, Wish::default(), 100).contains_key("pod-1"));
    for at in 1..4 {
        fail(at, 500, now);
        fail(at, 500, now);
    }
    let out = set.list.iter().filter(|e| e.is_ejected(now)).count();
    assert_eq!(out, 2, "half of them at most");
    let later = now + Duration::from_secs(31);
    assert!(!set.list[0].is_ejected(later));
    fail(0, 500, later);
    fail(0, 500, later);
    assert!(set.list[0].is_ejected(later + Duration::from_secs(59)), "the second time twice as long");
}
