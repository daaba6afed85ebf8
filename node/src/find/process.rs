//! Processes: of which pod, in which namespace, listening where.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::cgroup::{self, pod_of};
use super::held::{Held, NsId};

/// Reads the host's proc(5), within the cgroup of this node.
#[derive(Clone, Debug)]
pub(crate) struct Finder {
    proc: PathBuf,
    /// Path of the node's cgroup in the v2 hierarchy; empty = all.
    scope: String,
    /// Where cgroup v2 is mounted.
    mount: PathBuf,
}

/// Who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) pid: u32,
    /// Folder of its cgroup v2.
    pub(crate) cgroup: PathBuf,
}

/// A process of a pod.
struct Member {
    pid: u32,
    netns: NsId,
    /// When it began, in clock ticks since boot.
    began: u64,
}

impl Finder {
    /// `proc` is proc(5) with the host's processes, `root` the node's cgroup v2 folder.
    pub(crate) fn new(proc: &Path, root: &Path) -> io::Result<Self> {
        let mount = cgroup::cgroup_mount(root)?;
        let inner = root.strip_prefix(&mount).unwrap_or(Path::new(""));
        let scope = if inner.as_os_str().is_empty() { String::new() } else { format!("/{}", inner.display()) };
        Ok(Self { proc: proc.to_owned(), scope, mount })
    }

    /// The folder of a cgroup that `/proc/<pid>/cgroup` names, when it lies in this node's.
    pub(crate) fn folder(&self, path: &Path) -> Option<PathBuf> {
        let text = path.to_str()?;
        cgroup::within(text, &self.scope).then(|| self.mount.join(text.trim_start_matches('/')))
    }

    /// The network namespaces of pods, by UID: for each pod those in which its processes live, the one of its oldest process
    /// first. That process is the sandbox's own; a container may have made others (docker in docker).
    pub(crate) fn namespaces(&self, wanted: impl Fn(&str) -> bool) -> io::Result<BTreeMap<String, Vec<Held>>> {
        let own = netns_id(Path::new("/proc/self/ns/net"))?;
        let mut members: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        self.each(|pid, uid| {
            // Processes end while one looks at them.
            if let Some(uid) = uid.filter(|uid| wanted(uid))
                && let Ok(netns) = netns_id(&self.netns_path(pid))
                && netns != own
                && let Some(began) = self.began(pid)
            {
                members.entry(uid).or_default().push(Member { pid, netns, began });
            }
        })?;
        let mut found = BTreeMap::new();
        for (uid, mut processes) in members {
            processes.sort_by_key(|p| p.began);
            let mut held: Vec<Held> = Vec::new();
            for process in processes {
                if held.iter().all(|h| h.id() != process.netns)
                    && let Ok(netns) = Held::open(&self.netns_path(process.pid))
                    // The number may belong to another process by now.
                    && netns.id() == process.netns
                    && self.pod(process.pid).as_ref() == Some(&uid)
                {
                    held.push(netns);
                }
            }
            found.insert(uid, held);
        }
        Ok(found)
    }

    /// Whether a process of this node lives in a namespace.
    pub(crate) fn inhabited(&self, netns: NsId) -> io::Result<bool> {
        let mut found = false;
        self.each(|pid, _| found = found || netns_id(&self.netns_path(pid)).is_ok_and(|id| id == netns))?;
        Ok(found)
    }

    /// Namespaces in which the processes of a cgroup live, and of those above it up to this node's, which is left out: whoever
    /// may make cgroups below its own still belongs to the one above.
    pub(crate) fn namespaces_of(&self, folder: &Path) -> io::Result<Vec<NsId>> {
        let top = self.top();
        let mut found = Vec::new();
        for folder in folder.ancestors().take_while(|f| f.starts_with(&top) && *f != top) {
            let text = fs::read_to_string(folder.join("cgroup.procs"))?;
            let pids = text.lines().filter_map(|line| line.parse::<u32>().ok());
            found.extend(pids.filter_map(|pid| netns_id(&self.netns_path(pid)).ok()));
        }
        Ok(found)
    }

    /// This node's cgroups by number, which is the inode of the folder.
    pub(crate) fn cgroups(&self) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut found = BTreeMap::new();
        let mut next = vec![self.top()];
        while let Some(folder) = next.pop() {
            let gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
            let entries = match fs::metadata(&folder).and_then(|meta| Ok((meta.ino(), fs::read_dir(&folder)?))) {
                Ok((id, entries)) => {
                    found.insert(id, folder);
                    entries
                }
                // Removed while the others were looked at.
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let folders = entries.filter_map(Result::ok).filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            next.extend(folders.map(|entry| entry.path()));
        }
        Ok(found)
    }

    /// The folder of this node's cgroup.
    fn top(&self) -> PathBuf {
        self.mount.join(self.scope.trim_start_matches('/'))
    }

    /// Who listens on a TCP port in the agent's own network namespace, which is the host's. `before` is who it was the last time:
    /// as long as that is so, nobody else is looked at. The namespace is this node's own, so no cgroup is asked for.
    pub(crate) fn listener(&self, port: u16, before: Option<u32>) -> io::Result<Option<Listener>> {
        let mut inodes = Vec::new();
        for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            match fs::read_to_string(table) {
                Ok(text) => inodes.extend(listening(&text, port)),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let names: Vec<PathBuf> = inodes.iter().map(|inode| format!("socket:[{inode}]").into()).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let is_it = |pid: &u32| self.holds(*pid, &names);
        let pid = match before.filter(is_it) {
            Some(pid) => Some(pid),
            None => self.pids()?.find(is_it),
        };
        Ok(pid.and_then(|pid| Some(Listener { pid, cgroup: self.cgroup(pid)? })))
    }

    /// Calls back with each process of this node, and its pod.
    fn each(&self, mut call: impl FnMut(u32, Option<String>)) -> io::Result<()> {
        for pid in self.pids()? {
            let Ok(text) = fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup")) else { continue };
            if let Some(pod) = self.look(&text) {
                call(pid, pod);
            }
        }
        Ok(())
    }

    /// Numbers of all processes.
    fn pids(&self) -> io::Result<impl Iterator<Item = u32>> {
        // An entry that cannot be read is of a process that has ended.
        let entries = fs::read_dir(&self.proc)?.filter_map(Result::ok);
        Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
    }

    /// `None` = a process of another node; else its pod, if it is one's.
    fn look(&self, text: &str) -> Option<Option<String>> {
        let (unified, mut others) = cgroup::paths(text);
        if !cgroup::within(unified.unwrap_or("/"), &self.scope) {
            return None;
        }
        // With hierarchies of version 1, the one of version 2 need not know pods.
        Some(unified.and_then(pod_of).or_else(|| others.find_map(pod_of)))
    }

    fn pod(&self, pid: u32) -> Option<String> {
        self.look(&fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup")).ok()?)?
    }

    fn cgroup(&self, pid: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup")).ok()?;
        Some(self.mount.join(cgroup::paths(&text).0?.trim_start_matches('/')))
    }

    fn netns_path(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string()).join("ns/net")
    }

    /// Field 22 of `/proc/<pid>/stat`; the name in field 2 may hold blanks and brackets.
    fn began(&self, pid: u32) -> Option<u64> {
        let text = fs::read_to_string(self.proc.join(pid.to_string()).join("stat")).ok()?;
        text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
    }

    fn holds(&self, pid: u32, sockets: &[PathBuf]) -> bool {
        let Ok(entries) = fs::read_dir(self.proc.join(pid.to_string()).join("fd")) else { return false };
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.into_iter().any(|link| sockets.contains(&link))
    }
}

/// Device and inode of the namespace behind a path of proc(5).
pub(super) fn netns_id(path: &Path) -> io::Result<NsId> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Inodes of listening sockets in `/proc/net/tcp` (proc_net_tcp of the kernel: local address, state 0A, inode in column 10).
fn listening(text: &str, port: u16) -> Vec<u64> {
    let line = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = columns.get(1)?.rsplit_once(':')?;
        let hit = u16::from_str_radix(local, 16).ok()? == port && *columns.get(3)? == "0A";
        if hit { columns.get(9)?.parse().ok() } else { None }
    };
    text.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
