//! Control groups, in every hierarchy of the machine: who belongs to the cluster.
//!
//! A machine may be *hybrid* (controllers in hierarchies of version 1, and a tree of version 2 beside them without any) or
//! have version 2 alone. Membership is kept in version 2 either way: it is what can kill a whole tree at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{ClusterError, Doing};

/// How long a killed process may take to be gone: those that take longer wait inside the kernel.
const LONGEST: Duration = Duration::from_secs(15);
/// What a version 1 group needs before it takes a process.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// What a kubelet asks for; on a hybrid machine version 2 has none of them.
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchies {
    unified: PathBuf,
    old: Vec<PathBuf>,
}

impl Hierarchies {
    /// # Errors
    /// When there is none of version 2.
    pub(crate) fn find() -> Result<Self, ClusterError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").doing(|| "cannot read the mounts".to_owned())?;
        Self::read(&mounts).ok_or(ClusterError::NoCgroup2)
    }

    // The format is in proc(5): the mount point is the 5th field, the type follows a lone dash.
    fn read(mounts: &str) -> Option<Self> {
        let of_kind = |wanted: &str| {
            let line = |line: &str| {
                let (left, right) = line.split_once(" - ")?;
                let at = left.split(' ').nth(4)?;
                (right.split(' ').next()? == wanted).then(|| PathBuf::from(at))
            };
            mounts.lines().filter_map(line).collect::<Vec<_>>()
        };
        Some(Self { unified: of_kind("cgroup2").into_iter().next()?, old: of_kind("cgroup") })
    }

    /// A group of version 2.
    pub(crate) fn unified(&self, group: &str) -> PathBuf {
        self.unified.join(group)
    }

    fn all(&self, group: &str) -> impl Iterator<Item = PathBuf> {
        std::iter::once(&self.unified).chain(&self.old).map(move |h| h.join(group))
    }

    /// Folders of this group that are there.
    pub(crate) fn present(&self, group: &str) -> Option<PathBuf> {
        self.all(group).find(|g| g.exists())
    }

    /// Makes a group in all hierarchies.
    pub(crate) fn create(&self, group: &str) -> Result<(), ClusterError> {
        for folder in self.all(group) {
            fs::create_dir(&folder).doing(|| format!("cannot make the control group {}", folder.display()))?;
        }
        for hierarchy in self.old.iter().filter(|h| h.join(CPUSET[0]).exists()) {
            for file in CPUSET {
                let copy = fs::read(hierarchy.join(file)).and_then(|t| fs::write(hierarchy.join(group).join(file), t));
                copy.doing(|| format!("cannot set {file} of {}", hierarchy.join(group).display()))?;
            }
        }
        self.delegate(&self.unified)?;
        self.delegate(&self.unified(group))
    }

    /// Makes a group of version 2 below one that is there.
    pub(crate) fn create_below(&self, group: &str) -> Result<PathBuf, ClusterError> {
        let folder = self.unified(group);
        fs::create_dir_all(&folder).doing(|| format!("cannot make the control group {}", folder.display()))?;
        Ok(folder)
    }

    // Lets the groups below use the controllers that there are.
    fn delegate(&self, group: &Path) -> Result<(), ClusterError> {
        let file = group.join("cgroup.controllers");
        let there = fs::read_to_string(&file).doing(|| format!("cannot read {}", file.display()))?;
        for name in there.split_whitespace().filter(|c| CONTROLLERS.contains(c)) {
            let file = group.join("cgroup.subtree_control");
            fs::write(&file, format!("+{name}")).doing(|| format!("cannot write +{name} to {}", file.display()))?;
        }
        Ok(())
    }

    /// Ends all processes of a group and those below it, whoever started them, and removes it everywhere.
    pub(crate) fn clear(&self, group: &str) -> Result<(), ClusterError> {
        let deadline = Instant::now() + LONGEST;
        let unified = self.unified(group);
        loop {
            write_if_there(&unified.join("cgroup.kill"), "1")?;
            // A container's process may have been moved in version 2 and not in version 1.
            for old in self.old.iter().map(|h| h.join(group)) {
                members(&old)?.into_iter().try_for_each(kill)?;
            }
            let mut gone = true;
            for folder in self.all(group) {
                gone &= remove(&folder)?;
            }
            if gone {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(ClusterError::Leftover(group.to_owned()));
            }
            wait_for_change(&unified, Duration::from_millis(20))?;
        }
    }
}

fn kill(pid: i32) -> Result<(), ClusterError> {
    match Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL)) {
        None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
        Some(Err(e)) => Err(e).doing(|| format!("cannot kill process {pid}")),
    }
}

fn members(group: &Path) -> Result<Vec<i32>, ClusterError> {
    let mut all = Vec::new();
    for group in tree(group)? {
        let file = group.join("cgroup.procs");
        match fs::read_to_string(&file) {
            Ok(text) => all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e).doing(|| format!("cannot read {}", file.display())),
        }
    }
    Ok(all)
}

// Gives back whether the group and those below it are gone: one with a process in it stays.
fn remove(group: &Path) -> Result<bool, ClusterError> {
    for folder in tree(group)?.iter().rev() {
        match fs::remove_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => return Ok(false),
            Err(e) if !gone(&e) => {
                return Err(e).doing(|| format!("cannot remove the control group {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(true)
}

// A group, then those below it.
fn tree(group: &Path) -> Result<Vec<PathBuf>, ClusterError> {
    let mut all = vec![group.to_owned()];
    let mut at = 0;
    while let Some(folder) = all.get(at).cloned() {
        at += 1;
        let entries = match fs::read_dir(&folder) {
            Err(e) if gone(&e) => continue,
            other => other.doing(|| format!("cannot read {}", folder.display()))?,
        };
        all.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    Ok(all)
}

// The kernel wakes who polls this file when the group becomes empty.
fn wait_for_change(group: &Path, within: Duration) -> Result<(), ClusterError> {
    let path = group.join("cgroup.events");
    // Reading marks the state that a change is measured from.
    let file = match fs::read(&path).and_then(|_| File::open(&path)) {
        Err(e) if gone(&e) => return Ok(()),
        other => other.doing(|| format!("cannot open {}", path.display()))?,
    };
    let timeout = Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: i64::from(within.subsec_nanos()) };
    match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e).doing(|| format!("cannot wait for {}", path.display())),
    }
}

fn write_if_there(path: &Path, text: &str) -> Result<(), ClusterError> {
    match fs::write(path, text) {
        Err(e) if !gone(&e) => Err(e).doing(|| format!("cannot write to {}", path.display())),
        _ => Ok(()),
    }
}

fn gone(error: &io::Error) -> bool {
    // ENODEV: the group was removed while its file was open.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 20 0:27 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n\
                      32 20 0:28 / /proc rw - proc proc rw\n";
        let found = Hierarchies::read(hybrid).unwrap();
        assert_eq!(found.unified("a"), Path::new("/sys/fs/cgroup/unified/a"));
        assert_eq!(found.old, [Path::new("/sys/fs/cgroup/cpu")]);
        assert!(Hierarchies::read("32 20 0:28 / /proc rw - proc proc rw\n").is_none());
    }
}
