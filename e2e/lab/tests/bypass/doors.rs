//! Vectors that need two sides: listeners, answers, source ports, addresses that nobody has.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_lab::attack::{Attack, Who};
use e2e_lab::{program, wire};
use lab::{Finished, Lab, Running};
use serde_json::Value;

use crate::vectors::{counters, received};

/// One call of `e2e-load`, as a program in a pod would make it.
pub(crate) fn call(lab: &Lab, from: &str, to: &str, marker: &str) -> Result<Value> {
    let to = SocketAddr::new(lab.plan().pod(to)?.addresses[0], 7000);
    let mut calls = calls(lab, from, to, marker, 1)?;
    let mut lines = BufReader::new(calls.stdout().context("stdout")?);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    drop(calls.stdin());
    Ok(serde_json::from_str(&line)?)
}

/// Calls without end, until the input is closed.
pub(crate) fn calls(lab: &Lab, from: &str, to: SocketAddr, marker: &str, pause_ms: u64) -> Result<Running> {
    let load = program("e2e-load")?.display().to_string();
    let (to, pause) = (to.to_string(), pause_ms.to_string());
    Ok(lab.pod(from)?.command(&load).args(["calls", &to, marker, "--pause-ms", &pause]).spawn()?)
}

pub(crate) fn control(lab: &Lab) -> Result<()> {
    let marker = "gateway-may";
    let capture = lab.wire_capture("")?;
    let said = call(lab, "gateway", "protected", marker)?;
    let captured = capture.finish()?;
    ensure!(said["works"] == true && received(lab, "protected")?.contains(marker), "{said}");
    ensure!(captured.packets() > 0 && captured.count_bytes(marker.as_bytes()) == 0, "in clear");
    Ok(())
}

/// The agent mends what was spoilt when it starts.
pub(crate) fn repaired(lab: &Lab) -> Result<()> {
    lab.restart("n1/agent")?;
    let took = lab.until_ready()?;
    let said = call(lab, "vandal", "server", "repaired")?;
    ensure!(said["works"] == true, "the pod was not repaired: {said}");
    println!("          repaired {} ms after the agent's start", took.as_millis());
    Ok(())
}

/// What keeps an answer of the application's end of a connection from the proxy off the network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StoppedBy {
    /// The guard, at the node's end of the veth.
    Guard,
    /// The binding of that end to `lo`: nothing comes to the veth, and the answer goes on to the proxy.
    Binding,
}

fn serving(lab: &Lab, vector: &str, marker: &str, by: StoppedBy) -> Result<()> {
    let attack = Attack { vector, pod: "vandal", who: Who::Root, marker, targets: &["friend"] };
    let capture = lab.wire_capture("")?;
    let before = counters(lab, "vandal")?;
    let mut serving = attack.start(lab)?;
    ready(&mut serving)?;
    let to = lab.plan().pod("vandal")?.addresses[0];
    // Half-opened, it reads what the application in the spoilt pod says.
    let script = format!("exec 3<>/dev/tcp/{to}/7100; cat <&3");
    let heard = lab.pod("friend")?.command("timeout").args(["3", "bash", "-c", &script]).output()?;
    let said = serving.finish(Duration::from_secs(10))?;
    let captured = capture.finish()?;
    let after = counters(lab, "vandal")?;
    let clear = captured.count_bytes(marker.as_bytes());
    ensure!(clear == 0, "{clear} bytes in clear: {}", said.text());
    let dropped = after.get("drop_app").unwrap_or(&0) - before.get("drop_app").unwrap_or(&0);
    match by {
        StoppedBy::Guard => {
            ensure!(dropped > 0, "the guard dropped nothing: {} {} {after:?}", said.text(), heard.text())
        }
        StoppedBy::Binding => ensure!(heard.text().contains(marker), "{} {}", said.text(), heard.text()),
    }
    println!("          {dropped} packets dropped at the veth; the caller heard {:?}", heard.text());
    repaired(lab)
}

/// Waits for the line that says that the attacker is in place.
pub(crate) fn ready(running: &mut Running) -> Result<Value> {
    let mut line = String::new();
    // One byte at a time: the rest of what it says belongs to `finish`.
    let mut out = running.stdout().context("stdout")?;
    let mut byte = [0; 1];
    while std::io::Read::read(&mut out, &mut byte)? == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    serde_json::from_str(&line).with_context(|| format!("not ready: {line}"))
}

pub(crate) fn server_without_mark(lab: &Lab) -> Result<()> {
    serving(lab, "server-without-mark", "answer-without-mark", StoppedBy::Guard)
}

pub(crate) fn server_rules_flushed(lab: &Lab) -> Result<()> {
    serving(lab, "server-rules-flushed", "answer-after-flush", StoppedBy::Binding)
}

/// The connection from the proxy to the application is in clear; root in the pod tries to lead it to the network.
pub(crate) fn hijack(lab: &Lab) -> Result<()> {
    let marker = "led-away";
    let attack = Attack { vector: "hijack", pod: "vandal", who: Who::Root, marker, targets: &["friend", "plain"] };
    let capture = lab.wire_capture("")?;
    let before = counters(lab, "vandal")?;
    let mut running = attack.start(lab)?;
    ready(&mut running)?;
    let to = SocketAddr::new(lab.plan().pod("vandal")?.addresses[0], 7100);
    let mut calls = calls(lab, "friend", to, marker, 10)?;
    let first = ready(&mut calls)?;
    calls.kill();
    let after = counters(lab, "vandal")?;
    drop(running.stdin());
    let said = running.finish(Duration::from_secs(10))?;
    let captured = capture.finish()?;
    repaired(lab)?;
    let clear = captured.count_bytes(marker.as_bytes());
    let rose: Vec<_> = after.iter().filter(|(n, c)| before.get(*n).unwrap_or(&0) < *c).collect();
    ensure!(clear == 0, "{clear} bytes in clear; {first} {rose:?} {} {}", said.text(), said.errors());
    ensure!(
        after.get("drop_captured") > before.get("drop_captured"),
        "nothing was stopped: {first} {rose:?} {}",
        said.errors()
    );
    ensure!(first["works"] == false, "{first}");
    Ok(())
}

pub(crate) fn datagrams(lab: &Lab) -> Result<()> {
    let before = counters(lab, "attacker")?;
    Attack { vector: "udp", pod: "attacker", who: Who::Root, marker: "datagram", targets: &["plain"] }.run(lab)?;
    let after = counters(lab, "attacker")?;
    ensure!(after.get("guard_udp") > before.get("guard_udp"), "not counted: {after:?}");
    Ok(())
}

pub(crate) fn thief(lab: &Lab) -> Result<()> {
    // In the pod that is called, and that calls: connections of all three kinds are there to be taken.
    let attack = Attack { vector: "thief", pod: "server", who: Who::Root, marker: "thief", targets: &[] };
    let mut thief = attack.start(lab)?;
    let mut out = BufReader::new(thief.stdout().context("stdout")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    let opened: Value = serde_json::from_str(&line)?;
    let listening =
        opened["opened"].as_array().map_or(0, |o| o.iter().filter(|a| !a.to_string().contains('E')).count());
    ensure!(listening > 0, "the thief could not even listen: {opened}");
    let kinds = [("gateway", "server"), ("free", "server"), ("server", "gateway-server"), ("attacker", "server")];
    let mut served = 0;
    for _ in 0..25 {
        for (from, to) in kinds.iter().filter(|(_, to)| *to == "server") {
            let said = call(lab, from, to, "for-the-server")?;
            ensure!(said["works"] == true, "{from} was not served: {said}");
            served += 1;
        }
        let said = call(lab, "server", "plain", "from-the-server")?;
        ensure!(said["works"] == true, "the server's own call failed: {said}");
        served += 1;
    }
    drop(thief.stdin());
    line.clear();
    out.read_line(&mut line)?;
    let taken: Value = serde_json::from_str(&line)?;
    println!("          {listening} listeners of the thief, {served} connections served, taken: {}", taken["taken"]);
    ensure!(taken["taken"].as_array().is_some_and(Vec::is_empty), "taken: {taken}");
    Ok(())
}

pub(crate) fn walk(lab: &Lab) -> Result<()> {
    let marker = "walker";
    let attack = Attack { vector: "walk", pod: "free", who: Who::Root, marker, targets: &["protected"] };
    // The gateway calls all the while, so that permits for the protected pod exist.
    let to = SocketAddr::new(lab.plan().pod("protected")?.addresses[0], 7000);
    let mut permitted = calls(lab, "gateway", to, "permitted", 20)?;
    let done: Finished = attack.finished(lab, &["20000".to_owned(), "4000".to_owned()])?;
    drop(permitted.stdin());
    let permitted = permitted.finish(Duration::from_secs(10))?.text();
    let ends: Value = serde_json::from_str(done.text().lines().last().unwrap_or_default())?;
    println!(
        "          ends of 4 000 connections: {}; meanwhile {}",
        ends["ends"],
        permitted.lines().last().unwrap_or_default()
    );
    ensure!(ends["ends"]["served"].is_null(), "some were served: {ends}");
    ensure!(!received(lab, "protected")?.contains(marker), "bytes of the walker arrived");
    ensure!(received(lab, "protected")?.contains("permitted"), "the gateway was not served: {permitted}");
    Ok(())
}

pub(crate) fn unknown_address(lab: &Lab) -> Result<()> {
    // In the network of n2's pods; nobody has it.
    let IpAddr::V4(server) = lab.plan().pod("server")?.addresses[0] else { anyhow::bail!("no IPv4") };
    let nobody = std::net::Ipv4Addr::from_bits(server.to_bits() | 0x77);
    let capture = lab.wire_capture("")?;
    let before = counters(lab, "attacker")?;
    let load = program("e2e-load")?.display().to_string();
    let began = Instant::now();
    let mut running =
        lab.pod("attacker")?.command(&load).args(["calls", &format!("{nobody}:7000"), "to-nobody"]).spawn()?;
    let said = ready(&mut running)?;
    let took = began.elapsed();
    running.kill();
    let captured = capture.finish()?;
    ensure!(said["works"] == false, "{said}");
    ensure!(counters(lab, "attacker")?.get("captured") > before.get("captured"), "it was not captured");
    let there = wire::packets_to(&captured, nobody);
    ensure!(there == 0 && captured.count_bytes(b"to-nobody") == 0, "{there} packets went there");
    println!("          refused after {} ms, no packet on the wire", took.as_millis());
    Ok(())
}
