//! Sockets on loopback and in namespaces of the tests' own (those need root, and say so without it).

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use std::os::fd::AsFd;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::netns::tests::{fresh, ip};
use crate::{mark, sys};

const SOON: Duration = Duration::from_secs(5);

fn here() -> NetNs {
    NetNs::current().unwrap()
}

fn to(to: SocketAddr) -> ConnectOptions {
    ConnectOptions { to, source: None, mark: None, timeout: SOON }
}

/// A connection and its other end; a failure to connect shows at once and not as a wait for ever.
async fn meet(netns: Option<&NetNs>, options: &ConnectOptions, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = connect(netns, options).await.unwrap();
    let accepted = tokio::time::timeout(SOON, listener.accept()).await.expect("the connection arrives");
    (client, accepted.unwrap().0)
}

/// A pod: its namespace has its addresses on `lo`, and the rules and routes of design.md 3.
fn pod() -> Option<NetNs> {
    let pod = fresh()?;
    pod.run(|| {
        for (version, own, all) in [("-4", POD4, "0.0.0.0/0"), ("-6", POD6, "::/0")] {
            let rules = [
                format!("addr add {own} dev lo"),
                "rule del pref 0 lookup local".to_owned(),
                "rule add pref 1 lookup local".to_owned(),
                format!("rule add pref 0 fwmark {0}/{0} lookup 101", mark::RETURN),
                format!("rule add pref 2 fwmark {0}/{0} lookup 100", mark::RETURN),
                format!("rule add pref 2 fwmark {0}/{0} lookup 100", mark::CAPTURE),
                format!("route add local {own} dev lo table 101"),
                format!("route add local {all} dev lo src {own} table 100"),
            ];
            for rule in rules {
                ip(&format!("{version} {rule}"));
            }
        }
        for name in ["tcp_fwmark_accept", "fwmark_reflect"] {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "1").unwrap();
        }
        std::fs::write("/proc/sys/net/ipv6/fwmark_reflect", "1").unwrap();
    })
    .unwrap();
    Some(pod)
}

const POD4: &str = "10.9.0.2";
const POD6: &str = "fd00:9::2";
/// Addresses that nobody in the namespace has.
const FOREIGN4: &str = "10.8.0.7";
const FOREIGN6: &str = "fd00:8::7";

#[tokio::test]
async fn accepted_and_connected_sockets_have_the_options() {
    let listener = listen(&here(), &ListenOptions::plain("127.0.0.1:0".parse().unwrap())).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let options = to(listener.local_addr().unwrap());
    let (client, server) = meet(None, &options, &listener).await;
    for stream in [&client, &server] {
        let socket = SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }
    assert_eq!(peer(&server).unwrap().0, client.local_addr().unwrap());
    let health = tcp_info(&client).unwrap();
    assert!(health.rtt > Duration::ZERO && health.rtt < SOON, "{health:?}");
    assert_eq!(health.retransmits, 0);
}

#[tokio::test]
async fn one_listener_serves_both_families_with_canonical_addresses() {
    let listener = listen(&here(), &ListenOptions::plain("[::]:0".parse().unwrap())).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let port = listener.local_addr().unwrap().port();
    for ip in ["127.0.0.1", "::1"] {
        let dst = SocketAddr::new(ip.parse().unwrap(), port);
        let options = to(dst);
        let (client, server) = meet(None, &options, &listener).await;
        assert_eq!(original_dst(&server).unwrap().0, dst);
        assert_eq!(original_dst_conntrack(&server).unwrap().0, dst);
        assert_eq!(peer(&server).unwrap().0, client.local_addr().unwrap());
    }
    // An application may hand us a v4-mapped destination.
    let mapped = to(SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port));
    let (client, server) = meet(None, &mapped, &listener).await;
    assert!(peer(&server).unwrap().ip().is_ipv4() && peer(&client).unwrap().ip().is_ipv4());
}

#[tokio::test]
async fn without_ipv6_the_listener_falls_back() {
    let Some(pod) = fresh() else { return };
    pod.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap()).unwrap();
    let listener = listen(&pod, &ListenOptions::capture("[::]:15001".parse().unwrap())).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let options = to("127.0.0.1:15001".parse().unwrap());
    let (client, server) = meet(Some(&pod), &options, &listener).await;
    assert_eq!(original_dst(&server).unwrap().0, options.to);
    assert_eq!(peer(&client).unwrap().0, options.to);
}

#[test]
fn only_the_wildcard_falls_back() {
    let Some(pod) = fresh() else { return };
    let absent = ListenOptions::plain("[fd00::77]:80".parse().unwrap());
    assert_eq!(listen(&pod, &absent).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn ports_are_shared_only_on_request() {
    let first = listen(&here(), &ListenOptions::plain("127.0.0.1:0".parse().unwrap())).unwrap();
    let addr = first.local_addr().unwrap();
    let shared = ListenOptions { reuse_port: true, ..ListenOptions::plain(addr) };
    assert_eq!(listen(&here(), &shared).unwrap_err().kind(), ErrorKind::AddrInUse);
    drop(first);
    let (one, two) = (listen(&here(), &shared).unwrap(), listen(&here(), &shared).unwrap());
    assert_eq!(one.local_addr().unwrap(), two.local_addr().unwrap());
}

#[tokio::test]
async fn failures_have_names() {
    let gone = listen(&here(), &ListenOptions::plain("127.0.0.1:0".parse().unwrap())).unwrap();
    let addr = gone.local_addr().unwrap();
    drop(gone);
    assert!(matches!(connect(None, &to(addr)).await, Err(ConnectError::Refused { to }) if to == addr));
    let mixed = ConnectOptions { source: Some("::1".parse().unwrap()), ..to(addr) };
    assert!(matches!(connect(None, &mixed).await, Err(ConnectError::Source { .. })));
    let Some(pod) = fresh() else { return };
    let nowhere = to("10.1.1.1:80".parse().unwrap());
    assert!(matches!(connect(Some(&pod), &nowhere).await, Err(ConnectError::Unreachable { .. })));
    pod.run(|| ip("route add blackhole 10.2.0.0/16")).unwrap();
    let forbidden = connect(Some(&pod), &to("10.2.1.1:80".parse().unwrap())).await;
    assert!(matches!(forbidden, Err(ConnectError::Other { .. })), "{forbidden:?}");
    pod.run(|| ip("route add prohibit 10.3.0.0/16")).unwrap();
    let forbidden = connect(Some(&pod), &to("10.3.1.1:80".parse().unwrap())).await;
    assert!(matches!(forbidden, Err(ConnectError::Forbidden { .. })), "{forbidden:?}");
}

#[tokio::test]
async fn silence_times_out_and_the_pod_is_left_alone() {
    let Some(pod) = fresh() else { return };
    // A backlog of nothing accepted: the second connection's SYN gets no answer.
    let options = ListenOptions { backlog: 0, ..ListenOptions::plain("127.0.0.1:0".parse().unwrap()) };
    let full = listen(&pod, &options).unwrap();
    let target = to(full.local_addr().unwrap());
    let _first = connect(Some(&pod), &target).await.unwrap();
    let hasty = ConnectOptions { timeout: Duration::from_millis(100), ..target };
    match connect(Some(&pod), &hasty).await {
        Err(ConnectError::TimedOut { after, .. }) => assert_eq!(after, hasty.timeout),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_application_sees_the_foreign_source() {
    let Some(pod) = pod() else { return };
    for (own, foreign) in [(POD4, FOREIGN4), (POD6, FOREIGN6)] {
        let app = ListenOptions::plain(SocketAddr::new(own.parse().unwrap(), 0));
        let app = TcpListener::from_std(listen(&pod, &app).unwrap()).unwrap();
        let source: IpAddr = foreign.parse().unwrap();
        let options =
            ConnectOptions { source: Some(source), mark: Some(mark::RETURN), ..to(app.local_addr().unwrap()) };
        for _ in 0..20 {
            let (mut client, mut server) = meet(Some(&pod), &options, &app).await;
            assert_eq!(peer(&server).unwrap().ip(), source);
            assert_eq!(SockRef::from(&server).mark().unwrap(), mark::RETURN);
            server.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            client.read_exact(&mut got).await.unwrap();
            abort(client);
            let error = server.read(&mut got).await.unwrap_err();
            assert!(closed_by_reset(&error), "{error}");
        }
        // A closed port refuses at once, through the same rules (fwmark_reflect).
        let closed = ConnectOptions { to: SocketAddr::new(own.parse().unwrap(), 9), ..options };
        assert!(matches!(connect(Some(&pod), &closed).await, Err(ConnectError::Refused { .. })));
    }
}

#[tokio::test]
async fn a_captured_connection_knows_where_it_wanted_to_go() {
    let Some(pod) = pod() else { return };
    let capture = ListenOptions::capture("[::]:8080".parse().unwrap());
    let proxy = TcpListener::from_std(listen(&pod, &capture).unwrap()).unwrap();
    for (own, foreign) in [(POD4, FOREIGN4), (POD6, FOREIGN6)] {
        let dst = SocketAddr::new(foreign.parse().unwrap(), 8080);
        let app = ConnectOptions { mark: Some(mark::CAPTURE), ..to(dst) };
        let (client, server) = meet(Some(&pod), &app, &proxy).await;
        assert_eq!(original_dst(&server).unwrap().0, dst);
        assert_eq!(peer(&server).unwrap().ip(), own.parse::<IpAddr>().unwrap());
        assert_eq!(client.peer_addr().unwrap(), dst);
    }
}

#[tokio::test]
async fn ports_do_not_run_out_per_source() {
    let Some(pod) = pod() else { return };
    // Four local ports in the whole namespace, two destinations: with IP_BIND_ADDRESS_NO_PORT each destination may use all
    // four; a plain bind would stop at four connections in all. (Of an odd number the kernel leaves the last one out.)
    pod.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap()).unwrap();
    let mut held = Vec::new();
    for port in [8001, 8002] {
        let app = ListenOptions::plain(SocketAddr::new(POD4.parse().unwrap(), port));
        let app = TcpListener::from_std(listen(&pod, &app).unwrap()).unwrap();
        let source = Some(FOREIGN4.parse().unwrap());
        let options = ConnectOptions { source, mark: Some(mark::RETURN), ..to(app.local_addr().unwrap()) };
        for _ in 0..4 {
            held.push(meet(Some(&pod), &options, &app).await);
        }
        assert!(matches!(connect(Some(&pod), &options).await, Err(ConnectError::Source { .. })));
    }
    assert_eq!(held.len(), 8);
}

/// A mark: what bears it leaves for another host.
const ELSEWHERE: u32 = 0x40;

/// The application's end of a connection in clear whose other end is on another host: made by TCP_REPAIR, which sends nothing.
fn in_clear(app: SocketAddr, client: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(app), Type::STREAM, None).unwrap();
    sys::setsockopt_int(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, 1).unwrap();
    socket.bind(&app.into()).unwrap();
    socket.connect(&client.into()).unwrap();
    const OFF_WITHOUT_PROBE: i32 = -1;
    sys::setsockopt_int(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_REPAIR, OFF_WITHOUT_PROBE).unwrap();
    socket.set_mark(ELSEWHERE).unwrap();
    socket
}

#[tokio::test]
async fn a_port_that_the_shown_client_uses_itself_is_given_up() {
    let Some(pod) = pod() else { return };
    pod.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").unwrap()).unwrap();
    for (version, own, foreign) in [("-4", POD4, FOREIGN4), ("-6", POD6, FOREIGN6)] {
        pod.run(|| {
            ip(&format!("{version} route add {foreign} dev lo"));
            ip(&format!("{version} rule add pref 3 fwmark {ELSEWHERE} blackhole"));
        })
        .unwrap();
        let (own, foreign): (IpAddr, IpAddr) = (own.parse().unwrap(), foreign.parse().unwrap());
        let app = TcpListener::from_std(listen(&pod, &ListenOptions::plain((own, 8001).into())).unwrap()).unwrap();
        let to_app = to(app.local_addr().unwrap());
        let _clear: Vec<Socket> =
            (40000..=40003).map(|port| pod.run(|| in_clear(to_app.to, (foreign, port).into())).unwrap()).collect();
        let options = ConnectOptions { source: Some(foreign), mark: Some(mark::RETURN), ..to_app };
        let (client, mut server) = meet(Some(&pod), &options, &app).await;
        let shown = peer(&server).unwrap().0;
        assert_eq!((shown.ip(), client.local_addr().unwrap()), (foreign, shown));
        assert!((16384..32768).contains(&shown.port()), "{shown}");
        // It is a connection.
        let mut client = client;
        client.write_all(b"hello").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
    }
}

#[tokio::test]
async fn peeking_takes_nothing_and_ends_with_the_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut client, mut server) = meet(None, &to(listener.local_addr().unwrap()), &listener).await;
    let three = |seen: &[u8]| seen.first_chunk::<3>().copied();
    let mut buffer = [0; 8];
    client.write_all(b"ab").await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(50), peek_until(&server, &mut buffer, three)).await;
    assert!(waits.is_err(), "two bytes are not enough");
    client.write_all(b"cd").await.unwrap();
    assert_eq!(
        tokio::time::timeout(SOON, peek_until(&server, &mut buffer, three)).await.unwrap().unwrap(),
        Some(*b"abc")
    );
    let mut all = [0; 4];
    server.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"abcd");
    // The end, behind a byte that is not enough.
    client.write_all(b"e").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, peek_until(&server, &mut buffer, three)).await.unwrap().unwrap(), None);
    // A full buffer.
    let (mut client, server) = meet(None, &to(listener.local_addr().unwrap()), &listener).await;
    client.write_all(b"0123456789").await.unwrap();
    let never = |_: &[u8]| None::<()>;
    assert_eq!(tokio::time::timeout(SOON, peek_until(&server, &mut buffer, never)).await.unwrap().unwrap(), None);
}
