//! Processes of a lab: started through the helper, remembered with their start time, so that no stranger who got a
//! recycled number is ever killed.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, LabError};
use crate::inside::{Enter, HELPER};
use crate::tools::SEARCH_PATH;

/// How a process is started, and started again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Name within the lab: `ca`, `node1/agent`, `node1/ztunnel-1`, `pod/web`.
    pub(crate) name: String,
    pub(crate) argv: Vec<String>,
    pub(crate) enter: Enter,
    pub(crate) env: BTreeMap<String, String>,
    /// Where stdout and stderr go, appended.
    pub(crate) log: PathBuf,
}

/// A process that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) launch: Launch,
    pub(crate) pid: i32,
    /// In clock ticks since boot (proc(5), field 22 of stat); with the number it names a process for good.
    pub(crate) started: u64,
    /// Times that it was started again.
    pub(crate) restarts: u32,
}

impl Record {
    /// A handle of the process, if it still is the one that was started.
    pub(crate) fn handle(&self) -> Option<OwnedFd> {
        handle(self.pid, Some(self.started))
    }

    /// Whether it runs: a zombie does not.
    pub(crate) fn alive(&self) -> bool {
        self.handle().is_some_and(|h| !ended(&h))
    }
}

impl Launch {
    /// Starts it.
    pub(crate) fn start(&self) -> Result<(Child, Record), LabError> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.doing(|| format!("cannot open {}", self.log.display()))?;
        let errors = log.try_clone().doing(|| "cannot duplicate a log's handle".to_owned())?;
        let mut command = self.enter.command(&self.argv)?;
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", "/root").env("LANG", "C.UTF-8").envs(&self.env);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().doing(|| format!("cannot start {}", self.name))?;
        // Our own child keeps its number until we wait for it, so this is the right one's time even if it ended.
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let started = start_time(pid).unwrap_or_default();
        Ok((child, Record { launch: self.clone(), pid, started, restarts: 0 }))
    }
}

impl Enter {
    /// The command that runs `argv` where this says.
    pub(crate) fn command(&self, argv: &[String]) -> Result<Command, LabError> {
        let mut command = Command::new(program("culvert", "culvert")?);
        let json = serde_json::to_string(self).map_err(|source| LabError::State { path: HELPER.into(), source })?;
        command.arg(HELPER).arg(json).args(argv);
        Ok(command)
    }
}

/// A program of ours: beside our executable, or one folder up, where a test's executable has the programs.
pub(crate) fn program(name: &str, package: &'static str) -> Result<PathBuf, LabError> {
    let exe = env::current_exe().doing(|| "cannot find our own executable".to_owned())?;
    let folder = exe.parent().unwrap_or(Path::new("/"));
    let found = [Some(folder), folder.parent()].into_iter().flatten().map(|f| f.join(name)).find(|p| p.is_file());
    found.ok_or_else(|| LabError::NoProgram { program: name.to_owned(), package, folder: folder.to_owned() })
}

/// A handle of a process; with a start time only of the one that was started then.
pub(crate) fn handle(pid: i32, started: Option<u64>) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Read after opening: if the time is right now, the handle is of the right process.
    match (started, start_time(pid)) {
        (Some(wanted), Some(found)) if wanted == found => Some(handle),
        (None, _) => Some(handle),
        _ => None,
    }
}

/// Whether the process has ended.
pub(crate) fn ended(handle: &OwnedFd) -> bool {
    wait_for(std::slice::from_ref(handle), Duration::ZERO)
}

/// Sends a signal; a process that has ended already is no error.
pub(crate) fn signal(handle: &OwnedFd, signal: Signal) -> Result<(), LabError> {
    match pidfd_send_signal(handle, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e).doing(|| "cannot send a signal".to_owned()),
    }
}

/// Waits until all have ended; false when time ran out.
pub(crate) fn wait_for(handles: &[OwnedFd], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    handles.iter().all(|handle| {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(handle, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                // Interrupted: wait for what is left.
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    })
}

/// Ends processes: SIGTERM, and SIGKILL for those that are still there after `grace`.
///
/// Gives back whether all have ended.
pub(crate) fn end(handles: &[OwnedFd], grace: Duration) -> Result<bool, LabError> {
    handles.iter().try_for_each(|h| signal(h, Signal::TERM))?;
    if wait_for(handles, grace) {
        return Ok(true);
    }
    handles.iter().try_for_each(|h| signal(h, Signal::KILL))?;
    // SIGKILL takes effect at once unless the process waits inside the kernel; seconds mean it is stuck there.
    Ok(wait_for(handles, Duration::from_secs(5)))
}

/// Kills a process and its workers (SIGKILL), and waits for their end. Gives back whether all have ended.
pub(crate) fn kill(record: &Record) -> Result<bool, LabError> {
    // The leader first, so that it starts no new worker.
    let mut handles: Vec<_> = record.handle().into_iter().collect();
    handles.iter().try_for_each(|h| signal(h, Signal::KILL))?;
    let workers = followers(record);
    workers.iter().try_for_each(|h| signal(h, Signal::KILL))?;
    handles.extend(workers);
    Ok(wait_for(&handles, Duration::from_secs(5)))
}

/// The last lines of a log with a heading, for an error; empty when there are none.
pub(crate) fn log_tail(path: &Path) -> String {
    // About 20 lines.
    const BYTES: u64 = 2000;
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

/// Handles of the other processes in the session that a process of the lab leads: a server's workers, which live on when
/// only their parent is killed and keep its port.
fn followers(leader: &Record) -> Vec<OwnedFd> {
    // A session's number is not given to another process while a member lives; one that has it now is a stranger.
    let stranger = start_time(leader.pid).is_some_and(|found| found != leader.started);
    if stranger || !leader.launch.enter.session {
        return Vec::new();
    }
    let of_session = |pid: i32| stat_field(pid, 6) == u64::try_from(leader.pid).ok();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != leader.pid);
    others.filter(|pid| of_session(*pid)).filter_map(|pid| handle(pid, None).filter(|_| of_session(pid))).collect()
}

fn start_time(pid: i32) -> Option<u64> {
    stat_field(pid, 22)
}

// A field of stat (proc(5)) from the third on. The name in field 2 may hold anything, also ')': count from the last one.
fn stat_field(pid: i32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}
