//! How connections and streams of the pool end, against servers of ours and against scripted ones.

use std::future::poll_fn;
use std::time::Duration;

use h2::Reason;
use proptest::prelude::*;
use tokio::task::spawn_local;

use super::*;
use crate::testing::*;
use crate::{Broken, ServerLimits, serve};

#[test]
fn after_a_goaway_old_streams_go_on_and_new_ones_go_elsewhere() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let near = task.await.unwrap();
        server.graceful_shutdown();
        until(&pool, |s| s.connections == 0).await;
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut second = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let _far2 = accept(&mut second).await;
        assert!(!task.await.unwrap().reused);
        assert_eq!(wire.dials.get(), 2);
        spawn_local(async move {
            let (recv, send) = far.split();
            assert_eq!(echo(recv, send).await, Ok(()));
        });
        roundtrip(near, vec![3; 100_000]).await;
        assert!(server.accept().await.is_none());
    });
}

#[test]
fn what_the_peer_did_not_process_is_tried_once_elsewhere() {
    // REFUSED_STREAM, and GOAWAY with a last stream below ours.
    for goaway in [false, true] {
        run(async {
            let (pool, wire, mut ends) = scripted(ClientLimits::default());
            let task = spawn_local({
                let pool = pool.clone();
                async move { open(&pool, "a").await }
            });
            let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
            assert_eq!(peer.expect(HEADERS).await.id, 1);
            if goaway {
                peer.send(GOAWAY, 0, 0, [0; 8]).await;
            } else {
                peer.send(RST_STREAM, 0, 1, u32::from(Reason::REFUSED_STREAM).to_be_bytes()).await;
            }
            let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
            let _far = accept(&mut server).await;
            let opened = task.await.unwrap();
            assert_eq!((wire.dials.get(), pool.stats().retried), (2, 1));
            drop(opened);
        });
    }
}

#[test]
fn a_goaway_parts_the_streams_at_its_last_id() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { open(&pool, "a").await })
        };
        let below = ask();
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        assert_eq!(peer.expect(HEADERS).await.id, 1);
        peer.send(HEADERS, END_HEADERS, 1, [0x88]).await;
        let (mut recv, mut send) = below.await.unwrap().stream.split();
        let above = ask();
        assert_eq!(peer.expect(HEADERS).await.id, 3);
        peer.send(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]).await;
        // The one above is served elsewhere, the one below goes on both ways.
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let _far = accept(&mut server).await;
        above.await.unwrap();
        send.send_all("up".into()).await.unwrap();
        assert_eq!(peer.expect(DATA).await.payload, b"up");
        peer.send(DATA, END_STREAM, 1, *b"down").await;
        assert_eq!(read_all(&mut recv).await.unwrap(), b"down");
        assert_eq!((wire.dials.get(), pool.stats().connections), (2, 1));
    });
}

#[test]
fn what_a_peer_leaves_lying_when_it_says_good_bye_is_tried_elsewhere() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { open(&pool, "a").await })
        };
        let task = ask();
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        assert_eq!(peer.expect(HEADERS).await.id, 1);
        // It took this one: RFC 9113 6.8 promises nothing, and the peer never answers.
        peer.send(GOAWAY, 0, 0, [0, 0, 0, 1, 0, 0, 0, 0]).await;
        let begun = std::time::Instant::now();
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let _far = accept(&mut server).await;
        task.await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert_eq!(u32::from(Reason::CANCEL), peer.expect(RST_STREAM).await.code());
        assert_eq!((wire.dials.get(), pool.stats().retried), (2, 1));
        // One that stays is waited for: it may be connecting to its application.
        let task = ask();
        let far = tokio::time::timeout(Duration::from_millis(2500), server.accept()).await;
        let request = far.expect("a request").unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let _far = request.accept(&crate::ResponseHeaders::default()).unwrap();
        task.await.unwrap();
        assert_eq!(wire.dials.get(), 2);
    });
}

#[test]
fn a_second_refusal_is_final_and_a_reset_is_never_tried_again() {
    for (code, dials) in [(Reason::REFUSED_STREAM, 2), (Reason::CONNECT_ERROR, 1), (Reason::CANCEL, 1)] {
        run(async {
            let (pool, wire, mut ends) = scripted(ClientLimits::default());
            spawn_local(async move {
                while let Some(io) = ends.recv().await {
                    spawn_local(async move {
                        let mut peer = RawPeer::server(io).await;
                        let id = peer.expect(HEADERS).await.id;
                        peer.send(RST_STREAM, 0, id, u32::from(code).to_be_bytes()).await;
                        peer.drain().await;
                    });
                }
            });
            let error = pool.open(&key("a"), &head("10.0.0.1:80")).await.unwrap_err();
            assert!(matches!(error, OpenError::Reset), "{error}");
            assert_eq!(wire.dials.get(), dials, "{code:?}");
        });
    }
}

#[test]
fn a_connection_that_dies_under_a_request_is_lost_and_replaced() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        let task = spawn_local({
            let pool = pool.clone();
            async move { pool.open(&key("a"), &head("10.0.0.1:80")).await }
        });
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        peer.expect(HEADERS).await;
        // The request may have been served: it is not repeated.
        drop(peer);
        assert!(matches!(task.await.unwrap(), Err(OpenError::Lost)));
        assert_eq!((wire.dials.get(), pool.stats().keys), (1, 0));
    });
}

#[test]
fn refusals_of_the_peer_are_told_by_status() {
    run(async {
        let (pool, _wire, mut ends) = scripted(ClientLimits::default());
        spawn_local(async move {
            let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
            for status in [401, 503] {
                server.accept().await.unwrap().unwrap().refuse(status);
            }
            assert!(server.accept().await.is_none());
        });
        for status in [401, 503] {
            let error = pool.open(&key("a"), &head("10.0.0.1:80")).await.unwrap_err();
            assert!(matches!(error, OpenError::Refused(s) if s == status), "{error}");
        }
        assert_eq!((pool.stats().connections, pool.stats().streams), (1, 0), "the connection stays");
        let error = pool.open(&key("a"), &head("not an authority")).await.unwrap_err();
        assert!(matches!(error, OpenError::Authority), "{error}");
    });
}

#[test]
fn nobody_waits_for_ever() {
    let limits = ClientLimits {
        dial_timeout: Duration::from_millis(50),
        response_timeout: Duration::from_millis(50),
        ..ClientLimits::default()
    };
    run(async {
        let (pool, _wire, mut ends) = scripted(limits);
        let error = pool.open(&key("gated"), &head("10.0.0.1:80")).await.unwrap_err();
        assert!(matches!(error, OpenError::TimedOut(Phase::Dial)), "{error}");
        let error = pool.open(&key("a"), &head("10.0.0.1:80")).await.unwrap_err();
        assert!(matches!(error, OpenError::TimedOut(Phase::Response)), "{error}");
        // The stream was cancelled: the peer hears of it.
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        let reset = peer.expect(RST_STREAM).await;
        assert_eq!(reset.id, 1);
        assert_eq!(pool.stats().streams, 0);
    });
}

#[test]
fn eviction_ends_connections_with_their_streams_or_at_once() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        let gentle = open(&pool, "a").await;
        let other = open(&pool, "b").await;
        pool.evict("a", Evict::WhenIdle);
        assert_eq!(pool.stats().keys, 1);
        assert!(!open(&pool, "a").await.reused, "an evicted connection serves nobody new");
        roundtrip(gentle, b"goes on".to_vec()).await;
        let harsh = open(&pool, "a").await;
        pool.evict("a", Evict::Now);
        let (mut recv, mut send) = harsh.stream.split();
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert_eq!(poll_fn(|cx| send.poll_capacity(cx, 1)).await, Err(Broken::Lost));
        pool.evict_source(&key("b").source, Evict::Now);
        let (mut recv, _send) = other.stream.split();
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert_eq!(pool.stats().keys, 0);
        assert_eq!(wire.dials.get(), 3);
    });
}

#[test]
fn eviction_also_reaches_a_dial_under_way() {
    run(async {
        let (pool, wire) = echoing(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { pool.open(&key("gated"), &head("10.0.0.1:80")).await })
        };
        let task = ask();
        until(&pool, |s| s.waiting == 1).await;
        pool.evict("gated", Evict::Now);
        assert!(matches!(task.await.unwrap(), Err(OpenError::Closed)));
        // Whoever asks afterwards gets a connection of his own.
        let task = ask();
        until(&pool, |s| s.waiting == 1).await;
        assert_eq!(wire.dials.get(), 1);
        wire.gate.add_permits(2);
        drop(task.await.unwrap().unwrap());
        assert_eq!(wire.dials.get(), 2);
        pool.close_all(Evict::Now);
        // Gently: whoever asked before is served, nobody after.
        let task = ask();
        until(&pool, |s| s.waiting == 1).await;
        pool.evict("gated", Evict::WhenIdle);
        wire.gate.add_permits(1);
        let opened = task.await.unwrap().unwrap();
        assert_eq!(pool.stats().keys, 0);
        roundtrip(opened, b"served".to_vec()).await;
        // A dial that does not come to its end soon is not waited for.
        let task = ask();
        until(&pool, |s| s.waiting == 1).await;
        let begun = std::time::Instant::now();
        pool.evict("gated", Evict::WhenIdle);
        assert!(matches!(task.await.unwrap(), Err(OpenError::TimedOut(_))));
        assert!(begun.elapsed() < ClientLimits::default().dial_timeout, "{:?}", begun.elapsed());
    });
}

#[test]
fn idle_connections_are_released_and_their_peers_told() {
    run(async {
        let limits = ClientLimits { idle_release: Duration::from_millis(50), ..ClientLimits::default() };
        let (pool, _wire, mut ends) = scripted(limits);
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let near = task.await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(150), server.accept()).await;
        assert!(waited.is_err(), "a live stream keeps it");
        drop((near, far));
        assert!(server.accept().await.is_none(), "closed in order");
        until(&pool, |s| s.keys == 0).await;
    });
}

#[test]
fn a_silent_peer_is_left_and_its_streams_are_lost() {
    run(async {
        let limits = ClientLimits {
            ping_every: Duration::from_millis(30),
            ping_timeout: Duration::from_millis(250),
            ..ClientLimits::default()
        };
        let (pool, _wire, mut ends) = scripted(limits);
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        peer.expect(HEADERS).await;
        // `:status 200` is entry 8 of the static table (RFC 7541 A).
        peer.send(HEADERS, END_HEADERS, 1, [0x88]).await;
        let (mut recv, _send) = task.await.unwrap().stream.split();
        let ping = peer.expect(PING).await;
        peer.send(PING, ACK, 0, ping.payload).await;
        peer.expect(PING).await;
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert_eq!(pool.stats().connections, 0);
    });
}

#[test]
fn a_destination_that_is_said_to_be_gone_is_asked_at_once() {
    run(async {
        let (pool, _wire, mut ends) = scripted(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { open(&pool, "a").await })
        };
        // One that is there answers, and its stream goes on.
        let task = ask();
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let (mut near, _send) = task.await.unwrap().stream.split();
        pool.evict("a", Evict::WhenIdle);
        let more = tokio::time::timeout(Duration::from_millis(2500), near.data());
        let (more, accepted) = tokio::join!(more, tokio::time::timeout(Duration::from_millis(2500), server.accept()));
        assert!(more.is_err() && accepted.is_err(), "a live stream was cut");
        drop(far.split());
        // One that is silent loses its streams long before the next PING would be due.
        let task = ask();
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        peer.expect(HEADERS).await;
        peer.send(HEADERS, END_HEADERS, 1, [0x88]).await;
        let (mut recv, _send) = task.await.unwrap().stream.split();
        let begun = std::time::Instant::now();
        pool.evict("a", Evict::WhenIdle);
        peer.expect(PING).await;
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert!(begun.elapsed() < ClientLimits::default().ping_every, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_destination_that_says_good_bye_and_is_gone_is_not_waited_for() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        wire.gate.add_permits(1);
        let task = spawn_local({
            let pool = pool.clone();
            async move { pool.open(&key("gated"), &head("10.0.0.1:80")).await }
        });
        let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
        peer.expect(HEADERS).await;
        // Discovery drops the pod, whose proxy then says that it did not look at the request. Nobody answers the next dial.
        pool.evict("gated", Evict::WhenIdle);
        let begun = std::time::Instant::now();
        peer.send(GOAWAY, 0, 0, [0; 8]).await;
        assert!(matches!(task.await.unwrap(), Err(OpenError::TimedOut(Phase::Dial))));
        assert_eq!(wire.dials.get(), 2);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_reset_of_the_application_crosses_the_tunnel_both_ways() {
    run(async {
        let (pool, _wire, mut ends) = scripted(ClientLimits::default());
        let ask = || {
            let pool = pool.clone();
            spawn_local(async move { open(&pool, "a").await })
        };
        let task = ask();
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let near = task.await.unwrap();
        let ((mut near_recv, mut near_send), (mut far_recv, mut far_send)) = (near.stream.split(), far.split());
        near_send.reset(crate::ResetReason::App);
        assert_eq!(far_recv.data().await, Err(Broken::Reset));
        assert_eq!(poll_fn(|cx| far_send.poll_broken(cx)).await, Broken::Reset);
        assert_eq!(near_recv.data().await, Err(Broken::Reset));
        let task = ask();
        let (_far_recv, mut far_send) = accept(&mut server).await.split();
        let (mut near_recv, _near_send) = task.await.unwrap().stream.split();
        far_send.reset(crate::ResetReason::App);
        assert_eq!(near_recv.data().await, Err(Broken::Reset));
    });
}

#[test]
fn a_dropped_pool_lets_its_streams_end() {
    run(async {
        let (pool, _wire, mut ends) = scripted(ClientLimits::default());
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let near = task.await.unwrap();
        drop(pool);
        spawn_local(async move {
            let (recv, send) = far.split();
            assert_eq!(echo(recv, send).await, Ok(()));
        });
        roundtrip(near, b"whole".to_vec()).await;
        assert!(server.accept().await.is_none());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_sequence_of_frames_of_a_server_panics(frames in prop::collection::vec(any_frame(), 1..30), answer in any::<bool>()) {
        run(async {
            let (pool, _wire, mut ends) = scripted(ClientLimits::default());
            let task = spawn_local({
                let pool = pool.clone();
                async move {
                    let (mut recv, mut send) = pool.open(&key("a"), &head("10.0.0.1:80")).await.ok()?.stream.split();
                    let sent = send.send_all(vec![1; 100_000].into()).await;
                    Some((sent, read_all(&mut recv).await))
                }
            });
            let mut peer = RawPeer::server(ends.recv().await.unwrap()).await;
            peer.expect(HEADERS).await;
            if answer {
                peer.send(HEADERS, END_HEADERS, 1, [0x88]).await;
            }
            for frame in &frames {
                peer.send(frame.kind, frame.flags, frame.id, frame.payload.clone()).await;
            }
            drop(peer);
            task.await.expect("the client's side must not panic");
            until(&pool, |s| s.keys == 0).await;
        });
    }
}

/// Holds until it is told otherwise.
#[derive(Debug)]
struct Lease {
    peer: mesh::Identity,
    holds: std::cell::Cell<bool>,
}

impl Bond for Lease {
    fn peer(&self) -> &mesh::Identity {
        &self.peer
    }

    fn holds(&self) -> bool {
        self.holds.get()
    }

    fn is_broken(&self) -> bool {
        false
    }
}

#[test]
fn a_connection_whose_certificates_have_expired_takes_no_new_stream_and_loses_none() {
    run(async {
        let (pool, wire, mut ends) = scripted(ClientLimits::default());
        let peer = "spiffe://cluster.local/ns/shop/sa/db".parse().unwrap();
        let bond = Rc::new(Lease { peer, holds: true.into() });
        *wire.bond.borrow_mut() = bond.clone();
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let far = accept(&mut server).await;
        let near = task.await.unwrap();
        bond.holds.set(false);
        *wire.bond.borrow_mut() = Rc::new(bond.peer.clone());
        let task = spawn_local({
            let pool = pool.clone();
            async move { open(&pool, "a").await }
        });
        let mut second = serve(ends.recv().await.unwrap(), ServerLimits::default());
        let _far2 = accept(&mut second).await;
        assert!(!task.await.unwrap().reused);
        assert_eq!(wire.dials.get(), 2);
        spawn_local(async move {
            let (recv, send) = far.split();
            assert_eq!(echo(recv, send).await, Ok(()));
        });
        roundtrip(near, vec![3; 100_000]).await;
    });
}
