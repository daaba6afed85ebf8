//! Taking a cluster down, from what is found on the machine alone: works after a crash and after half a raising.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::cgroup::Hierarchies;
use crate::error::{ClusterError, Doing};
use crate::paths::{CLUSTERS, Paths};
use crate::plan::{HUB_GROUP, NODES};
use crate::state::{Lock, State};
use crate::{sysctl, up};

/// Names of the clusters that are there, half ones included.
pub fn clusters() -> Vec<String> {
    let entries = fs::read_dir(CLUSTERS).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Takes the cluster of this name down: processes, namespaces, mounts, interfaces, control groups, folders.
///
/// # Errors
/// When there is no such cluster, somebody else works on one, or something does not go away.
pub fn down(name: &str) -> Result<(), ClusterError> {
    up::need_root()?;
    let lock = Lock::take()?;
    let paths = Paths::new(name);
    let there = paths.root().exists();
    let result = if there { undo(&paths) } else { Err(ClusterError::NoCluster(name.to_owned())) };
    // Also what taking it has just made.
    lock.remove()?;
    result
}

/// The work of [`down`], for one who holds the lock.
pub(crate) fn undo(paths: &Paths) -> Result<(), ClusterError> {
    let groups = Hierarchies::find()?;
    // Nodes first: else kubelets would see the API server go and restart what belongs to them.
    for group in NODES.iter().chain(&[HUB_GROUP]) {
        groups.clear(group)?;
    }
    // With the last process went every mount below these folders: none was ever in the machine's own mount namespace.
    if let Some(state) = State::load(paths).unwrap_or_else(half_written) {
        sysctl::restore(&state.sysctls)?;
    }
    remove_folder(&paths.data())?;
    remove_folder(&paths.root())
}

// After a crash of the machine; then its settings are those of the boot.
fn half_written(error: ClusterError) -> Option<State> {
    tracing::debug!(%error, "no record of the cluster");
    None
}

fn remove_folder(folder: &Path) -> Result<(), ClusterError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).doing(|| format!("cannot remove {}", folder.display())),
        _ => Ok(()),
    }
}
