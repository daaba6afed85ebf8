//! The figures under load. Each runs one kind of work for some seconds, in one form, and reads the proxies' CPU time
//! before and after.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::load;
use crate::report::Figure;
use crate::site::{Form, HTTP, Reach, Site, said};
use crate::usage::Usage;

/// A kind of work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Streams that send as fast as they can.
    Bulk { reach: Reach, streams: usize },
    /// Small HTTP/1.1 requests on keep-alive connections, as fast as answers come.
    Requests { reach: Reach, connections: usize },
    /// The same at a fixed rate.
    Latency { rate: u64 },
    /// New connections: one byte each way, close.
    Connections,
}

/// What one run of a work gave.
pub(crate) struct Ran {
    pub(crate) figures: Vec<Figure>,
    /// See [`crate::usage::Used::others`].
    pub(crate) others: f64,
}

/// Connections that carry a fixed rate.
const LATENCY_CONNECTIONS: usize = 16;
/// Clients that open connections at the same time.
const OPENERS: usize = 16;
/// Time beyond the load itself until a run counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

impl Work {
    /// All of them; without the same node when `quick`.
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let reaches: &[Reach] = if quick { &[Reach::Far] } else { &[Reach::Far, Reach::Near] };
        let mut all = Vec::new();
        for reach in reaches {
            all.extend([1, 8].map(|streams| Self::Bulk { reach: *reach, streams }));
        }
        for reach in reaches {
            all.extend([16, 64].map(|connections| Self::Requests { reach: *reach, connections }));
        }
        all.extend([1000, 5000].map(|rate| Self::Latency { rate }));
        all.push(Self::Connections);
        all
    }

    /// What its figures' keys begin with.
    pub(crate) fn key(self) -> String {
        match self {
            Self::Bulk { reach, streams } => format!("bulk.{}.{streams}", reach.word()),
            Self::Requests { reach, connections } => format!("requests.{}.{connections}", reach.word()),
            Self::Latency { rate } => format!("latency.far.{rate}"),
            Self::Connections => "connections.far".to_owned(),
        }
    }

    /// Runs it.
    pub(crate) fn run(self, site: &Site, form: Form, seconds: u64) -> Result<Ran> {
        let before = Usage::now(site)?;
        let outcome = self.load(site, form, seconds).with_context(|| format!("{} {form:?}", self.key()))?;
        let used = before.since(site)?;
        let mut figures = Vec::new();
        let mut add = |name: &str, unit: &'static str, value: f64| {
            figures.push(Figure { key: format!("{}.{name}", self.key()), unit, value });
        };
        match self {
            Self::Bulk { .. } => {
                let (bytes, took) = (number(&outcome, "bytes")?, number(&outcome, "seconds")?);
                add("throughput", "Gbit/s", bytes * 8.0 / 1e9 / took);
                add("cpu", "CPU-s/GB", used.proxies / (bytes / 1e9));
            }
            Self::Requests { .. } => {
                add("rate", "1/s", number(&outcome, "rate")?);
                add("cpu", "CPU-ms/1000", used.proxies * 1e6 / number(&outcome, "count")?);
            }
            Self::Latency { .. } => {
                add("p50", "us", number(&outcome, "p50")?);
                add("p99", "us", number(&outcome, "p99")?);
                add("reached", "1/s", number(&outcome, "rate")?);
            }
            Self::Connections => {
                add("rate", "1/s", number(&outcome, "rate")?);
                add("cpu", "CPU-ms", used.proxies * 1e3 / number(&outcome, "count")?);
            }
        }
        if form == Form::Direct {
            // Nothing of ours is in between; what the idle proxies used is not the price of anything.
            figures.retain(|f| !f.unit.starts_with("CPU"));
        }
        Ok(Ran { figures, others: used.others })
    }

    fn load(self, site: &Site, form: Form, seconds: u64) -> Result<Value> {
        let within = Duration::from_secs(seconds) + PATIENCE;
        let reach = match self {
            Self::Bulk { reach, .. } | Self::Requests { reach, .. } => reach,
            Self::Latency { .. } | Self::Connections => Reach::Far,
        };
        let ip = site.server(form, reach)?.to_string();
        let ours = |mode: &str, options: &[(&str, u64)]| {
            let mut args = vec![mode.to_owned(), ip.clone()];
            for (name, value) in options.iter().chain(&[("--seconds", seconds)]) {
                args.extend([(*name).to_owned(), value.to_string()]);
            }
            site.loaded(form, &args, within)
        };
        match self {
            Self::Bulk { streams, .. } => ours("bulk", &[("--streams", streams as u64)]),
            Self::Latency { rate } => {
                ours("latency", &[("--rate", rate), ("--connections", LATENCY_CONNECTIONS as u64)])
            }
            Self::Connections => ours("churn", &[("--openers", OPENERS as u64)]),
            Self::Requests { connections, .. } => {
                let url = format!("http://{ip}:{HTTP}/");
                let args = ["-t1".to_owned(), format!("-c{connections}"), format!("-d{seconds}s"), url];
                let done = site.client(form, "wrk")?.args(args).timeout(within).output()?;
                wrk(&said(&done, "wrk (Debian package wrk)")?)
            }
        }
    }
}

/// A number of what a load said.
pub(crate) fn number(outcome: &Value, name: &str) -> Result<f64> {
    outcome.get(name).and_then(Value::as_f64).with_context(|| format!("no {name} in {outcome}"))
}

// "  36543 requests in 3.00s, 10.11MB read", "Requests/sec:  12180.10"; two further lines only when something failed.
pub(crate) fn wrk(text: &str) -> Result<Value> {
    ensure!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "wrk saw errors: {text}");
    let count = text.lines().find_map(|l| l.split_once(" requests in ")?.0.trim().parse::<f64>().ok());
    let rate = text.lines().find_map(|l| l.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    let (count, rate) = count.zip(rate).with_context(|| format!("wrk says something new: {text}"))?;
    ensure!(count > 0.0, "wrk got no answer");
    Ok(serde_json::json!({"count": count, "rate": rate}))
}

// The load's ports and nginx's must not meet.
const _: () = assert!(HTTP < load::SINK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read_and_its_errors_are_seen() {
        let good = "Running 3s test @ http://10.244.2.10:8080/\n  36543 requests in 3.00s, 10.11MB read\nRequests/sec:  12180.10\n";
        assert_eq!(wrk(good).unwrap(), serde_json::json!({"count": 36543.0, "rate": 12180.1}));
        assert!(wrk(&format!("{good}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(wrk(&format!("{good}  Socket errors: connect 0, read 1, write 0, timeout 0\n")).is_err());
        assert!(wrk("unable to connect to 10.244.2.10:8080 Connection refused").is_err());
    }
}
