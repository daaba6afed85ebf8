//! What the end-to-end tests share: a run of named checks on one lab.

pub mod attack;
pub mod load;
pub mod tunnel;
pub mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

/// Named checks, each printed as it ends; [`Checks::finish`] fails the test when one failed.
#[derive(Debug, Default)]
pub struct Checks {
    passed: usize,
    failed: Vec<String>,
}

impl Checks {
    /// No check yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs one check.
    pub fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        let began = Instant::now();
        match run() {
            Ok(()) => {
                self.passed += 1;
                println!("  ok      {name} ({} ms)", began.elapsed().as_millis());
            }
            Err(error) => {
                println!("  FAILED  {name} ({} ms): {error:#}", began.elapsed().as_millis());
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// How many checks failed so far.
    pub fn failures(&self) -> usize {
        self.failed.len()
    }

    /// Ends the run.
    ///
    /// # Panics
    /// When a check failed, with all of them; or when there was none.
    pub fn finish(self) {
        assert!(self.passed + self.failed.len() > 0, "no check was run");
        assert!(
            self.failed.is_empty(),
            "{} of {} checks failed:\n{}",
            self.failed.len(),
            self.passed + self.failed.len(),
            self.failed.join("\n")
        );
    }
}

/// Asks again until the answer is good, for at most `within`; the last answer is the error.
///
/// # Errors
/// The last error.
pub fn eventually<T>(within: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + within;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= until => return Err(error.context(format!("not within {within:?}"))),
            // Somebody else's state (a log, another process) has no event to wait for; 50 ms is below what anybody notices.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Waits until a connection is cut that a change of policy forbids: the program that holds it ends within a second.
///
/// # Errors
/// When it goes on.
pub fn until_cut(holds: &lab::Running) -> Result<()> {
    let began = Instant::now();
    eventually(Duration::from_secs(1), || {
        anyhow::ensure!(!holds.alive(), "the forbidden connection is still open");
        Ok(())
    })?;
    println!("          cut after {} ms", began.elapsed().as_millis());
    Ok(())
}

/// The ended connections that a node's ztunnel remembers, oldest first.
///
/// # Errors
/// When it does not answer, or not with a JSON object a line.
pub fn flows(lab: &lab::Lab, node: &str) -> Result<Vec<serde_json::Value>> {
    let page = lab.ztunnel_admin(node, "/flows?max=10000")?.body;
    let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).with_context(|| format!("not JSON: {l}"));
    let all: Result<Vec<_>> = page.lines().map(line).collect();
    Ok(all?.into_iter().filter_map(|mut l| l.get_mut("flow").map(serde_json::Value::take)).collect())
}

/// A program of this build, beside the test's own.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("own path")?;
    let folders = own.ancestors().skip(1).take(2);
    folders
        .map(|f| f.join(name))
        .find(|p| p.exists())
        .with_context(|| format!("{name} is not built; cargo build --workspace"))
}

/// Unix time in milliseconds: for comparing what two processes of one machine say.
pub fn unix_ms() -> f64 {
    // A clock before 1970 is no clock; zero then.
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// Lets a time pass that is itself what is tested, as how long something holds.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
