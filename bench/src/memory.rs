//! The figures of size, and the time from start to service. Only of the meshed form: there is no direct one.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::Running;
use serde_json::Value;

use crate::report::Figure;
use crate::site::{Form, Reach, Site, ZTUNNELS};
use crate::usage::resident;

/// What the figures' keys begin with.
pub(crate) const START: &str = "start";
pub(crate) const MEMORY: &str = "memory";

/// A process that has nothing to do is measured this long after the last event: its runtime's timers have run by then.
const SETTLE: Duration = Duration::from_secs(1);
/// By when memory should be back (docs/performance.md).
const RETURNED: Duration = Duration::from_secs(10);
/// For a program of the lab to begin its work.
const PATIENCE: Duration = Duration::from_secs(60);
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Starts both proxies anew, then measures them idle, with open connections, and afterwards.
pub(crate) fn round(site: &Site, memory: bool) -> Result<Vec<Figure>> {
    let mut figures = vec![figure(format!("{START}.first-response"), "ms", first_response(site)?)];
    if memory {
        connections(site, &mut figures)?;
    }
    Ok(figures)
}

/// From the spawn of the client's proxy to the first byte that comes back through it, in ms.
fn first_response(site: &Site) -> Result<f64> {
    let [client, server] = ZTUNNELS;
    site.lab.restart(server)?;
    site.lab.until_ready()?;
    site.lab.kill(client)?;
    let mut trying = site.load(Form::Meshed, &["first".to_owned(), server_ip(site)?])?.spawn()?;
    let mut lines = lines(&mut trying)?;
    // It has tried once in vain: from now on it tries all the time.
    ensure!(line(&mut lines)?.get("refused").is_some(), "a connection went through without a proxy");
    let spawned = unix_ms();
    site.lab.restart(client)?;
    let answered = line(&mut lines)?.get("at").and_then(Value::as_f64).context("no answer through the new proxy")?;
    let done = trying.finish(PATIENCE)?;
    ensure!(done.success(), "the client failed: {}", done.errors());
    site.lab.until_ready()?;
    Ok(answered - spawned)
}

fn connections(site: &Site, figures: &mut Vec<Figure>) -> Result<()> {
    let mut holder = Holder::start(site.load(Form::Meshed, &["hold".to_owned(), server_ip(site)?])?.spawn()?)?;
    let idle = rest(site, SETTLE)?;
    figures.push(figure(format!("{MEMORY}.idle.client-node"), "MiB", idle[0] / MIB));
    figures.push(figure(format!("{MEMORY}.idle.server-node"), "MiB", idle[1] / MIB));
    let idle: f64 = idle.iter().sum();
    for count in [1000, 5000] {
        holder.hold(count)?;
        let now: f64 = rest(site, SETTLE)?.iter().sum();
        figures.push(figure(format!("{MEMORY}.{count}.both"), "MiB", now / MIB));
        let each = (now - idle) / f64::from(count) / KIB;
        figures.push(figure(format!("{MEMORY}.{count}.per-connection"), "KiB", each));
    }
    holder.hold(0)?;
    let after: f64 = rest(site, RETURNED)?.iter().sum();
    figures.push(figure(format!("{MEMORY}.closed-10s.both"), "MiB", after / MIB));
    figures.push(figure(format!("{MEMORY}.closed-10s.of-idle"), "ratio", after / idle));
    Ok(())
}

/// Enrols `count` more idle pods on the client's node: memory and time for each.
pub(crate) fn pods(site: &Site, count: usize) -> Result<Vec<Figure>> {
    let before = rest(site, SETTLE)?[0];
    for number in 0..count {
        site.add_idle_pod(number)?;
    }
    let after = rest(site, SETTLE)?[0];
    Ok(vec![figure(format!("{MEMORY}.per-pod"), "KiB", (after - before) / count as f64 / KIB)])
}

/// Resident memory of both proxies when they have rested.
fn rest(site: &Site, time: Duration) -> Result<[f64; 2]> {
    sleep(time);
    let [client, server] = site.proxies()?;
    Ok([resident(client)?, resident(server)?])
}

/// The client that holds connections open.
pub(crate) struct Holder {
    // Killed when this is dropped.
    _running: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    /// Of a client that was started in its part.
    pub(crate) fn start(mut running: Running) -> Result<Self> {
        let orders = running.stdin().context("stdin")?;
        let answers = lines(&mut running)?;
        Ok(Self { _running: running, orders, answers })
    }

    /// So many connections, from now on.
    pub(crate) fn hold(&mut self, count: u32) -> Result<()> {
        writeln!(self.orders, "{count}")?;
        let answer = line(&mut self.answers)?;
        ensure!(answer.get("open").and_then(Value::as_u64) == Some(u64::from(count)), "holds {answer}");
        Ok(())
    }
}

fn server_ip(site: &Site) -> Result<String> {
    Ok(site.server(Form::Meshed, Reach::Far)?.to_string())
}

/// What a client says, to be read.
pub(crate) fn lines(running: &mut Running) -> Result<BufReader<ChildStdout>> {
    Ok(BufReader::new(running.stdout().context("stdout")?))
}

/// The next line of that.
pub(crate) fn line(from: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut text = String::new();
    from.read_line(&mut text)?;
    serde_json::from_str(&text).with_context(|| format!("the client said {text:?}"))
}

fn figure(key: String, unit: &'static str, value: f64) -> Figure {
    Figure { key, unit, value }
}

/// Unix time: compares with what another process of this machine says.
pub(crate) fn unix_ms() -> f64 {
    // A clock before 1970 is no clock; zero then.
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}
