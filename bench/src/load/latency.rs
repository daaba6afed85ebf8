//! Small requests at a fixed rate, whether answers come or not.
//!
//! Each connection has its own share of the rate and a thread of its own. A request's time begins when it was due, if the
//! answer before it came late, so that waiting behind a slow answer counts; otherwise when it was really sent, so that the
//! client's own late waking does not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::connect;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

/// Room for an answer.
pub(super) const ANSWER: usize = 4096;

pub(super) fn run(to: SocketAddr, rate: u64, connections: usize, time: Duration) -> Result<()> {
    let every = Duration::from_secs_f64(connections as f64 / rate as f64);
    // Spread evenly, so that the requests of all connections are not due at once.
    let start = |n: usize| Instant::now() + every.mul_f64(n as f64 / connections as f64);
    let threads: Vec<_> =
        (0..connections).map(start).map(|at| thread::spawn(move || one(to, at, every, time))).collect();
    let mut all = Vec::new();
    for thread in threads {
        all.extend(thread.join().map_err(|_| anyhow!("a connection panicked"))??);
    }
    println!("{}", told(all, time)?);
    Ok(())
}

/// What is said of the times of all requests.
pub(super) fn told(mut all: Vec<Duration>, time: Duration) -> Result<Value> {
    ensure!(!all.is_empty(), "no answer came");
    all.sort();
    let share = |share| micros(&all, share);
    let rate = all.len() as f64 / time.as_secs_f64();
    Ok(json!({
        "p50": share(0.50), "p99": share(0.99), "p999": share(0.999), "count": all.len(), "rate": rate,
    }))
}

fn one(to: SocketAddr, first: Instant, every: Duration, time: Duration) -> Result<Vec<Duration>> {
    let mut stream = connect(to)?;
    let mut buffer = vec![0; ANSWER];
    // The first answer pays for the connection and the tunnel, and tells how long answers are.
    let length = ask(&mut stream, &mut buffer, None)?;
    let mut times = Vec::new();
    let mut due = first.max(Instant::now());
    let end = due + time;
    while due < end {
        let now = Instant::now();
        let began = if now > due { due } else { wait_until(due) };
        ask(&mut stream, &mut buffer, Some(length))?;
        times.push(began.elapsed());
        due += every;
        if Instant::now() > end {
            break;
        }
    }
    Ok(times)
}

fn wait_until(due: Instant) -> Instant {
    thread::sleep(due.saturating_duration_since(Instant::now()));
    Instant::now()
}

/// One request and its whole answer; gives back the answer's length.
pub(super) fn ask(stream: &mut TcpStream, buffer: &mut [u8], length: Option<usize>) -> Result<usize> {
    stream.write_all(REQUEST)?;
    let mut got = 0;
    loop {
        let read = stream.read(&mut buffer[got..])?;
        ensure!(read > 0, "the server closed");
        got += read;
        let whole = length.or_else(|| answer_length(&buffer[..got]));
        if let Some(whole) = whole
            && got >= whole
        {
            ensure!(got == whole && buffer.starts_with(b"HTTP/1.1 200"), "not the answer to one request");
            return Ok(whole);
        }
    }
}

/// Length of an answer whose head is complete.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length =
        head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))?;
    Some(head.len() + 4 + length.trim().parse::<usize>().context("length").ok()?)
}

fn micros(sorted: &[Duration], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted[at.saturating_sub(1).min(sorted.len() - 1)].as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_percentiles() {
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Some(41));
        assert_eq!(answer_length(b"HTTP/1.1 200 OK\r\nContent-Len"), None);
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        assert_eq!((micros(&sorted, 0.5).round(), micros(&sorted, 0.99).round()), (50.0, 99.0));
    }
}
