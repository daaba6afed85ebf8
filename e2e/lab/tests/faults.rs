//! Parts of the mesh that die, come back, or are replaced, while an application calls without end.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::load::{Load, Seen};
use e2e_lab::{Checks, eventually, pause, program, unix_ms};
use lab::{Lab, Options, Spec};

#[path = "faults/authority.rs"]
mod authority;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/succession.rs"]
mod succession;

/// How often each part is killed.
const KILLS: usize = 20;
/// From readiness to the first call that works (what users are promised: 1 s).
const AT_ONCE: Duration = Duration::from_secs(1);
/// Longest call whose SYN was lost once: Linux sends it again after 1 s; the rest is room for a busy machine.
const RETRANSMITTED: u64 = 1_500;

const LAB: &str = "
name: faults
workers: 1
nodes: [{name: n1}, {name: n2}]
pods:
- {name: client, namespace: a, node: n1}
- {name: early, namespace: a, node: n1}
- {name: late, namespace: a, node: n1}
- {name: server, namespace: a, node: n2, command: [LOAD, serve, server, '7000'], ready: {tcp: 7000}}
- {name: guarded, namespace: a, node: n2, policies: [a/only-client], command: [LOAD, serve, guarded, '7000']}
policies:
- {name: only-client, namespace: a, scope: WorkloadSelector, action: Allow, rules: [[[{principals: [{Exact: cluster.local/ns/a/sa/client}]}]]]}
";

/// A lab of these tests.
fn up(text: &str) -> Result<Lab> {
    let load = program("e2e-load")?.display().to_string();
    let spec = Spec::parse("faults.yaml", &text.replace("LOAD", &load))?;
    Ok(Lab::up(&spec, &Options { keep: std::env::var_os("KEEP").is_some(), ..Options::default() })?)
}

fn down(lab: Lab, checks: &mut Checks) {
    if std::env::var_os("KEEP").is_none() {
        checks.check("the lab comes down", || Ok(lab.down()?));
    }
}

fn all_good(seen: &Seen, what: &str) -> Result<()> {
    ensure!(seen.good > 0 && seen.failed.is_empty(), "{what}: {seen:?}");
    Ok(())
}

#[test]
fn programs_that_die_or_are_replaced() {
    let mut checks = Checks::new();
    let lab = up(LAB).unwrap();
    for node in ["n1", "n2"] {
        checks.check(&format!("ztunnel of {node} killed {KILLS} times under load"), || proxy_killed(&lab, node));
    }
    checks.check(&format!("agents killed {KILLS} times under load: nobody notices"), || agents_killed(&lab));
    for node in ["n1", "n2"] {
        checks.check(&format!("the proxy of {node}, told to end, serves until another one can"), || {
            succession::serves_on(&lab, node)
        });
    }
    for node in ["n1", "n2"] {
        checks.check(&format!("a second generation takes over on {node}"), || next_generation(&lab, node));
    }
    for node in ["n1", "n2"] {
        checks.check(&format!("the agent of {node} restarts while an old generation drains"), || {
            succession::agent_restarts_between(&lab, node)
        });
    }
    checks.check("sockets of generations that ended are used again", || succession::sockets_are_used_again(&lab, "n1"));
    checks.check("a policy file that cannot be read leaves the old policies", || names::broken_file(&lab));
    checks.check("a pod's address goes to a pod of another identity: as destination", || {
        names::destination_replaced(&lab)
    });
    checks.check("a pod's address goes to a pod of another identity: as source", || names::source_replaced(&lab));
    down(lab, &mut checks);
    checks.finish();
}

#[test]
fn authority_away() {
    let mut checks = Checks::new();
    let lab = up(&LAB.replace("name: faults", "name: faults-ca\ncertificateLifetime: 30s")).unwrap();
    checks.check("authority away for longer than two renewals, then until certificates are over", || {
        authority::away(&lab)
    });
    down(lab, &mut checks);
    checks.finish();
}

/// Kills the proxy of a node again and again; each time calls work again soon after it is ready.
fn proxy_killed(lab: &Lab, node: &str) -> Result<()> {
    let process = format!("{node}/ztunnel-1");
    let marker = format!("killed-{node}");
    let (mut slowest, mut outage, mut longest_ready) = (0.0_f64, 0.0_f64, Duration::ZERO);
    let (mut packets, mut late) = (0, 0);
    for round in 0..KILLS {
        let capture = lab.wire_capture("tcp")?;
        let mut load = Load::calls(lab, "client", "server", &marker, 2)?;
        load.works(true, Duration::from_secs(5)).with_context(|| format!("round {round}: before the kill"))?;
        let killed = unix_ms();
        lab.restart(&process)?;
        let ready_after = lab.until_ready()?;
        let ready = unix_ms();
        let works = load.works_again(killed, AT_ONCE);
        let seen = load.finish()?;
        let captured = capture.finish()?;
        let clear = captured.count_bytes(marker.as_bytes());
        ensure!(clear == 0, "round {round}: {clear} bytes in clear");
        packets += captured.packets();
        // Calls may work before the readiness port says so.
        match works {
            Ok(works) => {
                slowest = slowest.max(works - ready);
                outage = outage.max(works - killed);
            }
            // A connect that passed the hook in the instant of the kill: its SYN met no listener, and the kernel sends it
            // again after 1 s (TCP_TIMEOUT_INIT). No call fails then, one is late.
            Err(_) if seen.failed.is_empty() && seen.slowest_ms < RETRANSMITTED => late += 1,
            Err(error) => return Err(error.context(format!("round {round}: after {ready_after:?}"))),
        }
        longest_ready = longest_ready.max(ready_after);
        ensure!(seen.good > 0, "{seen:?}");
    }
    ensure!(late <= KILLS / 4, "in {late} of {KILLS} rounds a call was late, and none was refused at once");
    println!(
        "          {late} rounds with a late call; ready after {} ms at most, first success {slowest:.0} ms after that; {outage:.0} ms from kill to success; \
         0 bytes in clear in {packets} packets",
        longest_ready.as_millis()
    );
    Ok(())
}

fn agents_killed(lab: &Lab) -> Result<()> {
    let marker = "agent-killed";
    let capture = lab.wire_capture("tcp")?;
    let mut load = Load::calls(lab, "client", "server", marker, 2)?;
    let mut hold = Load::hold(lab, "client", "server", marker)?;
    load.works(true, Duration::from_secs(5))?;
    hold.works(true, Duration::from_secs(5))?;
    let mut longest = Duration::ZERO;
    for round in 0..KILLS {
        let node = ["n1", "n2"][round % 2];
        lab.restart(&format!("{node}/agent"))?;
        longest = longest.max(lab.until_ready().with_context(|| format!("round {round}"))?);
    }
    let (seen, held) = (load.finish()?, hold.finish()?);
    let clear = capture.finish()?.count_bytes(marker.as_bytes());
    println!(
        "          agent ready after {} ms at most; meanwhile {seen}; held connection: {} calls, {}",
        longest.as_millis(),
        held.good,
        held.end
    );
    ensure!(clear == 0, "{clear} bytes in clear");
    ensure!(held.end == "closed by us", "the held connection ended: {held:?}");
    all_good(&seen, "calls")
}

/// The old generation keeps what it has, the new one gets what comes; nobody notices.
fn next_generation(lab: &Lab, node: &str) -> Result<()> {
    let marker = format!("generation-{node}");
    let capture = lab.wire_capture("tcp")?;
    let mut load = Load::calls(lab, "client", "server", &marker, 2)?;
    let mut hold = Load::hold(lab, "client", "server", &marker)?;
    load.works(true, Duration::from_secs(5))?;
    hold.works(true, Duration::from_secs(5))?;
    let before = std::time::Instant::now();
    let generation = lab.next_generation(node)?;
    let took = before.elapsed();
    let status = eventually(Duration::from_secs(5), || {
        let status = lab.agent_admin(node, "/status")?.json()?;
        let pods = status["pods"].as_array().context("no pods")?;
        ensure!(!pods.is_empty() && pods.iter().all(|p| p["generation"] == generation), "not taken over: {status}");
        Ok(status["proxies"].to_string())
    })?;
    // The old one drains; it ends when the held connection has ended, not before.
    let ended = std::thread::scope(|scope| {
        let old = scope.spawn(|| lab.end_generation(node, generation - 1, Duration::from_secs(20)));
        // Three seconds in which the held connection must go on while its proxy drains.
        pause(Duration::from_secs(3));
        let drained_early = old.is_finished();
        let held = hold.finish();
        let ended = old.join().map_err(|_| anyhow::anyhow!("panicked"));
        (drained_early, held, ended)
    });
    let (drained_early, held, ended) = (ended.0, ended.1?, ended.2?);
    ended?;
    let seen = load.finish()?;
    let clear = capture.finish()?.count_bytes(marker.as_bytes());
    println!(
        "          generation {generation} ready after {} ms; {seen}; held: {} calls, {}; {status}",
        took.as_millis(),
        held.good,
        held.end
    );
    ensure!(clear == 0, "{clear} bytes in clear");
    ensure!(held.end == "closed by us", "the held connection ended: {held:?}");
    let sockets = succession::sockets(lab, node, &[generation - 1, generation])?;
    ensure!(sockets.len() == 2, "both generations are at {sockets:?}");
    ensure!(!drained_early, "the old generation left its connection");
    all_good(&seen, "calls")
}
