//! What relaying costs: CPU seconds per GB of one relay between two TCP connections on loopback, by buffer size and by
//! splicing, and microseconds per one-byte round trip.
//!
//! `cargo run --release -p net --example relay_cost [-- <GB per case> <rounds> <part of a case's name>]`
//!
//! Sender and receiver are threads of their own; only the relay's thread is measured (/proc/thread-self/schedstat: its system
//! calls and what the kernel does in them are included). A fixed size is a relay whose buffers neither grow nor shrink; it is
//! written here by hand so that sizes can be compared, and its loop is what `TcpEnd` does. The cases are interleaved and the
//! middle round counts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use net::relay::{Buffers, Limits, Progress, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const GB: f64 = 1e9;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let amount = arguments.next().map_or(1.0, |text| text.parse::<f64>().unwrap_or(1.0)) * GB;
    let rounds = arguments.next().map_or(5, |text| text.parse().unwrap_or(5));
    let wanted = arguments.next().unwrap_or_default();
    let copying = Limits { splice_after: None, ..Limits::default() };
    let splicing = Limits { splice_after: Some(0), ..Limits::default() };
    let mut cases = vec![
        ("fixed   4 KiB", Kind::Fixed(4 * 1024)),
        ("fixed  16 KiB", Kind::Fixed(16 * 1024)),
        ("fixed  64 KiB", Kind::Fixed(64 * 1024)),
        ("fixed 128 KiB", Kind::Fixed(128 * 1024)),
        ("fixed 256 KiB", Kind::Fixed(256 * 1024)),
        ("fixed 512 KiB", Kind::Fixed(512 * 1024)),
        ("relay, copying", Kind::Relay(copying)),
        ("relay, splicing", Kind::Relay(splicing)),
    ];
    cases.retain(|case| case.0.contains(&wanted));
    println!(
        "bulk: {} GB one way, {rounds} rounds; CPU-s per GB of the relay's thread (middle, lowest, highest), GB/s",
        amount / GB
    );
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (case, samples) in cases.iter().zip(&mut samples) {
            samples.push(bulk(case.1, amount as u64));
        }
    }
    for (case, samples) in cases.iter().zip(&mut samples) {
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (cpu, rate) = samples[samples.len() / 2];
        println!("{:<16} {cpu:.3} ({:.3}..{:.3})  {rate:.2}", case.0, samples[0].0, samples[samples.len() - 1].0);
    }
    println!("one byte there and back: microseconds of CPU of the relay's thread per round trip");
    for (name, kind) in [("fixed 256 KiB", Kind::Fixed(256 * 1024)), ("relay, copying", Kind::Relay(copying))] {
        let mut samples: Vec<f64> = (0..rounds).map(|_| ping_pong(kind, 20_000)).collect();
        samples.sort_by(f64::total_cmp);
        println!("{name:<16} {:.2}", samples[samples.len() / 2]);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Fixed(usize),
    Relay(Limits),
}

/// CPU-s per GB and GB per second.
fn bulk(kind: Kind, amount: u64) -> (f64, f64) {
    let ((mut sender, near), (far, mut receiver)) = (pair(), pair());
    let sending = thread::spawn(move || {
        let chunk = vec![0x5a; 256 * 1024];
        let mut left = amount;
        while left > 0 {
            let n = left.min(chunk.len() as u64);
            sender.write_all(&chunk[..n as usize]).expect("the relay takes everything");
            left -= n;
        }
    });
    let receiving = thread::spawn(move || {
        let mut chunk = vec![0; 256 * 1024];
        let mut got = 0;
        loop {
            match receiver.read(&mut chunk).expect("the relay does not break") {
                0 => return got,
                n => got += n as u64,
            }
        }
    });
    let begun = std::time::Instant::now();
    let cpu = measured(kind, near, far);
    let took = begun.elapsed().as_secs_f64();
    sending.join().expect("the sender ends");
    assert_eq!(receiving.join().expect("the receiver ends"), amount);
    (cpu / (amount as f64 / GB), amount as f64 / GB / took)
}

/// Microseconds of CPU per round trip.
fn ping_pong(kind: Kind, times: u32) -> f64 {
    let ((mut client, near), (far, mut server)) = (pair(), pair());
    let serving = thread::spawn(move || {
        let mut byte = [0];
        while server.read(&mut byte).expect("the relay does not break") == 1 {
            server.write_all(&byte).expect("the relay takes everything");
        }
    });
    let calling = thread::spawn(move || {
        let mut byte = [0];
        for _ in 0..times {
            client.write_all(&byte).expect("the relay takes everything");
            client.read_exact(&mut byte).expect("the relay answers");
        }
    });
    let cpu = measured(kind, near, far);
    calling.join().expect("the client ends");
    serving.join().expect("the server ends");
    cpu * 1e6 / f64::from(times)
}

/// Relays on a worker of its own until both ends have closed, and says how much CPU that thread used.
fn measured(kind: Kind, near: TcpStream, far: TcpStream) -> f64 {
    let worker = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let before = cpu();
        runtime.block_on(async {
            let (near, far) = (adopt(near), adopt(far));
            match kind {
                Kind::Fixed(size) => fixed(near, far, size).await,
                Kind::Relay(limits) => {
                    let (progress, buffers) = (Progress::new(), Buffers::new(limits));
                    relay(near, far, &progress, &buffers).await;
                }
            }
        });
        cpu() - before
    });
    worker.join().expect("the relay ends")
}

async fn fixed(near: tokio::net::TcpStream, far: tokio::net::TcpStream, size: usize) {
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::join!(one_way(near_read, far_write, size), one_way(far_read, near_write, size));
}

async fn one_way(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, size: usize) {
    let mut buffer = vec![0; size];
    loop {
        match from.read(&mut buffer).await.expect("the sender does not break") {
            0 => break,
            n => to.write_all(&buffer[..n]).await.expect("the receiver does not break"),
        }
    }
    to.shutdown().await.expect("the receiver does not break");
}

fn adopt(stream: TcpStream) -> tokio::net::TcpStream {
    stream.set_nonblocking(true).expect("a socket");
    tokio::net::TcpStream::from_std(stream).expect("a runtime")
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let server = listener.accept().expect("loopback").0;
    client.set_nodelay(true).expect("a socket");
    server.set_nodelay(true).expect("a socket");
    (client, server)
}

/// CPU seconds of the calling thread: the first number of its schedstat is nanoseconds on a CPU.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel with CONFIG_SCHED_INFO");
    let nanos: u64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
    nanos as f64 / 1e9
}
