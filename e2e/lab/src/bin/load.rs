//! A server that says its name to whoever sends something, and clients that call it until they are told to stop.
//!
//! A client writes one JSON line when calls begin to fail, one when they work again, and one at its end, when its input is
//! closed. Times are Unix milliseconds, so that they compare with those of another process.

#[path = "load/health.rs"]
mod health;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e_lab::unix_ms;
use serde_json::json;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Answer every chunk with the name, the address it came from and its first word.
    Serve {
        name: String,
        port: u16,
        /// Write everything that is received to stdout.
        #[arg(long)]
        record: bool,
    },
    /// A new connection for every call.
    Calls {
        to: SocketAddr,
        /// What is sent.
        marker: String,
        /// Between two calls: leaves room for the rest of the machine.
        #[arg(long, default_value_t = 2)]
        pause_ms: u64,
        /// Calls a second, each when it is due, whether those before are answered or not.
        #[arg(long, conflicts_with = "pause_ms")]
        rate: Option<u32>,
    },
    /// All calls on one connection.
    Hold { to: SocketAddr, marker: String },
    /// Answer the kubelet's gRPC probes.
    Health { port: u16 },
}

fn main() -> Result<()> {
    match Args::parse().role {
        Role::Serve { name, port, record } => serve(&name, port, record),
        Role::Calls { to, marker, rate: Some(rate), .. } => due(to, &marker, rate),
        Role::Calls { to, marker, pause_ms, rate: None } => calls(to, &marker, Duration::from_millis(pause_ms)),
        Role::Hold { to, marker } => hold(to, &marker),
        Role::Health { port } => health::serve(port),
    }
}

fn serve(name: &str, port: u16, record: bool) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("port {port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        let name = name.to_owned();
        thread::spawn(move || {
            // A peer that resets is what these tests are about.
            if let Err(error) = answer(stream, &name, record) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str, record: bool) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if record {
        println!("{peer} connected");
    }
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        if record {
            println!("{peer} {}", String::from_utf8_lossy(&chunk[..read]));
        }
        let said = String::from_utf8_lossy(&chunk[..read]);
        stream
            .write_all(format!("{name} {peer} {}\n", said.split_whitespace().next().unwrap_or_default()).as_bytes())?;
    }
}

/// Whether our input was closed.
fn told_to_stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    thread::spawn(move || {
        let read = io::copy(&mut io::stdin(), &mut io::sink());
        told.store(true, Ordering::Relaxed);
        read
    });
    stop
}

/// A call that takes longer counts as failed: the mesh itself holds one for 5 s at most.
const PATIENCE: Duration = Duration::from_secs(6);

/// Failures that are told one by one: enough to see what they have in common.
const TOLD: usize = 20;

/// Where a call stood when it failed.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Connect,
    Send,
    Answer,
}

/// A call that failed, by the client's own address where it had one: a proxy's access line has it too.
struct Failure {
    stage: Stage,
    from: Option<SocketAddr>,
    error: io::Error,
}

impl Failure {
    fn tell(&self, at: f64, took: Duration) -> serde_json::Value {
        json!({
            "at": at,
            "ms": took.as_millis() as u64,
            "stage": format!("{:?}", self.stage),
            "from": self.from.map(|from| from.to_string()),
            "error": format!("{:?}", self.error.kind()),
        })
    }
}

/// What became of calls so far.
#[derive(Default)]
struct Tally {
    good: u64,
    slowest: Duration,
    failed: BTreeMap<String, u64>,
    failures: Vec<serde_json::Value>,
    longest_failure: Duration,
    names: BTreeMap<String, u64>,
    working: Option<bool>,
}

/// One call that has ended.
struct Ended {
    at: f64,
    took: Duration,
    outcome: Result<String, Failure>,
}

impl Ended {
    fn of(to: SocketAddr, marker: &str) -> Self {
        let (at, began) = (unix_ms(), Instant::now());
        let outcome = call(to, marker);
        Self { at, took: began.elapsed(), outcome }
    }
}

impl Tally {
    fn add(&mut self, ended: Ended) -> Result<()> {
        let works = ended.outcome.is_ok();
        match ended.outcome {
            Ok(name) => {
                self.good += 1;
                self.slowest = self.slowest.max(ended.took);
                *self.names.entry(name).or_default() += 1;
            }
            Err(failure) => {
                *self.failed.entry(format!("{:?}", failure.error.kind())).or_default() += 1;
                self.longest_failure = self.longest_failure.max(ended.took);
                if self.failures.len() < TOLD {
                    self.failures.push(failure.tell(ended.at, ended.took));
                }
            }
        }
        if self.working != Some(works) {
            // A success counts when it is complete, a failure from when it began.
            line(&json!({"works": works, "at": if works { unix_ms() } else { ended.at }}))?;
            self.working = Some(works);
        }
        Ok(())
    }

    fn tell(&self, began: Instant) -> Result<()> {
        line(&json!({
            "good": self.good, "failed": self.failed, "names": self.names, "slowestMs": self.slowest.as_millis() as u64,
            "longestFailureMs": self.longest_failure.as_millis() as u64, "failures": self.failures,
            "seconds": began.elapsed().as_secs_f64(),
        }))
    }
}

fn calls(to: SocketAddr, marker: &str, pause: Duration) -> Result<()> {
    let (stop, began, mut tally) = (told_to_stop(), Instant::now(), Tally::default());
    while !stop.load(Ordering::Relaxed) {
        tally.add(Ended::of(to, marker))?;
        thread::sleep(pause);
    }
    tally.tell(began)
}

/// A call that nobody answers keeps no other one from being made.
fn due(to: SocketAddr, marker: &str, rate: u32) -> Result<()> {
    let (stop, began, mut tally) = (told_to_stop(), Instant::now(), Tally::default());
    let (ended, all) = channel();
    for turn in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (ended, marker) = (ended.clone(), marker.to_owned());
        thread::spawn(move || ended.send(Ended::of(to, &marker)));
        let next = began + Duration::from_secs(1) * turn / rate;
        while let Ok(one) = all.recv_timeout(next.saturating_duration_since(Instant::now())) {
            tally.add(one)?;
        }
    }
    drop(ended);
    all.into_iter().try_for_each(|one| tally.add(one))?;
    tally.tell(began)
}

/// One connection, one word, one answer: the server's name.
fn call(to: SocketAddr, marker: &str) -> Result<String, Failure> {
    let connect = |error| Failure { stage: Stage::Connect, from: None, error };
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(connect)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(connect)?;
    say(&mut stream, marker)
}

fn say(stream: &mut TcpStream, marker: &str) -> Result<String, Failure> {
    let from = stream.local_addr().ok();
    let sent = stream.write_all(format!("{marker} {marker}\n").as_bytes());
    sent.map_err(|error| Failure { stage: Stage::Send, from, error })?;
    answer_to(stream).map_err(|error| Failure { stage: Stage::Answer, from, error })
}

fn answer_to(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0; 1];
    while stream.read(&mut byte)? == 1 {
        if byte[0] == b'\n' {
            let text = String::from_utf8_lossy(&text);
            return Ok(text.split(' ').next().unwrap_or_default().to_owned());
        }
        text.push(byte[0]);
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn hold(to: SocketAddr, marker: &str) -> Result<()> {
    let stop = told_to_stop();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut good = 0;
    let mut end = "closed by us".to_owned();
    let mut failures = Vec::new();
    let from = stream.local_addr()?.to_string();
    line(&json!({"works": true, "at": unix_ms(), "from": from}))?;
    let began = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let (at, began) = (unix_ms(), Instant::now());
        if let Err(failure) = say(&mut stream, marker) {
            end = format!("{:?}", failure.error.kind());
            failures.push(failure.tell(at, began.elapsed()));
            break;
        }
        good += 1;
        // Often enough that no change of the mesh falls between two words.
        thread::sleep(Duration::from_millis(10));
    }
    let seconds = began.elapsed().as_secs_f64();
    line(&json!({"good": good, "end": end, "at": unix_ms(), "failures": failures, "seconds": seconds}))
}

fn line(value: &serde_json::Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
