//! `bench waypoint`: what a request through a waypoint costs, ours and Envoy in the same place, in turns.
//!
//! client → its ztunnel → waypoint → the server's ztunnel → server, mutual TLS on both tunnels, the same routes in both.
//! `docs/performance.md`, "The waypoint", says how each number is made.

mod envoy;
mod place;
mod size;
mod table;
mod work;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use place::{Place, Proxy};
use table::Table;
use work::Work;

/// How to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Rounds; each measures everything once with both proxies.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load for each figure.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Threads of each proxy that carry connections: both waypoints, and the ztunnels.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Only figures whose key begins like this (http, grpc.full, size, …); may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Only our own waypoint, for a profile.
    #[arg(long)]
    alone: bool,
    /// Neither writes an access log.
    #[arg(long)]
    no_log: bool,
    /// Writes all values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leave the lab `bench-waypoint` up afterwards; `culvert lab down --name bench-waypoint` takes it down.
    #[arg(long)]
    keep: bool,
}

impl Settings {
    fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| key.starts_with(o.as_str()) || o.starts_with(key))
    }

    fn proxies(&self, round: u32) -> Vec<Proxy> {
        let mut all = if self.alone { vec![Proxy::Culvert] } else { Proxy::BOTH.to_vec() };
        // Neither is always the one that comes after the other.
        if round % 2 == 1 {
            all.reverse();
        }
        all
    }
}

/// Measures, and prints the table.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let began = Instant::now();
    crate::run::enough_descriptors()?;
    let works: Vec<Work> = Work::ALL.into_iter().filter(|work| settings.wants(&work.key())).collect();
    let size = settings.wants(size::KEY);
    ensure!(!works.is_empty() || size, "no figure begins with {:?}", settings.only);
    let mut place = Place::up(settings)?;
    let mut table = Table::default();
    for round in 0..settings.rounds {
        for work in &works {
            for proxy in settings.proxies(round) {
                let ran = work.run(&place, proxy, settings.seconds)?;
                table.add(proxy, ran.figures, Some(ran.others));
            }
        }
        if size {
            for proxy in settings.proxies(round) {
                table.add(proxy, size::round(&mut place, proxy)?, None);
            }
        }
        eprintln!("[{:5.1} s] round {} of {}", began.elapsed().as_secs_f64(), round + 1, settings.rounds);
    }
    table.print(settings);
    if let Some(file) = &settings.json {
        std::fs::write(file, table.json()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if settings.keep { Ok(()) } else { place.down() }
}
