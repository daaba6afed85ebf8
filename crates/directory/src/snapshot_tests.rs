//! Look-ups, conflicts and persistence.

use mesh::Service;
use mesh::service::Visibility;
use mesh::workload::{NetworkMode, TunnelProtocol, Workload};

use crate::testing::*;
use crate::{Directory, Snapshot};

#[test]
fn section_2_of_discovery_the_better_claim_to_an_address_wins() {
    let entry = |name: &str, tunnel| Workload {
        uid: format!("Kubernetes/networking.istio.io/WorkloadEntry/shop/{name}").into(),
        tunnel,
        ..pod(name, "10.0.0.1")
    };
    // Best first.
    let claims = [
        pod("hbone-pod", "10.0.0.1"),
        Workload { tunnel: TunnelProtocol::None, ..pod("pod", "10.0.0.1") },
        entry("hbone", TunnelProtocol::Hbone),
        entry("other", TunnelProtocol::None),
    ];
    let who = |all: &Snapshot| all.workload_by_address(&at("/10.0.0.1")).map(|w| w.name.to_string());
    for backwards in [false, true] {
        let mut all = Snapshot::default();
        let mut order: Vec<_> = claims.to_vec();
        if backwards {
            order.reverse();
        }
        order.into_iter().for_each(|w| all.insert_workload(w));
        for claim in &claims {
            assert_eq!(who(&all).as_deref(), Some(&*claim.name));
            assert!(all.remove(&claim.uid));
        }
        assert_eq!(who(&all), None);
    }
}

#[test]
fn addresses_are_per_network_mapped_ones_are_ipv4_and_hosts_own_none() {
    let host = Workload { network_mode: NetworkMode::HostNetwork, ..pod("host", "10.0.0.9") };
    let west = Workload { network: "west".into(), ..pod("west", "10.0.0.1") };
    let all = snapshot(vec![pod("own", "10.0.0.1 fd00::1"), west, host, pod("mapped", "::ffff:10.0.0.2")], vec![]);
    for (address, want) in [
        ("/10.0.0.1", Some("own")),
        ("/fd00::1", Some("own")),
        ("west/10.0.0.1", Some("west")),
        ("east/10.0.0.1", None),
        ("/::ffff:10.0.0.1", Some("own")),
        ("/10.0.0.2", Some("mapped")),
        ("/10.0.0.9", None),
    ] {
        assert_eq!(all.workload_by_address(&at(address)).as_ref().map(|w| &*w.name), want, "{address}");
    }
}

#[test]
fn the_local_pod_is_found_by_its_three_names() {
    let other = Workload { service_account: "other".into(), uid: "x//Pod/shop/web".into(), ..pod("web", "10.0.0.2") };
    let all = snapshot(vec![pod("web", "10.0.0.1"), other], vec![]);
    assert_eq!(all.local_workload("shop", "web", "web").unwrap().addresses, [ip("10.0.0.1")]);
    assert_eq!(all.local_workload("shop", "web", "other").unwrap().addresses, [ip("10.0.0.2")]);
    for (ns, name, sa) in [("shop", "web", "none"), ("shop", "we", "web"), ("", "", ""), ("zzz", "web", "web")] {
        assert!(all.local_workload(ns, name, sa).is_none());
    }
}

#[test]
fn ties_of_an_address_go_to_the_clients_namespace_then_to_canonical() {
    let in_ns = |namespace: &str, canonical, visibility| Service {
        namespace: namespace.into(),
        canonical,
        visibility,
        ..service("s", "10.96.0.1")
    };
    let (all_see, own_see) = (Visibility::Public, Visibility::Namespace);
    for (services, client, want) in [
        (vec![in_ns("a", false, all_see), in_ns("b", true, all_see)], "a", Some("a")),
        (vec![in_ns("a", false, all_see), in_ns("b", true, all_see)], "c", Some("b")),
        (vec![in_ns("a", false, all_see), in_ns("b", false, all_see)], "c", Some("a")),
        (vec![in_ns("a", false, all_see), in_ns("b", true, own_see)], "c", Some("a")),
        (vec![in_ns("b", true, own_see)], "c", None),
        (vec![in_ns("b", true, own_see)], "b", Some("b")),
    ] {
        let all = snapshot(vec![], services);
        let found = all.service_by_address(&at("/10.96.0.1"), client);
        assert_eq!(found.as_ref().map(|s| &*s.namespace), want);
    }
}

#[test]
fn endpoints_may_come_before_their_service_and_go_with_their_workload() {
    let mut all = snapshot(vec![of("cart", &[], pod("a", "10.0.0.1")), of("cart", &[], pod("b", "10.0.0.2"))], vec![]);
    let names = |all: &Snapshot| all.endpoints(&key("cart")).map(|w| w.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&all), ["a", "b"]);
    all.insert_service(service("cart", "10.96.0.1"));
    let web = pod("web", "10.0.0.9");
    assert_eq!(chosen(&all, &web, "10.96.0.1:80"), ["a", "b"]);
    assert!(all.remove("Kubernetes//Pod/shop/a") && !all.remove("Kubernetes//Pod/shop/a"));
    assert_eq!(chosen(&all, &web, "10.96.0.1:80"), ["b"]);
    // It leaves the service.
    all.insert_workload(pod("b", "10.0.0.2"));
    assert!(names(&all).is_empty());
    assert!(all.remove(&key("cart")) && all.service(&key("cart")).is_none());
    assert!(all.service_by_address(&at("/10.96.0.1"), "shop").is_none());
}

#[test]
fn an_old_snapshot_is_not_changed_by_edits_to_a_clone() {
    let directory = Directory::new();
    directory.store(snapshot(vec![of("cart", &[], pod("a", "10.0.0.1"))], vec![service("cart", "10.96.0.1")]));
    let old = directory.load();
    let copy = (*old).clone();
    let mut new = (*old).clone();
    new.insert_workload(of("cart", &[], pod("b", "10.0.0.1")));
    new.insert_workload(Workload { capacity: 9, ..pod("a", "10.0.0.3") });
    new.remove(&key("cart"));
    directory.store(new);
    assert!(*old == copy);
    assert_eq!(old.workload_by_address(&at("/10.0.0.1")).unwrap().name, "a".into());
    assert_eq!(old.endpoints(&key("cart")).count(), 1);
    let new = directory.load();
    assert_eq!(new.workload_by_address(&at("/10.0.0.1")).unwrap().name, "b".into());
    assert_eq!(new.workload("Kubernetes//Pod/shop/a").unwrap().capacity, 9);
    assert!(new.service(&key("cart")).is_none());
    assert_eq!((new.workloads().count(), new.services().count()), (2, 0));
}
