//! Streams that send as fast as they can.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::json;

use super::{SINK, connect};

/// One write of a program that has a lot to send.
const CHUNK: usize = 256 << 10;

pub(super) fn run(ip: IpAddr, streams: usize, time: Duration) -> Result<()> {
    let began = Instant::now();
    let threads: Vec<_> = (0..streams).map(|_| thread::spawn(move || stream(ip, began, time))).collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().map_err(|_| anyhow!("a stream panicked"))??;
    }
    // Until the server has said that it has everything.
    println!("{}", json!({"bytes": bytes, "seconds": began.elapsed().as_secs_f64()}));
    Ok(())
}

fn stream(ip: IpAddr, began: Instant, time: Duration) -> Result<u64> {
    let mut stream = connect(SocketAddr::new(ip, SINK))?;
    let chunk = vec![b'x'; CHUNK];
    let mut sent = 0u64;
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut got = [0; 8];
    stream.read_exact(&mut got)?;
    let got = u64::from_be_bytes(got);
    ensure!(got == sent, "sent {sent} bytes, {got} arrived");
    Ok(got)
}
