//! Memory, and the time from start to service.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::place::{PORT, Place, Proxy, Speech};
use crate::memory::{Holder, line, lines, unix_ms};
use crate::report::Figure;
use crate::usage::resident;

/// What the figures' keys begin with.
pub(super) const KEY: &str = "size";

/// A process that has nothing to do is measured this long after the last event: its runtime's timers have run by then.
const SETTLE: Duration = Duration::from_secs(1);
/// For a program of the lab to begin its work.
const PATIENCE: Duration = Duration::from_secs(60);
/// Open HTTP/1.1 connections, each of which has had one answer.
const HELD: u32 = 1000;
const MIB: f64 = 1024.0 * 1024.0;

/// Starts the proxy anew, then measures it idle and with open connections.
pub(super) fn round(place: &mut Place, proxy: Proxy) -> Result<Vec<Figure>> {
    let first = first_answer(place, proxy)?;
    let idle = rest(place, proxy)?;
    let mut holder = Holder::start(place.load(&arguments("hold", place, proxy)?)?.spawn()?)?;
    holder.hold(HELD)?;
    let held = rest(place, proxy)?;
    let figure = |name: &str, unit, value| Figure { key: format!("{KEY}.{name}"), unit, value };
    Ok(vec![
        figure("first-answer", "ms", first),
        figure("idle", "MiB", idle / MIB),
        figure(&format!("{HELD}-connections"), "MiB", held / MIB),
        figure("per-connection", "KiB", (held - idle) / f64::from(HELD) / 1024.0),
    ])
}

/// From the spawn of the proxy to the first answer through it, in ms.
fn first_answer(place: &mut Place, proxy: Proxy) -> Result<f64> {
    place.kill(proxy)?;
    let mut trying = place.load(&arguments("first", place, proxy)?)?.spawn()?;
    let mut lines = lines(&mut trying)?;
    // It has tried once in vain: from now on it tries all the time.
    ensure!(line(&mut lines)?.get("refused").is_some(), "a request was answered without a waypoint");
    let spawned = unix_ms();
    place.start(proxy)?;
    let answered = line(&mut lines)?.get("at").and_then(Value::as_f64).context("no answer through the new proxy")?;
    let done = trying.finish(PATIENCE)?;
    ensure!(done.success(), "the client failed: {}", done.errors());
    place.until_ready(proxy)?;
    Ok(answered - spawned)
}

fn arguments(mode: &str, place: &Place, proxy: Proxy) -> Result<Vec<String>> {
    let ip = place.service(Speech::Http, proxy)?.to_string();
    Ok(vec![mode.to_owned(), ip, "--http".to_owned(), PORT.to_string()])
}

fn rest(place: &Place, proxy: Proxy) -> Result<f64> {
    sleep(SETTLE);
    resident(place.pid(proxy)?)
}
