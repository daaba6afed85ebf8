//! The server against clients of the HTTP/2 library and against scripted ones.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use super::*;
use crate::testing::*;
use crate::{Authority, BadRequest, Baggage, Broken, ResetReason, ResponseHeaders, TunnelStream};

fn start(limits: ServerLimits) -> (tokio::io::DuplexStream, Server) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    (near, serve(far, limits))
}

/// A stream that is open at both ends.
async fn opened(
    limits: ServerLimits,
) -> (h2::client::SendRequest<Bytes>, h2::RecvStream, h2::SendStream<Bytes>, Server, TunnelStream) {
    let (io, mut server) = start(limits);
    let mut client = h2_client(io).await;
    let (response, send) = client.send_request(connect_request("10.0.0.1:80"), false).unwrap();
    let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    (client, response.into_body(), send, server, stream)
}

/// FIN and nothing else; the library shows the empty frame that carries it.
async fn assert_fin(body: &mut h2::RecvStream) {
    while let Some(bytes) = body.data().await {
        assert_eq!(bytes.unwrap(), "");
    }
}

#[test]
fn a_connect_carries_its_headers_both_ways() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut client = h2_client(io).await;
        let mut request = connect_request("[fd00::1]:8080");
        for (name, value) in [
            ("baggage", "k8s.namespace.name=shop"),
            ("baggage", "service.name=web"),
            ("forwarded", "for=\"1.2.3.4:5\";host=db.shop.svc"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("x-forwarded-network", "other"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (response, _send) = client.send_request(request, false).unwrap();
        let request = server.accept().await.unwrap().unwrap();
        assert_eq!(request.authority, Ok("[fd00::1]:8080".parse::<Authority>().unwrap()));
        assert_eq!((&*request.headers.baggage.namespace, &*request.headers.baggage.service_name), ("shop", "web"));
        assert_eq!(request.headers.forwarded_host.as_deref(), Some("db.shop.svc"));
        assert_eq!(request.headers.forwarded_for, None);
        assert!(request.headers.traceparent.unwrap().sampled);
        assert_eq!(request.headers.network.as_deref(), Some("other"));
        let baggage = Baggage { service_name: "db".into(), ..Baggage::default() };
        let _stream = request.accept(&ResponseHeaders { baggage }).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.headers()["baggage"], "service.name=db");
    });
}

#[test]
fn requests_that_are_no_connect_of_ours_are_named_and_refused() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut client = h2_client(io).await;
        let get = http::Request::get("http://10.0.0.1:80/").body(()).unwrap();
        let mut many = connect_request("10.0.0.1:80");
        for i in 0..65 {
            many.headers_mut().append("x", i.into());
        }
        for (request, want, status) in [
            (get, BadRequest::Method, 400),
            (connect_request("10.0.0.1"), BadRequest::Port, 400),
            (connect_request("user@10.0.0.1:80"), BadRequest::Host, 400),
            (many, BadRequest::Fields, 431),
        ] {
            let (response, _send) = client.send_request(request, false).unwrap();
            let request = server.accept().await.unwrap().unwrap();
            assert_eq!(request.authority, Err(want));
            // Even a program that does not look refuses.
            assert!(request.accept(&ResponseHeaders::default()).is_err());
            let response = response.await.unwrap();
            assert_eq!(response.status(), status);
            assert!(response.body().is_end_stream());
        }
        assert!(client.send_request(connect_request("10.0.0.1:80"), false).is_ok(), "the connection stays");
        assert!(server.accept().await.unwrap().unwrap().authority.is_ok());
    });
}

#[test]
fn malformed_connects_are_answered_and_the_connection_stays() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut peer = RawPeer::client(io).await;
        let connect = || field(":method", "CONNECT");
        let all = |parts: &[Vec<u8>]| parts.concat();
        // Extended CONNECT, scheme and path: malformed on the level of HTTP/2 (RFC 9113 8.5, RFC 8441 3).
        for (i, block) in [
            all(&[connect_block("10.0.0.1:80"), field(":protocol", "connect-udp")]),
            all(&[connect_block("10.0.0.1:80"), field(":scheme", "http")]),
            all(&[connect_block("10.0.0.1:80"), field(":path", "/")]),
            connect_block("10.0.0.1:80\u{7f}"),
        ]
        .into_iter()
        .enumerate()
        {
            let id = 2 * i as u32 + 1;
            peer.send(HEADERS, END_HEADERS, id, block).await;
            let reset = peer.expect(RST_STREAM).await;
            assert_eq!((reset.id, reset.code()), (id, Reason::PROTOCOL_ERROR.into()));
        }
        // No authority at all is legal HTTP/2 to the library: ours to refuse.
        peer.send(HEADERS, END_HEADERS, 9, connect()).await;
        let request = server.accept().await.unwrap().unwrap();
        assert_eq!(request.authority, Err(BadRequest::NoAuthority));
        request.refuse(400);
        let answer = peer.expect(HEADERS).await;
        assert_eq!((answer.id, answer.flags & END_STREAM), (9, END_STREAM), "the refusal ends the stream");
    });
}

#[test]
fn each_direction_ends_by_itself() {
    run(async {
        let (_client, mut body, mut out, _server, stream) = opened(ServerLimits::default()).await;
        let (mut recv, mut send) = stream.split();
        out.send_data("ping".into(), true).unwrap();
        assert_eq!(read_all(&mut recv).await.unwrap(), b"ping");
        assert_eq!(recv.data().await, Ok(None), "FIN stays");
        // The other direction goes on after the FIN.
        send.send_all("pong".into()).await.unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "pong");
        send.finish().unwrap();
        assert_fin(&mut body).await;
        assert_eq!(send.send("more".into()), Err(Broken::Stopped));
    });
    run(async {
        let (_client, mut body, mut out, _server, stream) = opened(ServerLimits::default()).await;
        let (mut recv, mut send) = stream.split();
        send.finish().unwrap();
        assert_fin(&mut body).await;
        out.send_data("late".into(), true).unwrap();
        assert_eq!(read_all(&mut recv).await.unwrap(), b"late");
    });
}

#[test]
fn resets_of_the_peer_mean_what_the_table_says() {
    for (reason, recv_means, send_means) in [
        (Reason::CONNECT_ERROR, Err(Broken::Reset), Broken::Reset),
        (Reason::INTERNAL_ERROR, Err(Broken::Reset), Broken::Reset),
        (Reason::NO_ERROR, Ok(vec![]), Broken::Stopped),
        (Reason::CANCEL, Ok(vec![]), Broken::Stopped),
        (Reason::STREAM_CLOSED, Err(Broken::Lost), Broken::Lost),
    ] {
        run(async {
            let (_client, _body, mut out, _server, stream) = opened(ServerLimits::default()).await;
            let (mut recv, mut send) = stream.split();
            out.send_reset(reason);
            assert_eq!(poll_fn(|cx| send.poll_broken(cx)).await, send_means, "{reason:?}");
            assert_eq!(send.send("x".into()), Err(send_means), "{reason:?}");
            assert_eq!(poll_fn(|cx| send.poll_capacity(cx, 1)).await, Err(send_means), "{reason:?}");
            assert_eq!(read_all(&mut recv).await, recv_means, "{reason:?}");
        });
    }
}

#[test]
fn bytes_before_a_reset_are_still_delivered() {
    run(async {
        let (_client, _body, mut out, _server, stream) = opened(ServerLimits::default()).await;
        let (mut recv, _send) = stream.split();
        out.send_data("last words".into(), false).unwrap();
        // Reset only once the bytes have left, or the library drops them.
        assert_eq!(recv.data().await.unwrap().unwrap(), "last words");
        out.send_reset(Reason::CONNECT_ERROR);
        assert_eq!(recv.data().await, Err(Broken::Reset));
    });
}

#[test]
fn our_resets_reach_the_peer_and_a_dropped_half_is_one() {
    for (act, want) in [
        (Some(ResetReason::App), Reason::CONNECT_ERROR),
        (Some(ResetReason::Cancelled), Reason::CANCEL),
        (Some(ResetReason::Internal), Reason::INTERNAL_ERROR),
        (None, Reason::CONNECT_ERROR),
    ] {
        run(async {
            let (_client, mut body, _out, _server, stream) = opened(ServerLimits::default()).await;
            let (recv, mut send) = stream.split();
            match act {
                Some(reason) => send.reset(reason),
                None => drop(send),
            }
            let error = body.data().await.unwrap().unwrap_err();
            assert_eq!((error.reason(), error.is_remote()), (Some(want), true));
            drop(recv);
        });
    }
}

#[test]
fn a_lost_connection_is_lost_for_its_streams() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut peer = RawPeer::client(io).await;
        peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
        let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
        let (mut recv, mut send) = stream.split();
        drop(peer);
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert_eq!(poll_fn(|cx| send.poll_capacity(cx, 1)).await, Err(Broken::Lost));
        assert!(server.accept().await.is_none());
    });
}

#[test]
fn credit_comes_back_only_when_bytes_are_released() {
    let limits = ServerLimits { stream_window: 65_535, connection_window: 1 << 20, ..ServerLimits::default() };
    run(async {
        let (_client, _body, mut out, _server, stream) = opened(limits).await;
        let (mut recv, _send) = stream.split();
        out.reserve_capacity(1 << 20);
        out.send_data(vec![7; 200_000].into(), true).unwrap();
        let mut got = 0;
        while got < 65_535 {
            got += recv.data().await.unwrap().unwrap().len();
        }
        assert_eq!(got, 65_535, "the peer may not send more than the window");
        {
            let mut next = std::pin::pin!(recv.data());
            let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
            assert!(early.is_err(), "nothing comes without credit: {early:?}");
        }
        recv.release(got);
        assert_eq!(read_all(&mut recv).await.unwrap().len(), 200_000 - 65_535);
    });
}

#[test]
fn a_large_flow_passes_small_windows_and_a_starved_sender_waits() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(4096).initial_connection_window_size(65_535);
        let mut client = h2_client_with(io, builder).await;
        let (response, _out) = client.send_request(connect_request("10.0.0.1:80"), false).unwrap();
        let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
        let (_recv, mut send) = stream.split();
        let mut body = response.await.unwrap().into_body();
        // The window is all the credit there is.
        assert_eq!(poll_fn(|cx| send.poll_capacity(cx, 1 << 20)).await, Ok(4096));
        send.send(vec![1; 4096].into()).unwrap();
        let starved = tokio::time::timeout(Duration::from_millis(50), poll_fn(|cx| send.poll_capacity(cx, 1))).await;
        assert!(starved.is_err(), "no credit, no capacity: {starved:?}");
        let sending = tokio::task::spawn_local(async move {
            send.send_all(vec![2; 8 << 20].into()).await.unwrap();
            send.finish().unwrap();
        });
        let mut got = 0;
        while let Some(bytes) = body.data().await {
            let bytes = bytes.unwrap();
            got += bytes.len();
            body.flow_control().release_capacity(bytes.len()).unwrap();
        }
        sending.await.unwrap();
        assert_eq!(got, 4096 + (8 << 20));
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_to_be_tried_elsewhere() {
    let limits = ServerLimits { concurrent_streams: 2, ..ServerLimits::default() };
    run(async {
        let (io, mut server) = start(limits);
        let mut peer = RawPeer::client(io).await;
        let settings = peer.expect(SETTINGS).await;
        let max = [0, 3, 0, 0, 0, 2];
        assert!(settings.payload.chunks(6).any(|s| s == max), "the limit is announced");
        // It binds once the announcement was acknowledged: `expect` did that.
        let mut open = Vec::new();
        for id in [1, 3] {
            peer.send(HEADERS, END_HEADERS, id, connect_block("10.0.0.1:80")).await;
            open.push(server.accept().await.unwrap().unwrap());
        }
        peer.send(HEADERS, END_HEADERS, 5, connect_block("10.0.0.1:80")).await;
        let reset = peer.expect(RST_STREAM).await;
        assert_eq!((reset.id, reset.code()), (5, Reason::REFUSED_STREAM.into()));
        assert_eq!(server.handle().streams(), 2);
    });
}

#[test]
fn a_peer_that_does_not_acknowledge_pings_is_left() {
    let limits = ServerLimits {
        ping_every: Duration::from_millis(30),
        ping_timeout: Duration::from_millis(250),
        ..ServerLimits::default()
    };
    run(async {
        let (io, mut server) = start(limits.clone());
        let mut peer = RawPeer::client(io).await;
        peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
        let stream = server.accept().await.unwrap().unwrap().accept(&ResponseHeaders::default()).unwrap();
        let (mut recv, _send) = stream.split();
        // One that does is kept.
        for _ in 0..4 {
            let ping = peer.expect(PING).await;
            peer.send(PING, ACK, 0, ping.payload).await;
        }
        assert_eq!(server.accept().await.unwrap().unwrap_err(), ConnectionError::PingTimeout);
        let frames = peer.drain().await;
        assert_eq!(frames.last().map(|f| (f.kind, f.code())), Some((GOAWAY, 0)), "{frames:?}");
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert!(server.accept().await.is_none());
    });
}

#[test]
fn a_pause_of_this_process_is_not_held_against_the_peer() {
    let limits = ServerLimits {
        ping_every: Duration::from_millis(20),
        ping_timeout: Duration::from_millis(100),
        ..ServerLimits::default()
    };
    run(async {
        let (io, _server) = start(limits);
        let mut peer = RawPeer::client(io).await;
        for _ in 0..2 {
            let ping = peer.expect(PING).await;
            peer.send(PING, ACK, 0, ping.payload).await;
            // The whole thread stands still, as under SIGSTOP or a paused virtual machine; the answer lies there unread.
            std::thread::sleep(Duration::from_millis(200));
        }
        peer.expect(PING).await;
    });
}

#[test]
fn a_connection_without_streams_is_closed() {
    let limits = ServerLimits { idle_timeout: Duration::from_millis(50), ..ServerLimits::default() };
    run(async {
        let (client, body, mut out, mut server, stream) = opened(limits).await;
        let (recv, mut send) = stream.split();
        let waited = tokio::time::timeout(Duration::from_millis(150), server.accept()).await;
        assert!(waited.is_err(), "a live stream keeps it");
        send.finish().unwrap();
        out.send_data(Bytes::new(), true).unwrap();
        drop((recv, send, body, out));
        let end = server.accept().await.map(Result::unwrap_err);
        assert_eq!(end, None);
        drop(client);
    });
}

#[test]
fn draining_keeps_what_lives_and_takes_nothing_new() {
    for by_drop in [false, true] {
        run(async {
            let (client, mut body, mut out, server, stream) = opened(ServerLimits::default()).await;
            let mut handle = server.handle();
            if by_drop {
                drop(server);
            } else {
                server.graceful_shutdown();
            }
            // The client's library learns of the GOAWAY and opens nothing more.
            let mut probe = client.clone();
            let refused = poll_fn(|cx| match probe.poll_ready(cx) {
                Poll::Ready(Err(_)) => Poll::Ready(()),
                _ => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            });
            refused.await;
            let (mut recv, mut send) = stream.split();
            send.send_all("still".into()).await.unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), "still");
            out.send_data("here".into(), true).unwrap();
            assert_eq!(read_all(&mut recv).await.unwrap(), b"here");
            send.finish().unwrap();
            assert_fin(&mut body).await;
            drop((recv, send));
            handle.ended().await;
            assert_eq!(handle.streams(), 0);
        });
    }
}

#[test]
fn requests_that_cross_a_drop_of_the_acceptor_may_be_tried_elsewhere() {
    run(async {
        let (io, server) = start(ServerLimits::default());
        let mut peer = RawPeer::client(io).await;
        peer.send(HEADERS, END_HEADERS, 1, connect_block("10.0.0.1:80")).await;
        peer.expect(SETTINGS).await;
        let handle = server.handle();
        while handle.streams() == 0 {
            tokio::task::yield_now().await;
        }
        drop(server);
        let reset = peer.expect(RST_STREAM).await;
        assert_eq!((reset.id, reset.code()), (1, Reason::REFUSED_STREAM.into()));
    });
}

#[test]
fn close_ends_everything_at_once() {
    run(async {
        let (_client, mut body, _out, mut server, stream) = opened(ServerLimits::default()).await;
        let (mut recv, _send) = stream.split();
        server.handle().close();
        assert_eq!(recv.data().await, Err(Broken::Lost));
        assert!(body.data().await.unwrap().is_err());
        assert!(server.accept().await.is_none());
    });
}

#[test]
fn a_request_without_an_answer_gets_one_and_hears_when_nobody_waits() {
    run(async {
        let (io, mut server) = start(ServerLimits::default());
        let mut client = h2_client(io).await;
        let (response, _send) = client.send_request(connect_request("10.0.0.1:80"), false).unwrap();
        drop(server.accept().await.unwrap().unwrap());
        assert_eq!(response.await.unwrap().status(), 503);
        let (response, mut send) = client.send_request(connect_request("10.0.0.1:80"), false).unwrap();
        let mut request = server.accept().await.unwrap().unwrap();
        send.send_reset(Reason::CANCEL);
        request.cancelled().await;
        assert!(request.accept(&ResponseHeaders::default()).is_err());
        drop(response);
    });
}
