//! The order of measuring: in every round each work direct, then meshed, so that what the machine does meanwhile meets
//! both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Settings;
use crate::memory;
use crate::report::Report;
use crate::site::{Form, Site};
use crate::work::Work;

/// Enrolled pods by which the memory of one is found.
const PODS: usize = 20;
/// A size needs no repetition as a speed does, but must not hang on one accident.
const MEMORY_ROUNDS: u32 = 3;
/// Open connections at most, with room for everything else a process has open.
const DESCRIPTORS: u64 = 6000;

/// Measures everything that is wanted, and reports it.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let began = Instant::now();
    enough_descriptors()?;
    let works: Vec<Work> = Work::all(settings.quick).into_iter().filter(|w| settings.wants(&w.key())).collect();
    let (start, size) = (settings.wants(memory::START), settings.wants(memory::MEMORY));
    ensure!(!works.is_empty() || start || size, "no figure begins with {:?}", settings.only);
    let site = Site::up(settings)?;
    let mut report = Report::new(settings);
    let memory_rounds = if settings.quick { 1 } else { settings.rounds.min(MEMORY_ROUNDS) };
    for round in 0..settings.rounds {
        let round_began = Instant::now();
        for work in &works {
            for form in Form::BOTH {
                let ran = work.run(&site, form, settings.seconds)?;
                report.add(form, ran.figures, Some(ran.others));
            }
        }
        // Last: it starts the proxies anew.
        if (start || size) && round < memory_rounds {
            report.add(Form::Meshed, memory::round(&site, size)?, None);
        }
        eprintln!("[{:5.1} s] round {} of {}", began.elapsed().as_secs_f64(), round + 1, settings.rounds);
        let next = began.elapsed() + round_began.elapsed();
        if round + 1 < settings.rounds && next > Duration::from_secs(settings.limit) {
            eprintln!("the next round would end after the limit of {} s: stopping here", settings.limit);
            break;
        }
    }
    if size {
        report.add(Form::Meshed, memory::pods(&site, PODS)?, None);
    }
    report.print();
    eprintln!("[{:5.1} s] done", began.elapsed().as_secs_f64());
    if let Some(file) = &settings.json {
        std::fs::write(file, report.json()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if settings.keep { Ok(()) } else { Ok(site.lab.down()?) }
}

/// As many descriptors as we may have, for us and for what we start: shells give 1024.
pub(crate) fn enough_descriptors() -> Result<()> {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).context("descriptors")?;
    let most = now.maximum.unwrap_or(u64::MAX);
    ensure!(most >= DESCRIPTORS, "{most} descriptors are too few; raise the limit (ulimit -Hn) to {DESCRIPTORS}");
    Ok(())
}
