//! Outbound and inbound capture with true addresses, IPv4, IPv6 and v4-mapped.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use redirect_loader::Reason;

use crate::Test;
use crate::actor::canonical;
use crate::lab::{AT_ONCE, Lab, PEER4, PEER6, POD4, POD6, Said, call, serve};

pub const TESTS: &[Test] = &[
    ("probe_finds_nothing_missing", probe_finds_nothing_missing),
    ("outbound_shows_true_addresses_on_both_sides", outbound_shows_true_addresses_on_both_sides),
    ("cluster_address_needs_no_route", cluster_address_needs_no_route),
    ("loopback_and_self_calls_pass", loopback_and_self_calls_pass),
    ("inbound_reaches_the_proxy_on_any_port", inbound_reaches_the_proxy_on_any_port),
    ("proxy_shows_the_clients_address_to_the_app", proxy_shows_the_clients_address_to_the_app),
    ("stock_proxy_mark_is_turned_into_return", stock_proxy_mark_is_turned_into_return),
    ("closed_app_port_is_refused_at_once", closed_app_port_is_refused_at_once),
    ("no_listener_refuses_at_once", no_listener_refuses_at_once),
    ("proxy_reaches_the_network", proxy_reaches_the_network),
];

fn probe_finds_nothing_missing() {
    redirect_loader::probe().unwrap_or_else(|missing| panic!("{missing:#?}"));
}

fn outbound_shows_true_addresses_on_both_sides() {
    let (lab, _proxy) = Lab::captured();
    for (to, source) in [
        (format!("{PEER4}:80"), POD4),
        (format!("[{PEER6}]:80"), POD6),
        (format!("[::ffff:{PEER4}]:81"), POD4),
        (format!("{PEER4}:15008"), POD4),
    ] {
        let (stream, said) = lab.run("pod", || call(&to)).unwrap_or_else(|e| panic!("{to}: {e}"));
        let wanted = canonical(to.parse().unwrap());
        assert_eq!((said.generation, said.port, said.local), (1, 15001, wanted), "{to}");
        assert_eq!(canonical(stream.peer_addr().unwrap()), wanted);
        let own = canonical(stream.local_addr().unwrap());
        assert_eq!(own.ip(), source.parse::<IpAddr>().unwrap());
        assert_eq!(said.peer, own);
    }
    assert_eq!(lab.count(Reason::Captured), 4);
    assert!(lab.count(Reason::LookupOutbound) >= 4);
}

fn cluster_address_needs_no_route() {
    let (lab, _proxy) = Lab::captured();
    lab.ip("pod", "route del default");
    lab.ip("pod", "-6 route del default");
    for to in ["10.96.0.10:443", "[fd96::10]:443"] {
        let (_, said) = lab.run("pod", || call(to)).unwrap();
        assert_eq!((said.port, said.local), (15001, to.parse().unwrap()));
    }
}

fn loopback_and_self_calls_pass() {
    let (lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:7070"));
    for to in ["127.0.0.1:7070", "[::1]:7070", "127.3.2.1:7070"] {
        assert_eq!(lab.run("pod", || call(to)).unwrap().1.generation, 0, "{to}");
    }
    for (to, source) in [(format!("{POD4}:7070"), POD4), (format!("[{POD6}]:7070"), POD6)] {
        let said = lab.run("pod", || call(&to)).unwrap().1;
        assert_eq!((said.generation, said.peer.ip()), (0, source.parse().unwrap()), "{to}");
    }
    assert_eq!(lab.count(Reason::ConnectLocal), 5);
    assert_eq!(lab.count(Reason::Captured), 0);
}

fn inbound_reaches_the_proxy_on_any_port() {
    let (lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    for (ip, peer) in [(POD4.to_owned(), PEER4), (format!("[{POD6}]"), PEER6)] {
        for (port, listener) in [(8080, 15006), (1, 15006), (15001, 15006), (15006, 15006), (15008, 15008)] {
            let to = format!("{ip}:{port}");
            let (stream, said) = lab.run("peer", || call(&to)).unwrap_or_else(|e| panic!("{to}: {e}"));
            assert_eq!((said.generation, said.port), (1, listener), "{to}");
            assert_eq!(said.local, to.parse::<SocketAddr>().unwrap());
            assert_eq!(said.peer, stream.local_addr().unwrap());
            assert_eq!(said.peer.ip(), peer.parse::<IpAddr>().unwrap());
        }
    }
    assert!(lab.count(Reason::LookupInbound) >= 8 && lab.count(Reason::LookupHbone) >= 2);
}

const RETURN: u32 = 0x2000;
const STOCK: u32 = 0x539;

fn shows_clients_address(mark: u32) {
    let (lab, mut proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    for (client, app) in
        [(PEER4, format!("{POD4}:8080")), (PEER6, format!("[{POD6}]:8080")), ("203.0.113.9", format!("{POD4}:8080"))]
    {
        let said = Said::parse(&proxy.connect(client, &app, mark));
        assert_eq!((said.generation, said.peer.ip()), (0, client.parse::<IpAddr>().unwrap()));
        assert_eq!(said.local, app.parse().unwrap());
    }
    // Without a foreign source it works as well, and nothing of it looked like inbound.
    let plain = Said::parse(&proxy.connect("-", &format!("{POD4}:8080"), mark & STOCK));
    assert_eq!((plain.generation, plain.peer.ip()), (0, POD4.parse::<IpAddr>().unwrap()));
    assert_eq!(lab.count(Reason::LookupInbound), 0);
    assert_eq!(lab.count(Reason::ProxyReturned), if mark == STOCK { 3 } else { 0 });
}

fn proxy_shows_the_clients_address_to_the_app() {
    shows_clients_address(RETURN);
}

fn stock_proxy_mark_is_turned_into_return() {
    shows_clients_address(STOCK);
}

fn closed_app_port_is_refused_at_once() {
    let (_lab, mut proxy) = Lab::captured();
    for (client, app) in [(PEER4, format!("{POD4}:9")), (PEER6, format!("[{POD6}]:9"))] {
        let start = Instant::now();
        assert_eq!(proxy.connect(client, &app, RETURN), "error ConnectionRefused");
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
}

fn no_listener_refuses_at_once() {
    let (lab, mut proxy) = Lab::captured();
    proxy.close();
    drop(proxy);
    let _server = lab.run("pod", || serve("[::]:8080"));
    for (from, to) in [
        ("pod", format!("{PEER4}:80")),
        ("pod", format!("[{PEER6}]:80")),
        ("pod", format!("[::ffff:{PEER4}]:80")),
        ("peer", format!("{POD4}:8080")),
        ("peer", format!("[{POD6}]:8080")),
        ("peer", format!("{POD4}:15008")),
    ] {
        let start = Instant::now();
        let error = lab.run(from, || call(&to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        assert!(start.elapsed() < AT_ONCE, "{to}: {:?}", start.elapsed());
    }
    assert_eq!(lab.count(Reason::ConnectNoListener), 3);
    assert!(lab.count(Reason::LookupNoListener) >= 3);
}

fn proxy_reaches_the_network() {
    let (lab, mut proxy) = Lab::captured();
    let _server = lab.run("peer", || serve("[::]:8080"));
    for (to, source) in [(format!("{PEER4}:8080"), POD4), (format!("[{PEER6}]:8080"), POD6)] {
        for mark in [0, STOCK] {
            let said = Said::parse(&proxy.connect("-", &to, mark));
            assert_eq!((said.generation, said.peer.ip()), (0, source.parse::<IpAddr>().unwrap()));
        }
    }
    assert!(lab.count(Reason::GuardProxy) >= 4);
}
