use std::path::Path;

use super::*;
use crate::find::NsId;

fn settings() -> Settings {
    Settings {
        system_namespace: "culvert-system".into(),
        proxy_accounts: vec![("culvert-system".into(), "ztunnel".into())],
        exclude_namespaces: vec!["kube-system".into()],
        unsupported_runtime_classes: vec!["gvisor".into()],
        dns: true,
    }
}

pub(in crate::kubernetes) fn pod(name: &str, addresses: &[&str]) -> PodFacts {
    PodFacts {
        uid: format!("uid-{name}"),
        object_uid: format!("uid-{name}"),
        created: None,
        name: name.into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        mode: None,
        sidecar: false,
        host_network: false,
        runtime_class: None,
        bypass_inbound: false,
        stage: Stage::Alive,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        dns: None,
        redirection: None,
    }
}

pub(in crate::kubernetes) fn place(addresses: &[&str]) -> Place {
    Place {
        netns: Held::open(Path::new("/proc/self/ns/net")).unwrap(),
        device: "eth0".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        running: false,
    }
}

/// A desk with namespace `shop`, labelled or not, and these pods.
pub(in crate::kubernetes) fn desk(label: Option<&str>, pods: &[PodFacts]) -> Desk {
    let mut desk = Desk::new(settings());
    desk.take_namespace(Change::Restart);
    desk.take_namespace(Change::Listed("shop".into(), label.map(Into::into)));
    desk.take_namespace(Change::Done);
    desk.take_pod(Change::Restart);
    for pod in pods {
        desk.take_pod(Change::Listed(pod.title(), pod.clone()));
    }
    assert!(!desk.is_synced());
    desk.take_pod(Change::Done);
    assert!(desk.is_synced());
    desk
}

fn label(desk: &mut Desk, value: Option<&str>) {
    desk.take_namespace(Change::Applied("shop".into(), value.map(Into::into)));
}

pub(in crate::kubernetes) fn views(list: &[(&str, Phase)], netns: Option<NsId>) -> BTreeMap<Arc<str>, View> {
    let view = |(name, phase): &(&str, Phase)| {
        (format!("uid-{name}").into(), View { phase: phase.clone(), wanted: true, netns, refused: None })
    };
    list.iter().map(view).collect()
}

fn held(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| format!("uid-{name}").into()).collect()
}

fn names(wish: &Wish) -> Vec<&str> {
    wish.entries.iter().map(|e| e.name.as_str()).collect()
}

#[test]
fn a_labelled_namespace_brings_its_running_pods_once_their_network_is_known() {
    let mut desk = desk(None, &[pod("a", &["10.0.0.1"]), pod("b", &[])]);
    assert!(desk.missing().is_empty());
    label(&mut desk, Some("ambient"));
    // `b` has no network yet, and the plug-in will bring it.
    assert_eq!(desk.missing(), BTreeSet::from(["uid-a".to_owned()]));
    assert!(desk.is_expected("uid-b") && !desk.is_expected("uid-a"));
    assert!(names(&desk.wish(held(&[]))).is_empty());
    desk.place("uid-a", Place { running: true, addresses: Vec::new(), ..place(&[]) });
    let wish = desk.wish(held(&[]));
    assert_eq!(names(&wish), ["a"]);
    let entry = &wish.entries[0];
    assert!(entry.running && entry.dns);
    assert_eq!(entry.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(entry.host, HostEnd::PeerOf("eth0".into()));
}

#[test]
fn pods_that_an_earlier_agent_captured_are_known_by_name() {
    let odd = PodFacts { stage: Stage::Ended, ..pod("ended", &[]) };
    let mut desk =
        desk(Some("ambient"), &[PodFacts { mode: Some("none".into()), ..pod("left", &[]) }, pod("new", &[]), odd]);
    // One that is wanted has its network from the kernel's books, not only from its status.
    assert_eq!(desk.unborn(), BTreeSet::from(["uid-new".to_owned()]));
    assert!(desk.missing().is_empty());
    let wish = desk.wish(held(&[]));
    assert_eq!(wish.others.keys().collect::<Vec<_>>(), ["uid-left"]);
    assert_eq!((&*wish.others["uid-left"].name, &*wish.others["uid-left"].namespace), ("left", "shop"));
    desk.place("uid-new", place(&["10.0.0.7"]));
    assert!(desk.unborn().is_empty());
}

#[test]
fn a_pod_that_was_made_again_outlives_late_news_of_its_namesake() {
    let old = pod("a", &["10.0.0.1"]);
    let new = PodFacts { uid: "uid-new".into(), object_uid: "uid-new".into(), addresses: Vec::new(), ..old.clone() };
    let mut desk = desk(Some("ambient"), std::slice::from_ref(&old));
    // The plug-in brought it before the watch.
    desk.learn(Some(new), None);
    desk.place("uid-new", place(&["10.0.0.2"]));
    desk.take_pod(Change::Deleted("shop/a".into(), old));
    assert!(matches!(desk.find("shop", "a", Some("uid-new")), Known::Yes(_, Verdict::In)));
    assert!(desk.place_of("uid-new").is_some());
    assert_eq!(names(&desk.wish(held(&[]))), ["a"]);
}

#[test]
fn two_pods_of_one_uid_are_never_both_meant() {
    let victim = pod("victim", &["10.0.0.1"]);
    // Sorts before it, and is a mirror pod of the victim's UID.
    let claimant = PodFacts { uid: "uid-victim".into(), ..pod("claimant", &["10.0.0.9"]) };
    let mut desk = desk(Some("ambient"), &[claimant.clone(), victim]);
    desk.place("uid-victim", place(&[]));
    assert_eq!(names(&desk.wish(held(&[]))), ["victim"]);
    assert_eq!(desk.find("shop", "claimant", Some("uid-victim")), Known::No);
    let views = views(&[("victim", Phase::Captured)], None);
    let orders = desk.patches(&views, Instant::now());
    assert!(matches!(&orders[..], [Order::Annotate { pod, .. }] if pod.name == "victim"), "{orders:?}");
    // Of two mirror pods the older one stays.
    let time = |text: &str| Some(serde_json::from_value(serde_json::json!(text)).unwrap());
    let mirror = PodFacts { created: time("2026-01-01T00:00:00Z"), uid: "h".into(), ..pod("static", &["10.0.0.2"]) };
    let other = PodFacts { created: time("2026-01-02T00:00:00Z"), uid: "h".into(), ..pod("other", &["10.0.0.3"]) };
    desk.take_pod(Change::Applied("shop/static".into(), mirror));
    desk.take_pod(Change::Applied("shop/other".into(), other));
    desk.place("h", place(&[]));
    assert_eq!(names(&desk.wish(held(&[]))), ["static", "victim"]);
}

#[test]
fn a_pod_of_the_plug_in_has_the_addresses_of_the_plug_in_until_its_status_has_some() {
    let mut desk = desk(Some("ambient"), &[pod("a", &[])]);
    desk.place("uid-a", place(&["10.0.0.7"]));
    assert!(!desk.is_expected("uid-a"));
    assert_eq!(desk.wish(held(&[])).entries[0].addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    desk.take_pod(Change::Applied("shop/a".into(), pod("a", &["10.0.0.7", "fd00::7"])));
    assert_eq!(desk.wish(held(&["a"])).entries[0].addresses.len(), 2);
}

#[test]
fn who_leaves_lives_and_who_ends_does_not() {
    let mut desk =
        desk(Some("ambient"), &[pod("left", &["10.0.0.1"]), pod("done", &["10.0.0.2"]), pod("kept", &["10.0.0.3"])]);
    for name in ["left", "done", "kept", "deleted", "torn"] {
        desk.place(&format!("uid-{name}"), place(&[]));
    }
    desk.take_pod(Change::Applied(
        "shop/left".into(),
        PodFacts { mode: Some("none".into()), ..pod("left", &["10.0.0.1"]) },
    ));
    desk.take_pod(Change::Applied("shop/done".into(), PodFacts { stage: Stage::Ended, ..pod("done", &[]) }));
    // In the mesh, and its sandbox was given up.
    desk.take_pod(Change::Applied("shop/torn".into(), pod("torn", &["10.0.0.4"])));
    let wish = desk.wish(held(&["left", "done", "kept", "deleted", "torn"]));
    assert_eq!(names(&wish), ["kept"]);
    let ended: Vec<&str> = wish.ended.iter().map(String::as_str).collect();
    assert_eq!(ended, ["uid-deleted", "uid-done", "uid-torn"]);
}

#[test]
fn only_pods_that_were_in_the_mesh_before_their_network_are_captured_late() {
    let mut desk = desk(None, &[pod("passed", &[]), pod("late", &[])]);
    // The plug-in saw this one while nothing asked for it.
    desk.passed("uid-passed");
    label(&mut desk, Some("ambient"));
    assert!(!desk.is_expected("uid-passed") && desk.is_expected("uid-late"));
    let told = desk.tell("uid-late", "NotCapturedFromBirth", "x".into());
    assert!(matches!(told, Some(Order::Event { reason: "NotCapturedFromBirth", .. })));
    assert_eq!(desk.tell("uid-late", "NotCapturedFromBirth", "x".into()), None);
}

#[test]
fn annotations_follow_capture_one_at_a_time() {
    let now = Instant::now();
    let mut desk = desk(Some("ambient"), &[pod("a", &["10.0.0.1"])]);
    let captured = views(&[("a", Phase::Captured)], None);
    let value = |orders: Vec<Order>| match &orders[..] {
        [] => None,
        [Order::Annotate { value, .. }] => Some(*value),
        other => panic!("{other:?}"),
    };
    assert_eq!(value(desk.patches(&views(&[], None), now)), None);
    assert_eq!(value(desk.patches(&captured, now)), Some(Some("enabled")));
    // No second one before the answer, also when the pod leaves meanwhile.
    let announced = views(&[("a", Phase::Announced)], None);
    assert_eq!(value(desk.patches(&captured, now)), None);
    assert_eq!(value(desk.patches(&announced, now)), None);
    desk.patched("shop/a", "uid-a", Some("enabled"), true, now);
    assert!(desk.announced(&announced).is_empty(), "peers still hear that it can be tunnelled to");
    assert_eq!(value(desk.patches(&announced, now)), Some(None));
    // It fails, and is tried again after a while.
    desk.patched("shop/a", "uid-a", None, false, now);
    assert!(desk.is_waiting() && desk.announced(&announced).is_empty());
    assert_eq!(value(desk.patches(&announced, now)), None);
    let later = now + std::time::Duration::from_secs(1);
    assert_eq!(value(desk.patches(&announced, later)), Some(None));
    desk.patched("shop/a", "uid-a", None, true, later);
    assert_eq!(desk.announced(&announced), held(&["a"]));
    assert!(!desk.is_waiting());
}

#[test]
fn an_annotation_of_an_earlier_life_is_taken_away_and_one_that_is_right_left_alone() {
    let now = Instant::now();
    let annotated = |name: &str| PodFacts { redirection: Some("enabled".into()), ..pod(name, &["10.0.0.1"]) };
    let mut desk = desk(None, &[annotated("former"), annotated("current")]);
    let orders = desk.patches(&views(&[("current", Phase::Captured)], None), now);
    assert!(matches!(&orders[..], [Order::Annotate { pod, value: None }] if pod.name == "former"), "{orders:?}");
}

#[test]
fn who_asks_in_vain_is_told_once() {
    let odd = [
        PodFacts { host_network: true, ..pod("host", &["10.0.0.1"]) },
        PodFacts { runtime_class: Some("gvisor".into()), ..pod("sandboxed", &[]) },
        PodFacts { bypass_inbound: true, ..pod("bypass", &["10.0.0.2"]) },
        PodFacts { mode: Some("none".into()), ..pod("declined", &["10.0.0.3"]) },
        pod("broken", &["10.0.0.4"]),
    ];
    let mut desk = desk(Some("ambient"), &odd);
    let views = views(&[("broken", Phase::Failed { error: "no veth".into() })], None);
    let mut reasons: Vec<&str> = desk
        .news(&views)
        .iter()
        .map(|order| match order {
            Order::Event { reason, .. } => *reason,
            other => panic!("{other:?}"),
        })
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["BypassUnsupported", "CaptureFailed", "HostNetwork", "UnsupportedRuntime"]);
    assert!(desk.news(&views).is_empty());
    assert_eq!(desk.left_out().len(), 2);
    // A pod that is gone and comes back is told again.
    desk.take_pod(Change::Deleted("shop/host".into(), odd[0].clone()));
    desk.take_pod(Change::Applied("shop/host".into(), odd[0].clone()));
    assert_eq!(desk.news(&views).len(), 1);
}

#[test]
fn proxies_are_pods_of_ours_only() {
    let proxy = PodFacts { namespace: "culvert-system".into(), service_account: "ztunnel".into(), ..pod("z", &[]) };
    let foreign = PodFacts { service_account: "ztunnel".into(), ..pod("y", &[]) };
    let wish = desk(None, &[proxy, foreign]).wish(held(&[]));
    assert_eq!(wish.proxies, Some(BTreeSet::from(["uid-z".to_owned()])));
}
