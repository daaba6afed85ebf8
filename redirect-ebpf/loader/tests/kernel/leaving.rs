//! Old connections, un-enrolment and enrolling again: nothing established is cut, nothing captured falls into the clear.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use redirect_loader::{Leave, Left, PodState, Reason};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::{AsFd, AsRawFd};

use crate::Test;
use crate::generations::echo;
use crate::lab::{Lab, PATIENCE, PEER4, PEER6, POD4, Said, call, eventually, serve};
use crate::wire::{MARKER, Sniffer, warm_up};

pub const TESTS: &[Test] = &[
    ("older_connections_live_on", older_connections_live_on),
    ("older_connections_can_be_ended", older_connections_can_be_ended),
    ("older_connections_end_where_none_may_be", older_connections_end_where_none_may_be),
    ("an_older_socket_connects_anew_captured", an_older_socket_connects_anew_captured),
    ("leaving_waits_for_the_captured", leaving_waits_for_the_captured),
    ("a_connect_captured_in_the_last_moment_is_served", a_connect_captured_in_the_last_moment_is_served),
    ("leaving_leaks_nothing_captured", leaving_leaks_nothing_captured),
    ("force_closes_the_captured", force_closes_the_captured),
    ("enrolling_again_keeps_what_was_direct", enrolling_again_keeps_what_was_direct),
];

fn unenroll(lab: &mut Lab, leave: Leave) -> Left {
    let pod = lab.netns("pod");
    lab.redirector().unenroll(pod.as_fd(), leave).unwrap()
}

fn older_connections_live_on() {
    let mut lab = Lab::new();
    let _servers = [lab.run("peer", || serve("[::]:80")), lab.run("pod", || serve("[::]:8080"))];
    let mut older: Vec<_> =
        [("pod", format!("{PEER4}:80")), ("pod", format!("[{PEER6}]:80")), ("peer", format!("{POD4}:8080"))]
            .iter()
            .map(|(from, to)| lab.run(from, || call(to)).unwrap().0)
            .collect();
    let enrolled = lab.enroll_with(None, true).unwrap();
    assert_eq!(enrolled.old_connections, 3);
    older.iter_mut().for_each(echo);
    assert!(lab.count(Reason::GuardOld) >= 3);
    assert_eq!(lab.count(Reason::DropApp), 0);
    // Enrolling again files nothing new: what is captured or refused now stays so.
    assert_eq!(lab.enroll_with(None, true).unwrap().old_connections, 0);
    older.iter_mut().for_each(echo);
}

fn older_connections_can_be_ended() {
    let mut lab = Lab::new();
    let _server = lab.run("peer", || serve("[::]:80"));
    let mut older: Vec<_> = (0..3).map(|_| lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().0).collect();
    lab.enroll_with(None, true).unwrap();
    let pod = lab.netns("pod");
    drop(older.pop());
    assert!(eventually(|| lab.redirector().old_connections(pod.as_fd()).unwrap() == 2));
    assert_eq!(lab.redirector().close_old_connections(pod.as_fd()).unwrap(), 2);
    assert_eq!(lab.redirector().old_connections(pod.as_fd()).unwrap(), 0);
    for mut stream in older {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let error = std::io::Read::read(&mut stream, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    }
}

fn older_connections_end_where_none_may_be() {
    let mut lab = Lab::new();
    warm_up(&lab);
    let _server = lab.run("peer", || serve("[::]:80"));
    let (mut older, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    let enrolled = lab.enroll_with(None, false).unwrap();
    assert_eq!(enrolled.old_connections, 0);
    let sniffer = Sniffer::start(&lab);
    older.write_all(MARKER).unwrap();
    sniffer.assert_silent(&lab, "a connection older than the pod");
    assert!(lab.count(Reason::DropApp) >= 1);
}

fn an_older_socket_connects_anew_captured() {
    let mut lab = Lab::new();
    warm_up(&lab);
    let _server = lab.run("peer", || serve("[::]:80"));
    let to: std::net::SocketAddr = format!("{PEER4}:80").parse().unwrap();
    let socket = lab.run("pod", || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap());
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    let enrolled = lab.enroll_with(None, true).unwrap();
    assert_eq!(enrolled.old_connections, 1);
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    disconnect(&socket);
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    let mut said = [0u8; 6];
    std::io::Read::read_exact(&mut &socket, &mut said).unwrap();
    assert_eq!(&said, b"gen=1 ");
    assert_eq!(lab.redirector().pods().unwrap()[0].old_connections, 0);
}

/// connect(2) with AF_UNSPEC.
pub fn disconnect(socket: &Socket) {
    // SAFETY: an all-zero sockaddr is one of family AF_UNSPEC.
    let address: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: pointer and length describe the local variable.
    let failed =
        unsafe { libc::connect(socket.as_raw_fd(), &raw const address, size_of_val(&address) as libc::socklen_t) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

pub fn rules(lab: &Lab) -> Vec<String> {
    let listing = |arguments: &str| {
        let arguments = format!("-n {} {arguments}", lab.ns("pod"));
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut all = String::new();
    for arguments in ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all"] {
        all += &listing(arguments);
    }
    // Neighbour discovery caches come and go.
    all.lines().filter(|line| !line.contains("cache")).map(str::to_owned).collect()
}

fn leaving_waits_for_the_captured() {
    let mut lab = Lab::new();
    let before = rules(&lab);
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    assert_ne!(rules(&lab), before);
    let _server = lab.run("peer", || serve("[::]:80"));
    let _app = lab.run("pod", || serve("[::]:8080"));
    let (mut captured, said) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert_eq!(said.generation, 1);
    let Left::Captured(n) = unenroll(&mut lab, Leave::WhenIdle) else { panic!("a captured connection was forgotten") };
    assert!(n >= 1);
    assert_eq!(lab.redirector().pods().unwrap()[0].state, PodState::Leaving);
    // New ones are direct, both ways; the captured one goes on.
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    assert_eq!(lab.run("peer", || call(&format!("{POD4}:8080"))).unwrap().1.generation, 0);
    echo(&mut captured);
    drop(captured);
    assert!(eventually(|| unenroll(&mut lab, Leave::WhenIdle) == Left::Gone));
    assert_eq!(rules(&lab), before);
    assert!(lab.redirector().pods().unwrap().is_empty());
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    assert_eq!(unenroll(&mut lab, Leave::WhenIdle), Left::Gone);
}

/// The packet of a connect is on its way between the hook and the listener while the pod leaves: here a filter holds it.
fn a_connect_captured_in_the_last_moment_is_served() {
    let (mut lab, _proxy) = Lab::captured();
    let filter = |line: &str| {
        let arguments = format!("netns exec {} nft {line}", lab.ns("pod"));
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "nft {line}");
    };
    filter("add table ip held");
    filter("add chain ip held input {type filter hook input priority 0;}");
    filter("add rule ip held input iif lo tcp dport 80 drop");
    let calling = lab.run("pod", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address: std::net::SocketAddr = format!("{PEER4}:80").parse().unwrap();
        assert_eq!(socket.connect(&address.into()).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        socket
    });
    filter("delete table ip held");
    assert!(matches!(unenroll(&mut lab, Leave::Begin), Left::Captured(_)));
    // It is sent again after 1 s (RFC 6298 2), to the listener that it was meant for.
    calling.set_nonblocking(false).unwrap();
    calling.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(eventually(|| calling.peer_addr().is_ok()), "{:?}", calling.take_error());
    let mut line = String::new();
    BufReader::new(TcpStream::from(calling)).read_line(&mut line).unwrap();
    assert_eq!(Said::parse(&line).generation, 1);
}

fn leaving_leaks_nothing_captured() {
    let (mut lab, _proxy) = Lab::captured();
    warm_up(&lab);
    let (captured, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert!(matches!(unenroll(&mut lab, Leave::WhenIdle), Left::Captured(_)));
    let sniffer = Sniffer::start(&lab);
    let mut captured = Socket::from(captured);
    assert_eq!(captured.set_mark(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    for preference in [0, 2, 3] {
        lab.ip("pod", &format!("rule del pref {preference}"));
    }
    captured.write_all(MARKER).unwrap();
    sniffer.assert_silent(&lab, "a captured connection of a leaving pod");
    assert!(eventually(|| lab.count(Reason::DropCaptured) > 0));
}

fn force_closes_the_captured() {
    let (mut lab, _proxy) = Lab::captured();
    let (captured, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert!(matches!(unenroll(&mut lab, Leave::WhenIdle), Left::Captured(_)));
    assert!(eventually(|| unenroll(&mut lab, Leave::Force) == Left::Gone));
    captured.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = std::io::Read::read(&mut &captured, &mut [0; 8]).unwrap_err();
    assert!(
        matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset),
        "{error}"
    );
}

fn enrolling_again_keeps_what_was_direct() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("peer", || serve("[::]:80"));
    let (mut captured, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert!(matches!(unenroll(&mut lab, Leave::WhenIdle), Left::Captured(_)));
    let (mut direct, said) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert_eq!(said.generation, 0);
    assert_eq!(lab.enroll_with(None, true).unwrap().old_connections, 1);
    echo(&mut direct);
    echo(&mut captured);
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 1);
    assert_eq!(lab.run("peer", || call(&format!("{POD4}:80"))).unwrap().1.generation, 1);
    direct.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    echo(&mut direct);
}
