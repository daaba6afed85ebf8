//! Revocation: a list from the authority cuts what rests on a revoked certificate, at once and in both directions, and
//! nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::load::{Load, call};
use e2e_lab::{Checks, eventually, pause, program, unix_ms};
use lab::{Fault, Lab, Options, SameNode, Spec};

const LAB: &str = "
name: NAME
workers: 1
crl: true
sameNode: SAME
nodes: [{name: n1}, {name: n2}]
pods:
- {name: holder, namespace: a, node: n1, command: [LOAD, serve, holder, '7000'], ready: {tcp: 7000}}
- {name: near, namespace: a, node: n1, command: [LOAD, serve, near, '7000'], ready: {tcp: 7000}}
- {name: bystander, namespace: a, node: n1}
- {name: server, namespace: a, node: n2, command: [LOAD, serve, server, '7000'], ready: {tcp: 7000}}
- {name: caller, namespace: a, node: n2}
";

/// From the list in its place to the last of the connections that it forbids.
const AT_ONCE: Duration = Duration::from_secs(1);
/// What must not happen is waited for as long: twice the time in which it would.
const QUIET: Duration = Duration::from_secs(2);

/// Connections that rest on the holder's certificate, and others between the same nodes, one each way at least.
const CUT: &[(&str, &str)] = &[("holder", "server"), ("caller", "holder"), ("holder", "near"), ("bystander", "holder")];
const OTHERS: &[(&str, &str)] = &[("bystander", "server"), ("caller", "near"), ("bystander", "near")];

const MARKER: &str = "for-the-holder";

fn up(name: &str, same: SameNode) -> Result<Lab> {
    let load = program("e2e-load")?.display().to_string();
    let same = if same == SameNode::Direct { "direct" } else { "mtls" };
    let text = LAB.replace("NAME", name).replace("SAME", same).replace("LOAD", &load);
    let spec = Spec::parse("revocation.yaml", &text)?;
    Ok(Lab::up(&spec, &Options { keep: std::env::var_os("KEEP").is_some(), ..Options::default() })?)
}

fn revocation(lab: Lab, same: SameNode) {
    let mut checks = Checks::new();
    checks.check("live connections of the holder are cut, in both directions, and no others", || live(&lab, same));
    checks.check("afterwards: the holder's calls, until its proxy has another certificate", || afterwards(&lab));
    checks.check("a list without it: the certificate counts again", || taken_back(&lab));
    if std::env::var_os("KEEP").is_none() {
        checks.check("the lab comes down", || Ok(lab.down()?));
    }
    checks.finish();
}

#[test]
fn revoked_between_and_within_nodes() {
    revocation(up("revocation", SameNode::Mtls).unwrap(), SameNode::Mtls);
}

#[test]
fn revoked_where_a_node_connects_its_pods_directly() {
    revocation(up("revocation-direct", SameNode::Direct).unwrap(), SameNode::Direct);
}

fn hold(lab: &Lab, pairs: &[(&str, &str)]) -> Result<Vec<(String, Load)>> {
    let one = |(from, to): &(&str, &str)| {
        let mut load = Load::hold(lab, from, to, MARKER)?;
        load.works(true, Duration::from_secs(10))?;
        Ok((format!("{from} -> {to}"), load))
    };
    pairs.iter().map(one).collect()
}

fn live(lab: &Lab, same: SameNode) -> Result<()> {
    // Towards the wire only what crosses nodes goes; within a node `direct` is in clear by its name.
    let capture = lab.wire_capture("tcp")?;
    let cut = hold(lab, CUT)?;
    let mut others = hold(lab, OTHERS)?;
    // Long enough for many words on each: what is cut was in use.
    pause(Duration::from_millis(300));
    let identity = lab.identity_of("holder")?;
    let began = unix_ms();
    lab.add_fault(Fault::Revoke { identity })?;
    let mut report = Vec::new();
    for (name, load) in cut {
        let seen = load.ended(AT_ONCE * 5).with_context(|| name.clone())?;
        let after = seen.at - began;
        ensure!(seen.good > 5, "{name} was hardly in use: {seen:?}");
        ensure!(after <= AT_ONCE.as_secs_f64() * 1000.0, "{name} was cut after {after:.0} ms: {seen:?}");
        // The application is not to take a part for the whole.
        ensure!(seen.end == "ConnectionReset", "{name} was not reset: {seen:?}");
        report.push(format!("{name} after {after:.0} ms"));
    }
    pause(QUIET);
    for (name, load) in &mut others {
        ensure!(load.since().is_ok_and(|turns| turns.is_empty()), "{name} was cut too");
    }
    for (name, load) in others {
        let seen = load.finish()?;
        ensure!(seen.end == "closed by us", "{name} was cut too: {seen:?}");
    }
    let captured = capture.finish()?;
    let clear = captured.count_bytes(MARKER.as_bytes());
    ensure!(clear == 0 && captured.packets() > 0, "{clear} bytes in clear");
    println!("          {same:?}: {}", report.join(", "));
    Ok(())
}

fn afterwards(lab: &Lab) -> Result<()> {
    for (from, to) in CUT {
        ensure!(!call(lab, from, to, MARKER)?, "{from} -> {to} works with a revoked certificate");
    }
    for (from, to) in OTHERS {
        ensure!(call(lab, from, to, MARKER)?, "{from} -> {to} does not work");
    }
    // A certificate is revoked, not an identity: with the next one it goes on. A proxy that starts asks for it.
    lab.restart("n1/ztunnel-1")?;
    lab.until_ready()?;
    for (from, to) in CUT.iter().chain(OTHERS) {
        eventually(Duration::from_secs(10), || {
            ensure!(call(lab, from, to, MARKER)?, "{from} -> {to} does not work with a new certificate");
            Ok(())
        })?;
    }
    Ok(())
}

fn taken_back(lab: &Lab) -> Result<()> {
    lab.add_fault(Fault::Revoke { identity: lab.identity_of("holder")? })?;
    eventually(Duration::from_secs(5), || {
        ensure!(!call(lab, "holder", "server", MARKER)?, "the certificate of today is not revoked");
        Ok(())
    })?;
    lab.clear_faults(None)?;
    let began = Instant::now();
    eventually(Duration::from_secs(10), || {
        ensure!(call(lab, "holder", "server", MARKER)? && call(lab, "caller", "holder", MARKER)?, "still refused");
        Ok(())
    })?;
    println!("          good again {} ms after the list", began.elapsed().as_millis());
    Ok(())
}
