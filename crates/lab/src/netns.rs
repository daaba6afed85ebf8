//! Network namespaces with handles in the lab's folder.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::error::{Doing, LabError};

/// What every namespace of a lab is set to before its first interface appears, so that it behaves alike on every machine:
/// IPv4 settings are inherited from the machine's own namespace, and duplicate address detection would hold IPv6 back
/// for a second.
const SETTINGS: [(&str, &str); 9] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    // As container runtimes have it: a program that is not root may listen on port 80 of its own pod.
    ("ipv4/ip_unprivileged_port_start", "0"),
];

/// What a node has on top.
pub(crate) const FORWARDING: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Makes a namespace and binds its handle to `path`.
pub(crate) fn create(path: &Path, more: &'static [(&'static str, &'static str)]) -> Result<(), LabError> {
    File::create_new(path).doing(|| format!("cannot make {}", path.display()))?;
    in_thread(|| {
        fresh_namespace(UnshareFlags::NEWNET).doing(|| "cannot make a network namespace".to_owned())?;
        mount_bind("/proc/thread-self/ns/net", path).doing(|| format!("cannot bind {}", path.display()))?;
        for (name, value) in SETTINGS.iter().chain(more) {
            let file = Path::new("/proc/sys/net").join(name);
            // A kernel without IPv6 has no such folder, and nothing to set.
            if file.exists() {
                fs::write(&file, value).doing(|| format!("cannot write {value} to {}", file.display()))?;
            }
        }
        Ok(())
    })
}

/// Runs `f` on a thread of its own inside the namespace. Children that it starts are inside as well.
pub(crate) fn inside<T: Send>(path: &Path, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    let handle = File::open(path).doing(|| format!("cannot open {}", path.display()))?;
    in_thread(|| {
        let entered = move_into_link_name_space(std::os::fd::AsFd::as_fd(&handle), Some(LinkNameSpaceType::Network));
        entered.doing(|| format!("cannot enter {}", path.display()))?;
        f()
    })
}

/// Lets go of a namespace. It ends when its last process does.
pub(crate) fn remove(path: &Path) -> Result<(), LabError> {
    match unmount(path, UnmountFlags::DETACH) {
        // Not mounted (EINVAL) or not there (ENOENT): half a creation.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e).doing(|| format!("cannot unmount {}", path.display())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).doing(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Moves the calling thread into new namespaces of the kinds given.
pub(crate) fn fresh_namespace(kinds: UnshareFlags) -> rustix::io::Result<()> {
    // The function is deprecated because unsharing the *file descriptor table* is unsound; namespaces do not touch it.
    debug_assert!(!kinds.contains(UnshareFlags::FILES));
    #[expect(
        deprecated,
        reason = "sound for namespaces; the replacement is unsafe because of UnshareFlags::FILES alone"
    )]
    rustix::thread::unshare(kinds)
}

// A thread that changed its namespace is not reused: it ends, and the caller's thread never left its own.
fn in_thread<T: Send>(f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
    thread::scope(|scope| match scope.spawn(f).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
