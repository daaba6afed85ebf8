//! Measures what the mesh costs: the same work direct and through the mesh, in turns, on one laboratory. Root.
//!
//! `docs/performance.md` says how each number is made. Where to look: `site` (the lab, its two forms), `run` (the order),
//! `work` (figures under load), `memory` (figures of size), `usage` (what `/proc` says), `report`, `load` (what runs
//! inside the pods), `scale` (a large cluster, by a script), `routes` (the router of waypoints), and `waypoint` (the whole of
//! one, beside Envoy).

mod load;
mod memory;
mod report;
mod routes;
mod run;
mod scale;
mod site;
mod usage;
mod waypoint;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Measures what the mesh costs: the same work direct and through the mesh, in turns. Needs root.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    inside: Option<Inside>,
}

/// How to measure.
#[derive(Args, Clone, Debug)]
struct Settings {
    /// Rounds; each measures everything once in both forms. Fewer than three say nothing about the spread.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load for each figure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Two rounds of one second, without the same node: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Only figures whose key begins like this (bulk, requests.far.16, memory, …); may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Threads of each ztunnel that carry connections.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Meshed pods of one node talk without a tunnel (`sameNode: direct`): changes the figures of `near`.
    #[arg(long)]
    same_node_direct: bool,
    /// No round begins that would probably end after so many seconds.
    #[arg(long, default_value_t = 350)]
    limit: u64,
    /// Writes all values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Leave the lab `bench` up afterwards, to profile on it; `culvert lab down --name bench` takes it down.
    #[arg(long)]
    keep: bool,
}

impl Settings {
    /// For the lab of [`scale`], where the proxies have the default of workers.
    fn for_scale() -> Self {
        Self {
            rounds: 1,
            seconds: 1,
            quick: false,
            only: Vec::new(),
            workers: 2,
            same_node_direct: false,
            limit: u64::MAX,
            json: None,
            keep: false,
        }
    }

    fn wants(&self, key: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| key.starts_with(o.as_str()) || o.starts_with(key))
    }
}

#[derive(Subcommand)]
enum Inside {
    /// What routes cost: one request among 10 000 routes, a change of 1 of 10 000 Services, memory. Without a lab or root.
    Routes {
        #[command(flatten)]
        settings: routes::Settings,
    },
    /// What a large cluster costs: 10 000 pods of which 50 a second change, and a full push of 70 000. Without a lab.
    Scale {
        #[command(flatten)]
        settings: scale::Settings,
    },
    /// What a request through a waypoint costs: ours and Envoy in the same place, in turns. Needs root.
    Waypoint {
        #[command(flatten)]
        settings: waypoint::Settings,
    },
    /// The load, inside a pod.
    #[command(name = load::COMMAND, hide = true)]
    Load {
        #[command(subcommand)]
        role: load::Role,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut settings = cli.settings;
    if settings.quick {
        (settings.rounds, settings.seconds) = (2, 1);
    }
    let outcome = match cli.inside {
        Some(Inside::Load { role }) => role.run(),
        Some(Inside::Routes { settings }) => routes::run(&settings),
        Some(Inside::Scale { settings }) => scale::run(&settings),
        Some(Inside::Waypoint { settings }) => waypoint::run(&settings),
        None => run::run(&settings),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
