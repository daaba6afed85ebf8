//! What is known of a cluster, in its folder, so that any later command can work on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{ClusterError, Doing};
use crate::options::{Cni, ProxyMode};
use crate::parts::Parts;
use crate::paths::{CLUSTERS, LOCK, Paths};
use crate::process::Record;

/// A cluster as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) cni: Cni,
    pub(crate) proxy_mode: ProxyMode,
    pub(crate) masquerade: bool,
    /// Who takes it down when done; nobody for one that is left up.
    pub(crate) owner: Option<Record>,
    /// The programs that it is made of.
    pub(crate) parts: Parts,
    /// Holder of the hub's namespaces.
    pub(crate) hub: Option<u32>,
    pub(crate) nodes: Vec<NodeState>,
    pub(crate) processes: Vec<Record>,
    /// Settings of the machine from before.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Whether raising came to its end.
    pub(crate) raised: bool,
}

/// A node as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Holder of its namespaces.
    pub(crate) holder: u32,
    /// Its pod network, once the controller manager has given it one.
    pub(crate) pod_cidr: Option<String>,
}

impl State {
    /// Reads the state of a cluster; `None` when nothing was written yet.
    pub(crate) fn load(paths: &Paths) -> Result<Option<Self>, ClusterError> {
        let path = paths.state();
        match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(|| format!("cannot read {}", path.display())),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| ClusterError::Json { what: path.display().to_string(), source }),
        }
    }

    pub(crate) fn save(&self, paths: &Paths) -> Result<(), ClusterError> {
        let path = paths.state();
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|source| ClusterError::Json { what: path.display().to_string(), source })?;
        // In one step: who reads it meanwhile sees the old one or the new one.
        let beside = path.with_extension("json.new");
        let written = File::create(&beside).and_then(|mut f| f.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&beside, &path)).doing(|| format!("cannot write {}", path.display()))
    }
}

/// Who was killed leaves the lock to a child that it had just forked, until that becomes its program: milliseconds.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// Keeps others from raising or removing a cluster; let go of by the kernel when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says that somebody has it for longer than [`LOCK_WITHIN`].
    pub(crate) fn take() -> Result<Self, ClusterError> {
        let deadline = Instant::now() + LOCK_WITHIN;
        loop {
            fs::create_dir_all(CLUSTERS).doing(|| format!("cannot make {CLUSTERS}"))?;
            let open = File::options().create(true).truncate(false).write(true).open(LOCK);
            let file = match open {
                // Its last holder removed the folder in between.
                Err(e) if e.kind() == ErrorKind::NotFound && Instant::now() < deadline => continue,
                other => other.doing(|| format!("cannot open {LOCK}"))?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                // flock(2) has no time limit of its own.
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_AGAIN);
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(ClusterError::Locked),
                Err(e) => return Err(e).doing(|| format!("cannot lock {LOCK}")),
            }
            // Its last holder may have removed the file between our opening and locking it: that lock binds nobody.
            let ours = file.metadata().doing(|| format!("cannot read {LOCK}"))?;
            if fs::metadata(LOCK).is_ok_and(|there| there.ino() == ours.ino()) {
                return Ok(Self { _file: file });
            }
        }
    }

    /// Lets go of it, and removes it together with the folders that are empty now.
    pub(crate) fn remove(self) -> Result<(), ClusterError> {
        fs::remove_file(LOCK).doing(|| format!("cannot remove {LOCK}"))?;
        for folder in [CLUSTERS, "/run/culvert", crate::paths::DATA, "/var/lib/culvert"] {
            match fs::remove_dir(Path::new(folder)) {
                // Another cluster, a lab or an agent of this machine has something there.
                Err(e) if !matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                    return Err(e).doing(|| format!("cannot remove {folder}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
