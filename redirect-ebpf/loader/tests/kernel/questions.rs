//! Questions to port 53: to the proxy when it has a socket for them, to their server when not.

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use redirect_loader::{Leave, Left, Reason};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::actor::canonical;
use crate::bypass::Inner;
use crate::lab::{Lab, PATIENCE, PEER4, PEER6, POD4, POD6};
use crate::leaving::rules;
use crate::wire::warm_up;

pub const TESTS: &[Test] = &[
    ("questions_reach_the_proxy", questions_reach_the_proxy),
    ("questions_without_proxy_reach_their_server", questions_without_proxy_reach_their_server),
    ("the_proxys_own_questions_leave", the_proxys_own_questions_leave),
    ("a_socket_of_an_app_gets_no_questions", a_socket_of_an_app_gets_no_questions),
    ("a_name_server_in_a_pod_is_left_alone", a_name_server_in_a_pod_is_left_alone),
    ("forwarded_questions_are_left_alone", forwarded_questions_are_left_alone),
    ("questions_can_be_switched", questions_can_be_switched),
    ("a_leaving_pod_asks_directly", a_leaving_pod_asks_directly),
];

/// A DNS socket on its own thread: wildcard, transparent; answers in the name of the server that was asked.
pub fn answer(generation: String) {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    for (level, option) in [(libc::SOL_IP, libc::IP_RECVORIGDSTADDR), (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR)] {
        crate::bypass::set_option(&socket, level, option, 1).unwrap();
    }
    socket.bind(&SockAddr::from(SocketAddr::from(([0u16; 8], 15053)))).unwrap();
    std::thread::spawn(move || {
        while let Ok((from, to)) = receive(&socket) {
            let line = format!("gen={generation} from={from} to={to}");
            let back = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).unwrap();
            back.set_reuse_address(true).unwrap();
            back.set_reuse_port(true).unwrap();
            back.set_ip_transparent_v4(true).unwrap();
            back.bind(&SockAddr::from(to)).unwrap();
            back.send_to(line.as_bytes(), &SockAddr::from(from)).unwrap();
        }
    });
}

/// Sender and destination of the next datagram.
fn receive(socket: &Socket) -> std::io::Result<(SocketAddr, SocketAddr)> {
    let mut body = [0u8; 512];
    let mut control = [0u64; 32];
    let mut part = libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() };
    let mut from = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = from.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer and length describes a local variable.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has written a socket address.
    let from = address(unsafe { &*from.as_ptr() });
    // SAFETY: the header describes the buffers above.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !part.is_null() {
        // SAFETY: within the control buffer, as CMSG_FIRSTHDR and CMSG_NXTHDR promise.
        let (head, data) = unsafe { (*part, libc::CMSG_DATA(part)) };
        let wanted = [(libc::SOL_IP, libc::IP_ORIGDSTADDR), (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR)];
        if wanted.contains(&(head.cmsg_level, head.cmsg_type)) {
            let mut to = MaybeUninit::<libc::sockaddr_storage>::zeroed();
            let length = head.cmsg_len - size_of::<libc::cmsghdr>();
            // SAFETY: the data is a socket address of that length, shorter than the storage.
            unsafe { std::ptr::copy_nonoverlapping(data, to.as_mut_ptr().cast::<u8>(), length) };
            // SAFETY: written above, the rest zero.
            return Ok((from, address(unsafe { &*to.as_ptr() })));
        }
        // SAFETY: as above.
        part = unsafe { libc::CMSG_NXTHDR(&raw const message, part) };
    }
    panic!("no original destination");
}

fn address(storage: &libc::sockaddr_storage) -> SocketAddr {
    let pointer = std::ptr::from_ref(storage);
    if i32::from(storage.ss_family) == libc::AF_INET {
        // SAFETY: the family says so, and the storage is large and aligned enough.
        let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        return SocketAddr::new(ip.into(), u16::from_be(v4.sin_port));
    }
    // SAFETY: as above.
    let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
    canonical(SocketAddr::new(Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), u16::from_be(v6.sin6_port)))
}

/// Asks over a connected socket with a mark.
pub fn ask(server: &str, mark: u32) -> std::io::Result<String> {
    let server: SocketAddr = server.parse().unwrap();
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_mark(mark)?;
    socket.connect(&SockAddr::from(server))?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"question?")?;
    let mut buffer = [0; 512];
    let read = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

/// Asks over an unconnected socket: the answer must show the server's address. `from` is where the question says it comes from.
fn ask_unconnected(at: &str, server: &str) -> std::io::Result<(String, SocketAddr)> {
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"question?", server)?;
    let mut buffer = [0; 512];
    let (read, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(canonical(from), canonical(server.parse().unwrap()));
    Ok((String::from_utf8_lossy(&buffer[..read]).into_owned(), socket.local_addr()?))
}

/// A name server on its own thread in the namespace of the caller: generation 0.
fn name_server(at: &str) {
    let socket = UdpSocket::bind(at).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let line = format!("gen=0 from={}", canonical(from));
            if socket.send_to(line.as_bytes(), from).is_err() {
                return;
            }
        }
    });
}

fn steered() -> (Lab, crate::actor::Proxy) {
    let mut lab = Lab::new();
    lab.dns = true;
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    proxy.answer_questions();
    lab.activate(1);
    (lab, proxy)
}

fn servers() -> [String; 3] {
    [format!("{PEER4}:53"), format!("[{PEER6}]:53"), format!("[::ffff:{PEER4}]:53")]
}

fn questions_reach_the_proxy() {
    let (lab, _proxy) = steered();
    lab.run("peer", || name_server("[::]:53"));
    let others = ["10.96.0.10:53".to_owned(), "[fd96::10]:53".to_owned()];
    let mut asked = 0;
    for server in servers().iter().chain(&others) {
        let to = canonical(server.parse().unwrap());
        let own = if to.is_ipv4() { POD4 } else { POD6 };
        let connected = lab.run("pod", || ask(server, 0)).unwrap_or_else(|e| panic!("{server}: {e}"));
        assert!(connected.starts_with("gen=1 from=") && connected.ends_with(&format!("to={to}")), "{connected}");
        let at = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let (unconnected, local) = lab.run("pod", || ask_unconnected(at, server)).unwrap();
        let from = SocketAddr::new(own.parse().unwrap(), local.port());
        assert_eq!(unconnected, format!("gen=1 from={from} to={to}"));
        asked += 2;
    }
    assert_eq!(lab.count(Reason::DnsSteered), asked);
    assert_eq!(lab.count(Reason::DnsForwarded), 0);
    assert_eq!(lab.count(Reason::GuardDns), 0);
    // Other ports are nobody's business.
    lab.run("peer", || name_server("[::]:5353"));
    let answer = lab.run("pod", || ask(&format!("{PEER4}:5353"), 0)).unwrap();
    assert!(answer.starts_with("gen=0"), "{answer}");
}

fn all_reach_their_server(lab: &Lab) {
    for server in servers() {
        let own: IpAddr = if server.contains(PEER6) { POD6 } else { POD4 }.parse().unwrap();
        let answer = lab.run("pod", || ask(&server, 0)).unwrap_or_else(|e| panic!("{server}: {e}"));
        assert!(answer.starts_with("gen=0 from="), "{answer}");
        let at = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let (answer, local) = lab.run("pod", || ask_unconnected(at, &server)).unwrap();
        assert_eq!(answer, format!("gen=0 from={}", SocketAddr::new(own, local.port())), "{server}");
    }
}

fn questions_without_proxy_reach_their_server() {
    let mut lab = Lab::new();
    lab.dns = true;
    lab.run("peer", || name_server("[::]:53"));
    lab.enroll();
    all_reach_their_server(&lab);
    assert_eq!((lab.count(Reason::DnsForwarded), lab.count(Reason::DnsSteered)), (6, 0));
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    // A proxy that does not serve names.
    all_reach_their_server(&lab);
    proxy.answer_questions();
    assert!(lab.run("pod", || ask(&format!("{PEER4}:53"), 0)).unwrap().starts_with("gen=1"));
    drop(proxy);
    all_reach_their_server(&lab);
    assert_eq!(lab.count(Reason::DnsForwarded), 18);
}

fn the_proxys_own_questions_leave() {
    let (lab, mut proxy) = steered();
    lab.run("peer", || name_server("[::]:53"));
    for (server, own) in [(format!("{PEER4}:53"), POD4), (format!("[{PEER6}]:53"), POD6)] {
        let answer = proxy.question(&server, 0x539);
        let from: SocketAddr =
            answer.strip_prefix("gen=0 from=").unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
        assert_eq!(from.ip(), own.parse::<IpAddr>().unwrap());
        // Without the mark they come back to the proxy itself.
        assert!(proxy.question(&server, 0).starts_with("gen=1"));
    }
}

fn a_socket_of_an_app_gets_no_questions() {
    let mut lab = Lab::new();
    lab.dns = true;
    lab.enroll();
    lab.run("peer", || name_server("[::]:53"));
    let mut impostor = lab.impostor();
    impostor.answer_questions();
    all_reach_their_server(&lab);
    assert_eq!(lab.count(Reason::DnsSteered), 0);
}

fn a_name_server_in_a_pod_is_left_alone() {
    let (lab, _proxy) = steered();
    lab.run("pod", || name_server("[::]:53"));
    for (at, server) in [
        ("0.0.0.0:0", format!("{POD4}:53")),
        ("[::]:0", format!("[{POD6}]:53")),
        // Old resolvers ask from port 53.
        ("0.0.0.0:53", format!("{POD4}:53")),
        ("[::]:53", format!("[{POD6}]:53")),
    ] {
        let (answer, _) =
            lab.run("peer", || ask_unconnected(at, &server)).unwrap_or_else(|e| panic!("{at} {server}: {e}"));
        assert!(answer.starts_with("gen=0 from="), "{answer}");
    }
    // Its own clients in the pod.
    for server in [format!("{POD4}:53"), "127.0.0.1:53".to_owned(), format!("[{POD6}]:53")] {
        assert!(lab.run("pod", || ask(&server, 0)).unwrap().starts_with("gen=0"), "{server}");
    }
    assert_eq!(lab.count(Reason::DnsSteered), 0);
}

fn forwarded_questions_are_left_alone() {
    let (lab, _proxy) = steered();
    warm_up(&lab);
    let inner = Inner::inside(&lab);
    let server = lab.run("peer", || UdpSocket::bind((PEER4, 53)).unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    inner.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"question?", (PEER4, 53)).unwrap());
    let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), "10.79.0.2".parse::<IpAddr>().unwrap());
}

fn questions_can_be_switched() {
    let (mut lab, _proxy) = steered();
    lab.run("peer", || name_server("[::]:53"));
    let asked = format!("{PEER4}:53");
    let with = rules(&lab);
    for round in 0..2 {
        assert!(lab.run("pod", || ask(&asked, 0)).unwrap().starts_with("gen=1"), "round {round}");
        assert!(lab.redirector().pods().unwrap()[0].dns);
        lab.dns = false;
        lab.enroll();
        assert!(!lab.redirector().pods().unwrap()[0].dns);
        assert!(rules(&lab).iter().all(|rule| !rule.contains("dport 53")));
        assert!(lab.run("pod", || ask(&asked, 0)).unwrap().starts_with("gen=0"), "round {round}");
        lab.dns = true;
        lab.enroll();
        assert_eq!(rules(&lab), with);
    }
}

fn a_leaving_pod_asks_directly() {
    let mut lab = Lab::new();
    let before = rules(&lab);
    lab.dns = true;
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    proxy.answer_questions();
    lab.activate(1);
    lab.run("peer", || name_server("[::]:53"));
    let asked = format!("{PEER4}:53");
    let (held, _) = lab.run("pod", || crate::lab::call(&format!("{PEER4}:80"))).unwrap();
    assert!(lab.run("pod", || ask(&asked, 0)).unwrap().starts_with("gen=1"));
    let pod = lab.netns("pod");
    assert!(matches!(lab.redirector().unenroll(pod.as_fd(), Leave::WhenIdle).unwrap(), Left::Captured(_)));
    assert!(lab.run("pod", || ask(&asked, 0)).unwrap().starts_with("gen=0"));
    drop(held);
    let gone = |lab: &mut Lab| lab.redirector().unenroll(pod.as_fd(), Leave::WhenIdle).unwrap() == Left::Gone;
    assert!(crate::lab::eventually(|| gone(&mut lab)));
    assert_eq!(rules(&lab), before);
}
