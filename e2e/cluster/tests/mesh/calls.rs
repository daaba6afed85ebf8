//! Calls from a pod that go on while something happens to the mesh (`e2e-load`, in the test image).

#![allow(dead_code, reason = "each test uses its part")]

use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::Cluster;
use serde::Deserialize;
use serde_json::Value;

use super::blame;
use super::shop::MARKER;

/// What kind of calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A connection for each, [`RATE`] of them a second, each when it is due.
    Calls,
    /// All on one connection.
    Hold,
}

/// Four such clients make more than the 200 calls a second that are asked for.
pub(crate) const RATE: u32 = 60;

/// Calls that go on until they are finished.
pub(crate) struct Calls {
    child: Child,
    lines: Receiver<String>,
    name: String,
}

/// What became of them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whose calls, of what kind, to whom.
    name: String,
    pub(crate) good: u64,
    failed: String,
    end: String,
    slowest: u64,
    failures: Vec<Failure>,
    longest_failure: u64,
    seconds: f64,
}

/// A call that failed, as `e2e-load` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Failure {
    /// When it began, Unix milliseconds.
    pub(crate) at: f64,
    /// How long it took to fail.
    pub(crate) ms: u64,
    /// What it was about: to connect, to send, to get an answer.
    pub(crate) stage: String,
    /// The client's own address and port, once it was connected.
    pub(crate) from: Option<String>,
    /// Kind of error.
    pub(crate) error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from.as_deref().unwrap_or("a call without connection");
        write!(f, "{from}: {} at {} after {} ms", self.error, self.stage, self.ms)
    }
}

impl Seen {
    /// Every call was answered, and a held connection was ended by us.
    pub(crate) fn is_good(&self) -> bool {
        self.good > 0 && matches!(&*self.failed, "" | "{}") && matches!(&*self.end, "" | "closed by us")
    }

    /// Fails when a call did, with what the proxies say of it.
    pub(crate) fn must_be_good(&self, cluster: &Cluster) -> Result<()> {
        ensure!(self.is_good(), "{}", self.blame(cluster));
        Ok(())
    }

    /// What was seen, and what the proxies say of each call that failed.
    pub(crate) fn blame(&self, cluster: &Cluster) -> String {
        format!("{self}\n{}", blame::of(cluster, &self.failures))
    }

    /// The call that was stuck the longest of those that failed.
    pub(crate) fn longest_failure(&self) -> Duration {
        Duration::from_millis(self.longest_failure)
    }

    /// How many calls failed.
    pub(crate) fn failed(&self) -> u64 {
        serde_json::from_str::<std::collections::BTreeMap<String, u64>>(&self.failed)
            .map_or(0, |kinds| kinds.values().sum())
    }

    /// Good calls a second.
    pub(crate) fn rate(&self) -> f64 {
        self.good as f64 / self.seconds
    }
}

impl Seen {
    /// The slowest good call.
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_millis(self.slowest)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} good", self.name, self.good)?;
        if !self.failed.is_empty() {
            write!(f, ", failed {}, slowest {} ms", self.failed, self.slowest)?;
        }
        if !self.end.is_empty() {
            write!(f, ", {}", self.end)?;
        }
        Ok(())
    }
}

/// An exec takes a second on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

impl Calls {
    /// Starts calls from a pod of the shop, and waits for the first one that is answered.
    pub(crate) fn start(cluster: &Cluster, pod: &str, kind: Kind, to: &str) -> Result<Self> {
        let word = match kind {
            Kind::Calls => "calls",
            Kind::Hold => "hold",
        };
        let mut command = cluster.kubectl_command();
        command.args(["exec", "-i", "-n", "shop", pod, "--", "e2e-load", word, to, MARKER]);
        if matches!(kind, Kind::Calls) {
            command.args(["--rate", &RATE.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = follow(child.stdout.take().context("no stdout")?);
        let calls = Self { child, lines, name: format!("{pod} {word} {to}") };
        calls
            .until(PATIENCE, |line| line["works"] == true)
            .with_context(|| format!("{}: no call was answered", calls.name))?;
        Ok(calls)
    }

    /// Lets some calls pass: nothing is said of each, so a second is what is waited for.
    pub(crate) fn wait_for_good(&self) -> Result<()> {
        match self.lines.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(line) => bail!("calls changed: {line}"),
            Err(RecvTimeoutError::Disconnected) => bail!("calls ended"),
        }
    }

    /// Waits until they end by themselves, as a held connection that is cut.
    pub(crate) fn wait_for_end(mut self, limit: Duration) -> Result<Seen> {
        let last = self.until(limit, |line| line["good"].is_u64())?;
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(seen(&self.name, &last))
    }

    /// Ends them and says what became of all.
    pub(crate) fn finish(mut self) -> Result<Seen> {
        drop(self.child.stdin.take());
        let last = self.until(PATIENCE, |line| line["good"].is_u64())?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{}: the calls ended with {status}", self.name);
        Ok(seen(&self.name, &last))
    }

    fn until(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).with_context(|| format!("{}: nothing was said in time", self.name))?;
            let value: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if wanted(&value) {
                return Ok(value);
            }
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        // One that was finished is gone already.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

fn seen(name: &str, last: &Value) -> Seen {
    let text = |key: &str| match &last[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Seen {
        name: name.to_owned(),
        good: last["good"].as_u64().unwrap_or_default(),
        failed: text("failed"),
        end: text("end"),
        slowest: last["slowestMs"].as_u64().unwrap_or_default(),
        failures: Vec::deserialize(&last["failures"]).unwrap_or_default(),
        longest_failure: last["longestFailureMs"].as_u64().unwrap_or_default(),
        seconds: last["seconds"].as_f64().unwrap_or_default(),
    }
}

fn follow(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
