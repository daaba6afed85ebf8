//! One table per step of hbone.md 7.

use mesh::Outcome;
use mesh::service::{CidrVip, IpFamilies, LoadBalancingMode, Visibility, WeightedWaypoint};
use mesh::workload::{ApplicationTunnel, NetworkMode, TunnelProtocol, Workload};

use crate::testing::*;
use crate::{Route, Unresolved};

#[test]
fn section_1_loops_to_the_proxy_itself_are_refused() {
    let (web, all) = (pod("web", "10.244.0.1"), snapshot(vec![], vec![]));
    for to in ["127.0.0.1:15001", "127.1.2.3:15006", "[::1]:15008", "0.0.0.0:15008", "[::ffff:127.0.0.1]:15001"] {
        let answer = ask(&all, &web, to, 0);
        assert!(matches!(answer, Err(Unresolved::IllegalDestination(_))), "{to}: {}", line(&answer));
    }
    assert_eq!(line(&ask(&all, &web, "127.0.0.1:80", 0)), "passthrough 127.0.0.1:80: destination not in the mesh");
    assert_eq!(line(&ask(&all, &web, "9.9.9.9:15001", 0)), "passthrough 9.9.9.9:15001: destination not in the mesh");
}

#[test]
fn section_7_2_a_service_waypoint_gets_the_untranslated_address() {
    let web = pod("web", "10.244.0.1");
    let mut wp_service = service("wp", "10.96.0.9");
    wp_service.ports = ports(&[(15008, 15018)]);
    wp_service.subject_alt_names = vec!["spiffe://cluster.local/ns/shop/sa/extra".into(), "not-an-id".into()];
    let wp = of("wp", &[], pod("wp", "10.244.0.9"));
    let mut cart = service("cart", "10.96.0.1");
    let back = of("cart", &[], Workload { waypoint: by_host("nowhere"), ..pod("cart", "10.244.0.2") });
    let want = "waypoint 10.244.0.9:15018 10.96.0.1:80 wp for cart [wp+extra]";
    for gateway in [by_host("wp"), by_address("/10.96.0.9")] {
        cart.waypoint = gateway;
        let all = snapshot(vec![wp.clone(), back.clone()], vec![cart.clone(), wp_service.clone()]);
        assert_eq!(line(&ask(&all, &web, "10.96.0.1:80", 0)), want);
        // The service has no such port: the waypoint is asked all the same.
        assert!(line(&ask(&all, &web, "10.96.0.1:81", 0)).starts_with("waypoint 10.244.0.9:15018 10.96.0.1:81"));
    }
    // By the address of the waypoint's pod: no service, no translation.
    cart.waypoint = by_address("/10.244.0.9");
    let all = snapshot(vec![wp.clone(), back.clone()], vec![cart.clone(), wp_service]);
    assert_eq!(line(&ask(&all, &web, "10.96.0.1:80", 0)), "waypoint 10.244.0.9:15008 10.96.0.1:80 wp for cart [wp]");
    // Traffic to a service never uses a workload's waypoint.
    cart.waypoint = None;
    let all = snapshot(vec![wp, back], vec![cart]);
    assert_eq!(
        line(&ask(&all, &web, "10.96.0.1:80", 0)),
        "tunnel 10.244.0.2:15008 10.244.0.2:8080 cart cart [cart] same"
    );
}

#[test]
fn section_7_2_a_waypoint_that_cannot_be_resolved_is_never_gone_around() {
    let web = pod("web", "10.244.0.1");
    let back = of("cart", &[], pod("cart", "10.244.0.2"));
    let unhealthy = Workload { health: mesh::workload::Health::Unhealthy, ..of("wp", &[], pod("wp", "10.244.0.9")) };
    let mut wp = service("wp", "10.96.0.9");
    wp.ports = ports(&[(15008, 15008)]);
    for gateway in [by_host("gone"), by_host("wp"), by_address("/10.1.1.1"), by_address("/10.96.0.9")] {
        let mut cart = service("cart", "10.96.0.1");
        cart.waypoint = gateway.clone();
        let direct = Workload { waypoint: gateway, ..pod("direct", "10.244.0.3") };
        let all = snapshot(vec![back.clone(), unhealthy.clone(), direct], vec![cart, wp.clone()]);
        for to in ["10.96.0.1:80", "10.244.0.3:80"] {
            let answer = ask(&all, &web, to, 0).unwrap_err();
            assert!(matches!(answer, Unresolved::WaypointUnresolved { .. }), "{to}: {answer}");
            assert_eq!(answer.outcome(), Outcome::WaypointUnresolved);
        }
    }
}

#[test]
fn section_8_a_waypoint_without_the_port_is_tolerated_with_an_application_tunnel() {
    let web = pod("web", "10.244.0.1");
    let mut cart = service("cart", "10.96.0.1");
    cart.waypoint = by_host("wp");
    let mut wp = of("wp", &[], pod("wp", "10.244.0.9"));
    let all = |wp: &Workload| snapshot(vec![wp.clone()], vec![cart.clone(), service("wp", "10.96.0.9")]);
    assert!(
        line(&ask(&all(&wp), &web, "10.96.0.1:80", 0)).starts_with("error: waypoint shop/wp.shop of shop/cart.shop")
    );
    wp.application_tunnel = Some(ApplicationTunnel { protocol: Default::default(), port: Some(15088) });
    assert!(line(&ask(&all(&wp), &web, "10.96.0.1:80", 0)).starts_with("waypoint 10.244.0.9:15008 10.96.0.1:80 wp"));
}

#[test]
fn section_7_2_weighted_waypoints_are_sampled_and_empty_weights_mean_the_only_one() {
    let web = pod("web", "10.244.0.1");
    let mut cart = service("cart", "10.96.0.1");
    cart.waypoint = by_address("/10.244.0.9");
    let weighted = |pairs: &[(&str, u32)]| {
        pairs
            .iter()
            .map(|(a, weight)| WeightedWaypoint { destination: by_address(a).unwrap(), weight: *weight })
            .collect()
    };
    let pods =
        vec![pod("only", "10.244.0.9"), pod("a", "10.244.0.10"), pod("b", "10.244.0.11"), pod("c", "10.244.0.12")];
    cart.weighted_waypoints = weighted(&[("/10.244.0.10", 1), ("/10.244.0.11", 3), ("/10.244.0.12", 0)]);
    let counts = spread(&snapshot(pods.clone(), vec![cart.clone()]), &web, "10.96.0.1:80");
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert!((248..=252).contains(&counts["a"]), "{counts:?}");
    cart.weighted_waypoints = weighted(&[("/10.244.0.10", 0)]);
    assert_eq!(chosen(&snapshot(pods.clone(), vec![cart.clone()]), &web, "10.96.0.1:80"), ["only"]);
    // The chosen one cannot be resolved: fail closed, do not take another.
    cart.weighted_waypoints = weighted(&[("/10.1.1.1", 1)]);
    let answer = ask(&snapshot(pods, vec![cart]), &web, "10.96.0.1:80", 0);
    assert!(matches!(answer, Err(Unresolved::WaypointUnresolved { .. })), "{}", line(&answer));
}

#[test]
fn section_7_2b_passthrough_goes_to_the_original_destination() {
    let mut open = service("open", "10.96.0.1");
    open.load_balancing = balance(LoadBalancingMode::Passthrough, &[]);
    let all = snapshot(vec![of("open", &[], pod("a", "10.244.0.2"))], vec![open]);
    let answer = line(&ask(&all, &pod("web", "10.244.0.1"), "10.96.0.1:81", 0));
    assert_eq!(answer, "passthrough 10.96.0.1:81: service shop/open.shop asks for passthrough");
}

#[test]
fn section_7_2c_a_service_is_translated_to_an_endpoint() {
    let web = pod("web", "10.244.0.1");
    let plain = |w: Workload| Workload { tunnel: TunnelProtocol::None, ..w };
    let far = |w: Workload| Workload { node: "n2".into(), ..w };
    for (endpoint, to, want) in [
        (
            of("cart", &[], pod("a", "10.244.0.2")),
            "10.96.0.1:80",
            "tunnel 10.244.0.2:15008 10.244.0.2:8080 a cart [a] same",
        ),
        (
            far(of("cart", &[], pod("a", "10.244.0.2"))),
            "10.96.0.1:80",
            "tunnel 10.244.0.2:15008 10.244.0.2:8080 a cart [a] other",
        ),
        (
            of("cart", &[(80, 9090)], pod("a", "10.244.0.2")),
            "10.96.0.1:80",
            "tunnel 10.244.0.2:15008 10.244.0.2:9090 a cart [a] same",
        ),
        (plain(of("cart", &[], pod("a", "10.244.0.2"))), "10.96.0.1:80", "direct 10.244.0.2:8080 a cart"),
        (
            of("cart", &[], pod("a", "10.244.0.2")),
            "[::ffff:10.96.0.1]:80",
            "tunnel 10.244.0.2:15008 10.244.0.2:8080 a cart [a] same",
        ),
        (
            of("cart", &[], pod("a", "10.244.0.2 fd00::2")),
            "[fd00::96]:80",
            "tunnel [fd00::2]:15008 [fd00::2]:8080 a cart [a] same",
        ),
        (
            of("cart", &[], pod("a", "10.244.0.2")),
            "[fd00::96]:80",
            "tunnel 10.244.0.2:15008 10.244.0.2:8080 a cart [a] same",
        ),
        (
            of("cart", &[(81, 81)], pod("a", "10.244.0.2")),
            "10.96.0.1:81",
            "error: no healthy upstream: shop/cart.shop has no usable endpoint for port 81",
        ),
        (
            pod("a", "10.244.0.2"),
            "10.96.0.1:80",
            "error: no healthy upstream: shop/cart.shop has no usable endpoint for port 80",
        ),
        (
            of("cart", &[], pod("a", "")),
            "10.96.0.1:80",
            "error: no healthy upstream: shop/cart.shop has no usable endpoint for port 80",
        ),
    ] {
        let all = snapshot(vec![endpoint], vec![service("cart", "10.96.0.1 fd00::96")]);
        assert_eq!(line(&ask(&all, &web, to, 0)), want);
    }
}

#[test]
fn section_7_named_target_ports_are_looked_up_in_the_workload() {
    let web = pod("web", "10.244.0.1");
    let mut cart = service("cart", "10.96.0.1");
    cart.ports = ports(&[(80, 0)]);
    let named = of("cart", &[(80, 8088)], pod("a", "10.244.0.2"));
    let nameless = of("cart", &[(81, 1)], pod("b", "10.244.0.3"));
    let all = snapshot(vec![named, nameless], vec![cart]);
    assert_eq!(chosen(&all, &web, "10.96.0.1:80"), ["a"]);
    assert!(line(&ask(&all, &web, "10.96.0.1:80", 0)).contains("10.244.0.2:8088"));
}

#[test]
fn section_7_the_endpoint_address_respects_families_and_what_was_dialled() {
    let web = pod("web", "10.244.0.1");
    let endpoint = of("cart", &[], pod("a", "10.244.0.2 10.244.0.3 fd00::2"));
    for (families, to, want) in [
        (IpFamilies::Automatic, "10.96.0.1:80", "10.244.0.2:8080"),
        (IpFamilies::Automatic, "[fd00::96]:80", "[fd00::2]:8080"),
        (IpFamilies::Dual, "[fd00::96]:80", "[fd00::2]:8080"),
        (IpFamilies::Ipv4Only, "[fd00::96]:80", "10.244.0.2:8080"),
        (IpFamilies::Ipv6Only, "10.96.0.1:80", "[fd00::2]:8080"),
        // The application dialled an address that the endpoint itself has (a ServiceEntry, say).
        (IpFamilies::Automatic, "10.244.0.3:80", "10.244.0.3:8080"),
    ] {
        let mut cart = service("cart", "10.96.0.1 fd00::96 10.244.0.3");
        cart.ip_families = families;
        let answer = ask(&snapshot(vec![endpoint.clone()], vec![cart]), &web, to, 0);
        let Ok(Route::Tunnel { authority, .. }) = answer else { panic!("{}", line(&answer)) };
        assert_eq!(authority.to_string(), want, "{families:?} {to}");
    }
    let mut cart = service("cart", "10.96.0.1");
    cart.ip_families = IpFamilies::Ipv6Only;
    let v4_only = of("cart", &[], pod("a", "10.244.0.2"));
    let answer = ask(&snapshot(vec![v4_only], vec![cart]), &web, "10.96.0.1:80", 0);
    assert_eq!(answer.unwrap_err().outcome(), Outcome::NoHealthyUpstream);
}

#[test]
fn section_7_an_endpoint_with_a_host_name_waits_for_dns() {
    let web = pod("web", "10.244.0.1");
    let outside = Workload { hostname: "db.example".into(), tunnel: TunnelProtocol::None, ..pod("db", "") };
    let all = snapshot(vec![of("db", &[], outside)], vec![service("db", "10.96.0.1")]);
    let Ok(Route::Named(named)) = ask(&all, &web, "10.96.0.1:80", 0) else { panic!("has a name only") };
    assert_eq!((&**named.hostname(), named.prefers_ipv6()), ("db.example", false));
    assert_eq!(line(&Ok(named.at(ip("::ffff:192.0.2.1")))), "direct 192.0.2.1:8080 db db");
}

#[test]
fn section_7_3_an_unknown_address_passes_in_clear_only_outside_the_pod_networks() {
    let (web, all) = (pod("web", "10.244.0.1"), snapshot(vec![], vec![]));
    assert_eq!(line(&ask(&all, &web, "192.0.2.1:80", 0)), "passthrough 192.0.2.1:80: destination not in the mesh");
    for to in ["10.244.3.4:80", "[::ffff:10.244.3.4]:80", "[fd00:10:244::9]:80"] {
        let answer = ask(&all, &web, to, 0).unwrap_err();
        assert!(matches!(answer, Unresolved::UnknownPod { .. }), "{to}: {answer}");
        assert_eq!(answer.outcome(), Outcome::UnknownDestination);
    }
    // Without configured blocks: Istio's behaviour.
    let destination = mesh::OriginalDst("10.244.3.4:80".parse().unwrap());
    let query = crate::Query { source: &web, destination, pod_cidrs: &[], random: 0 };
    assert!(matches!(all.resolve(&query), Ok(Route::Passthrough { .. })));
}

#[test]
fn section_7_5_a_workload_waypoint_is_for_traffic_to_the_workloads_address() {
    let web = pod("web", "10.244.0.1");
    let mut wp_service = service("wp", "10.96.0.9");
    wp_service.ports = ports(&[(15008, 15008)]);
    let wp = of("wp", &[], pod("wp", "10.244.0.9"));
    for gateway in [by_host("wp"), by_address("/10.96.0.9"), by_address("/10.244.0.9")] {
        let back = Workload { waypoint: gateway.clone(), ..pod("cart", "10.244.0.2") };
        let mut cart = service("cart", "10.96.0.1");
        cart.waypoint = by_host("nowhere");
        let back = of("cart", &[], back);
        let all = snapshot(vec![wp.clone(), back.clone()], vec![cart, wp_service.clone()]);
        // A service's waypoint is not used for traffic to the pod's address.
        let want = "waypoint 10.244.0.9:15008 10.244.0.2:81 wp for cart [wp]";
        assert_eq!(line(&ask(&all, &web, "10.244.0.2:81", 0)), want);
        // The waypoint itself goes straight to the workload.
        let straight = "tunnel 10.244.0.2:15008 10.244.0.2:81 cart - [cart] same";
        assert_eq!(line(&ask(&all, &wp, "10.244.0.2:81", 0)), straight, "{gateway:?}");
    }
}

#[test]
fn section_7_6_a_workload_is_tunnelled_to_or_reached_in_clear() {
    let web = pod("web", "10.244.0.1");
    let plain = Workload { tunnel: TunnelProtocol::None, ..pod("db", "10.244.0.3") };
    let host = Workload { network_mode: NetworkMode::HostNetwork, ..pod("host", "192.168.0.1") };
    let all = snapshot(vec![pod("cart", "10.244.0.2 fd00::2"), plain, host], vec![]);
    for (to, want) in [
        ("10.244.0.2:7070", "tunnel 10.244.0.2:15008 10.244.0.2:7070 cart - [cart] same"),
        ("[fd00::2]:7070", "tunnel [fd00::2]:15008 [fd00::2]:7070 cart - [cart] same"),
        ("[::ffff:10.244.0.2]:7070", "tunnel 10.244.0.2:15008 10.244.0.2:7070 cart - [cart] same"),
        ("10.244.0.3:5432", "direct 10.244.0.3:5432 db -"),
        // discovery.md 3, field 25: a host's address belongs to no pod.
        ("192.168.0.1:80", "passthrough 192.168.0.1:80: destination not in the mesh"),
    ] {
        assert_eq!(line(&ask(&all, &web, to, 0)), want);
    }
}

#[test]
fn section_7_a_service_wins_over_a_workload_of_the_same_address() {
    let all = snapshot(vec![of("cart", &[], pod("a", "10.96.0.1"))], vec![service("cart", "10.96.0.1")]);
    let answer = line(&ask(&all, &pod("web", "10.244.0.1"), "10.96.0.1:80", 0));
    assert_eq!(answer, "tunnel 10.96.0.1:15008 10.96.0.1:8080 a cart [a] same");
}

#[test]
fn section_7_2_address_blocks_go_by_namespace_then_length_then_canonical() {
    let web = pod("web", "10.244.0.1");
    let block = |name: &str, namespace: &str, cidr: &str, canonical: bool| {
        let mut s = service(name, "");
        s.namespace = namespace.into();
        s.canonical = canonical;
        s.cidr_vips = vec![CidrVip { network: "".into(), cidr: cidr.parse().unwrap() }];
        s.load_balancing = balance(LoadBalancingMode::Passthrough, &[]);
        s
    };
    let who = |services: Vec<mesh::Service>, to: &str| line(&ask(&snapshot(vec![], services), &web, to, 0));
    let wide = block("wide", "shop", "172.16.0.0/12", false);
    let long = block("long", "other", "172.16.1.0/24", true);
    assert!(who(vec![wide.clone(), long.clone()], "172.16.1.1:80").contains("shop/wide.shop"));
    let other = block("other", "third", "172.16.0.0/12", true);
    assert!(who(vec![other.clone(), long.clone()], "172.16.1.1:80").contains("other/long.shop"));
    assert!(who(vec![other.clone(), long.clone()], "172.16.2.1:80").contains("third/other.shop"));
    let same = block("same", "another", "172.16.1.0/24", false);
    assert!(who(vec![same, long.clone()], "172.16.1.1:80").contains("other/long.shop"));
    let hidden = mesh::Service { visibility: Visibility::Namespace, ..long };
    assert!(who(vec![other, hidden], "172.16.1.1:80").contains("third/other.shop"));
    let v6 = block("v6", "shop", "fd00:16::/32", false);
    assert!(who(vec![v6.clone(), wide.clone()], "[fd00:16::1]:80").contains("shop/v6.shop"));
    assert!(who(vec![v6, wide], "[fd00:17::1]:80").contains("not in the mesh"));
    // An exact address goes before any block.
    let mut exact = block("exact", "other", "1.0.0.0/8", false);
    exact.vips = vec![at("/172.16.1.1")];
    let wide = block("wide", "shop", "172.16.0.0/12", false);
    assert!(who(vec![exact, wide], "172.16.1.1:80").contains("other/exact.shop"));
}

#[test]
fn a_block_around_the_pod_network_neither_diverts_nor_uncovers_pods() {
    let web = pod("web", "10.244.0.1");
    let mut wide = service("wide", "");
    wide.namespace = "other".into();
    wide.cidr_vips = vec![CidrVip { network: "".into(), cidr: "10.0.0.0/8".parse().unwrap() }];
    let theirs = of("theirs", &[], pod("theirs", "10.244.0.66"));
    let mut fixed = wide.clone();
    fixed.hostname = "theirs.shop".into();
    fixed.namespace = "shop".into();
    wide.load_balancing = balance(LoadBalancingMode::Passthrough, &[]);
    // The cluster next door, of which no block is known.
    let vm = Workload { uid: "WorkloadEntry/vm".into(), ..pod("vm", "10.9.0.2") };
    let said = Workload { uid: "ServiceEntry/said".into(), tunnel: TunnelProtocol::None, ..pod("said", "10.9.0.3") };
    let workloads = vec![theirs, pod("cart", "10.244.0.2"), pod("next", "10.9.0.1"), vm.clone(), said];
    let of_the_block =
        |line: &str| line.starts_with("passthrough") && line.contains("wide") || line.contains(" wide [");
    for service in [wide, fixed] {
        let all = snapshot(workloads.clone(), vec![service.clone()]);
        let to = |to: &str| line(&ask(&all, &web, to, 0));
        assert_eq!(to("10.244.0.2:80"), "tunnel 10.244.0.2:15008 10.244.0.2:80 cart - [cart] same");
        assert_eq!(to("10.9.0.1:80"), "tunnel 10.9.0.1:15008 10.9.0.1:80 next - [next] same");
        assert_eq!(to("10.9.0.2:80"), "tunnel 10.9.0.2:15008 10.9.0.2:80 vm - [vm] same");
        let answer = ask(&all, &web, "10.244.9.9:80", 0).unwrap_err();
        assert!(matches!(answer, Unresolved::UnknownPod { .. }), "{answer}");
        // What is nobody's, and what only an entry speaks of, is the block's.
        for outside in ["10.9.0.3:80", "10.9.0.4:80"] {
            let answer = to(outside);
            assert!(of_the_block(&answer), "{outside}: {answer}");
        }
        // An endpoint that is no pod stays its service's.
        let mut vm = vm.clone();
        vm.services.insert(service.key().to_string().into(), ports(&[]));
        let all = snapshot(vec![vm], vec![service.clone()]);
        let answer = line(&ask(&all, &web, "10.9.0.2:80", 0));
        assert!(of_the_block(&answer), "{answer}");
    }
}

#[test]
fn section_9_other_networks_are_reached_through_their_gateway() {
    let web = pod("web", "10.244.0.1");
    let gateway = Workload { network: "west".into(), ..pod("gw", "192.0.2.7") };
    let far = |w: Workload, gateway| Workload { network: "west".into(), network_gateway: gateway, ..w };
    let endpoint = |gateway| of("cart", &[], far(pod("far", "10.244.0.2"), gateway));
    let mut cart = service("cart", "10.96.0.1");
    cart.subject_alt_names = vec!["spiffe://cluster.local/ns/shop/sa/cart".into()];
    let direct = snapshot(vec![gateway.clone(), endpoint(by_address("west/192.0.2.7"))], vec![cart.clone()]);
    let want = "gateway 192.0.2.7:15008 cart.shop:80 gw far [gw] [cart]";
    assert_eq!(line(&ask(&direct, &web, "10.96.0.1:80", 0)), want);
    // By the gateway's service.
    let mut gw_service = service("gw", "");
    gw_service.ports = ports(&[(15008, 15018)]);
    let all = snapshot(vec![of("gw", &[], gateway), endpoint(by_host("gw"))], vec![cart.clone(), gw_service]);
    assert_eq!(line(&ask(&all, &web, "10.96.0.1:80", 0)), want.replace("15008", "15018"));
    // No gateway: no endpoint. An unknown gateway: an error, not plaintext.
    let none = snapshot(vec![endpoint(None)], vec![cart.clone()]);
    assert!(line(&ask(&none, &web, "10.96.0.1:80", 0)).starts_with("error: no healthy upstream"));
    let lost = snapshot(vec![endpoint(by_address("west/192.0.2.7"))], vec![cart.clone()]);
    assert_eq!(line(&ask(&lost, &web, "10.96.0.1:80", 0)), "error: no gateway leads to network \"west\"");
    // The same address on another network is another address.
    assert!(line(&ask(&direct, &web, "10.244.0.2:80", 0)).starts_with("error: 10.244.0.2 is a pod's address"));
    // An endpoint without address is reached through the gateway, and only from another network.
    let faceless = of("cart", &[], far(pod("far", ""), by_address("/192.0.2.7")));
    let near_gateway = pod("gw", "192.0.2.7");
    let all = snapshot(vec![near_gateway, faceless.clone()], vec![cart]);
    assert!(line(&ask(&all, &web, "10.96.0.1:80", 0)).starts_with("gateway 192.0.2.7:15008"));
    let inside = Workload { network: "west".into(), ..web };
    assert!(
        line(&ask(&all, &inside, "10.96.0.1:80", 0)).starts_with("passthrough"),
        "the address is of another network"
    );
}

#[test]
fn section_9_a_waypoint_on_another_network_is_for_services_only() {
    let web = pod("web", "10.244.0.1");
    let gateway = Workload { network: "west".into(), ..pod("gw", "192.0.2.7") };
    let mut wp = of("wp", &[], pod("wp", "10.244.0.9"));
    wp.network = "west".into();
    wp.network_gateway = by_address("west/192.0.2.7");
    let mut wp_service = service("wp", "");
    wp_service.ports = ports(&[(15008, 15008)]);
    let mut cart = service("cart", "10.96.0.1");
    cart.waypoint = by_host("wp");
    let back = Workload { waypoint: by_host("wp"), ..pod("cart", "10.244.0.2") };
    let all = snapshot(vec![gateway, wp, back], vec![wp_service, cart]);
    assert_eq!(line(&ask(&all, &web, "10.96.0.1:80", 0)), "gateway 192.0.2.7:15008 cart.shop:80 gw wp [gw] []");
    let answer = ask(&all, &web, "10.244.0.2:80", 0).unwrap_err();
    assert!(matches!(answer, Unresolved::NotAService { .. }), "{answer}");
}
