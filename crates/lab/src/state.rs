//! What is known of a raised lab, in its folder, so that any later command can work on it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, LabError};
use crate::fault::FaultEntry;
use crate::paths::{LABS, Paths};
use crate::plan::Plan;
use crate::process::Record;

/// A lab as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Names and addresses.
    pub(crate) plan: Plan,
    /// Processes that were started, ended ones as well.
    pub(crate) processes: Vec<Record>,
    /// Generations of ztunnel that live.
    pub(crate) ztunnels: Vec<Ztunnel>,
    /// Faults that are on.
    pub(crate) faults: Vec<FaultEntry>,
    /// Whether raising came to its end.
    pub(crate) raised: bool,
}

/// One generation of a node's ztunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ztunnel {
    pub(crate) node: String,
    /// From 1.
    pub(crate) generation: u32,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) host_interface: String,
}

impl Ztunnel {
    /// Name of the process.
    pub(crate) fn process(&self) -> String {
        process_name(&self.node, self.generation)
    }

    /// Name of its namespace.
    pub(crate) fn netns(&self) -> String {
        format!("{}-ztunnel-{}", self.node, self.generation)
    }
}

/// Name of the process of a generation.
pub(crate) fn process_name(node: &str, generation: u32) -> String {
    format!("{node}/ztunnel-{generation}")
}

impl State {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, processes: Vec::new(), ztunnels: Vec::new(), faults: Vec::new(), raised: false }
    }

    /// Reads the state of a lab; `None` when nothing was written yet.
    pub(crate) fn load(paths: &Paths) -> Result<Option<Self>, LabError> {
        let path = paths.state();
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(|| format!("cannot read {}", path.display())),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| LabError::State { path, source }),
        }
    }

    pub(crate) fn save(&self, paths: &Paths) -> Result<(), LabError> {
        write_json(&paths.state(), self)
    }

    /// A process by name.
    pub(crate) fn process(&self, name: &str) -> Result<&Record, LabError> {
        let known = || self.processes.iter().map(|p| p.launch.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.processes.iter().find(|p| p.launch.name == name);
        found.ok_or_else(|| LabError::Unknown { kind: "process", name: name.to_owned(), known: known() })
    }

    /// Replaces or adds what is known of a process.
    pub(crate) fn put_process(&mut self, record: Record) {
        match self.processes.iter_mut().find(|p| p.launch.name == record.launch.name) {
            Some(there) => *there = record,
            None => self.processes.push(record),
        }
    }
}

/// Writes a file in one step: a reader sees the old one or the new one.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<(), LabError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let written = File::create(&beside).and_then(|mut f| f.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&beside, path)).doing(|| format!("cannot write {}", path.display()))
}

/// Writes a document as JSON, which is YAML as well.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), LabError> {
    let text = serde_json::to_string_pretty(value);
    write_atomically(path, &text.map_err(|source| LabError::State { path: path.to_owned(), source })?)
}

/// Who was killed leaves the lock to a child that it had just forked, until that becomes its program: milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// Keeps others from changing the lab; let go of when dropped, and by the kernel when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says that somebody has it for longer than [`LOCK_WITHIN`].
    pub(crate) fn take(paths: &Paths) -> Result<Self, LabError> {
        fs::create_dir_all(LABS).doing(|| format!("cannot make {LABS}"))?;
        let path = paths.lock();
        let deadline = Instant::now() + LOCK_WITHIN;
        loop {
            let open = File::options().create(true).truncate(false).write(true).open(&path);
            let file = open.doing(|| format!("cannot open {}", path.display()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // flock(2) has no time limit of its own.
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(LOCK_AGAIN);
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LabError::Locked(paths.name().to_owned())),
                Err(e) => return Err(e).doing(|| format!("cannot lock {}", path.display())),
            }
            // Its last holder may have removed the file between our opening and locking it: that lock binds nobody.
            let ours = file.metadata().doing(|| format!("cannot read {}", path.display()))?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(Self { _file: file });
            }
        }
    }
}
