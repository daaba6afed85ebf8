//! The ranking of discovery.md 3.

use mesh::Service;
use mesh::service::{HealthPolicy, LoadBalancingMode as Mode, Scope};
use mesh::workload::{Health, Locality, Workload};

use crate::balance::scale;
use crate::testing::*;

/// An endpoint of `cart` at network, region, zone, node.
fn placed(name: &str, last: u8, place: [&str; 4]) -> Workload {
    let [network, region, zone, node] = place;
    Workload {
        network: network.into(),
        node: node.into(),
        locality: Locality { region: region.into(), zone: zone.into(), subzone: "".into() },
        network_gateway: by_address("/192.0.2.7").filter(|_| !network.is_empty()),
        ..of("cart", &[], pod(name, &format!("10.244.0.{last}")))
    }
}

fn cart(mode: Mode, preference: &[Scope]) -> Service {
    Service { load_balancing: balance(mode, preference), ..service("cart", "10.96.0.1") }
}

#[test]
fn each_mode_keeps_the_endpoints_that_it_should() {
    use Scope::{Cluster, Network, Node, Region, Subzone, Zone};
    let source = placed("src", 1, ["", "r1", "z1", "n1"]);
    let node = placed("node", 2, ["", "r1", "z1", "n1"]);
    let zone = placed("zone", 3, ["", "r1", "z1", "n2"]);
    let region = placed("region", 4, ["", "r1", "z2", "n3"]);
    let far = placed("far", 5, ["", "r2", "z9", "n4"]);
    let off_zone = placed("off-zone", 6, ["west", "r1", "z1", "n5"]);
    let off_far = placed("off-far", 7, ["west", "r2", "z9", "n6"]);
    let foreign = Workload { cluster_id: "c2".into(), ..placed("foreign", 8, ["", "r1", "z1", "n1"]) };
    let gateway = pod("gw", "192.0.2.7");
    let close: &[Scope] = &[Network, Region, Zone];
    let node_first: &[Scope] = &[Network, Region, Zone, Subzone, Node];
    type Case<'a> = (&'a str, Mode, &'a [Scope], Vec<&'a Workload>, Vec<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        ("unset takes all", Mode::Unspecified, close, vec![&node, &far], vec!["far", "node"]),
        ("PreferClose, zone", Mode::Failover, close, vec![&node, &zone, &region, &far], vec!["node", "zone"]),
        ("PreferClose, region", Mode::Failover, close, vec![&region, &far], vec!["region"]),
        ("PreferClose, none", Mode::Failover, close, vec![&far], vec!["far"]),
        ("PreferSameNode", Mode::Failover, node_first, vec![&node, &zone, &far], vec!["node"]),
        ("PreferSameNode, zone", Mode::Failover, node_first, vec![&zone, &region], vec!["zone"]),
        ("own network outranks", Mode::Failover, close, vec![&far, &off_zone], vec!["far"]),
        ("off network by the rest", Mode::Failover, close, vec![&off_far, &off_zone], vec!["off-zone"]),
        ("Local", Mode::Strict, &[Node], vec![&node, &zone], vec!["node"]),
        ("strict needs all", Mode::Strict, close, vec![&node, &region, &off_zone], vec!["node"]),
        ("the first mismatch ends it", Mode::Failover, &[Cluster, Zone], vec![&foreign, &far], vec!["far"]),
        ("strict by cluster", Mode::Strict, &[Cluster], vec![&foreign, &far], vec!["far"]),
        ("no preference", Mode::Failover, &[], vec![&node, &far], vec!["far", "node"]),
    ];
    for (name, mode, preference, endpoints, want) in cases {
        let workloads = endpoints.into_iter().cloned().chain([gateway.clone()]).collect();
        let all = snapshot(workloads, vec![cart(mode, preference)]);
        assert_eq!(chosen(&all, &source, "10.96.0.1:80"), want, "{name}");
    }
    let all = snapshot(vec![zone], vec![cart(Mode::Strict, &[Node])]);
    let answer = line(&ask(&all, &source, "10.96.0.1:80", 0));
    assert_eq!(answer, "error: no healthy upstream: shop/cart.shop has no usable endpoint for port 80");
}

#[test]
fn health_counts_unless_all_are_allowed() {
    let source = pod("src", "10.244.0.1");
    let well = of("cart", &[], pod("well", "10.244.0.2"));
    let ill = Workload { health: Health::Unhealthy, ..of("cart", &[], pod("ill", "10.244.0.3")) };
    let mut service = cart(Mode::Unspecified, &[]);
    let all = snapshot(vec![well.clone(), ill.clone()], vec![service.clone()]);
    assert_eq!(chosen(&all, &source, "10.96.0.1:80"), ["well"]);
    service.load_balancing.as_mut().unwrap().health = HealthPolicy::AllowAll;
    let all = snapshot(vec![well, ill], vec![service]);
    assert_eq!(chosen(&all, &source, "10.96.0.1:80"), ["ill", "well"]);
}

#[test]
fn capacity_is_the_weight() {
    let source = pod("src", "10.244.0.1");
    let weighing = |name: &str, last: u8, capacity| Workload {
        capacity,
        ..of("cart", &[], pod(name, &format!("10.244.0.{last}")))
    };
    let pods = vec![weighing("a", 2, 1), weighing("b", 3, 3), weighing("c", 4, 0)];
    let counts = spread(&snapshot(pods, vec![service("cart", "10.96.0.1")]), &source, "10.96.0.1:80");
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    // 1000 draws with p = 1/4: four standard deviations (13.7) around 250.
    assert!((195..=305).contains(&counts["a"]), "{counts:?}");
    let none = snapshot(vec![weighing("c", 4, 0)], vec![service("cart", "10.96.0.1")]);
    assert!(line(&ask(&none, &source, "10.96.0.1:80", 0)).starts_with("error: no healthy upstream"));
    let huge = vec![weighing("a", 2, u32::MAX), weighing("b", 3, u32::MAX)];
    assert_eq!(chosen(&snapshot(huge, vec![service("cart", "10.96.0.1")]), &source, "10.96.0.1:80"), ["a", "b"]);
}

#[test]
fn a_random_number_is_scaled_without_leaving_the_range() {
    assert_eq!(scale(7, 0), None);
    assert_eq!(scale(0, 3), Some(0));
    assert_eq!(scale(u64::MAX, 3), Some(2));
    assert_eq!(scale(u64::MAX / 2 + 1, 2), Some(1));
}
