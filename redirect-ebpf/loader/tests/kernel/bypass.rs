//! Ways around the capture: none may bring a byte to the wire in clear.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redirect_loader::Reason;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::lab::{AT_ONCE, Lab, PATIENCE, PEER4, PEER6, POD4, call, serve, serve_on};
use crate::wire::{MARKER, Sniffer, warm_up};

pub const TESTS: &[Test] = &[
    ("datagrams_and_icmp_pass_and_are_counted", datagrams_and_icmp_pass_and_are_counted),
    ("bound_to_a_device_is_refused", bound_to_a_device_is_refused),
    ("marks_are_not_the_apps", marks_are_not_the_apps),
    ("marks_cannot_be_raced", marks_cannot_be_raced),
    ("io_uring_is_captured", io_uring_is_captured),
    ("dnat_of_loopback_leaks_nothing", dnat_of_loopback_leaks_nothing),
    ("flushed_rules_leak_nothing", flushed_rules_leak_nothing),
    ("fast_open_is_captured", fast_open_is_captured),
    ("mptcp_is_refused", mptcp_is_refused),
    ("scoped_addresses_are_refused", scoped_addresses_are_refused),
    ("listener_of_an_app_gets_nothing", listener_of_an_app_gets_nothing),
    ("forwarded_packets_do_not_leave", forwarded_packets_do_not_leave),
    ("remote_port_walk_stays_with_the_proxy", remote_port_walk_stays_with_the_proxy),
    ("forgotten_proxy_is_an_app", forgotten_proxy_is_an_app),
];

fn datagrams_and_icmp_pass_and_are_counted() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let server = lab.run("peer", || UdpSocket::bind((PEER4, 53)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    lab.run("pod", || UdpSocket::bind((POD4, 0)).unwrap().send_to(b"query", (PEER4, 53)).unwrap());
    assert_eq!(server.recv(&mut [0; 16]).unwrap(), 5);
    assert!(lab.count(Reason::GuardUdp) >= 2);
    assert_eq!(lab.count(Reason::GuardDns), 1);
    // Neighbour discovery is ICMPv6.
    assert!(lab.count(Reason::GuardIcmp) + lab.count(Reason::GuardArp) > 0);
}

fn tcp(to: &str) -> (Socket, SockAddr) {
    let to: SocketAddr = to.parse().unwrap();
    (Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap(), to.into())
}

fn bound_to_a_device_is_refused() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let sniffer = Sniffer::start(&lab);
    for to in [format!("{PEER4}:80"), format!("[{PEER6}]:80"), format!("[::ffff:{PEER4}]:80")] {
        lab.run("pod", || {
            let (socket, address) = tcp(&to);
            socket.bind_device(Some(b"eth0")).unwrap();
            let start = Instant::now();
            let error = socket.connect_timeout(&address, PATIENCE).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{to}");
            assert!(start.elapsed() < AT_ONCE);
            let (socket, address) = tcp(&to);
            socket.connect_timeout(&address, PATIENCE).unwrap();
            assert_eq!(socket.bind_device(Some(b"eth0")).unwrap_err().raw_os_error(), Some(libc::EPERM));
            let by_index = set_option(&socket, libc::SOL_SOCKET, 62, 2);
            assert_eq!(by_index.unwrap_err().raw_os_error(), Some(libc::EPERM));
            (&socket).write_all(MARKER).unwrap();
        });
    }
    // To itself a bound socket may talk.
    let _server = lab.run("pod", || serve("0.0.0.0:7070"));
    lab.run("pod", || {
        let (socket, address) = tcp("127.0.0.1:7070");
        socket.bind_device(Some(b"lo")).unwrap();
        socket.connect_timeout(&address, PATIENCE).unwrap();
    });
    sniffer.assert_silent(&lab, "a bound socket");
    assert_eq!(lab.count(Reason::ConnectBoundDevice), 3);
    assert_eq!(lab.count(Reason::OptionRefused), 6);
}

fn marks_are_not_the_apps() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let sniffer = Sniffer::start(&lab);
    lab.run("pod", || {
        let (socket, address) = tcp(&format!("{PEER4}:80"));
        for mark in [0x1000, 0x2000, 0x3000, 0x2539, u32::MAX] {
            assert_eq!(socket.set_mark(mark).unwrap_err().raw_os_error(), Some(libc::EPERM), "{mark:#x}");
        }
        // A mark that means "proxy" to Istio means nothing here.
        socket.set_mark(0x539).unwrap();
        socket.connect_timeout(&address, PATIENCE).unwrap();
        assert_eq!(socket.mark().unwrap(), 0x1539);
        for mark in [0, 0x539, 0x1539, 0x8000] {
            assert_eq!(socket.set_mark(mark).unwrap_err().raw_os_error(), Some(libc::EPERM), "{mark:#x}");
        }
        (&socket).write_all(MARKER).unwrap();
        let mut said = [0u8; 9];
        (&socket).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"gen=1 por");
    });
    // Outside of pods marks are nobody's business.
    lab.run("peer", || tcp(&format!("{PEER4}:80")).0.set_mark(0x3000).unwrap());
    sniffer.assert_silent(&lab, "a marked socket");
    assert_eq!(lab.count(Reason::OptionRefused), 9);
}

/// Another thread changes the value between the hook's look and the kernel's: the kernel must set what the hook saw. Values longer
/// than a page take another way through the kernel.
fn marks_cannot_be_raced() {
    let (lab, _proxy) = Lab::captured();
    for length in [4usize, 8192] {
        let value: Vec<AtomicU32> = (0..length / 4).map(|_| AtomicU32::new(0x10)).collect();
        let stop = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    value[0].store(0x1010, Ordering::Relaxed);
                    value[0].store(0x10, Ordering::Relaxed);
                }
            });
            let outcome = lab.run("pod", || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
                let (mut allowed, mut refused) = (0u32, 0u32);
                // Until both outcomes were frequent: only then the two threads really met.
                let start = Instant::now();
                while (allowed < 2000 || refused < 2000) && start.elapsed() < PATIENCE {
                    // SAFETY: pointer and length describe the vector; the kernel copies from memory that others may write.
                    let failed = unsafe {
                        let (fd, length) = (socket.as_raw_fd(), length as libc::socklen_t);
                        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_MARK, value.as_ptr().cast(), length)
                    };
                    if failed == 0 {
                        allowed += 1
                    } else {
                        refused += 1
                    }
                    if socket.mark().unwrap() & 0x3000 != 0 {
                        return Err(allowed);
                    }
                }
                Ok((allowed, refused))
            });
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        let (allowed, refused) =
            outcome.unwrap_or_else(|n| panic!("length {length}: our bit was set after {n} allowed calls"));
        assert!(allowed >= 2000 && refused >= 2000, "length {length}: {allowed} allowed, {refused} refused");
    }
}

fn io_uring_is_captured() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let sniffer = Sniffer::start(&lab);
    lab.run("pod", || {
        let (socket, address) = tcp(&format!("{PEER4}:80"));
        assert_eq!(crate::uring::connect(&socket, &address).unwrap(), 0);
        (&socket).write_all(MARKER).unwrap();
        let mut said = [0u8; 16];
        (&socket).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"gen=1 port=15001");
    });
    sniffer.assert_silent(&lab, "io_uring");
}

/// An app that may change netfilter turns loopback into the world behind the hook's back.
fn dnat_of_loopback_leaks_nothing() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let _server = lab.run("peer", || serve("[::]:80"));
    let sniffer = Sniffer::start(&lab);
    let rules = format!(
        "table ip t {{ chain o {{ type nat hook output priority -100; ip daddr 127.0.0.9 tcp dport 80 dnat to {PEER4}; }}; \
         chain p {{ type nat hook postrouting priority 100; ip daddr {PEER4} masquerade; }}; }}"
    );
    lab.run("pod", || std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    let netns = format!("--net={}", lab.path("pod").display());
    let status = std::process::Command::new("nsenter").args([&netns, "nft", &rules]).status().unwrap();
    assert!(status.success());
    let to: SocketAddr = "127.0.0.9:80".parse().unwrap();
    let error = lab.run("pod", || TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    sniffer.assert_silent(&lab, "loopback behind DNAT");
    assert!(lab.count(Reason::DropApp) >= 1);
}

fn flushed_rules_leak_nothing() {
    let (mut lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let _server = lab.run("peer", || serve("[::]:80"));
    let sniffer = Sniffer::start(&lab);
    let (mut captured, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    for family in ["-4", "-6"] {
        for preference in [0, 2, 3] {
            lab.ip("pod", &format!("{family} rule del pref {preference}"));
        }
        lab.ip("pod", &format!("{family} route flush table 100"));
    }
    // The kernel routes an established connection anew when its rules change: to the wire.
    captured.write_all(MARKER).unwrap();
    for to in [format!("{PEER4}:80"), format!("[{PEER6}]:80")] {
        lab.run("pod", || {
            let error = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{to}");
        });
    }
    sniffer.assert_silent(&lab, "a pod without rules");
    assert!(lab.count(Reason::DropApp) >= 2);
    // An enrolment repairs the rules.
    lab.enroll();
    let (_, said) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert_eq!((said.generation, said.port), (1, 15001));
}

fn fast_open_is_captured() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let sniffer = Sniffer::start(&lab);
    lab.run("pod", || std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1029").unwrap());
    for round in 0..2 {
        lab.run("pod", || {
            let (socket, address) = tcp(&format!("{PEER4}:80"));
            // SAFETY: buffer and address outlive the call, with their true lengths.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    MARKER.as_ptr().cast(),
                    MARKER.len(),
                    libc::MSG_FASTOPEN,
                    address.as_ptr().cast(),
                    address.len(),
                )
            };
            assert_eq!(sent, MARKER.len() as isize, "round {round}: {}", std::io::Error::last_os_error());
            let mut said = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(&socket), &mut said).unwrap();
            assert!(said.starts_with("gen=1 port=15001"), "{said}");
        });
    }
    sniffer.assert_silent(&lab, "fast open");
}

fn mptcp_is_refused() {
    let mut lab = Lab::new();
    warm_up(&lab);
    let mptcp = Protocol::from(262);
    lab.run("pod", || std::fs::write("/proc/sys/net/mptcp/enabled", "1").unwrap());
    let older = lab.run("pod", || Socket::new(Domain::IPV4, Type::STREAM, Some(mptcp)).unwrap());
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    let _server = lab.run("peer", || serve("[::]:80"));
    let sniffer = Sniffer::start(&lab);
    lab.run("pod", || {
        let error = Socket::new(Domain::IPV6, Type::STREAM, Some(mptcp)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT));
    });
    let to: SocketAddr = format!("{PEER4}:80").parse().unwrap();
    // Its first subflow is a TCP socket that the hook sees (6.18), so it is captured; a kernel without that is held by the guard.
    if older.connect_timeout(&to.into(), Duration::from_millis(300)).is_ok() {
        let mut said = [0u8; 16];
        (&older).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"gen=1 port=15001");
        (&older).write_all(MARKER).unwrap();
    }
    sniffer.assert_silent(&lab, "MPTCP");
    assert_eq!(lab.count(Reason::SocketRefused), 1);
}

fn scoped_addresses_are_refused() {
    let (lab, _proxy) = Lab::captured();
    let link_local = "[fe80::1%2]:80";
    lab.run("pod", || {
        let error = TcpStream::connect_timeout(&link_local.parse().unwrap(), PATIENCE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
    assert_eq!(lab.count(Reason::ConnectUnroutable), 1);
}

fn reuse_listener(at: &str) -> TcpListener {
    let (socket, address) = tcp(at);
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    socket.bind(&address).unwrap();
    socket.listen(128).unwrap();
    socket.into()
}

fn listener_of_an_app_gets_nothing() {
    let (mut lab, proxy) = Lab::captured();
    // The same user, transparent, in the same reuseport groups as the proxy's listeners, from this process and from another.
    let _apps: Vec<TcpListener> =
        [15001, 15006, 15008].map(|port| lab.run("pod", || serve_on(reuse_listener(&format!("[::]:{port}"))))).into();
    let mut impostor = lab.impostor();
    impostor.listen_all();
    let cookie = lab.cookie();
    let listeners = lab.redirector().listeners(cookie).unwrap();
    assert!(listeners.iter().all(|l| l.generation == 1 && l.listeners == 2), "{listeners:?}");
    for i in 0..60 {
        let (from, to) = match i % 3 {
            0 => ("pod", format!("{PEER4}:80")),
            1 => ("peer", format!("{POD4}:80")),
            _ => ("peer", format!("{POD4}:15008")),
        };
        assert_eq!(lab.run(from, || call(&to)).unwrap().1.generation, 1);
    }
    drop(proxy);
    for (from, to) in
        [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80")), ("peer", format!("{POD4}:15008"))]
    {
        let error = lab.run(from, || call(&to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

fn forwarded_packets_do_not_leave() {
    let (lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let inner = Inner::inside(&lab);
    let sniffer = Sniffer::start(&lab);
    let to: SocketAddr = format!("{PEER4}:80").parse().unwrap();
    let error = inner.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    sniffer.assert_silent(&lab, "a forwarded connection");
    assert!(lab.count(Reason::DropNoSocket) + lab.count(Reason::DropApp) >= 1);
}

/// A namespace behind the pod, as docker-in-docker makes.
pub struct Inner<'a> {
    lab: &'a Lab,
}

impl<'a> Inner<'a> {
    pub fn inside(lab: &'a Lab) -> Self {
        let name = lab.ns("inner");
        lab.ip_plain(&format!("netns add {name}"));
        lab.ip("pod", &format!("link add inner0 type veth peer name eth0 netns {name}"));
        lab.ip("pod", "link set inner0 up");
        lab.ip("pod", "addr add 10.79.0.1/24 dev inner0");
        lab.ip("inner", "link set eth0 up");
        lab.ip("inner", "addr add 10.79.0.2/24 dev eth0");
        lab.ip("inner", "route add default via 10.79.0.1");
        lab.run("pod", || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        Self { lab }
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.lab.run("inner", work)
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        self.lab.ip_plain(&format!("netns del {}", self.lab.ns("inner")));
    }
}

fn remote_port_walk_stays_with_the_proxy() {
    let (lab, mut proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let said = crate::lab::Said::parse(&proxy.connect(PEER4, &format!("{POD4}:8080"), 0x2000));
    assert_eq!(said.generation, 0);
    // The port that the proxy just used in the client's name, and many others.
    let ports = (40000..40200).chain([said.peer.port()]);
    for port in ports {
        lab.run("peer", || {
            let (socket, address) = tcp(&format!("{POD4}:8080"));
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).unwrap();
            socket.connect_timeout(&address, PATIENCE).unwrap();
            let mut said = [0u8; 6];
            (&socket).read_exact(&mut said).unwrap();
            assert_eq!(&said, b"gen=1 ", "source port {port} reached the app");
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        });
    }
}

fn forgotten_proxy_is_an_app() {
    let (mut lab, mut proxy) = Lab::captured();
    warm_up(&lab);
    let _server = lab.run("peer", || serve("[::]:80"));
    assert!(proxy.connect("-", &format!("{PEER4}:80"), 0).starts_with("gen=0"));
    let cgroup = std::fs::metadata(lab.cgroup_of("proxy-1")).unwrap();
    lab.redirector().forget_proxy(std::os::unix::fs::MetadataExt::ino(&cgroup)).unwrap();
    let sniffer = Sniffer::start(&lab);
    // Its new sockets are captured: they end at its own listener, not on the wire.
    assert!(proxy.connect("-", &format!("{PEER4}:80"), 0).starts_with("gen=1"));
    sniffer.assert_silent(&lab, "a forgotten proxy");
}

pub fn set_option(socket: &Socket, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length describe the parameter.
    let failed = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if failed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
