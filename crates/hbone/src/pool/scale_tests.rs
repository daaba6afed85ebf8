//! Many streams, and what one of them costs.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_local};

use super::*;
use crate::testing::*;
use crate::{RecvHalf, ResponseHeaders, SendHalf, ServerLimits, TunnelStream, serve};

#[test]
fn ten_thousand_streams_pass_and_nothing_is_left() {
    run(async {
        let (wire, mut ends) = Wire::new();
        spawn_local(async move {
            while let Some(io) = ends.recv().await {
                spawn_local(echo_all(serve(io, ServerLimits::default())));
            }
        });
        let pool = Pool::new(wire.clone(), ClientLimits::default());
        // Four destinations, 1000 streams at a time.
        let at_once = Arc::new(Semaphore::new(1000));
        let mut tasks = JoinSet::new();
        for i in 0..10_000u32 {
            let permit = at_once.clone().acquire_owned().await.unwrap();
            let pool = pool.clone();
            tasks.spawn_local(async move {
                let name = ["a", "b", "c", "d"][i as usize % 4];
                let opened = pool.open(&key(name), &head("10.0.0.1:80")).await.unwrap();
                let (mut recv, mut send) = opened.stream.split();
                send.send_all(i.to_be_bytes().to_vec().into()).await.unwrap();
                send.finish().unwrap();
                assert_eq!(read_all(&mut recv).await.unwrap(), i.to_be_bytes());
                drop(permit);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.opened, stats.streams, stats.waiting, stats.dialling), (10_000, 0, 0, 0));
        // 250 streams of each destination at a time: three connections of 100, and one more of spreading at most, plus
        // what was dialled while places became free.
        assert!((12..=24).contains(&wire.dials.get()), "{} dials", wire.dials.get());
        assert_eq!(stats.dial_failures, 0);
    });
}

#[test]
fn stalled_applications_do_not_stall_their_neighbours() {
    run(async {
        let (wire, mut ends) = Wire::new();
        let stalled = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let kept = stalled.clone();
        spawn_local(async move {
            let mut server = serve(ends.recv().await.unwrap(), ServerLimits::default());
            while let Some(Ok(request)) = server.accept().await {
                let stall = request.authority.as_ref().unwrap().port() == 1;
                let stream = request.accept(&ResponseHeaders::default()).unwrap();
                if stall {
                    kept.borrow_mut().push(stream);
                } else {
                    let (recv, send) = stream.split();
                    spawn_local(async move { assert_eq!(echo(recv, send).await, Ok(())) });
                }
            }
        });
        // All on one connection.
        let pool = Pool::new(wire, ClientLimits { spread_connections: 1, ..ClientLimits::default() });
        let window = ServerLimits::default().stream_window as usize;
        let mut open = Vec::new();
        for _ in 0..16 {
            let opened = pool.open(&key("a"), &head("10.0.0.1:1")).await.unwrap();
            let (recv, mut send) = opened.stream.split();
            send.send_all(vec![0; window].into()).await.unwrap();
            open.push((recv, send));
        }
        let opened = pool.open(&key("a"), &head("10.0.0.1:2")).await.unwrap();
        let (mut recv, mut send) = opened.stream.split();
        let sending = spawn_local(async move {
            send.send_all(vec![1; 4 << 20].into()).await.unwrap();
            send.finish().unwrap();
            send
        });
        assert_eq!(read_all(&mut recv).await.unwrap().len(), 4 << 20);
        sending.await.unwrap();
        assert_eq!((pool.stats().connections, stalled.borrow().len()), (1, 16));
    });
}

/// Bytes per connection are an interface: what grows here grows by every open connection of a node.
#[test]
fn a_stream_stays_small() {
    let (wire, _ends) = Wire::new();
    let pool = Pool::new(wire, ClientLimits::default());
    let (key, head) = (key("a"), head("10.0.0.1:80"));
    let sizes = [
        ("Pool::open", size_of_val(&pool.open(&key, &head)), 1024),
        ("TunnelStream", size_of::<TunnelStream>(), 128),
        ("RecvHalf", size_of::<RecvHalf>(), 56),
        ("SendHalf", size_of::<SendHalf>(), 56),
    ];
    for (name, is, most) in sizes {
        assert!(is <= most, "{name} has {is} bytes, at most {most} are wanted");
    }
}

/// Tunnels stay on their worker, but nothing in a stream forbids to hand one to another thread.
#[test]
fn streams_may_cross_threads() {
    fn is_send<T: Send>() {}
    is_send::<TunnelStream>();
    is_send::<RecvHalf>();
    is_send::<SendHalf>();
    is_send::<crate::Request>();
    is_send::<crate::ServerHandle>();
    is_send::<crate::Client>();
}
