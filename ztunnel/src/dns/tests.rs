//! Look-ups in namespaces of the tests' own: a pod, and a name server behind a veth. The kernel's TPROXY (by nft) hands
//! queries over in place of our kernel programs. Needs root and nft; says so without them.

mod lab;

use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream, UdpSocket};
use std::time::Duration;

use lab::{Lab, POD, SERVER, SERVER6, SOON};
use tokio::task::LocalSet;

use super::*;
use crate::budget::Limits;

/// Serves the pod's look-ups while `work` runs on a thread of its own.
fn serving<T: Send + 'static>(lab: &Lab, limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> (T, Rc<Here>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inside = runtime.enter();
    let here = lab.here(limits);
    drop(inside);
    let served = here.clone();
    let done = LocalSet::new().block_on(&runtime, async move {
        for listening in listen(&served).unwrap() {
            match listening {
                Listening::Udp(socket) => drop(tokio::task::spawn_local(serve_udp(served.clone(), socket))),
                Listening::Tcp(_) => panic!("no TCP listener of its own when our programs capture"),
            }
        }
        let mut options = ListenOptions::capture("0.0.0.0:15001".parse().unwrap());
        // Under TPROXY nothing but the mark tells our connections from the application's.
        options.mark = Some(mark::ISTIO);
        let captured = net::socket::listen(served.pod.netns(), &options).and_then(TcpListener::from_std).unwrap();
        let accepting = served.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = captured.accept().await.unwrap();
                tokio::task::spawn_local(answered_or_closed(accepting.clone(), stream));
            }
        });
        let done = tokio::task::spawn_blocking(work).await.unwrap();
        served.pod.retire();
        done
    });
    (done, here)
}

/// As `outbound`, up to where the rest of the connection would go to the server: that is tested with whole proxies.
async fn answered_or_closed(here: Rc<Here>, mut app: TcpStream) {
    let original = here.original_dst(&app).unwrap();
    assert!(is_query(&here, original));
    if !answer_tcp(&here, &mut app).await {
        // What was not taken is still there.
        let mut rest = [0; 64];
        let count = app.try_read(&mut rest).unwrap_or(0);
        drop(app.try_write(&[b"rest:", &rest[..count]].concat()));
    }
}

fn query(id: u8, name: &str, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind, 0, 1]);
    bytes
}

const A: u8 = 1;
const AAAA: u8 = 28;
const TXT: u8 = 16;

fn exchange(app: &UdpSocket, query: &[u8]) -> Vec<u8> {
    app.send(query).unwrap();
    let mut buffer = [0; 4096];
    let len = app.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

/// Response code, and the last bytes: the address of an answer with one.
fn shown(answer: &[u8], last: usize) -> (u8, u8, &[u8]) {
    (answer[3] & 15, answer[7], &answer[answer.len() - last..])
}

/// An answer that only shows that the server was asked.
fn upstream_answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] = 3;
    answer
}

fn limits() -> Limits {
    Limits::default()
}

#[test]
fn names_of_the_mesh_are_answered_as_from_the_server_that_was_asked() {
    let Some(lab) = Lab::up() else { return };
    // Nobody answers there: whatever comes is the proxy's.
    let (four, six) = (lab.app("10.9.8.77:53"), lab.app(SERVER6));
    let work = move || {
        for app in [&four, &six] {
            let cart = exchange(app, &query(1, "cart.shop.svc.cluster.local", A));
            assert_eq!(shown(&cart, 4), (0, 1, &[10, 96, 0, 7][..]));
            let db = exchange(app, &query(2, "db", A));
            assert_eq!(shown(&db, 4), (0, 1, &[10, 244, 0, 9][..]));
            let none = exchange(app, &query(3, "api.example.com", AAAA));
            assert_eq!((none[1], none[3] & 15, none[7]), (3, 0, 0));
            let stripped = exchange(app, &query(4, "api.example.com.shop.svc.cluster.local", A));
            assert_eq!(shown(&stripped, 4), (0, 2, &[240, 240, 0, 1][..]));
            let two = exchange(app, &{
                let mut bytes = query(5, "cart", A);
                bytes[5] = 2;
                bytes
            });
            assert_eq!((two[1], two[3] & 15, two.len()), (5, 1, 12));
            let cart6 = exchange(app, &query(6, "cart", AAAA));
            assert_eq!((cart6[7], cart6[cart6.len() - 1]), (1, 7));
        }
    };
    let ((), here) = serving(&lab, limits(), work);
    let text = here.shared.telemetry.render();
    for line in [
        "istio_dns_requests_total 12",
        "istio_dns_upstream_requests_total 0",
        "culvert_dns_results_total{result=\"answered\"} 8",
        "culvert_dns_results_total{result=\"no_records\"} 2",
        "culvert_dns_results_total{result=\"malformed\"} 2",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn other_names_go_to_the_server_that_was_asked_and_come_back_from_it() {
    let Some(lab) = Lab::up() else { return };
    // Forged ones first: another id, another question, and one that is no answer.
    let reply = |query: &[u8]| {
        let right = upstream_answer(query);
        let (mut id, mut name) = (right.clone(), right.clone());
        id[1] ^= 1;
        name[13] ^= 1;
        vec![id, name, query.to_vec(), right]
    };
    let (server, server6) = (lab.udp_server(SERVER, reply), lab.udp_server(SERVER6, reply));
    let (four, six) = (lab.app(SERVER), lab.app(SERVER6));
    let work = move || {
        for app in [&four, &six] {
            for (id, name, kind) in [
                (1, "example.net", A),
                (2, "cart.shop.svc.cluster.local", TXT),
                (3, "db-0.db.shop.svc.cluster.local", A),
                (4, "stop.example.net", A),
            ] {
                let asked = query(id, name, kind);
                assert_eq!(exchange(app, &asked), upstream_answer(&asked), "{name}");
            }
        }
    };
    let ((), here) = serving(&lab, limits(), work);
    let clients = server.join().unwrap();
    assert_eq!(clients.len(), 4);
    assert!(clients.iter().all(|c| c.ip().to_string() == POD), "{clients:?}");
    // Each query from a port of its own.
    assert_eq!(clients.iter().map(|c| c.port()).collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert_eq!(server6.join().unwrap().len(), 4);
    let text = here.shared.telemetry.render();
    assert!(text.contains("istio_dns_upstream_requests_total 8"), "{text}");
    assert!(text.contains("istio_dns_upstream_failures_total 0"), "{text}");
    assert!(text.contains("istio_dns_upstream_request_duration_seconds_count 8"), "{text}");
}

#[test]
fn a_server_that_is_not_there_is_told_at_once_and_a_silent_one_not_at_all() {
    let Some(lab) = Lab::up() else { return };
    let app = lab.app(SERVER);
    let work = move || {
        let asked = query(9, "example.net", A);
        let failed = exchange(&app, &asked);
        assert_eq!((failed[1], failed[3] & 15), (9, 2), "SERVFAIL");
        // The mesh's own names need no server.
        assert_eq!(shown(&exchange(&app, &query(1, "cart", A)), 4).2, [10, 96, 0, 7]);
    };
    let ((), here) = serving(&lab, limits(), work);
    assert!(here.shared.telemetry.render().contains("istio_dns_upstream_failures_total 1"));
}

#[test]
fn one_pod_has_only_so_many_queries_under_way() {
    let Some(lab) = Lab::up() else { return };
    let (arrived, arrivals) = std::sync::mpsc::channel();
    let server = lab.udp_server(SERVER, move |_| {
        arrived.send(()).unwrap();
        Vec::new()
    });
    let app = lab.app(SERVER);
    let work = move || {
        for id in 0..5 {
            app.send(&query(id, "example.net", A)).unwrap();
        }
        // Served behind the five, and not held up by them.
        assert_eq!(shown(&exchange(&app, &query(77, "cart", A)), 4).2, [10, 96, 0, 7]);
        (0..3).for_each(|_| arrivals.recv_timeout(SOON).unwrap());
        arrivals
    };
    let small = Limits { lookups: 3, ..limits() };
    let (_arrivals, here) = serving(&lab, small, work);
    let text = here.shared.telemetry.render();
    assert!(text.contains("culvert_dns_results_total{result=\"budget_exhausted\"} 2"), "{text}");
    let neighbour = Lab::inside(&lab.server, || UdpSocket::bind("0.0.0.0:0").unwrap());
    neighbour.send_to(&query(6, "stop", A), SERVER).unwrap();
    assert_eq!(server.join().unwrap().len(), 3 + 1);
}

#[test]
fn over_tcp_the_first_query_that_is_not_ours_is_left_for_the_server() {
    let Some(lab) = Lab::up() else { return };
    // The listener stands in for a route: TPROXY looks for one before it looks for our socket.
    let _there = Lab::inside(&lab.server, || StdListener::bind(SERVER).unwrap());
    let pod = lab.pod.clone();
    let work = move || {
        let connect = || {
            let stream = Lab::inside(&pod, || StdStream::connect(SERVER).unwrap());
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream
        };
        let framed = |query: Vec<u8>| [&(query.len() as u16).to_be_bytes()[..], &query].concat();
        let answer = |stream: &mut StdStream| {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut message).unwrap();
            message
        };
        // Two in one segment, then one in pieces.
        let mut stream = connect();
        stream.write_all(&[framed(query(1, "cart", A)), framed(query(2, "db", A))].concat()).unwrap();
        assert_eq!(shown(&answer(&mut stream), 4).2, [10, 96, 0, 7]);
        assert_eq!(shown(&answer(&mut stream), 4).2, [10, 244, 0, 9]);
        for piece in framed(query(3, "api.example.com", A)).chunks(9) {
            stream.write_all(piece).unwrap();
        }
        assert_eq!(shown(&answer(&mut stream), 4).2, [240, 240, 0, 1]);
        // Not ours: handed on whole, with nothing lost.
        let other = framed(query(4, "example.net", A));
        stream.write_all(&other).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [b"rest:", &other[..]].concat());
        // Another protocol, and one in which the server has the first word.
        for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], b""] {
            let mut stream = connect();
            stream.write_all(first).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, [b"rest:", first].concat());
        }
    };
    serving(&lab, limits(), work);
}

#[test]
fn who_calls_our_port_from_elsewhere_is_no_client() {
    let Some(lab) = Lab::up() else { return };
    let outsider = Lab::inside(&lab.server, || UdpSocket::bind("10.9.8.1:0").unwrap());
    outsider.connect((POD, OURS)).unwrap();
    outsider.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let app = lab.app(SERVER);
    let work = move || {
        outsider.send(&query(1, "cart", A)).unwrap();
        // By the time that the pod's own query is answered the outsider's was looked at.
        exchange(&app, &query(2, "cart", A));
        assert!(outsider.recv(&mut [0; 512]).is_err());
    };
    let ((), here) = serving(&lab, limits(), work);
    assert!(here.shared.telemetry.render().contains("culvert_dns_results_total{result=\"ignored\"} 1"));
}
