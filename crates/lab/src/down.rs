//! Taking a lab down, from what is found on the machine alone: works after a crash and after half a raising.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::cgroup::{self, Tree};
use crate::error::{Doing, LabError};
use crate::netns;
use crate::paths::{LABS, Paths};
use crate::process;
use crate::state::{Lock, State};

/// How long programs have to end by themselves. Their lab is going, so there is nothing to drain for.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// How long it may take until all have ended: those that do not even on SIGKILL wait inside the kernel.
const LONGEST: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(20);

/// Names of the labs that are there, half ones included.
pub fn labs() -> Vec<String> {
    let entries = fs::read_dir(LABS).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let mut names: Vec<String> = folders.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Takes the lab of this name down: processes, namespaces, interfaces, mounts, control groups, folder.
///
/// # Errors
/// When there is no such lab, somebody else works on it, or something does not go away.
pub fn down(name: &str) -> Result<(), LabError> {
    let paths = Paths::new(name);
    crate::up::need_root()?;
    let _lock = Lock::take(&paths)?;
    let tree = Tree::of(name)?;
    if !paths.root().exists() && !tree.root().exists() {
        forget_lock(&paths)?;
        return Err(LabError::NoLab { name: name.to_owned(), there: labs() });
    }
    undo(&paths, &tree)?;
    forget_lock(&paths)
}

/// The work of [`down`], for one who holds the lock.
pub(crate) fn undo(paths: &Paths, tree: &Tree) -> Result<(), LabError> {
    process::end(&strays(paths), GRACE)?;
    clear_group(tree.root())?;
    for entry in fs::read_dir(paths.root().join("netns")).into_iter().flatten().flatten() {
        netns::remove(&entry.path())?;
    }
    // With its folder's mounts go bpffs and the pins in it, and with those the programs.
    unmount_all(&paths.bpffs())?;
    unmount_all(paths.root())?;
    match fs::remove_dir_all(paths.root()) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).doing(|| format!("cannot remove {}", paths.root().display()));
        }
        _ => {}
    }
    Ok(())
}

/// Removes the lock's file, and the folder of all labs with the last of them.
pub(crate) fn forget_lock(paths: &Paths) -> Result<(), LabError> {
    match fs::remove_file(paths.lock()) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).doing(|| "cannot remove the lock".to_owned()),
        _ => {}
    }
    for folder in [Path::new(LABS), Path::new("/run/culvert")] {
        match fs::remove_dir(folder) {
            // Another lab, or an agent of this machine, has something there.
            Err(e) if !matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                return Err(e).doing(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

// Those that left their control group, by the lab's own records.
fn strays(paths: &Paths) -> Vec<OwnedFd> {
    let recorded = match State::load(paths) {
        Ok(state) => state.map(|s| s.processes).unwrap_or_default(),
        // Half a file after a crash of the machine: the control groups know the rest.
        Err(error) => {
            tracing::debug!(%error, "no record of processes");
            Vec::new()
        }
    };
    recorded.iter().filter_map(process::Record::handle).collect()
}

/// Ends all processes of a control group, whoever started them, and removes it. A process on its way into it (every
/// process of a lab begins by joining) either comes in time to be ended or finds no group to join, and ends by itself.
pub(crate) fn clear_group(group: &Path) -> Result<(), LabError> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let before = cgroup::members(group)?;
        let open = |pid: &i32| Some((*pid, process::handle(*pid, None)?));
        let opened: Vec<_> = before.iter().filter_map(open).collect();
        // Only who is in it after the handle was opened: else the number may have gone to a stranger in between.
        let after = cgroup::members(group)?;
        let handles: Vec<_> = opened.into_iter().filter(|(pid, _)| after.contains(pid)).map(|(_, h)| h).collect();
        process::end(&handles, GRACE)?;
        if cgroup::remove(group)? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::Leftover(cgroup::members(group)?));
        }
        // A group is empty a moment after its last process has ended.
        cgroup::wait_for_change(group, BETWEEN)?;
    }
}

// As often as something is mounted there.
fn unmount_all(path: &Path) -> Result<(), LabError> {
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e).doing(|| format!("cannot unmount {}", path.display())),
        }
    }
}
