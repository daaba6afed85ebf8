//! Vectors of time: the moment when a part of the mesh goes away.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::attack::{Attack, Who, folder};
use e2e_lab::eventually;
use lab::Lab;
use serde_json::Value;

use crate::doors::call;
use crate::vectors::{counters, received};

/// The pod leaves the mesh while one of its connections talks; that one never turns clear, and goes on or ends.
pub(crate) fn unenrolment(lab: &Lab) -> Result<()> {
    let file = folder(lab)?.join("node").join("n1").join("pods.yaml");
    let listed = std::fs::read_to_string(&file)?;
    let marker = "stays-in-the-tunnel";
    let capture = lab.wire_capture("")?;
    let attack = Attack { vector: "keep", pod: "vandal", who: Who::Root, marker, targets: &["server"] };
    let mut running = attack.start(lab)?;
    let mut out = running.stdout().context("stdout")?;
    let mut first = [0; 1];
    out.read_exact(&mut first)?;
    let uid = lab.plan().pod("vandal")?.uid.clone();
    replace(&file, &without(&listed, &uid)?)?;
    // New connections are direct as soon as the pod is leaving; that is how the moment is known.
    let leaving = eventually(Duration::from_secs(5), || {
        let status = lab.agent_admin("n1", "/status")?.json()?;
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let state = pods.iter().find(|p| p["uid"] == uid.as_str()).map_or(Value::Null, |p| p["state"].clone());
        ensure!(state != "captured", "still captured");
        Ok(state)
    })?;
    let control = call(lab, "vandal", "server", "left-the-mesh")?;
    let sent_before = received(lab, "server")?.matches(marker).count();
    // Each line has it six times: fifty more lines, a second.
    let more = eventually(Duration::from_secs(5), || {
        let now = received(lab, "server")?.matches(marker).count() - sent_before;
        ensure!(now > 300 || !running.alive(), "{now} lines after it left");
        Ok(now)
    })?;
    drop(running.stdin());
    let mut said = String::new();
    out.read_to_string(&mut said)?;
    let captured = capture.finish()?;
    replace(&file, &listed)?;
    lab.until_ready()?;
    println!(
        "          state {leaving}; {more} markers arrived after that; {}",
        said.lines().last().unwrap_or_default()
    );
    ensure!(control["works"] == true && captured.count_bytes(b"left-the-mesh") > 0, "the pod did not leave: {control}");
    let clear = captured.count_bytes(marker.as_bytes());
    ensure!(clear == 0, "{clear} bytes of the old connection in clear");
    let again = call(lab, "vandal", "server", "back-in-the-mesh")?;
    ensure!(again["works"] == true, "after its return: {again}");
    Ok(())
}

/// The list without one pod: one item of the outer list, whose dashes stand at the depth of the first.
fn without(listed: &str, uid: &str) -> Result<String> {
    let depth = listed.lines().find_map(|l| l.find("- ")).context("no pod is listed")?;
    let mut blocks = vec![String::new()];
    for line in listed.lines() {
        if line.find("- ") == Some(depth) {
            blocks.push(String::new());
        }
        let last = blocks.last_mut().context("a block")?;
        last.push_str(line);
        last.push('\n');
    }
    let before = blocks.len();
    blocks.retain(|b| !b.contains(uid));
    ensure!(blocks.len() + 1 == before, "{uid} is not listed once: {listed}");
    Ok(blocks.concat())
}

fn replace(file: &std::path::Path, text: &str) -> Result<()> {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, file)?)
}

/// Without the agent the programs in the kernel hold all the same.
pub(crate) fn agent_killed(lab: &Lab) -> Result<()> {
    let before = counters(lab, "attacker")?;
    lab.kill("n1/agent")?;
    let result = hold_without_agent(lab);
    lab.restart("n1/agent")?;
    lab.until_ready()?;
    result?;
    // The counters live in the kernel, too.
    let after = counters(lab, "attacker")?;
    for name in ["drop_app", "connect_bound_device", "option_refused", "captured"] {
        ensure!(after.get(name) > before.get(name), "{name} was not counted: {after:?}");
    }
    Ok(())
}

fn hold_without_agent(lab: &Lab) -> Result<()> {
    let capture = lab.wire_capture("")?;
    let host = lab.host_side_capture("attacker", "")?;
    let marker = "no-agent";
    for vector in ["packet-syn", "raw-ipv4", "device-before", "mark-0x0-after", "uring"] {
        let attack = Attack { vector, pod: "attacker", who: Who::Root, marker, targets: &["server", "protected"] };
        attack.run(lab)?;
    }
    let captured = capture.finish()?;
    let left = host.finish()?.packets_with(marker.as_bytes());
    let clear = captured.count_bytes(marker.as_bytes());
    ensure!(clear == 0, "{clear} bytes in clear");
    ensure!(left > 0, "nothing was tried");
    ensure!(received(lab, "server")?.contains(marker), "captured connections stopped working");
    ensure!(!received(lab, "protected")?.contains(marker), "past the policy");
    println!("          {left} packets with the marker stopped at the veth");
    Ok(())
}

pub(crate) fn proxy_killed(lab: &Lab) -> Result<()> {
    let marker = "no-proxy";
    let capture = lab.wire_capture("")?;
    let before = counters(lab, "attacker")?;
    lab.kill("n1/ztunnel-1")?;
    let attack = |vector| Attack { vector, pod: "attacker", who: Who::Root, marker, targets: &["server", "plain"] };
    let began = Instant::now();
    let tried = attack("plain-connect").run(lab);
    let took = began.elapsed();
    let ipv6 = attack("ipv6").run(lab);
    let raw = attack("packet-syn").run(lab);
    let counted = counters(lab, "attacker");
    lab.restart("n1/ztunnel-1")?;
    lab.until_ready()?;
    let captured = capture.finish()?;
    let (tried, ipv6, counted) = (tried?, ipv6?, counted?);
    raw?;
    for said in tried.values().chain(ipv6.values()) {
        ensure!(said.ends("connect").eq(["ECONNREFUSED"]), "not refused: {said:?}");
    }
    let refused = counted.get("connect_no_listener").unwrap_or(&0) - before.get("connect_no_listener").unwrap_or(&0);
    ensure!(refused >= 4, "counted {refused}: {counted:?}");
    let clear = captured.count_bytes(marker.as_bytes());
    ensure!(clear == 0, "{clear} bytes in clear");
    println!("          refused within {} ms (start of the attacker's program included)", took.as_millis());
    let again = call(lab, "attacker", "server", "proxy-is-back")?;
    ensure!(again["works"] == true, "{again}");
    Ok(())
}

pub(crate) fn server_proxy_killed(lab: &Lab) -> Result<()> {
    let marker = "no-proxy-there";
    lab.kill("n2/ztunnel-1")?;
    let before = counters(lab, "protected")?;
    let attack =
        Attack { vector: "plain-connect", pod: "free", who: Who::Root, marker, targets: &["server", "protected"] };
    let tried = attack.run(lab);
    let counted = counters(lab, "protected");
    lab.restart("n2/ztunnel-1")?;
    lab.until_ready()?;
    let (tried, counted) = (tried?, counted?);
    ensure!(counted.get("lookup_no_listener") > before.get("lookup_no_listener"), "not counted: {counted:?}");
    for pod in ["server", "protected"] {
        ensure!(!received(lab, pod)?.contains(marker), "{pod} was reached past its proxy: {tried:?}");
    }
    let again = call(lab, "attacker", "server", "its-proxy-is-back")?;
    ensure!(again["works"] == true, "{again}");
    Ok(())
}
