//! The figures under load: one kind of work for some seconds, through one proxy, whose CPU time is read before and after.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::place::{PORT, Place, Proxy, Speech};
use crate::report::Figure;
use crate::site::said;
use crate::usage::{cpus, group_seconds, machine_seconds, threads};
use crate::work::{number, wrk};

/// A kind of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    speech: Speech,
    /// Requests a second; `None`: as fast as answers come.
    rate: Option<u64>,
}

/// What one run of a work gave.
pub(super) struct Ran {
    pub(super) figures: Vec<Figure>,
    /// Share of the machine's CPUs that neither the lab nor idling had.
    pub(super) others: f64,
}

/// Requests under way at one time at saturation. With gRPC they are on [`CONNECTIONS`] connections.
const IN_FLIGHT: usize = 64;
const CONNECTIONS: usize = 8;
/// Those that carry a fixed rate.
const LANES: usize = 16;
/// Time beyond the load itself until a run counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

impl Work {
    /// At saturation, and at rates that are well below it with either proxy.
    pub(super) const ALL: [Self; 6] = [
        Self { speech: Speech::Http, rate: None },
        Self { speech: Speech::Http, rate: Some(500) },
        Self { speech: Speech::Http, rate: Some(1000) },
        Self { speech: Speech::Grpc, rate: None },
        Self { speech: Speech::Grpc, rate: Some(500) },
        Self { speech: Speech::Grpc, rate: Some(1000) },
    ];

    /// What its figures' keys begin with.
    pub(super) fn key(self) -> String {
        match self.rate {
            None => format!("{}.full", self.speech.word()),
            Some(rate) => format!("{}.{rate}", self.speech.word()),
        }
    }

    /// Runs it.
    pub(super) fn run(self, place: &Place, proxy: Proxy, seconds: u64) -> Result<Ran> {
        let before = Moment::now(place, proxy)?;
        let said = self.load(place, proxy, seconds).with_context(|| format!("{} {}", self.key(), proxy.word()))?;
        let (cpu, others) = before.since(place, proxy)?;
        let mut figures = Vec::new();
        let mut add = |name: &str, unit: &'static str, value: f64| {
            figures.push(Figure { key: format!("{}.{name}", self.key()), unit, value });
        };
        match self.rate {
            None => add("rate", "1/s", number(&said, "rate")?),
            Some(_) => {
                for name in ["p50", "p99", "p999"] {
                    add(name, "us", number(&said, name)?);
                }
                add("reached", "1/s", number(&said, "rate")?);
            }
        }
        add("cpu", "CPU-ms/1000", cpu * 1e6 / number(&said, "count")?);
        Ok(Ran { figures, others })
    }

    fn load(self, place: &Place, proxy: Proxy, seconds: u64) -> Result<Value> {
        let within = Duration::from_secs(seconds) + PATIENCE;
        let ip = place.service(self.speech, proxy)?.to_string();
        if let (Speech::Http, None) = (self.speech, self.rate) {
            let url = format!("http://{ip}:{PORT}/");
            let args = ["-t1".to_owned(), format!("-c{IN_FLIGHT}"), format!("-d{seconds}s"), url];
            let done = place.client("wrk")?.args(args).timeout(within).output()?;
            return wrk(&said(&done, "wrk (Debian package wrk)")?);
        }
        let options = match (self.speech, self.rate) {
            (Speech::Http, rate) => vec![("--rate", rate.unwrap_or_default()), ("--connections", LANES as u64)],
            (Speech::Grpc, None) => {
                vec![("--connections", CONNECTIONS as u64), ("--lanes", IN_FLIGHT as u64)]
            }
            (Speech::Grpc, Some(rate)) => {
                vec![("--connections", CONNECTIONS as u64), ("--lanes", LANES as u64), ("--rate", rate)]
            }
        };
        let mode = match self.speech {
            Speech::Http => "latency",
            Speech::Grpc => "grpc",
        };
        let mut args = vec![mode.to_owned(), ip];
        for (name, value) in options.into_iter().chain([("--port", PORT.into()), ("--seconds", seconds)]) {
            args.extend([name.to_owned(), value.to_string()]);
        }
        place.loaded(&args, within)
    }
}

/// CPU seconds up to a moment.
struct Moment {
    at: Instant,
    proxy: f64,
    lab: f64,
    machine: f64,
}

impl Moment {
    fn now(place: &Place, proxy: Proxy) -> Result<Self> {
        // By the scheduler's own count: ticks of 10 ms would be too coarse for a second at a low rate.
        let ran = threads(place.pid(proxy)?, "")?.ran;
        let group = place.lab.infra();
        let root = group.cgroup().parent().context("a control group has a parent")?;
        let proxy = Duration::from_nanos(ran).as_secs_f64();
        Ok(Self { at: Instant::now(), proxy, lab: group_seconds(root)?, machine: machine_seconds()? })
    }

    /// CPU seconds of the proxy from then to now, and the share of others.
    fn since(&self, place: &Place, proxy: Proxy) -> Result<(f64, f64)> {
        let now = Self::now(place, proxy)?;
        let seconds = now.at.duration_since(self.at).as_secs_f64() * cpus() as f64;
        let others = (now.machine - self.machine) - (now.lab - self.lab);
        Ok((now.proxy - self.proxy, (others / seconds).clamp(0.0, 1.0)))
    }
}
