//! Calls without end from a pod (`e2e-load`), and what became of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::{Lab, Running};
use serde::Deserialize;

use crate::program;

/// Calls that go on until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    running: Running,
    lines: Receiver<String>,
    /// What calls do now.
    works: Option<Turn>,
}

/// Calls begin to work, or to fail.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Turn {
    /// Whether they work.
    pub works: bool,
    /// Since when, Unix milliseconds.
    pub at: f64,
}

/// All calls.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Seen {
    /// Calls that were answered.
    pub good: u64,
    /// Others, by kind of error.
    pub failed: BTreeMap<String, u64>,
    /// Who answered.
    pub names: BTreeMap<String, u64>,
    /// The slowest good call.
    pub slowest_ms: u64,
    /// How a held connection ended.
    pub end: String,
    /// When, Unix milliseconds.
    pub at: f64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} calls good, failed {:?}, slowest {} ms", self.good, self.failed, self.slowest_ms)
    }
}

/// Port of the servers of these tests.
const PORT: u16 = 7000;

impl Load {
    /// A connection per call, from a pod to a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn calls(lab: &Lab, from: &str, to: &str, marker: &str, pause_ms: u64) -> Result<Self> {
        let to = lab.plan().pod(to)?.addresses[0];
        Self::calls_to(lab, from, to, marker, pause_ms)
    }

    /// A connection per call, to an address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn calls_to(lab: &Lab, from: &str, to: IpAddr, marker: &str, pause_ms: u64) -> Result<Self> {
        let to = SocketAddr::new(to, PORT).to_string();
        Self::start(lab, from, &["calls", &to, marker, "--pause-ms", &pause_ms.to_string()])
    }

    /// All calls on one connection.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn hold(lab: &Lab, from: &str, to: &str, marker: &str) -> Result<Self> {
        let to = SocketAddr::new(lab.plan().pod(to)?.addresses[0], PORT).to_string();
        Self::start(lab, from, &["hold", &to, marker])
    }

    fn start(lab: &Lab, from: &str, args: &[&str]) -> Result<Self> {
        let load = program("e2e-load")?.display().to_string();
        let mut running = lab.pod(from)?.command(&load).args(args.iter().copied()).spawn()?;
        let lines = lines(running.stdout().context("stdout")?);
        Ok(Self { running, lines, works: None })
    }

    /// Waits until calls work, or fail; gives back since when.
    ///
    /// # Errors
    /// When they do not in time.
    pub fn works(&mut self, wanted: bool, within: Duration) -> Result<f64> {
        let until = Instant::now() + within;
        loop {
            if let Some(turn) = self.works.filter(|t| t.works == wanted) {
                return Ok(turn.at);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.works = Some(serde_json::from_str(&line).with_context(|| line.clone())?),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("calls did not turn to works={wanted} within {within:?}: {:?}", self.works)
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the load ended"),
            }
        }
    }

    /// Waits until calls work again that failed after this moment; gives back when the first one was complete.
    ///
    /// # Errors
    /// When none does in time, or when none has failed.
    pub fn works_again(&mut self, since: f64, within: Duration) -> Result<f64> {
        let until = Instant::now() + within;
        loop {
            self.since()?;
            let at = self.works(true, until.saturating_duration_since(Instant::now()))?;
            if at >= since {
                return Ok(at);
            }
            // It has not failed yet, or we were not told yet.
            self.works(false, until.saturating_duration_since(Instant::now())).context("no call failed")?;
        }
    }

    /// Turns that happened since the last look.
    ///
    /// # Errors
    /// When a line is not understood.
    pub fn since(&mut self) -> Result<Vec<Turn>> {
        let mut turns = Vec::new();
        while let Ok(line) = self.lines.try_recv() {
            let turn: Turn = serde_json::from_str(&line).with_context(|| line.clone())?;
            self.works = Some(turn);
            turns.push(turn);
        }
        Ok(turns)
    }

    /// Waits until a held connection has ended by itself.
    ///
    /// # Errors
    /// When it has not in time.
    pub fn ended(self, within: Duration) -> Result<Seen> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("not over after {within:?}"))?;
            let seen: Seen = serde_json::from_str(&line).with_context(|| line.clone())?;
            if !seen.end.is_empty() {
                return Ok(seen);
            }
        }
    }

    /// Ends the calls.
    ///
    /// # Errors
    /// When the load does not end.
    pub fn finish(mut self) -> Result<Seen> {
        drop(self.running.stdin());
        // A call that is under way has up to 6 s.
        self.running.finish(Duration::from_secs(10))?;
        let last = self.lines.iter().last().context("the load said nothing")?;
        serde_json::from_str(&last).context(last)
    }
}

/// One call; whether it was answered.
///
/// # Errors
/// When it cannot be made.
pub fn call(lab: &Lab, from: &str, to: &str, marker: &str) -> Result<bool> {
    let load = Load::calls(lab, from, to, marker, 1)?;
    let line = load.lines.recv_timeout(Duration::from_secs(15)).context("no call ended")?;
    load.running.kill();
    Ok(serde_json::from_str::<Turn>(&line)?.works)
}

fn lines(out: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(std::result::Result::ok) {
            // Nobody listens any more after a failed check.
            if send.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
