//! The relay between real TCP connections on loopback, copying and splicing.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::socket::abort;

/// No test below may take longer: a relay that hangs fails and does not stop the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two applications, and a relay between them.
struct Rig {
    a: TcpStream,
    b: TcpStream,
    progress: Arc<Progress>,
    buffers: Buffers,
    relay: JoinHandle<Ended>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Copy,
    /// Splice from the first bulk batch on.
    Splice,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (client, server) = (client.unwrap(), server.unwrap().0);
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

async fn rig(how: How) -> Rig {
    let splice_after = matches!(how, How::Splice).then_some(0);
    rig_on(Buffers::new(Limits { splice_after, ..Limits::default() })).await
}

async fn rig_on(buffers: Buffers) -> Rig {
    let ((a, near), (far, b)) = (pair().await, pair().await);
    let progress = Arc::new(Progress::new());
    let (seen, pool) = (Arc::clone(&progress), buffers.clone());
    let relay = tokio::spawn(async move { relay(near, far, &seen, &pool).await });
    Rig { a, b, progress, buffers, relay }
}

/// Runs a test for both ways of moving bytes, each on one thread as in a worker, and not longer than our patience.
fn table<F: Future<Output = ()>>(test: impl Fn(How) -> F) {
    for how in [How::Copy, How::Splice] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, test(how)).await.unwrap_or_else(|_| panic!("{how:?} hangs"));
        });
    }
}

/// A block whose length is prime, so that no buffer size ever lines up with it.
fn pattern() -> Vec<u8> {
    (0..1_048_573_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, total: usize) {
    let pattern = pattern();
    let mut left = total;
    while left > 0 {
        let n = left.min(pattern.len());
        to.write_all(&pattern[..n]).await.unwrap();
        left -= n;
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end and compares every byte.
async fn receive(mut from: impl tokio::io::AsyncRead + Unpin, total: usize) {
    let pattern = pattern();
    let mut got = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let n = from.read(&mut got).await.unwrap();
        if n == 0 {
            break;
        }
        let mut seen = &got[..n];
        while !seen.is_empty() {
            let from = at % pattern.len();
            let len = seen.len().min(pattern.len() - from);
            assert!(seen[..len] == pattern[from..from + len], "bytes differ near {at}");
            seen = &seen[len..];
            at += len;
        }
    }
    assert_eq!(at, total);
}

#[test]
fn bulk_both_ways_at_once() {
    const FORTH: usize = 256 * 1024 * 1024;
    const BACK: usize = FORTH + 12_345;
    table(async |how| {
        let Rig { a, b, progress, buffers, relay } = rig(how).await;
        let (a_read, a_write) = a.into_split();
        let (b_read, b_write) = b.into_split();
        tokio::join!(send(a_write, FORTH), send(b_write, BACK), receive(b_read, FORTH), receive(a_read, BACK));
        assert_eq!(relay.await.unwrap(), Ended::Both);
        assert_eq!((progress.a_to_b(), progress.b_to_a()), (FORTH as u64, BACK as u64));
        match how {
            How::Copy => assert_eq!(progress.spliced(), 0),
            How::Splice => assert!(progress.spliced() > (FORTH + BACK) as u64 / 2, "{} spliced", progress.spliced()),
        }
        assert!(progress.first_a_to_b().is_some() && progress.first_b_to_a().is_some());
        assert_eq!(buffers.lent(), 0);
        assert!(buffers.peak() <= 4 * TURN, "{how:?}: {} bytes lent out at once", buffers.peak());
    });
}

#[test]
fn either_direction_may_close_first() {
    table(async |how| {
        for swap in [false, true] {
            let Rig { a, b, relay, progress, .. } = rig(how).await;
            let (first, second) = if swap { (b, a) } else { (a, b) };
            let (first_read, first_write) = first.into_split();
            let (second_read, second_write) = second.into_split();
            // The second one sees the end, and only then answers.
            tokio::join!(send(first_write, 300_000), receive(second_read, 300_000));
            assert!(!relay.is_finished());
            tokio::join!(send(second_write, 3_000_000), receive(first_read, 3_000_000));
            assert_eq!(relay.await.unwrap(), Ended::Both);
            let expected = if swap { (3_000_000, 300_000) } else { (300_000, 3_000_000) };
            assert_eq!((progress.a_to_b(), progress.b_to_a()), expected);
        }
    });
}

async fn expect_reset(mut stream: TcpStream, what: &str) {
    let mut rest = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut rest).await {
            Ok(0) => panic!("{what}: FIN in place of RST"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
                return;
            }
        }
    }
}

/// Moves so much that a splicing relay splices.
async fn warm_up(from: &mut TcpStream, to: &mut TcpStream) {
    let mut sink = vec![0; 1024 * 1024];
    let source = sink.clone();
    let (sent, got) = tokio::join!(from.write_all(&source), to.read_exact(&mut sink));
    sent.unwrap();
    got.unwrap();
}

#[test]
fn a_reset_stays_a_reset_in_both_directions() {
    table(async |how| {
        for side in [Side::A, Side::B] {
            for warm in [false, true] {
                let Rig { mut a, mut b, relay, .. } = rig(how).await;
                if warm {
                    warm_up(&mut a, &mut b).await;
                    warm_up(&mut b, &mut a).await;
                }
                let (dying, living) = if side == Side::A { (a, b) } else { (b, a) };
                abort(dying);
                expect_reset(living, &format!("{how:?} {side:?} warm {warm}")).await;
                assert_eq!(relay.await.unwrap(), Ended::ResetBy(side));
            }
        }
    });
}

#[test]
fn bytes_sent_just_before_a_reset_arrive() {
    table(async |how| {
        let Rig { mut a, mut b, relay, .. } = rig(how).await;
        a.write_all(b"last words").await.unwrap();
        let mut got = [0; 10];
        b.read_exact(&mut got).await.unwrap();
        a.write_all(b"very last ").await.unwrap();
        abort(a);
        b.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"very last ");
        expect_reset(b, "after the last words").await;
        assert_eq!(relay.await.unwrap(), Ended::ResetBy(Side::A));
    });
}

#[test]
fn a_reset_is_noticed_after_fin() {
    table(async |how| {
        for side in [Side::A, Side::B] {
            let Rig { a, b, relay, .. } = rig(how).await;
            let (mut dying, mut living) = if side == Side::A { (a, b) } else { (b, a) };
            dying.shutdown().await.unwrap();
            assert_eq!(living.read(&mut [0]).await.unwrap(), 0, "FIN is carried");
            abort(dying);
            // The living one has seen FIN already; a write of its own shows the reset. Until the relay has passed it on,
            // writes succeed, so wait for the relay first.
            assert_eq!(relay.await.unwrap(), Ended::ResetBy(side), "{how:?}");
            let error = living.write_all(b"anybody there?").await.unwrap_err();
            assert!(crate::socket::closed_by_reset(&error), "{error}");
        }
    });
}

#[test]
fn a_reset_is_noticed_while_the_other_end_is_slow() {
    table(async |how| {
        for side in [Side::A, Side::B] {
            let Rig { a, b, relay, .. } = rig(how).await;
            let (mut fast, slow) = if side == Side::A { (a, b) } else { (b, a) };
            fill(&mut fast).await;
            abort(fast);
            // Before the slow one reads a single byte.
            assert_eq!(relay.await.unwrap(), Ended::ResetBy(side), "{how:?}");
            expect_reset(slow, "slow reader").await;
        }
    });
}

#[test]
fn closing_with_unread_bytes_resets_but_the_answer_arrives() {
    table(async |how| {
        let Rig { mut a, mut b, relay, .. } = rig(how).await;
        fill(&mut a).await;
        b.write_all(b"no thanks").await.unwrap();
        drop(b); // Unread bytes in its socket: the kernel sends RST.
        let mut answer = [0; 9];
        a.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no thanks");
        expect_reset(a, "unread bytes").await;
        assert_eq!(relay.await.unwrap(), Ended::ResetBy(Side::B), "{how:?}");
    });
}

/// Writes until nothing moves any more, and returns how much was taken.
async fn fill(to: &mut TcpStream) -> usize {
    let chunk = vec![0x5a; 256 * 1024];
    let mut taken = 0;
    // A quarter of a second without room: the relay and both kernels are full.
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(250), to.write(&chunk)).await {
        taken += n.unwrap();
    }
    taken
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    table(async |how| {
        let Rig { mut a, mut b, relay, buffers, progress } = rig(how).await;
        let taken = fill(&mut a).await;
        assert!(buffers.lent() <= 2 * TURN, "{how:?}: {} bytes held for one blocked direction", buffers.lent());
        assert!(progress.a_to_b() <= taken as u64);
        // The other direction goes on meanwhile.
        b.write_all(b"still here").await.unwrap();
        let mut got = [0; 10];
        a.read_exact(&mut got).await.unwrap();
        a.shutdown().await.unwrap();
        let mut rest = Vec::new();
        b.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest.len(), taken);
        assert!(rest.iter().all(|byte| *byte == 0x5a));
        drop(b);
        assert_eq!(relay.await.unwrap(), Ended::Both);
        assert_eq!(buffers.lent(), 0);
        assert_eq!(progress.spliced() > 0, matches!(how, How::Splice));
    });
}

#[test]
fn one_byte_ping_pong_copies_and_keeps_no_buffer() {
    table(async |how| {
        let Rig { mut a, mut b, relay, buffers, progress } = rig(how).await;
        for i in 0..5000_u32 {
            let mut got = [0];
            a.write_all(&[i as u8]).await.unwrap();
            b.read_exact(&mut got).await.unwrap();
            b.write_all(&got).await.unwrap();
            a.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [i as u8]);
            assert_eq!(buffers.lent(), 0);
        }
        drop((a, b));
        assert_eq!(relay.await.unwrap(), Ended::Both);
        assert_eq!((progress.a_to_b(), progress.b_to_a()), (5000, 5000));
        assert!(buffers.kept() <= 8192, "one-byte messages need one page, {} kept", buffers.kept());
    });
}

#[test]
fn thousands_of_short_ones() {
    table(async |how| {
        for _ in 0..2000 {
            let Rig { mut a, mut b, relay, .. } = rig(how).await;
            a.write_all(b"request").await.unwrap();
            a.shutdown().await.unwrap();
            let mut got = Vec::new();
            b.read_to_end(&mut got).await.unwrap();
            b.write_all(&got).await.unwrap();
            drop(b);
            got.clear();
            a.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"request");
            assert_eq!(relay.await.unwrap(), Ended::Both);
        }
    });
}

#[test]
fn dropping_the_relay_closes_or_aborts_both() {
    table(async |how| {
        for hard in [false, true] {
            let Rig { mut a, mut b, relay, progress, buffers } = rig(how).await;
            warm_up(&mut a, &mut b).await;
            progress.abort_on_drop(hard);
            relay.abort();
            assert!(relay.await.unwrap_err().is_cancelled());
            for stream in [a, b] {
                if hard {
                    expect_reset(stream, "cut").await;
                } else {
                    receive(stream, 0).await;
                }
            }
            assert_eq!(buffers.lent(), 0);
        }
    });
}

#[test]
fn what_a_cut_flow_left_behind_reaches_nobody_else() {
    table(async |how| {
        let Rig { mut a, b, relay, buffers, .. } = rig(how).await;
        fill(&mut a).await;
        relay.abort();
        assert!(relay.await.unwrap_err().is_cancelled());
        drop((a, b));
        assert_eq!((buffers.lent(), buffers.pipes()), (0, 0), "a pipe with bytes inside is not kept");
        let Rig { a, b, relay, .. } = rig_on(buffers).await;
        tokio::join!(send(a, 2_000_000), receive(b, 2_000_000));
        assert_eq!(relay.await.unwrap(), Ended::Both);
    });
}

#[test]
fn a_preface_goes_first_and_is_not_counted() {
    table(async |_| {
        let ((mut a, near), (far, mut b)) = (pair().await, pair().await);
        let (progress, buffers) = (Progress::new(), Buffers::default());
        let far = TcpEnd::new(far).with_preface(Bytes::from_static(b"PROXY "));
        let apps = async {
            // Server-first too: it goes out before the client says anything.
            let mut got = [0; 6];
            b.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"PROXY ");
            a.write_all(b"hello").await.unwrap();
            a.shutdown().await.unwrap();
            let mut rest = Vec::new();
            b.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"hello");
            drop(b);
        };
        let (ended, ()) = tokio::join!(relay(near, far, &progress, &buffers), apps);
        assert_eq!((ended, progress.a_to_b()), (Ended::Both, 5));
    });
}

#[test]
fn an_idle_relay_sleeps() {
    table(async |how| {
        let ((mut a, near), (far, mut b)) = (pair().await, pair().await);
        let splice_after = matches!(how, How::Splice).then_some(0);
        let buffers = Buffers::new(Limits { splice_after, ..Limits::default() });
        let progress = Progress::new();
        let mut future = relay(near, far, &progress, &buffers);
        let mut polls = 0;
        let counted = poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut future).poll(cx)
        });
        let idle = async {
            warm_up(&mut a, &mut b).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let before = progress.a_to_b();
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(progress.a_to_b(), before);
            drop((a, b));
        };
        assert_eq!(tokio::join!(counted, idle).0, Ended::Both);
        // 1 MiB is some tens of wake-ups; a relay that spins polls itself thousands of times in 250 ms.
        assert!(polls < 500, "{how:?}: polled {polls} times");
    });
}

#[test]
fn a_relay_stays_small() {
    // Per connection in the worker's memory, with nothing queued. Two ends of 120 bytes and two directions.
    let size = size_of::<Relay<'static, TcpEnd, TcpEnd>>();
    assert!(size <= 480, "{size}");
}
