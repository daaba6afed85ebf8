//! Control groups: who belongs to a lab, and the trees that capture is attached to.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Doing, LabError};

/// The tree of one lab: `culvert-lab-<name>/<node>/{agent,ztunnel-<generation>,pods/<pod>}` and `…/infra`.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree of the lab `name`, below the cgroup2 mount.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn of(name: &str) -> Result<Self, LabError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").doing(|| "cannot read the mounts".to_owned())?;
        let mount = cgroup2_mount(&mounts).ok_or(LabError::NoCgroup2)?;
        Ok(Self { root: mount.join(format!("culvert-lab-{name}")) })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A node's tree: what capture is attached to.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join(node)
    }

    pub(crate) fn agent(&self, node: &str) -> PathBuf {
        self.node(node).join("agent")
    }

    pub(crate) fn ztunnel(&self, node: &str, generation: u32) -> PathBuf {
        self.node(node).join(format!("ztunnel-{generation}"))
    }

    pub(crate) fn pod(&self, node: &str, pod: &str) -> PathBuf {
        self.node(node).join("pods").join(pod)
    }

    /// The certificate authority, the collector and the wire's own processes.
    pub(crate) fn infra(&self) -> PathBuf {
        self.root.join("infra")
    }
}

/// Makes a group and those above it.
pub(crate) fn create(group: &Path) -> Result<(), LabError> {
    fs::create_dir_all(group).doing(|| format!("cannot make the control group {}", group.display()))
}

/// Processes of a group and those below it.
pub(crate) fn members(group: &Path) -> Result<Vec<i32>, LabError> {
    let mut all = Vec::new();
    for group in tree(group)? {
        match fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e).doing(|| format!("cannot read the processes of {}", group.display())),
        }
    }
    Ok(all)
}

/// Removes a group and those below it. Gives back whether they are gone: a group with a process in it stays.
pub(crate) fn remove(group: &Path) -> Result<bool, LabError> {
    for group in tree(group)?.iter().rev() {
        match fs::remove_dir(group) {
            // A process that was killed is still on its way out, or one that was started is on its way in.
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => return Ok(false),
            Err(e) if !gone(&e) => {
                return Err(e).doing(|| format!("cannot remove the control group {}", group.display()));
            }
            _ => {}
        }
    }
    Ok(true)
}

/// Waits until a group is empty or filled, at most for `within`.
pub(crate) fn wait_for_change(group: &Path, within: Duration) -> Result<(), LabError> {
    let path = group.join("cgroup.events");
    let events = match fs::read(&path).and_then(|_| File::open(&path)) {
        Ok(file) => file,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(e).doing(|| format!("cannot open {}", path.display())),
    };
    let timeout = Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: i64::from(within.subsec_nanos()) };
    match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e).doing(|| format!("cannot wait for {}", path.display())),
    }
}

// A group, then those below it.
fn tree(group: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut all = vec![group.to_owned()];
    let mut at = 0;
    while let Some(folder) = all.get(at).cloned() {
        at += 1;
        let entries = match fs::read_dir(&folder) {
            Err(e) if gone(&e) => continue,
            other => other.doing(|| format!("cannot read {}", folder.display()))?,
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                all.push(entry.path());
            }
        }
    }
    Ok(all)
}

fn gone(error: &io::Error) -> bool {
    // ENODEV: the group was removed while its file was open.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

// Fields of mountinfo (proc(5)): the mount point is the fifth, the type is the first after " - ".
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next()? == "cgroup2").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_alone_and_beside_version_1() {
        let pure = "26 23 0:24 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(pure), Some("/sys/fs/cgroup".into()));
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
