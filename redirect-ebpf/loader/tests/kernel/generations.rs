//! Two proxy generations on one pod: who receives what, and when.

use redirect_loader::{Listening, Reason};

use crate::Test;
use crate::lab::{Lab, PEER4, PEER6, POD4, POD6, call, eventually, serve};

pub const TESTS: &[Test] = &[
    ("takeover_is_complete", takeover_is_complete),
    ("previous_generation_steps_in", previous_generation_steps_in),
    ("workers_share_the_load", workers_share_the_load),
    ("a_worker_that_dies_is_not_missed", a_worker_that_dies_is_not_missed),
    ("listeners_may_be_there_first", listeners_may_be_there_first),
    ("not_active_means_refused", not_active_means_refused),
];

/// Four ways in; over IPv4 and IPv6, out and in.
fn ways() -> [(&'static str, String); 4] {
    [
        ("pod", format!("{PEER4}:80")),
        ("peer", format!("{POD4}:80")),
        ("pod", format!("[{PEER6}]:80")),
        ("peer", format!("[{POD6}]:15008")),
    ]
}

/// Which generation served each of 100 connections.
fn hundred(lab: &Lab) -> Vec<u32> {
    let served = |i: usize| {
        let (from, to) = &ways()[i % 4];
        lab.run(from, || call(to)).unwrap_or_else(|e| panic!("connection {i} to {to}: {e}")).1.generation
    };
    (0..100).map(served).collect()
}

fn takeover_is_complete() {
    let (mut lab, _first) = Lab::captured();
    let mut second = lab.proxy(2);
    second.listen_all();
    // Listening is not being ready: the first one keeps everything.
    assert_eq!(hundred(&lab), [1; 100]);
    let (mut old, said) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    assert_eq!(said.generation, 1);
    lab.activate(2);
    assert_eq!(hundred(&lab), [2; 100]);
    // What the first one holds it keeps.
    echo(&mut old);
    assert_eq!(lab.count(Reason::LookupFallback), 0);
}

fn previous_generation_steps_in() {
    let (mut lab, _first) = Lab::captured();
    let mut second = lab.proxy(2);
    second.listen_all();
    lab.activate(2);
    assert_eq!(hundred(&lab), [2; 100]);
    drop(second);
    assert_eq!(hundred(&lab), [1; 100]);
    assert!(lab.count(Reason::LookupFallback) >= 100);
    // The next one takes over from there.
    let mut third = lab.proxy(3);
    third.listen_all();
    lab.activate(3);
    assert_eq!(hundred(&lab), [3; 100]);
}

fn workers_share_the_load() {
    let (lab, _proxy) = Lab::captured();
    let mut workers = [0; 2];
    for _ in 0..400 {
        let (_, said) = lab.run("peer", || call(&format!("{POD4}:80"))).unwrap();
        workers[said.worker] += 1;
    }
    // 400 over 2: standard deviation 10; five of them are a bug, not bad luck.
    assert!(workers.iter().all(|n| (150..=250).contains(n)), "{workers:?}");
}

fn a_worker_that_dies_is_not_missed() {
    let mut lab = Lab::new();
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    proxy.close();
    let cookie = lab.cookie();
    assert!(eventually(|| lab.redirector().listeners(cookie).unwrap().is_empty()), "closed listeners stay in the map");
    // The slots are free again, and one of three is enough.
    proxy.listen(15006, 3);
    let wanted = [Listening { generation: 1, port: 15006, listeners: 3 }];
    assert_eq!(lab.redirector().listeners(cookie).unwrap(), wanted);
    proxy.close_all_but_last();
    lab.activate(1);
    for _ in 0..50 {
        let (_, said) = lab.run("peer", || call(&format!("{POD4}:80"))).unwrap();
        assert_eq!((said.generation, said.worker), (1, 2));
    }
}

fn listeners_may_be_there_first() {
    let mut lab = Lab::new();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    // Before the enrolment the same listeners receive nothing.
    let _server = lab.run("peer", || serve("[::]:80"));
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    lab.enroll_with(Some(1), true).unwrap();
    assert_eq!(hundred(&lab), [1; 100]);
}

fn not_active_means_refused() {
    let mut lab = Lab::new();
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    for (from, to) in ways() {
        let error = lab.run(from, || call(&to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    lab.activate(1);
    assert_eq!(hundred(&lab), [1; 100]);
}

/// Sends a few bytes and wants them back.
pub fn echo(stream: &mut std::net::TcpStream) {
    use std::io::{Read, Write};
    stream.write_all(b"still there?").unwrap();
    let mut back = [0u8; 12];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there?");
}
