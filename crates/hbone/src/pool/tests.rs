//! The pool's book-keeping, against servers of ours.

use std::time::Duration;

use tokio::task::spawn_local;

use super::*;
use crate::testing::*;
use crate::{ServerLimits, serve};

#[test]
fn a_second_stream_uses_the_first_connection() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        let first = open(&pool, "a").await;
        assert!(!first.reused);
        assert_eq!(first.timings.dial.unwrap().connect, Duration::from_millis(1));
        let second = open(&pool, "a").await;
        assert!(second.reused && second.timings.dial.is_none());
        assert_eq!(&**second.bond.peer().service_account(), "db");
        roundtrip(first, b"one".to_vec()).await;
        roundtrip(second, vec![9; 3 << 20]).await;
        let stats = pool.stats();
        assert_eq!((wire.dials.get(), stats.connections, stats.opened, stats.reused), (1, 1, 2, 1));
        assert_eq!(stats.streams, 0);
        // Another identity does not share it.
        let mut other = key("a");
        other.source = "spiffe://cluster.local/ns/shop/sa/other".parse().unwrap();
        assert!(!pool.open(&other, &head("10.0.0.1:80")).await.unwrap().reused);
        assert_eq!(wire.dials.get(), 2);
    });
}

#[test]
fn those_who_wait_share_one_dial_and_nobody_else_waits() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let pool = pool.clone();
                spawn_local(async move { open(&pool, "gated").await })
            })
            .collect();
        until(&pool, |s| s.waiting == 5).await;
        open(&pool, "free").await;
        assert_eq!((wire.dials.get(), pool.stats().dialling), (2, 1));
        wire.gate.add_permits(1);
        for opened in waiting {
            assert!(!opened.await.unwrap().reused);
        }
        assert_eq!(wire.dials.get(), 2);
    });
}

#[test]
fn a_failed_dial_is_everybodys_and_leaves_nothing() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        *wire.error.borrow_mut() = Some("no route".into());
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let pool = pool.clone();
                spawn_local(async move { pool.open(&key("gated"), &head("10.0.0.1:80")).await })
            })
            .collect();
        until(&pool, |s| s.waiting == 5).await;
        wire.gate.add_permits(100);
        for result in waiting {
            assert!(matches!(result.await.unwrap(), Err(OpenError::Dial(e)) if *e == "no route"));
        }
        assert_eq!(wire.dials.get(), 1, "no herd");
        assert_eq!(pool.stats(), PoolStats { dial_failures: 1, ..PoolStats::default() });
        // The next one tries again.
        wire.error.borrow_mut().take();
        open(&pool, "gated").await;
    });
}

#[test]
fn whoever_asked_for_the_dial_may_go_away() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { open(&pool, "gated").await })
        };
        let (first, second) = (ask(), ask());
        until(&pool, |s| s.waiting == 2).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        wire.gate.add_permits(1);
        drop(second.await.unwrap());
        // And when all go away the connection is there for the next.
        pool.close_all(Evict::WhenIdle);
        let only = ask();
        until(&pool, |s| s.waiting == 1).await;
        only.abort();
        assert!(only.await.unwrap_err().is_cancelled());
        wire.gate.add_permits(1);
        until(&pool, |s| s.connections == 1).await;
        assert_eq!(pool.stats().streams, 0);
        assert!(open(&pool, "gated").await.reused);
        assert_eq!(wire.dials.get(), 2);
    });
}

#[test]
fn a_full_connection_is_followed_by_another() {
    run(async {
        let (pool, wire) = echoing(ClientLimits { streams_per_connection: 2, ..no_spread() });
        let mut open_now = Vec::new();
        for _ in 0..5 {
            open_now.push(open(&pool, "a").await);
        }
        assert_eq!((wire.dials.get(), pool.stats().connections, pool.stats().streams), (3, 3, 5));
        // A place that becomes free is used.
        open_now.remove(0);
        until(&pool, |s| s.streams == 4).await;
        assert!(open(&pool, "a").await.reused);
        assert_eq!(wire.dials.get(), 3);
    });
}

#[test]
fn those_in_line_get_as_many_connections_as_they_need() {
    run(async {
        let (pool, wire) = echoing(ClientLimits { streams_per_connection: 2, ..no_spread() });
        let mut waiting: Vec<_> = (0..6)
            .map(|_| {
                let pool = pool.clone();
                spawn_local(async move { open(&pool, "gated").await })
            })
            .collect();
        until(&pool, |s| s.waiting == 6).await;
        // Two of them lose patience; the others move up.
        for gone in waiting.drain(..2) {
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
        }
        wire.gate.add_permits(10);
        let mut open_now = Vec::new();
        for task in waiting {
            open_now.push(task.await.unwrap());
        }
        assert_eq!((wire.dials.get(), pool.stats().connections, pool.stats().streams), (2, 2, 4));
    });
}

#[test]
fn the_peers_limit_of_streams_is_kept() {
    run(async {
        let (pool, wire, mut ends) = scripted(no_spread());
        spawn_local(async move {
            while let Some(io) = ends.recv().await {
                spawn_local(echo_all(serve(io, ServerLimits { concurrent_streams: 2, ..ServerLimits::default() })));
            }
        });
        let mut open_now = Vec::new();
        for _ in 0..6 {
            open_now.push(open(&pool, "a").await);
        }
        assert_eq!((wire.dials.get(), pool.stats().retried), (3, 0));
    });
}

#[test]
fn a_busy_connection_gets_company_without_anybody_waiting() {
    run(async {
        let limits = ClientLimits { spread_streams: 2, spread_connections: 2, ..ClientLimits::default() };
        let (pool, wire) = echoing(limits);
        let mut open_now = vec![open(&pool, "a").await, open(&pool, "a").await];
        assert_eq!(wire.dials.get(), 1);
        // The third finds it busy: it is served there, and a dial begins beside it.
        let third = open(&pool, "a").await;
        assert!(third.reused);
        open_now.push(third);
        until(&pool, |s| s.connections == 2).await;
        open_now.push(open(&pool, "a").await);
        open_now.push(open(&pool, "a").await);
        // Both are busy now, and two is the limit of spreading.
        open_now.push(open(&pool, "a").await);
        assert_eq!((wire.dials.get(), pool.stats().connections, pool.stats().streams), (2, 2, 6));
    });
}

#[test]
fn a_flow_that_carried_much_keeps_new_streams_away() {
    run(async {
        let (pool, wire) = echoing(ClientLimits { spread_bytes: 1 << 20, ..ClientLimits::default() });
        let heavy = open(&pool, "a").await;
        let (mut recv, mut send) = heavy.stream.split();
        send.send_all(vec![0; 1 << 20].into()).await.unwrap();
        assert!(open(&pool, "a").await.reused);
        until(&pool, |s| s.connections == 2).await;
        assert_eq!(wire.dials.get(), 2);
        // The new one serves what comes, the old one its flow.
        let light = open(&pool, "a").await;
        assert!(light.reused);
        assert!(open(&pool, "a").await.reused);
        send.finish().unwrap();
        assert_eq!(read_all(&mut recv).await.unwrap().len(), 1 << 20);
        drop((recv, send));
        assert_eq!(wire.dials.get(), 2);
    });
}
