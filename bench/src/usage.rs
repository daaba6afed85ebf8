//! What `/proc` and the control groups say of time and memory.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::site::Site;

/// Ticks a second in `/proc/<pid>/stat` and `/proc/stat` (USER_HZ): part of the kernel's interface, 100 wherever we run.
const TICKS: f64 = 100.0;

/// CPU seconds up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    proxies: f64,
    lab: f64,
    machine: f64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    /// CPU seconds of both ztunnels, user and system.
    pub(crate) proxies: f64,
    /// Share of the machine's CPUs that neither the lab nor idling had: others' work, which disturbs ours.
    pub(crate) others: f64,
}

impl Usage {
    /// Now.
    pub(crate) fn now(site: &Site) -> Result<Self> {
        let mut proxies = 0.0;
        for pid in site.proxies()? {
            proxies += process_seconds(pid)?;
        }
        let group = site.lab.infra();
        let root = group.cgroup().parent().context("a control group has a parent")?;
        Ok(Self { at: Instant::now(), proxies, lab: group_seconds(root)?, machine: machine_seconds()? })
    }

    /// From `self` to now.
    pub(crate) fn since(self, site: &Site) -> Result<Used> {
        let now = Self::now(site)?;
        let seconds = now.at.duration_since(self.at).as_secs_f64() * cpus() as f64;
        let others = (now.machine - self.machine) - (now.lab - self.lab);
        Ok(Used { proxies: now.proxies - self.proxies, others: (others / seconds).clamp(0.0, 1.0) })
    }
}

/// CPUs that we may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: i32) -> Result<f64> {
    status(pid, "VmRSS:")
}

/// A size that the kernel knows of a process, bytes; `key` with its colon.
pub(crate) fn status(pid: i32, key: &str) -> Result<f64> {
    let text = read(Path::new(&format!("/proc/{pid}/status")))?;
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    let line = line.with_context(|| format!("no {key} did the process end?"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| key.to_owned())?;
    Ok(kib * 1024.0)
}

/// CPU seconds of this process.
pub(crate) fn own_seconds() -> Result<f64> {
    process_seconds(i32::try_from(std::process::id()).context("our number")?)
}

// proc(5): fields 14 and 15 are utime and stime. The second field, a name in brackets, may hold spaces.
pub(crate) fn process_seconds(pid: i32) -> Result<f64> {
    let text = read(Path::new(&format!("/proc/{pid}/stat")))?;
    let (_, rest) = text.rsplit_once(')').context("stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // After the bracket comes field 3.
    let ticks = |field: usize| fields.get(field - 3).and_then(|t| t.parse::<f64>().ok()).context("stat");
    Ok((ticks(14)? + ticks(15)?) / TICKS)
}

/// CPU seconds of a control group.
pub(crate) fn group_seconds(group: &Path) -> Result<f64> {
    let text = read(&group.join("cpu.stat"))?;
    let micros = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).context("cpu.stat")?;
    Ok(micros.trim().parse::<f64>().context("cpu.stat")? / 1e6)
}

// First line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. Interrupts are left out: they serve
// the lab's packets and others' alike.
pub(crate) fn machine_seconds() -> Result<f64> {
    let text = read(Path::new("/proc/stat"))?;
    let line = text.lines().next().context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    let at = |i: usize| ticks.get(i).copied().unwrap_or_default();
    Ok((at(0) + at(1) + at(2) + at(7)) / TICKS)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What the scheduler says of the threads of a process whose names begin with a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Threads {
    /// Nanoseconds on a CPU.
    pub(crate) ran: u64,
    /// Nanoseconds ready and without a CPU.
    pub(crate) waited: u64,
}

/// Threads of a process, by name (`/proc/<pid>/task/*/schedstat`, Documentation/scheduler/sched-stats.rst).
pub(crate) fn threads(pid: i32, name: &str) -> Result<Threads> {
    let mut sum = Threads::default();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        if !read(&path.join("comm"))?.starts_with(name) {
            continue;
        }
        let text = read(&path.join("schedstat"))?;
        let mut fields = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(ran)), Some(Ok(waited))) = (fields.next(), fields.next()) else {
            anyhow::bail!("{}: {text:?}", path.display())
        };
        sum.ran += ran;
        sum.waited += waited;
    }
    Ok(sum)
}
