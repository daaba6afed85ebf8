//! Why a call failed: what the proxies wrote of it.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use e2e_cluster::Cluster;
use serde_json::Value;

use super::calls::Failure;

/// Failures that are explained, and lines to each: what fits at the end of a run.
const FAILURES: usize = 4;
const LINES: usize = 4;
/// Clocks are the same; a proxy writes its line when the connection is over.
const AROUND_MS: f64 = 1500.0;

/// Every failure with the access lines of its connection, at both proxies, and what they warned of meanwhile.
pub(crate) fn of(cluster: &Cluster, failures: &[Failure]) -> String {
    let logs = match logs(cluster) {
        Ok(logs) => logs,
        Err(error) => return format!("the proxies' logs cannot be had: {error:#}"),
    };
    let mut text = String::new();
    for failure in failures.iter().take(FAILURES) {
        // Writing to a string does not fail.
        let _written = writeln!(text, "  {} {failure}", time_of_day(failure.at));
        let lines = about(&logs, failure);
        for line in lines.iter().take(LINES) {
            let _written = writeln!(text, "    {line}");
        }
        if lines.is_empty() {
            text.push_str("    no proxy has a line of it\n");
        }
    }
    if failures.len() > FAILURES {
        let _written = writeln!(text, "  and {} more", failures.len() - FAILURES);
    }
    text
}

/// Lines of one failure, the proxy's name before each.
fn about(logs: &[(String, String)], failure: &Failure) -> Vec<String> {
    let all = || logs.iter().flat_map(|(proxy, log)| log.lines().map(move |line| (proxy, line)));
    let tell = |(proxy, line): (&String, &str)| format!("{proxy}: {line}");
    let own = |line: &str| failure.from.as_ref().is_some_and(|from| line.contains(&format!("src.addr={from} ")));
    let traces: BTreeSet<&str> = all().filter(|(_, line)| own(line)).filter_map(|(_, line)| trace(line)).collect();
    let of_connection = |line: &str| own(line) || trace(line).is_some_and(|trace| traces.contains(trace));
    let mut lines: Vec<String> = all().filter(|(_, line)| of_connection(line)).map(tell).collect();
    let meanwhile = |line: &str| {
        unix_ms(line).is_some_and(|at| at >= failure.at - AROUND_MS && at <= failure.at + failure.ms as f64 + AROUND_MS)
    };
    let odd = |line: &str| line.contains("\twarn\t") || line.contains("\terror\t") || line.contains(" error=");
    lines.extend(all().filter(|(_, line)| !of_connection(line) && odd(line) && meanwhile(line)).map(tell));
    lines
}

fn trace(line: &str) -> Option<&str> {
    line.split("trace_id=").nth(1)?.split_whitespace().next()
}

/// Name and log of every proxy, ended ones too as long as they are there.
fn logs(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let pods: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "pods", "-A", "-l", "app=ztunnel", "-o", "json"])?)?;
    let mut logs = Vec::new();
    for pod in pods["items"].as_array().context("no pods")? {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (space, name, node) = (text("/metadata/namespace"), text("/metadata/name"), text("/spec/nodeName"));
        // One that has not started yet has none.
        let log = cluster.kubectl(&["logs", "-n", space, name, "--tail=-1"]).unwrap_or_default();
        logs.push((format!("{node}/{name}"), log));
    }
    Ok(logs)
}

/// When a line was written; it begins with the time, as `2026-01-31T23:59:59.123456Z`.
fn unix_ms(line: &str) -> Option<f64> {
    let (date, rest) = line.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|n| n.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = rest.split(['Z', '\t', ' ']).next()?.splitn(3, ':').map(|n| n.parse::<f64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970 by the civil calendar: years begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some((days as f64 * 86_400.0 + hour * 3_600.0 + minute * 60.0 + second) * 1000.0)
}

fn time_of_day(unix_ms: f64) -> String {
    let ms = unix_ms as u64 % 86_400_000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms as f64 % 60_000.0 / 1000.0);
    format!("{hours:02}:{minutes:02}:{seconds:06.3}")
}

#[test]
fn lines_of_a_call_are_found_by_address_and_trace() {
    let log = |lines: &[&str]| lines.join("\n");
    let one = log(&[
        "2026-11-25T16:39:29.815140Z\tinfo\taccess\tconnection complete src.addr=10.0.0.1:5 trace_id=aa",
        "2026-11-25T16:39:29.815140Z\tinfo\taccess\tconnection complete src.addr=10.0.0.1:55 trace_id=bb",
        "2026-11-25T16:39:30.000000Z\twarn\tzds\tlost",
    ]);
    let two = log(&["2026-11-25T16:39:29.900000Z\tinfo\taccess\tx src.addr=10.0.0.1:900 trace_id=aa"]);
    let at = unix_ms(one.lines().next().unwrap()).unwrap();
    assert_eq!((at, time_of_day(at)), (1_795_624_769_815.14, "16:39:29.815".to_owned()));
    let failure = Failure { at, ms: 3, stage: "Answer".into(), from: Some("10.0.0.1:5".into()), error: "X".into() };
    let lines = about(&[("one".to_owned(), one), ("two".to_owned(), two)], &failure);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with("two: ") && lines[2].contains("lost"), "{lines:?}");
}
