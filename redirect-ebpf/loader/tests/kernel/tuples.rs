//! The proxy's connection to an application shows the client's address with a port of its own; the client, or a host that shares its
//! address behind a NAT, may come in clear from just that port. Neither may be in the other's way.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use redirect_loader::{Leave, Left};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::AsFd;

use crate::Test;
use crate::lab::{AT_ONCE, Lab, PATIENCE, PEER4, PEER6, POD4, POD6, Said, eventually, serve};
use crate::leaving::disconnect;

pub const TESTS: &[Test] = &[
    ("a_client_may_come_from_the_port_that_the_proxy_shows", a_client_may_come_from_the_port_that_the_proxy_shows),
    ("so_it_may_while_the_pod_leaves", so_it_may_while_the_pod_leaves),
    ("an_accepted_socket_connects_anew_captured", an_accepted_socket_connects_anew_captured),
    ("what_remains_of_an_accepted_socket_is_bound_too", what_remains_of_an_accepted_socket_is_bound_too),
];

const RETURN: u32 = 0x2000;

fn ends() -> [(&'static str, String); 2] {
    [(PEER4, format!("{POD4}:8080")), (PEER6, format!("[{POD6}]:8080"))]
}

/// Connects from an address and port, and reads what the server says.
fn call_from(from: SocketAddr, to: &str) -> std::io::Result<(TcpStream, Said)> {
    use std::io::BufRead;
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.parse::<SocketAddr>().unwrap().into(), AT_ONCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    std::io::BufReader::new(&stream).read_line(&mut line)?;
    Ok((stream, Said::parse(&line)))
}

fn a_client_may_come_from_the_port_that_the_proxy_shows() {
    let (lab, mut proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    for (client, app) in ends() {
        let shown = Said::parse(&proxy.hold(client, &app, RETURN)).peer;
        let start = Instant::now();
        let (_stream, said) =
            lab.run("peer", || call_from(shown, &app)).unwrap_or_else(|e| panic!("{shown} to {app}: {e}"));
        assert_eq!((said.generation, said.port, said.peer), (1, 15006, shown));
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
}

fn so_it_may_while_the_pod_leaves() {
    let (mut lab, mut proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let shown = ends().map(|(client, app)| (Said::parse(&proxy.hold(client, &app, RETURN)).peer, app));
    let pod = lab.netns("pod");
    assert!(matches!(lab.redirector().unenroll(pod.as_fd(), Leave::WhenIdle).unwrap(), Left::Captured(_)));
    for (shown, app) in shown {
        let (_stream, said) =
            lab.run("peer", || call_from(shown, &app)).unwrap_or_else(|e| panic!("{shown} to {app}: {e}"));
        assert_eq!((said.generation, said.peer), (0, shown));
    }
}

/// What binds it to `lo` is ours, and goes.
fn an_accepted_socket_connects_anew_captured() {
    let (lab, mut proxy) = Lab::captured();
    let app = lab.run("pod", || std::net::TcpListener::bind((POD4, 8080)).unwrap());
    let to: SocketAddr = format!("{PEER4}:80").parse().unwrap();
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| proxy.hold(PEER4, &format!("{POD4}:8080"), RETURN));
        let mut accepted = app.accept().unwrap().0;
        std::io::Write::write_all(&mut accepted, b"hello\n").unwrap();
        assert_eq!(holder.join().unwrap(), "hello");
        let accepted = Socket::from(accepted);
        assert_eq!(accepted.device().unwrap().as_deref(), Some(&b"lo"[..]));
        disconnect(&accepted);
        accepted.connect_timeout(&to.into(), PATIENCE).unwrap();
        let mut said = [0u8; 6];
        std::io::Read::read_exact(&mut &accepted, &mut said).unwrap();
        assert_eq!(&said, b"gen=1 ");
    });
    assert_eq!(lab.count(redirect_loader::Reason::AcceptedUnbound), 0);
}

/// In TIME_WAIT. A client on this kernel could not tell: its timestamps, which decide there, come from the same clock as the proxy's.
fn what_remains_of_an_accepted_socket_is_bound_too() {
    let (lab, mut proxy) = Lab::captured();
    let app = lab.run("pod", || std::net::TcpListener::bind((POD4, 8080)).unwrap());
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| proxy.hold(PEER4, &format!("{POD4}:8080"), RETURN));
        let mut accepted = app.accept().unwrap().0;
        std::io::Write::write_all(&mut accepted, b"hello\n").unwrap();
        // The application closes first.
        drop(accepted);
        assert_eq!(holder.join().unwrap(), "hello");
    });
    proxy.hang_up(false);
    let remains = || {
        let ss =
            Command::new("ip").args(["netns", "exec", &lab.ns("pod"), "ss", "-Htan", "state", "time-wait"]).output();
        String::from_utf8(ss.unwrap().stdout).unwrap()
    };
    assert!(eventually(|| remains().contains(&format!("{POD4}%lo:8080"))), "{}", remains());
}
