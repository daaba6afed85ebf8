//! Processes of a cluster: started into their control group and namespaces, with a log each.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{ClusterError, Doing};
use crate::paths::Paths;
use crate::tool::SEARCH_PATH;

/// Nobody tells when a foreign program is ready, so it is asked; often enough not to be noticed.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `hub/etcd`, `node1/kubelet`.
    pub(crate) name: String,
    pub(crate) pid: u32,
    /// In clock ticks since boot (proc(5), field 22 of stat); with the number it names a process for good.
    pub(crate) started: u64,
}

impl Record {
    /// Of a process that is there now.
    pub(crate) fn of(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid, started: start_time(pid).unwrap_or_default() }
    }

    /// Whether it still is the one that was started, and not a stranger with its number, and runs.
    pub(crate) fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Namespaces, by the process that holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Inside {
    /// None but the machine's.
    Machine,
    /// All of a hub or node.
    All(u32),
    /// The network alone, with the machine's files.
    Network(u32),
}

/// A process as it is to be started.
pub(crate) struct Launch<'a> {
    /// `hub/etcd`, `node1/kubelet`.
    pub(crate) name: &'a str,
    /// Its control group's folder.
    pub(crate) group: &'a Path,
    /// The namespaces that it joins.
    pub(crate) inside: Inside,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
}

// Joins the control group as itself, then becomes the program.
const JOIN: &str = r#"echo 0 >"$1/cgroup.procs" && shift && exec "$@""#;

impl Launch<'_> {
    /// The command, without what it reads and writes.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "sh"]).arg(self.group);
        match self.inside {
            Inside::Machine => {}
            Inside::All(holder) => drop(command.args(enter(holder))),
            Inside::Network(holder) => drop(command.args(["nsenter", "-t", &holder.to_string(), "-n", "--"])),
        }
        command.args(&self.argv);
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", "/root").env("LANG", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }

    /// The same for one that lives as long as the cluster: Ctrl-C at the terminal is for the one who raises it, who then
    /// takes it down in order.
    pub(crate) fn lasting(&self) -> Command {
        let mut command = self.command();
        command.process_group(0);
        command
    }

    /// Starts it with a log.
    pub(crate) fn start(&self, paths: &Paths) -> Result<Process, ClusterError> {
        let path = paths.log(self.name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.doing(|| format!("cannot open {}", path.display()))?;
        let errors = log.try_clone().doing(|| "cannot duplicate a log's handle".to_owned())?;
        let child = self.lasting().stdout(log).stderr(errors).spawn();
        let child = child.doing(|| format!("cannot start {}", self.name))?;
        // Our own child keeps its number until we wait for it, so this is the right one's time even if it ended.
        let record = Record::of(self.name, child.id());
        Ok(Process { child, record })
    }
}

/// The words before a command that is to run in the namespaces of a hub or node.
pub(crate) fn enter(holder: u32) -> Vec<String> {
    let holder = holder.to_string();
    ["nsenter", "-t", &holder, "-m", "-n", "-u", "--"].map(str::to_owned).to_vec()
}

/// A child of ours.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) record: Record,
}

impl Process {
    /// Asks until `ready` says yes. Ends early when the process does.
    pub(crate) fn until_ready(
        &mut self,
        paths: &Paths,
        within: Duration,
        cancel: &AtomicBool,
        mut ready: impl FnMut() -> Result<bool, ClusterError>,
    ) -> Result<(), ClusterError> {
        let deadline = Instant::now() + within;
        loop {
            if ready()? {
                return Ok(());
            }
            let ended = self.child.try_wait().doing(|| format!("cannot wait for {}", self.record.name))?;
            let why = match ended {
                Some(status) => format!("ended ({status})"),
                None if Instant::now() > deadline => format!("is not ready after {within:?}"),
                None if cancel.load(Ordering::Relaxed) => return Err(ClusterError::Cancelled),
                None => {
                    std::thread::sleep(ASK_EVERY);
                    continue;
                }
            };
            let log = log_tail(&paths.log(&self.record.name));
            return Err(ClusterError::NotReady { what: self.record.name.clone(), why, log });
        }
    }
}

/// The last lines of a log with a heading, for an error; empty when there are none.
pub(crate) fn log_tail(path: &Path) -> String {
    // About 20 lines.
    const BYTES: u64 = 4000;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    match read() {
        Ok(text) if !text.is_empty() => format!("\n--- the end of {}:\n{text}", path.display()),
        _ => String::new(),
    }
}

// None also for a zombie: it has ended. The name in field 2 may hold anything, also ')': count from the last one.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 22; the state was field 3.
    let started = fields.nth(18)?.parse().ok()?;
    (state != "Z").then_some(started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_knows_its_process_from_a_stranger() {
        let own = Record::of("test", std::process::id());
        assert!(own.alive());
        assert!(!Record { started: own.started + 1, ..own.clone() }.alive());
        let mut child = Command::new("true").spawn().unwrap();
        let ended = Record::of("test", child.id());
        child.wait().unwrap();
        assert!(!ended.alive());
    }
}
