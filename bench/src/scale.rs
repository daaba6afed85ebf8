//! `bench scale`: what a large cluster costs the control plane and its nodes. No cluster: the API server is a script.
//!
//! The measured programs are the real ones, as processes of their own; the nodes are the node proxy's own discovery client
//! within this process, and one real node proxy. `docs/performance.md`, "Scale", says how each number is made.

mod api;
mod live;
mod nodes;
mod objects;
mod programs;
mod steps;
mod table;
mod token;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use objects::Size;
use programs::Folder;
use table::Table;

/// How large, how fast, how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Rounds; each starts everything anew.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Pods while pods change.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Services.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Pods that are replaced a second.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Nodes that follow the control plane, besides one real proxy.
    #[arg(long, default_value_t = 10)]
    nodes: usize,
    /// Pods of the full push.
    #[arg(long, default_value_t = 70_000)]
    full: usize,
    /// Leave out the live requests during full pushes, which need a lab and root.
    #[arg(long)]
    no_lab: bool,
    /// Only this part; may be given several times.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Requests a second of the live requests.
    #[arg(long, default_value_t = 500)]
    requests: u64,
    /// Writes all values to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pods change.
    Change,
    /// All nodes connect, and everything changes at once.
    Full,
    /// Live requests during full pushes.
    Live,
}

/// Measures, and prints the table.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    // Before anything is started.
    for name in ["culvert-control", "ztunnel"] {
        programs::built(name)?;
    }
    for size in [settings.small(), settings.large()] {
        // The first one's is the real proxy.
        let (pods, nodes) = (size.pods, size.nodes());
        ensure!(settings.nodes < nodes, "{pods} pods are on {nodes} node(s); --nodes must be less");
        ensure!(settings.services > 0, "--services must be 1 or more");
    }
    ensure!(settings.rate > 0 && settings.seconds > 0, "--rate and --seconds must be 1 or more");
    let began = Instant::now();
    let mut table = Table::new();
    let say = |round: u32, what: &str| eprintln!("[{:6.1} s] round {round}: {what}", began.elapsed().as_secs_f64());
    for round in 1..=settings.rounds {
        let folder = Folder::new()?;
        if settings.measures(Part::Change) {
            say(round, "pods change");
            steps::churn(settings, &folder, &mut table)?;
        }
        if settings.measures(Part::Full) {
            say(round, "full push");
            steps::full(settings, &folder, &mut table)?;
        }
    }
    let mut live = Ok(());
    if settings.measures(Part::Live) {
        eprintln!("[{:6.1} s] live requests during full pushes", began.elapsed().as_secs_f64());
        live = live::run(settings, &mut table);
    }
    // What was measured is not lost with what was not.
    table.print(settings);
    eprintln!("[{:6.1} s] done", began.elapsed().as_secs_f64());
    if let Some(file) = &settings.json {
        std::fs::write(file, table.json()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    live
}

impl Settings {
    fn measures(&self, part: Part) -> bool {
        (self.only.is_empty() || self.only.contains(&part)) && !(self.no_lab && part == Part::Live)
    }

    fn small(&self) -> Size {
        Size { pods: self.pods, services: self.services }
    }

    fn large(&self) -> Size {
        Size { pods: self.full, services: self.services }
    }
}
