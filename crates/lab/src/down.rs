//! Taking a lab down, from what is found on the machine alone: works after a crash and after half a raising.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::cgroup::Tree;
use crate::error::{Doing, LabError};
use crate::netns;
use crate::paths::{LABS, Paths};
use crate::process;
use crate::state::{Lock, State};

/// How long programs have to end by themselves. Their lab is going, so there is nothing to drain for.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// Rounds of killing: a process may have started another in the moment it was killed.
const ROUNDS: usize = 5;

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
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
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
    end_processes(paths, tree)?;
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
    tree.remove()
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

// Members of the control groups are the lab's whoever started them. The state adds those that left their group.
fn end_processes(paths: &Paths, tree: &Tree) -> Result<(), LabError> {
    let recorded = match State::load(paths) {
        Ok(state) => state.map(|s| s.processes).unwrap_or_default(),
        // Half a file after a crash of the machine: the control groups know the rest.
        Err(error) => {
            tracing::debug!(%error, "no record of processes");
            Vec::new()
        }
    };
    let mut handles: Vec<_> = recorded.iter().filter_map(process::Record::handle).collect();
    for _ in 0..ROUNDS {
        let members = tree.members()?;
        // A member may have ended, and its number gone to a stranger, between reading and opening: ask again.
        let open = |pid: &i32| process::handle(*pid, None).filter(|_| tree.holds(*pid));
        handles.extend(members.iter().filter_map(open));
        if handles.is_empty() {
            return Ok(());
        }
        process::end(&handles, GRACE)?;
        handles.clear();
    }
    let left = tree.members()?;
    if left.is_empty() { Ok(()) } else { Err(LabError::Leftover(left)) }
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
