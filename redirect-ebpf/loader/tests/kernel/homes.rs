//! Pods with several interfaces: what the primary one carries is captured and guarded, the rest is left alone and counted.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use redirect_loader::Reason;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::actor::Proxy;
use crate::lab::{Lab, PATIENCE, PEER4, PEER6, POD4, Said, call, serve};
use crate::wire::{MARKER, Sniffer, warm_up};

pub const TESTS: &[Test] = &[
    ("other_interfaces_are_left_alone", other_interfaces_are_left_alone),
    ("connections_by_other_interfaces_reach_the_app", connections_by_other_interfaces_reach_the_app),
    ("an_interface_that_comes_later_is_captured_until_seen", an_interface_that_comes_later_is_captured_until_seen),
    ("too_many_of_anything_are_captured", too_many_of_anything_are_captured),
    ("a_moved_route_leaks_nothing", a_moved_route_leaks_nothing),
    ("questions_by_other_interfaces_find_back", questions_by_other_interfaces_find_back),
];

const OWN4: &str = "10.80.0.2";
const OWN6: &str = "fd80::2";
const THERE4: &str = "10.80.0.3";
const THERE6: &str = "fd80::3";
/// Behind a router on the second network.
const FAR4: &str = "10.81.7.7";

/// A second network of the pod, as Multus adds it: `net1` in the pod, and a host on the other end.
struct Network {
    name: String,
}

impl Network {
    fn join(lab: &Lab) -> Self {
        let name = lab.ns("second");
        lab.ip_plain(&format!("netns add {name}"));
        lab.run("second", || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        lab.ip("pod", &format!("link add net1 type veth peer name eth0 netns {name}"));
        for (role, device, v4, v6) in [("pod", "net1", OWN4, OWN6), ("second", "eth0", THERE4, THERE6)] {
            lab.ip(role, &format!("link set {device} up"));
            lab.ip(role, &format!("addr add {v4}/24 dev {device}"));
            lab.ip(role, &format!("addr add {v6}/64 dev {device} nodad"));
        }
        lab.ip("second", &format!("addr add {FAR4}/32 dev eth0"));
        lab.ip("second", &format!("route add default via {OWN4}"));
        lab.ip("pod", &format!("route add 10.81.0.0/16 via {THERE4} dev net1"));
        Self { name }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let output = std::process::Command::new("ip").args(["netns", "del", &self.name]).output().unwrap();
        if !output.status.success() {
            eprintln!("clean-up: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn two_homes() -> (Lab, Proxy, Network) {
    let mut lab = Lab::new();
    let network = Network::join(&lab);
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    (lab, proxy, network)
}

fn bound(device: &str, to: &str) -> std::io::Result<Socket> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    socket.connect_timeout(&SockAddr::from(to), PATIENCE)?;
    Ok(socket)
}

fn other_interfaces_are_left_alone() {
    let (mut lab, _proxy, _network) = two_homes();
    lab.run("second", || serve("[::]:80"));
    for (to, own) in [
        (format!("{THERE4}:80"), OWN4),
        (format!("[{THERE6}]:80"), OWN6),
        (format!("[::ffff:{THERE4}]:80"), OWN4),
        (format!("{FAR4}:80"), OWN4),
    ] {
        let (_, said) = lab.run("pod", || call(&to)).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert_eq!((said.generation, said.peer.ip()), (0, own.parse::<IpAddr>().unwrap()), "{to}");
    }
    lab.run("pod", || bound("net1", &format!("{THERE4}:80")).unwrap());
    assert_eq!(lab.count(Reason::ConnectSecondary), 5);
    // The primary interface is what it was: captured, and no device can be named.
    for to in [format!("{PEER4}:80"), format!("[{PEER6}]:80"), "10.82.0.1:80".to_owned()] {
        assert_eq!(lab.run("pod", || call(&to)).unwrap().1.generation, 1, "{to}");
    }
    let error = lab.run("pod", || bound("eth0", &format!("{PEER4}:80"))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    // Both of its addresses are the pod itself.
    let _server = lab.run("pod", || serve("[::]:7070"));
    for to in [format!("{OWN4}:7070"), format!("[{OWN6}]:7070"), format!("{POD4}:7070")] {
        assert_eq!(lab.run("pod", || call(&to)).unwrap().1.generation, 0, "{to}");
    }
    assert_eq!(lab.count(Reason::ConnectLocal), 3);
    let pod = lab.netns("pod");
    let others = lab.redirector().other_interfaces(pod.as_fd()).unwrap();
    assert_eq!(others.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["net1"]);
    assert_eq!(lab.redirector().pods().unwrap()[0].secondary, [others[0].index]);
}

fn connections_by_other_interfaces_reach_the_app() {
    let (lab, _proxy, _network) = two_homes();
    let _server = lab.run("pod", || serve("[::]:8080"));
    for (to, from) in [(format!("{OWN4}:8080"), THERE4), (format!("[{OWN6}]:8080"), THERE6)] {
        let (_, said) = lab.run("second", || call(&to)).unwrap_or_else(|e| panic!("{to}: {e}"));
        assert_eq!((said.generation, said.peer.ip()), (0, from.parse::<IpAddr>().unwrap()), "{to}");
    }
    assert!(lab.count(Reason::LookupSecondary) >= 2);
    // The interface decides, not the address: by the primary one it is the proxy's.
    lab.ip("node", &format!("route add {OWN4}/32 via {POD4}"));
    let (_, said) = lab.run("peer", || call(&format!("{OWN4}:8080"))).unwrap();
    assert_eq!((said.generation, said.port), (1, 15006));
    assert_eq!(lab.run("peer", || call(&format!("{POD4}:8080"))).unwrap().1.generation, 1);
}

fn an_interface_that_comes_later_is_captured_until_seen() {
    let (mut lab, mut proxy) = Lab::captured();
    let pod = lab.netns("pod");
    assert!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().is_empty());
    let _network = Network::join(&lab);
    lab.run("second", || serve("[::]:80"));
    let _server = lab.run("pod", || serve("[::]:8080"));
    let there = format!("{THERE4}:80");
    assert_eq!(lab.run("pod", || call(&there)).unwrap().1.generation, 1);
    assert_eq!(lab.run("second", || call(&format!("{OWN4}:8080"))).unwrap().1.generation, 1);
    assert_eq!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().len(), 1);
    assert_eq!(lab.run("pod", || call(&there)).unwrap().1.generation, 0);
    assert_eq!(lab.run("second", || call(&format!("{OWN4}:8080"))).unwrap().1.generation, 0);
    // The proxy reaches the second network as well.
    assert_eq!(Said::parse(&proxy.connect("-", &there, 0)).generation, 0);
    lab.ip("pod", "link del net1");
    assert!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().is_empty());
    assert!(lab.redirector().pods().unwrap()[0].secondary.is_empty());
    assert_eq!(lab.run("pod", || call(&there)).unwrap().1.generation, 1);
}

/// Root in a pod cannot fill the maps that all pods share.
fn too_many_of_anything_are_captured() {
    let (mut lab, _proxy, _network) = two_homes();
    lab.run("second", || serve("[::]:80"));
    let pod = lab.netns("pod");
    let there = format!("{THERE4}:80");
    let batch = |lab: &Lab, line: fn(usize) -> String, count: usize| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..count).map(line).collect::<String>()).unwrap();
        lab.ip("pod", &format!("-b {}", file.path().display()));
    };
    for (add, remove, count) in [
        (
            (|i| format!("route add 10.90.{i}.0/24 dev net1\n")) as fn(usize) -> String,
            (|i| format!("route del 10.90.{i}.0/24 dev net1\n")) as fn(usize) -> String,
            200,
        ),
        (|i| format!("addr add 10.91.0.{i}/32 dev net1\n"), |i| format!("addr del 10.91.0.{i}/32 dev net1\n"), 100),
    ] {
        assert_eq!(lab.run("pod", || call(&there)).unwrap().1.generation, 0);
        batch(&lab, add, count);
        assert!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().is_empty());
        assert_eq!(lab.run("pod", || call(&there)).unwrap().1.generation, 1);
        batch(&lab, remove, count);
        assert_eq!(lab.redirector().other_interfaces(pod.as_fd()).unwrap().len(), 1);
    }
}

/// Root in the pod says "second network", waits until that is believed, and moves the route to the first one.
fn a_moved_route_leaks_nothing() {
    let (lab, _proxy, _network) = two_homes();
    warm_up(&lab);
    lab.ip("peer", "addr add 10.81.0.9/32 dev eth0");
    lab.ip("node", "route add 10.81.0.0/16 via 10.78.0.2");
    let _server = lab.run("peer", || serve("[::]:80"));
    lab.run("second", || serve("[::]:80"));
    let (mut direct, said) = lab.run("pod", || call(&format!("{FAR4}:80"))).unwrap();
    assert_eq!(said.generation, 0);
    let sniffer = Sniffer::start(&lab);
    lab.ip("pod", "route del 10.81.0.0/16");
    let to: SocketAddr = "10.81.0.9:80".parse().unwrap();
    let error = lab.run("pod", || TcpStream::connect_timeout(&to, Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    direct.write_all(MARKER).unwrap();
    sniffer.assert_silent(&lab, "a route that was moved to the primary interface");
    assert!(lab.count(Reason::DropApp) >= 2);
}

fn questions_by_other_interfaces_find_back() {
    let mut lab = Lab::new();
    let _network = Network::join(&lab);
    lab.dns = true;
    lab.enroll();
    for (server, question) in [("second", format!("{THERE4}:53")), ("peer", format!("{PEER4}:53"))] {
        let server = lab.run(server, || UdpSocket::bind("0.0.0.0:53").unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        lab.run("pod", || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"question?", &question).unwrap());
        assert_eq!(server.recv(&mut [0; 16]).unwrap(), 9, "{question}");
    }
    assert_eq!(lab.count(Reason::DnsForwarded), 2);
}
