//! Ten pods a second come and go for a minute, on so few addresses that these change hands all the time, while others call
//! whoever has them.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::load::Load;
use e2e_lab::{Checks, pause, program};
use lab::{Lab, Options, Pod, Spec};

/// How long pods come and go, and how many of them in a second, where the machine is able to.
const LASTS: Duration = Duration::from_secs(60);
const PER_SECOND: u32 = 10;
/// So many at least, or nothing was tried: one a second.
const PODS: usize = 60;
/// Pods that are there at a time, on two nodes: so many addresses, and the spare ones that the next pods come to.
const ALIVE: usize = LANES * 2;
/// So many pods go and come at the same time: one takes a good tenth of a second, of which much is waiting. Odd, so that every lane has
/// pods on both nodes.
const LANES: usize = 3;
/// Nobody may be stuck for longer: the mesh holds a connection for 5 s, the rest is room for a busy machine.
const STUCK: u64 = 5_500;
/// What clients send.
const MARKER: &str = "seen-by-nobody";

const LAB: &str = "
name: churn
workers: 1
nodes: [{name: n1}, {name: n2}]
pods:
- {name: one, namespace: a, node: n1}
- {name: two, namespace: a, node: n2}
";

#[test]
fn addresses_that_change_hands_ten_times_a_second_lead_nobody_astray() {
    let mut checks = Checks::new();
    let spec = Spec::parse("churn.yaml", LAB).unwrap();
    let lab = Lab::up(&spec, &Options { keep: std::env::var_os("KEEP").is_some(), ..Options::default() }).unwrap();
    checks.check(&format!("pods come and go for {LASTS:?} while they are called"), || churn(&lab));
    if std::env::var_os("KEEP").is_none() {
        checks.check("the lab comes down", || Ok(lab.down()?));
    }
    checks.finish();
}

fn churn(lab: &Lab) -> Result<()> {
    for index in 0..ALIVE {
        lab.add_pod(pod(index)?)?;
    }
    let capture = lab.wire_capture("tcp")?;
    let mut loads = Vec::new();
    for client in ["one", "two"] {
        // The first pods of both nodes: every one that goes leaves its address to the next.
        for server in [0, 1] {
            loads.push((client, Load::calls(lab, client, &name(server), MARKER, 10)?));
        }
    }
    let mut owners = Owners::default();
    let begun = Instant::now();
    let turns = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|lane| scope.spawn(move || change(lab, lane, begun))).collect();
        while begun.elapsed() < LASTS {
            // Flows are kept for a while only: they are fetched before the oldest go.
            pause(Duration::from_secs(5).min(LASTS.saturating_sub(begun.elapsed())));
            owners.note(lab)?;
        }
        lanes.into_iter().map(|lane| lane.join().expect("a lane")).sum::<Result<usize>>()
    })?;
    println!("          {turns} pods, {:.1} a second", turns as f64 / begun.elapsed().as_secs_f64());
    ensure!(turns >= PODS, "only {turns} pods came and went");
    for (client, load) in loads {
        let seen = load.finish()?;
        println!("          {client}: {seen}, {} answered", seen.names.len());
        ensure!(seen.good > 200 && seen.names.len() > 3, "{client}: hardly anybody answered: {seen:?}");
        // A call to a pod that has just gone fails. None hangs.
        ensure!(seen.slowest_ms <= STUCK && !seen.failed.contains_key("TimedOut"), "{client} was stuck: {seen:?}");
        ensure!(!seen.failed.contains_key("WouldBlock"), "{client} was stuck: {seen:?}");
    }
    owners.note(lab)?;
    owners.judge()?;
    let wire = capture.finish()?;
    let shown = wire.packets_with(MARKER.as_bytes());
    println!("          {} packets between the nodes, {shown} of them in clear", wire.packets());
    ensure!(wire.packets() > 1_000 && shown == 0, "{shown} of {} packets in clear", wire.packets());
    Ok(())
}

/// One lane's pods go and come at its part of the pace. Says how many.
fn change(lab: &Lab, lane: usize, begun: Instant) -> Result<usize> {
    let mut turn = 0;
    while begun.elapsed() < LASTS {
        let index = lane + turn * LANES;
        lab.remove_pod(&name(index))?;
        lab.add_pod(pod(index + ALIVE)?)?;
        turn += 1;
        let due = begun + Duration::from_secs(1) * (turn * LANES) as u32 / PER_SECOND;
        // The pace is what is tested.
        pause(due.saturating_duration_since(Instant::now()));
    }
    Ok(turn)
}

fn name(index: usize) -> String {
    format!("c{index}")
}

/// A server with an identity of its own.
fn pod(index: usize) -> Result<Pod> {
    let (load, name, node) = (program("e2e-load")?.display().to_string(), name(index), ["n1", "n2"][index % 2]);
    let text = format!(
        "{{name: x, nodes: [{{name: {node}}}], pods: [{{name: {name}, namespace: a, node: {node}, \
         command: [{load}, serve, {name}, '7000'], ready: {{tcp: 7000}}}}]}}"
    );
    Spec::parse("pod.yaml", &text)?.pods.pop().context("a pod")
}

/// Whom the callers' proxies took a destination for, and who it was proven to be.
#[derive(Default)]
struct Owners {
    /// First flow that was not yet looked at, by node.
    unseen: BTreeMap<&'static str, u64>,
    /// Proven identities by address.
    by_address: BTreeMap<String, Vec<String>>,
    flows: usize,
    wrong: Vec<String>,
}

impl Owners {
    fn note(&mut self, lab: &Lab) -> Result<()> {
        for node in ["n1", "n2"] {
            let since = self.unseen.entry(node).or_default();
            for line in lab.flows(node, *since)? {
                let flow = &line["flow"];
                *since = (*since).max(flow["sequence"].as_u64().map_or(0, |last| last + 1));
                let (pod, identity) = (&flow["destination"]["pod"], &flow["destination"]["identity"]);
                let (Some(pod), Some(identity)) = (pod.as_str(), identity.as_str()) else { continue };
                if flow["direction"] != "outbound" || !pod.starts_with('c') {
                    continue;
                }
                self.flows += 1;
                if !identity.ends_with(&format!("/sa/{pod}")) {
                    self.wrong.push(line.to_string());
                }
                let address = flow["destination"]["address"].as_str().unwrap_or_default().to_owned();
                let all = self.by_address.entry(address).or_default();
                if all.last().is_none_or(|last| last != identity) {
                    all.push(identity.to_owned());
                }
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<()> {
        let hands: usize = self.by_address.values().map(|all| all.len() - 1).sum();
        println!("          {} flows looked at; addresses changed hands {hands} times in them", self.flows);
        ensure!(self.wrong.is_empty(), "{} flows to somebody else: {:?}", self.wrong.len(), self.wrong.first());
        ensure!(self.flows > 500 && hands > 6, "too little was seen: {} flows, {hands}", self.flows);
        Ok(())
    }
}
