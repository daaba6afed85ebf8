//! hbone.md 8, and the authority of hbone.md 4.

use mesh::Outcome;
use mesh::service::WeightedWaypoint;
use mesh::workload::{AppTunnelProtocol, ApplicationTunnel, Workload};

use crate::testing::*;
use crate::{Authority, Snapshot};

/// The answer in one line: port, service, what is special; or the status and the reason.
fn answer(all: &Snapshot, local: &Workload, local_ip: &str, authority: &str) -> String {
    match all.inbound(local, ip(local_ip), &authority.parse().unwrap()) {
        Ok(t) => format!(
            "{} {}{}{}",
            t.port,
            t.service.map_or("-".to_owned(), |s| s.name.to_string()),
            if t.proxy_header { " proxy" } else { "" },
            if t.loopback { " loopback" } else { "" }
        ),
        Err(e) => format!("{} {e}", e.outcome().report().status),
    }
}

#[test]
fn section_4_authorities_are_read_strictly() {
    for (text, want) in [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[fd00::1]:80", "[fd00::1]:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("Cart.shop.svc.cluster.local:7070", "cart.shop.svc.cluster.local:7070"),
        ("localhost:65535", "localhost:65535"),
    ] {
        assert_eq!(text.parse::<Authority>().unwrap().to_string(), want);
    }
    for text in [
        "",
        ":",
        ":80",
        "10.0.0.1",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+80",
        "host: 80",
        "fd00::1:80",
        "[fd00::1]",
        "[fd00::1%3]:80",
        "[10.0.0.1]:80",
        "[host]:80",
        "10.0.0.300:80",
        "ho st:80",
        "u@host:80",
        "host/x:80",
        "hóst:80",
    ] {
        assert!(text.parse::<Authority>().is_err(), "{text:?}");
    }
    assert!(format!("{}:80", "a".repeat(254)).parse::<Authority>().is_err());
}

#[test]
fn section_8_the_address_must_be_the_pods_own() {
    let local = pod("cart", "10.244.0.2 fd00::2");
    let all = snapshot(vec![local.clone(), pod("other", "10.244.0.3")], vec![service("cart", "10.96.0.1")]);
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:7070"), "7070 -");
    assert_eq!(answer(&all, &local, "fd00::2", "[fd00::2]:7070"), "7070 -");
    assert_eq!(answer(&all, &local, "::ffff:10.244.0.2", "10.244.0.2:7070"), "7070 -");
    assert_eq!(answer(&all, &local, "10.244.0.2", "[::ffff:10.244.0.2]:7070"), "7070 -");
    // Another pod, a service, the loopback, the node, link-local, nothing, and the pod's own other address.
    for authority in [
        "10.244.0.3:80",
        "10.96.0.1:80",
        "127.0.0.1:80",
        "[::1]:80",
        "192.168.0.1:80",
        "169.254.169.254:80",
        "0.0.0.0:80",
        "[::ffff:127.0.0.1]:80",
        "[fd00::2]:80",
    ] {
        let said = answer(&all, &local, "10.244.0.2", authority);
        assert!(said.starts_with("400 ") && said.ends_with("is not an address of this pod (10.244.0.2)"), "{said}");
    }
}

#[test]
fn section_8_the_proxys_own_ports_are_refused() {
    let mut local = of("cart", &[(81, 15006)], pod("cart", "10.244.0.2"));
    let all = snapshot(vec![local.clone()], vec![service("cart", "")]);
    for port in [15001, 15006, 15008] {
        let said = answer(&all, &local, "10.244.0.2", &format!("10.244.0.2:{port}"));
        assert_eq!(said, format!("503 port {port} is a port of the proxy itself"));
    }
    // Also when a service's port leads there, and whatever an application tunnel makes of it.
    assert_eq!(answer(&all, &local, "10.244.0.2", "cart.shop:81"), "503 port 15006 is a port of the proxy itself");
    local.application_tunnel = Some(ApplicationTunnel { protocol: AppTunnelProtocol::Proxy, port: Some(15088) });
    assert!(answer(&all, &local, "10.244.0.2", "10.244.0.2:15008").starts_with("503"));
    local.application_tunnel = Some(ApplicationTunnel { protocol: AppTunnelProtocol::Proxy, port: Some(15001) });
    assert!(answer(&all, &local, "10.244.0.2", "10.244.0.2:80").starts_with("503"));
}

#[test]
fn section_8_a_host_name_stands_for_a_service() {
    let local = of("cart", &[(81, 8181), (83, 0)], pod("cart", "10.244.0.2"));
    let mut cart = service("cart", "10.96.0.1");
    cart.ports = ports(&[(80, 8080), (81, 1), (82, 0), (83, 8383)]);
    let all = snapshot(vec![local.clone()], vec![cart]);
    for (authority, want) in [
        ("cart.shop:80", "8080 cart"),
        ("CART.shop:81", "8181 cart"),
        ("cart.shop:83", "8383 cart"),
        ("cart.shop:82", "503 service cart.shop has no target port for port 82"),
        ("cart.shop:99", "503 service cart.shop has no target port for port 99"),
        ("nobody.shop:80", "503 no service has the host name nobody.shop"),
    ] {
        assert_eq!(answer(&all, &local, "10.244.0.2", authority), want);
    }
}

#[test]
fn of_several_services_of_one_host_the_pods_own_is_meant() {
    let mut local = pod("cart", "10.244.0.2");
    let in_ns = |namespace: &str, target, canonical| mesh::Service {
        namespace: namespace.into(),
        ports: ports(&[(80, target)]),
        canonical,
        ..service("cart", "")
    };
    let mut all = snapshot(vec![local.clone()], vec![in_ns("a", 1, false), in_ns("b", 2, true)]);
    assert_eq!(answer(&all, &local, "10.244.0.2", "cart.shop:80"), "2 cart");
    all.insert_service(in_ns("shop", 3, false));
    assert_eq!(answer(&all, &local, "10.244.0.2", "cart.shop:80"), "3 cart");
    local.services.insert("a/cart.shop".into(), ports(&[]));
    assert_eq!(answer(&all, &local, "10.244.0.2", "cart.shop:80"), "1 cart");
}

#[test]
fn section_8_an_application_tunnel_takes_any_address_and_changes_the_port() {
    let mut local = pod("gw", "10.244.0.2");
    let all = snapshot(vec![local.clone()], vec![]);
    local.application_tunnel = Some(ApplicationTunnel { protocol: AppTunnelProtocol::Proxy, port: Some(15088) });
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.96.0.7:80"), "15088 - proxy loopback");
    local.application_tunnel = Some(ApplicationTunnel { protocol: AppTunnelProtocol::Proxy, port: None });
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:80"), "80 - proxy loopback");
    local.application_tunnel = Some(ApplicationTunnel { protocol: AppTunnelProtocol::None, port: Some(81) });
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:80"), "81 -");
}

#[test]
fn section_8_a_waypoint_answers_for_those_that_name_it() {
    let local = of("wp", &[], pod("wp", "10.244.0.9"));
    let wp = service("wp", "10.96.0.9");
    for gateway in [by_host("wp"), by_address("/10.244.0.9"), by_address("/10.96.0.9")] {
        let mut cart = service("cart", "10.96.0.1");
        cart.waypoint = gateway.clone();
        let mut many = service("many", "10.96.0.2");
        many.weighted_waypoints = vec![WeightedWaypoint { destination: gateway.clone().unwrap(), weight: 1 }];
        let back = Workload { waypoint: gateway, ..pod("cart", "10.244.0.2") };
        let free = service("free", "10.96.0.3");
        let all = snapshot(vec![local.clone(), back, pod("free", "10.244.0.3")], vec![wp.clone(), cart, many, free]);
        for authority in ["10.96.0.1:80", "10.96.0.2:80", "10.244.0.2:80"] {
            assert_eq!(answer(&all, &local, "10.244.0.9", authority), "80 -");
        }
        for authority in ["10.96.0.3:80", "10.244.0.3:80"] {
            assert!(answer(&all, &local, "10.244.0.9", authority).starts_with("400"));
        }
        // Somebody else's waypoint does not make us one.
        let other = pod("other", "10.244.0.4");
        assert!(answer(&all, &other, "10.244.0.4", "10.96.0.1:80").starts_with("400"));
    }
}

#[test]
fn the_service_of_inbound_traffic_is_named_when_it_is_clear() {
    let local = of("b", &[(80, 9090)], of("a", &[], pod("cart", "10.244.0.2")));
    let mut all = snapshot(vec![local.clone()], vec![service("a", ""), service("b", "")]);
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:8080"), "8080 a");
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:9090"), "9090 b");
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:1"), "1 -");
    let local = of("b", &[], local);
    all.insert_workload(local.clone());
    assert_eq!(answer(&all, &local, "10.244.0.2", "10.244.0.2:8080"), "8080 -");
    let named = all.inbound_service(&local, 8080, Some("B.shop")).unwrap();
    assert_eq!(&*named.name, "b");
    // A host that the pod does not belong to is not believed.
    assert!(all.inbound_service(&local, 8080, Some("c.shop")).is_none());
}

#[test]
fn every_refusal_has_the_status_of_section_5() {
    let local = pod("cart", "10.244.0.2");
    let all = snapshot(vec![], vec![]);
    let refused = |a: &str| all.inbound(&local, ip("10.244.0.2"), &a.parse().unwrap()).unwrap_err().outcome();
    assert_eq!(refused("10.0.0.1:80"), Outcome::BadRequest);
    assert_eq!(refused("10.244.0.2:15008"), Outcome::IllegalDestination);
    assert_eq!(refused("x:80"), Outcome::UnknownDestination);
}
