//! What the waypoint says of what it did.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_lab::{Checks, eventually};
use lab::Lab;

use super::call::{ask, log};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    checks.check("metrics are Istio's, told by the waypoint", || metrics(lab));
    checks.check("each request has its line", || {
        ask(lab, "bare/logged?q=1", &["-H", "user-agent: tester"])?.expect(200)?;
        eventually(Duration::from_secs(5), || {
            let log = log(lab, "waypoint/wp")?;
            let line = log.lines().find(|l| l.contains("/logged?q=1"));
            ensure!(line.is_some_and(|l| l.contains("\"tester\"") && l.contains(" 200 ")), "{line:?}");
            Ok(())
        })
    });
    checks.check("the spans of a request join the caller's trace, and the backend's", || trace(lab));
}

fn metrics(lab: &Lab) -> Result<()> {
    let done = lab.pod("wp")?.command("curl").args(["-sS", "http://127.0.0.1:15020/metrics"]).output()?;
    let text = done.text();
    let wanted = [
        "istio_requests_total{reporter=\"waypoint\"",
        "source_workload=\"web\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_workload=\"v",
        "destination_service=\"bare.shop.svc.cluster.local\"",
        "response_code=\"200\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    let found = text.lines().any(|line| wanted.iter().all(|part| line.contains(part)));
    let near: Vec<_> = text.lines().filter(|l| l.starts_with(wanted[0])).take(3).collect();
    ensure!(found, "no such series; there are {near:#?}");
    ensure!(text.contains("istio_request_duration_milliseconds_bucket"), "no histogram");
    Ok(())
}

fn trace(lab: &Lab) -> Result<()> {
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let answer = ask(lab, "bare/traced", &["-H", &parent])?.expect(200)?;
    let seen = answer.seen("traceparent")?.unwrap_or_default();
    ensure!(seen.contains(TRACE) && !seen.contains("00f067aa0ba902b7"), "the backend saw {seen:?}");
    // Spans wait up to 5 s for others.
    eventually(Duration::from_secs(12), || {
        let spans = lab.spans()?;
        let ours: Vec<_> = spans.iter().filter(|s| s.trace == TRACE).collect();
        let kinds = ours.iter().map(|s| s.name.as_str()).collect::<Vec<_>>();
        ensure!(ours.len() >= 2, "{} spans: {kinds:?}", ours.len());
        Ok(())
    })
}
