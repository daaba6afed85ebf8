//! The matrix: who talks to whom, over which address, in which manner; and what the server sees of it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e_lab::{Checks, program};
use lab::{Lab, Options, Spec};
use serde_json::Value;

/// The lab of the matrix: one meshed client, meshed and plain servers on both nodes, one plain client.
fn spec(same_node: &str) -> Result<Spec> {
    let peer = program("e2e-peer")?.display().to_string();
    let server = format!("command: [{peer}, serve], ready: {{tcp: 9001}}");
    let text = format!(
        "
name: matrix-{same_node}
sameNode: {same_node}
nodes: [{{name: n1}}, {{name: n2}}]
pods:
- {{name: client, namespace: a, node: n1}}
- {{name: plain-client, namespace: a, node: n1, mesh: false}}
- {{name: near, namespace: a, node: n1, {server}}}
- {{name: far, namespace: a, node: n2, {server}}}
- {{name: plain-near, namespace: a, node: n1, mesh: false, {server}}}
- {{name: plain-far, namespace: a, node: n2, mesh: false, {server}}}
services:
- {{name: near, namespace: a, ports: {ports}, pods: [near]}}
- {{name: far, namespace: a, ports: {ports}, pods: [far]}}
- {{name: plain-near, namespace: a, ports: {ports}, pods: [plain-near]}}
- {{name: plain-far, namespace: a, ports: {ports}, pods: [plain-far]}}
",
        ports = "{9001: 9001, 9002: 9002, 9003: 9003, 9004: 9004, 9005: 9005, 9006: 9006, 9007: 9007, 9008: 9008, 9100: 9100}"
    );
    Ok(Spec::parse("matrix.yaml", &text)?)
}

/// One call by the test peer from a pod.
fn call(lab: &Lab, from: &str, mode: &str, to: IpAddr, more: &[&str]) -> Result<Value> {
    let done = lab
        .pod(from)?
        .command(&program("e2e-peer")?.display().to_string())
        .args(["call", mode, &to.to_string()])
        .args(more.iter().copied())
        .timeout(Duration::from_secs(180))
        .output()?;
    ensure!(done.success(), "the client failed: {}", done.errors());
    serde_json::from_str(&done.text()).with_context(|| format!("not JSON: {}", done.text()))
}

fn good(seen: &Value) -> Result<()> {
    ensure!(seen.get("error").is_none(), "{}", seen["error"].as_str().unwrap_or("?"));
    Ok(())
}

/// An address of a pod or service, of one family.
fn address(lab: &Lab, name: &str, service: bool, v6: bool) -> Result<IpAddr> {
    let plan = lab.plan();
    let addresses = if service {
        plan.services.iter().find(|s| s.service.name == name).context("no such service")?.vips.clone()
    } else {
        plan.pod(name)?.addresses.clone()
    };
    addresses.into_iter().find(|a| a.is_ipv6() == v6).context("no address of that family")
}

fn manners(lab: &Lab, checks: &mut Checks, from: &str, to: &str, service: bool, v6: bool, bulk: u64) {
    let label = format!("{from} -> {}{to}{}", if service { "service " } else { "" }, if v6 { " IPv6" } else { "" });
    let Ok(ip) = address(lab, to, service, v6) else {
        return checks.check(&label, || anyhow::bail!("no address"));
    };
    let mut simple = |mode: &str, more: &[&str]| {
        checks.check(&format!("{label}: {mode}"), || good(&call(lab, from, mode, ip, more)?));
    };
    let bytes = bulk.to_string();
    simple("banner", &[]);
    simple("upload", &["--bytes", &bytes]);
    simple("download", &["--bytes", &bytes]);
    simple("both", &["--bytes", &bytes]);
    checks.check(&format!("{label}: addresses as the server and the client see them"), || {
        let seen = call(lab, from, "who", ip, &[])?;
        good(&seen)?;
        let own = address(lab, from, false, v6)?.to_string();
        let server = address(lab, to, false, v6)?.to_string();
        let strip = |text: &Value| {
            text.as_str().map(|t| t.rsplit_once(':').map_or("", |(ip, _)| ip).trim_matches(['[', ']']).to_owned())
        };
        ensure!(strip(&seen["peer"]).as_deref() == Some(&ip.to_string()), "getpeername says {}", seen["peer"]);
        ensure!(strip(&seen["local"]).as_deref() == Some(&own), "getsockname says {}", seen["local"]);
        ensure!(strip(&seen["server"]["peer"]).as_deref() == Some(&own), "the server sees {}", seen["server"]);
        ensure!(strip(&seen["server"]["local"]).as_deref() == Some(&server), "the server is at {}", seen["server"]);
        Ok(())
    });
    checks.check(&format!("{label}: a reset by the server is a reset"), || {
        let seen = call(lab, from, "reset-by-server", ip, &[])?;
        ensure!(seen["ended"] == "ConnectionReset", "ended by {seen}");
        Ok(())
    });
    checks.check(&format!("{label}: a reset by the client is a reset"), || {
        good(&call(lab, from, "reset-by-client", ip, &[])?)?;
        e2e_lab::eventually(Duration::from_secs(5), || {
            let seen = call(lab, from, "last-end", ip, &[])?;
            ensure!(seen["server"] == "ConnectionReset", "the server saw {}", seen["server"]);
            Ok(())
        })
    });
    checks.check(&format!("{label}: nobody listens"), || {
        let seen = call(lab, from, "who", ip, &["--port", "9100"])?;
        let kind = seen["kind"].as_str().unwrap_or("none").to_owned();
        ensure!(kind.contains("ConnectionRefused") || kind.contains("ConnectionReset"), "{seen}");
        ensure!(seen["ms"].as_u64().unwrap_or(u64::MAX) < 1_000, "it took {} ms", seen["ms"]);
        Ok(())
    });
}

fn run(same_node: &str) {
    let mut checks = Checks::new();
    let lab = Lab::up(&spec(same_node).unwrap(), &Options::default()).unwrap();
    // 8 MiB is beyond every buffer between two applications, so that flow control has to work end to end.
    let some = 8 << 20;
    for to in ["near", "far", "plain-near", "plain-far"] {
        for service in [false, true] {
            manners(&lab, &mut checks, "client", to, service, false, some);
        }
        manners(&lab, &mut checks, "client", to, true, true, some);
    }
    for to in ["near", "far"] {
        manners(&lab, &mut checks, "plain-client", to, false, false, some);
        manners(&lab, &mut checks, "plain-client", to, false, true, some);
    }
    let far = address(&lab, "far", true, false).unwrap();
    checks.check("1 GiB both ways at once", || {
        good(&call(&lab, "client", "both", far, &["--bytes", &(1u64 << 30).to_string()])?)
    });
    checks.check("5 000 short connections", || good(&call(&lab, "client", "who", far, &["--times", "5000"])?));
    checks.check("the wire carries no marker of captured pods", || {
        let marker = "do-not-read-me-7f3a";
        let capture = lab.wire_capture("")?;
        let url = format!("http://{far}:9001/{marker}");
        let done = lab.pod("client")?.command("curl").args(["-s", "--http0.9", "-m", "5", &url]).output()?;
        let captured = capture.finish()?;
        ensure!(captured.packets() > 0, "nothing crossed the wire at all: {}", done.errors());
        ensure!(
            captured.count_bytes(marker.as_bytes()) == 0,
            "{} bytes in clear",
            captured.count_bytes(marker.as_bytes())
        );
        Ok(())
    });
    lab.down().unwrap();
    checks.finish();
}

#[test]
fn with_mutual_tls_on_the_same_node() {
    run("mtls");
}

#[test]
fn directly_on_the_same_node() {
    run("direct");
}
