//! Generations of a node's proxy that follow each other, each at a hand-over socket of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::attack::folder;
use e2e_lab::load::{Load, call};
use e2e_lab::{eventually, pause, unix_ms};
use lab::Lab;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::all_good;
use crate::names::pod;

/// How long a proxy of the laboratory drains: the default.
const DRAIN: Duration = Duration::from_secs(5);

/// Where generations of a node's proxy connect to the agent, as their configurations say.
pub(crate) fn sockets(lab: &Lab, node: &str, generations: &[u32]) -> Result<BTreeSet<String>> {
    let folder = folder(lab)?.join("node").join(node);
    let socket = |generation: &u32| -> Result<String> {
        let text = std::fs::read_to_string(folder.join(format!("ztunnel-{generation}.yaml")))?;
        Ok(text.lines().find(|l| l.starts_with("zdsSocket:")).context("no zdsSocket")?.to_owned())
    };
    generations.iter().map(socket).collect()
}

/// The agent's pods and proxies, when all pods are with this generation and so many proxies are connected.
fn served_by(lab: &Lab, node: &str, generation: u32, proxies: usize) -> Result<Value> {
    let status = lab.agent_admin(node, "/status")?.json()?;
    let pods = status["pods"].as_array().context("no pods")?;
    ensure!(!pods.is_empty() && pods.iter().all(|p| p["generation"] == generation), "not with {generation}: {status}");
    let synced = status["proxies"].as_array().context("no proxies")?.iter().filter(|p| p["synced"] == true).count();
    ensure!(synced == proxies, "{synced} proxies: {status}");
    Ok(status)
}

/// Least time for which a proxy that is told to end still takes connections (it is 2 s; the rest is room for a busy machine).
const GOES_ON: f64 = 1_500.0;

/// A proxy is told to end, and no other is there: connections that come within two seconds are carried as before. That is how
/// long a next one has to get the pods.
pub(crate) fn serves_on(lab: &Lab, node: &str) -> Result<()> {
    let process = format!("{node}/ztunnel-1");
    let mut load = Load::calls(lab, "client", "server", "told-to-end", 2)?;
    load.works(true, Duration::from_secs(5))?;
    let told = unix_ms();
    let (refused, ended) = std::thread::scope(|scope| {
        let old = scope.spawn(|| lab.stop(&process, Duration::from_secs(20)));
        let refused = load.works(false, Duration::from_secs(10));
        (refused, old.join().map_err(|_| anyhow::anyhow!("panicked")))
    });
    ended??;
    let went_on = refused? - told;
    lab.restart(&process)?;
    lab.until_ready()?;
    load.works(true, Duration::from_secs(5))?;
    let seen = load.finish()?;
    println!("          it went on for {went_on:.0} ms; {seen}");
    ensure!(went_on >= GOES_ON, "connections were refused {went_on:.0} ms after it was told to end");
    Ok(())
}

/// The agent restarts while an old generation drains: both come back, in whatever order, and the younger one keeps the pods
/// and gets the new ones.
pub(crate) fn agent_restarts_between(lab: &Lab, node: &str) -> Result<()> {
    let mut load = Load::calls(lab, "client", "server", "between", 2)?;
    let mut hold = Load::hold(lab, "client", "server", "between")?;
    load.works(true, Duration::from_secs(5))?;
    hold.works(true, Duration::from_secs(5))?;
    let young = lab.next_generation(node)?;
    let old = young - 1;
    let sockets = sockets(lab, node, &[old, young])?;
    ensure!(sockets.len() == 2, "both generations are at {sockets:?}");
    eventually(Duration::from_secs(5), || served_by(lab, node, young, 2))?;
    let process = format!("{node}/ztunnel-{old}");
    let pid = rustix::process::Pid::from_raw(lab.pid(&process)?).context("a pid")?;
    kill_process(pid, Signal::TERM)?;
    let told = Instant::now();
    // Two rounds are over long before the drain is, which ends the held connection. In the first one the old proxy is held back
    // until the younger one is there, and so has the newer connection.
    for (round, last) in [(0, true), (1, false)] {
        if last {
            kill_process(pid, Signal::STOP)?;
        }
        lab.restart(&format!("{node}/agent"))?;
        if last {
            let alone = eventually(Duration::from_secs(20), || served_by(lab, node, young, 1));
            kill_process(pid, Signal::CONT)?;
            alone.context(format!("round {round}"))?;
        }
        // The old one serves what it has until it ends, so it comes back, too.
        eventually(Duration::from_secs(20), || served_by(lab, node, young, 2)).context(format!("round {round}"))?;
        lab.add_pod(pod("fresh", node, false)?)?;
        let served = call(lab, "fresh", "server", "between")?;
        let status = eventually(Duration::from_secs(5), || served_by(lab, node, young, 2));
        lab.remove_pod("fresh")?;
        ensure!(served, "round {round}: a pod that came after the restart is not served: {status:?}");
        status.context(format!("round {round}"))?;
    }
    let running = lab.status().processes.iter().any(|p| p.name == process && p.running);
    let (seen, held) = (load.finish()?, hold.finish()?);
    // On a machine that is busy with other things two restarts may take longer than the drain: then it was right to end.
    let drained = told.elapsed() >= DRAIN;
    lab.end_generation(node, old, Duration::from_secs(20))?;
    ensure!(running || drained, "the old generation left its connection {:?} after SIGTERM", told.elapsed());
    println!(
        "          generation {young} beside {old} at {} sockets; {seen}; held: {} calls",
        sockets.len(),
        held.good
    );
    ensure!(drained || held.end == "closed by us", "the held connection ended: {held:?}");
    all_good(&seen, "calls")
}

/// There are fewer sockets than generations over time, and no two of them that live have the same.
pub(crate) fn sockets_are_used_again(lab: &Lab, node: &str) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut served = 0;
    let last = loop {
        let young = lab.next_generation(node)?;
        eventually(Duration::from_secs(5), || served_by(lab, node, young, 2))?;
        ensure!(sockets(lab, node, &[young - 1, young])?.len() == 2, "{young} shares its socket");
        lab.end_generation(node, young - 1, Duration::from_secs(10))?;
        ensure!(call(lab, "client", "server", "again")?, "generation {young} does not serve");
        served += 1;
        let socket = sockets(lab, node, &[young])?;
        if !seen.insert(socket) {
            break young;
        }
        ensure!(served < 10, "the sockets are never used again: {seen:?}");
    };
    // Nothing is left of those that ended but the newest.
    pause(Duration::from_millis(100));
    served_by(lab, node, last, 1)?;
    println!("          {served} more generations at {} sockets, the last is {last}", seen.len());
    Ok(())
}
