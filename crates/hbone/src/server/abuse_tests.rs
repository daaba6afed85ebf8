//! The server against peers that mean harm. Each has a valid certificate, so it may be any pod of the mesh.

use std::time::Duration;

use h2::Reason;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::testing::*;
use crate::{BadRequest, ResponseHeaders};

async fn peer(limits: ServerLimits) -> (RawPeer, Server) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let server = serve(far, limits);
    (RawPeer::client(near).await, server)
}

/// Plays the program: takes every request at once.
fn accept_all(mut server: Server) -> tokio::task::JoinHandle<(usize, Option<ConnectionError>)> {
    tokio::task::spawn_local(async move {
        let mut taken = 0;
        while let Some(next) = server.accept().await {
            match next {
                Ok(request) => {
                    taken += 1;
                    drop(request.accept(&ResponseHeaders::default()));
                }
                Err(e) => return (taken, Some(e)),
            }
        }
        (taken, None)
    })
}

async fn goaway_of(peer: &mut RawPeer) -> Option<u32> {
    peer.drain().await.iter().rev().find(|f| f.kind == GOAWAY).map(Frame::code)
}

#[test]
fn a_header_list_that_is_too_large_is_refused_by_its_size() {
    run(async {
        let (mut peer, mut server) = peer(ServerLimits::default()).await;
        let big = [connect_block("10.0.0.1:80"), field("baggage", &"x".repeat(20_000))].concat();
        // Several frames, as a frame carries 16 KiB until told otherwise.
        peer.send(HEADERS, 0, 1, &big[..10_000]).await;
        peer.send(CONTINUATION, END_HEADERS, 1, &big[10_000..]).await;
        let answer = peer.expect(HEADERS).await;
        assert_eq!(answer.id, 1);
        assert!(answer.payload.windows(3).any(|w| w == b"431") || answer.flags & END_STREAM != 0);
        // Never shown to the program; the connection lives.
        peer.send(HEADERS, END_HEADERS, 3, connect_block("10.0.0.1:80")).await;
        assert!(server.accept().await.unwrap().unwrap().authority.is_ok());
    });
}

#[test]
fn thousands_of_tiny_fields_are_refused() {
    run(async {
        let (mut peer, mut server) = peer(ServerLimits::default()).await;
        // One byte each on the wire, by reference to the dynamic table: put one in, then point to it.
        let mut block = connect_block("10.0.0.1:80");
        block.extend_from_slice(&[0x40, 1, b'x', 1, b'y']);
        block.extend(std::iter::repeat_n(0x80 | 62, 300));
        peer.send(HEADERS, END_HEADERS, 1, block).await;
        let request = server.accept().await.unwrap().unwrap();
        assert_eq!(request.authority, Err(BadRequest::Fields));
        assert_eq!(request.headers, crate::Headers::default());
    });
    run(async {
        // Enough of them to pass the size of the list as well: the library refuses, the program does not see it.
        let (mut peer, server) = peer(ServerLimits::default()).await;
        let accepting = accept_all(server);
        let mut block = connect_block("10.0.0.1:80");
        block.extend_from_slice(&[0x40, 1, b'x', 1, b'y']);
        block.extend(std::iter::repeat_n(0x80 | 62, 10_000));
        peer.send(HEADERS, END_HEADERS, 1, block).await;
        peer.io.shutdown().await.unwrap();
        peer.drain().await;
        assert_eq!(accepting.await.unwrap().0, 0);
    });
}

#[test]
fn endless_continuations_end_the_connection() {
    run(async {
        let (mut peer, server) = peer(ServerLimits::default()).await;
        let accepting = accept_all(server);
        peer.send(HEADERS, 0, 1, connect_block("10.0.0.1:80")).await;
        for _ in 0..1000 {
            peer.send(CONTINUATION, 0, 1, field("a", "b")).await;
        }
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
        assert!(matches!(accepting.await.unwrap(), (0, Some(ConnectionError::Protocol(_)))));
    });
}

#[test]
fn a_header_block_that_never_ends_is_bounded_in_time_by_the_pings() {
    let limits = ServerLimits {
        ping_every: Duration::from_millis(30),
        ping_timeout: Duration::from_millis(30),
        ..ServerLimits::default()
    };
    run(async {
        let (mut peer, server) = peer(limits).await;
        let accepting = accept_all(server);
        peer.send(HEADERS, 0, 1, connect_block("10.0.0.1:80")).await;
        peer.drain().await;
        assert_eq!(accepting.await.unwrap(), (0, Some(ConnectionError::PingTimeout)));
    });
}

#[test]
fn rapid_reset_is_cut_off_when_the_program_is_fast() {
    let limits = ServerLimits { unanswered_resets: 50, unanswered_resets_per_second: 1, ..ServerLimits::default() };
    run(async {
        let (mut peer, mut server) = peer(limits).await;
        // A program that waits for the application while the peer goes on.
        let accepting = tokio::task::spawn_local(async move {
            let mut taken = 0;
            loop {
                match server.accept().await {
                    Some(Ok(mut request)) => {
                        taken += 1;
                        tokio::task::spawn_local(async move { request.cancelled().await });
                    }
                    Some(Err(e)) => return (taken, Some(e)),
                    None => return (taken, None),
                }
            }
        });
        for i in 0..10_000u32 {
            peer.send(HEADERS, END_HEADERS, 2 * i + 1, connect_block("10.0.0.1:80")).await;
            peer.send(RST_STREAM, 0, 2 * i + 1, 8u32.to_be_bytes()).await;
        }
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
        let (taken, end) = accepting.await.unwrap();
        assert!(matches!(end, Some(ConnectionError::TooManyResets | ConnectionError::Protocol(_))), "{end:?}");
        assert!(taken < 1000, "{taken} requests were taken before the cut");
    });
}

#[test]
fn resets_paced_to_slip_past_the_accept_queue_are_counted_too() {
    let limits = ServerLimits { unanswered_resets: 50, unanswered_resets_per_second: 0, ..ServerLimits::default() };
    run(async {
        let (mut peer, mut server) = peer(limits).await;
        // Each request is taken before its reset, so that the library sees nothing amiss.
        for i in 0..51u32 {
            peer.send(HEADERS, END_HEADERS, 2 * i + 1, connect_block("10.0.0.1:80")).await;
            let mut request = server.accept().await.unwrap().unwrap();
            peer.send(RST_STREAM, 0, 2 * i + 1, 8u32.to_be_bytes()).await;
            request.cancelled().await;
        }
        assert_eq!(server.accept().await.unwrap().unwrap_err(), ConnectionError::TooManyResets);
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
    });
}

#[test]
fn rapid_reset_is_cut_off_when_the_program_is_slow() {
    run(async {
        let (mut peer, mut server) = peer(ServerLimits::default()).await;
        for i in 0..2_000u32 {
            peer.send(HEADERS, END_HEADERS, 2 * i + 1, connect_block("10.0.0.1:80")).await;
            peer.send(RST_STREAM, 0, 2 * i + 1, 8u32.to_be_bytes()).await;
        }
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
        let mut taken = 0;
        while let Some(next) = server.accept().await {
            match next {
                Ok(_) => taken += 1,
                Err(e) => assert!(matches!(e, ConnectionError::Protocol(_)), "{e}"),
            }
        }
        assert!(taken <= ServerLimits::default().accept_queue, "{taken}");
    });
}

#[test]
fn patient_resets_are_forgiven() {
    run(async {
        let (mut peer, mut server) = peer(ServerLimits::default()).await;
        for i in 0..500u32 {
            peer.send(HEADERS, END_HEADERS, 2 * i + 1, connect_block("10.0.0.1:80")).await;
            let mut request = server.accept().await.unwrap().unwrap();
            peer.send(RST_STREAM, 0, 2 * i + 1, 8u32.to_be_bytes()).await;
            request.cancelled().await;
        }
        peer.send(HEADERS, END_HEADERS, 2001, connect_block("10.0.0.1:80")).await;
        assert!(server.accept().await.unwrap().is_ok());
    });
}

#[test]
fn a_flood_of_one_byte_frames_that_nobody_reads_is_cut_off() {
    let limits = ServerLimits { data_frame_budget: 64 * 1024, ..ServerLimits::default() };
    run(async {
        let (mut peer, mut server) = peer(limits).await;
        peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
        let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
        for _ in 0..2_000 {
            peer.send(DATA, 0, 1, [1]).await;
        }
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
        drop(stream);
    });
}

#[test]
fn a_flood_of_empty_frames_is_cut_off() {
    run(async {
        let (mut peer, mut server) = peer(ServerLimits::default()).await;
        peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
        let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
        for _ in 0..50_000 {
            peer.send(DATA, 0, 1, []).await;
        }
        assert_eq!(goaway_of(&mut peer).await, Some(Reason::ENHANCE_YOUR_CALM.into()));
        drop(stream);
    });
}

#[test]
fn floods_that_ask_for_answers_and_do_not_read_them_are_held_back() {
    let limits = ServerLimits {
        ping_every: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    for frame in [Frame::new(PING, 0, 0, [0; 8]), Frame::new(SETTINGS, 0, 0, [])] {
        run(async {
            let (mut peer, mut server) = peer(limits.clone()).await;
            let block: Vec<u8> = std::iter::repeat_n(frame.bytes(), 1000).flatten().collect();
            let mut taken = 0;
            while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(100), peer.io.write(&block)).await {
                taken += n;
            }
            // Both ways through the test's pipe, and the server's buffers: nothing piles up beyond.
            assert!(taken < 2 * 256 * 1024 + 128 * 1024, "{taken} bytes were taken");
            // And as its PING is not acknowledged either, the connection ends.
            assert_eq!(server.accept().await.unwrap().unwrap_err(), ConnectionError::PingTimeout);
        });
    }
}

#[test]
fn a_peer_that_says_nothing_is_left_after_the_handshake_timeout() {
    let limits = ServerLimits { handshake_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    run(async {
        let (near, far) = tokio::io::duplex(1024);
        let mut server = serve(far, limits);
        assert_eq!(server.accept().await.unwrap().unwrap_err(), ConnectionError::HandshakeTimeout);
        drop(near);
    });
    run(async {
        let (mut near, far) = tokio::io::duplex(1024);
        let mut server = serve(far, ServerLimits::default());
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(matches!(server.accept().await.unwrap().unwrap_err(), ConnectionError::Protocol(_)));
    });
}

#[test]
fn a_drain_during_the_handshake_ends_it() {
    run(async {
        let (near, far) = tokio::io::duplex(1024);
        let mut server = serve(far, ServerLimits::default());
        server.graceful_shutdown();
        assert!(server.accept().await.is_none());
        drop(near);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_sequence_of_frames_panics(frames in prop::collection::vec(any_frame(), 1..30), first in any::<bool>()) {
        run(async {
            let (mut peer, server) = peer(ServerLimits::default()).await;
            let accepting = accept_all(server);
            if first {
                peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
            }
            for frame in &frames {
                peer.send(frame.kind, frame.flags, frame.id, frame.payload.clone()).await;
            }
            drop(peer);
            accepting.await.expect("the server's side must not panic");
        });
    }
}
