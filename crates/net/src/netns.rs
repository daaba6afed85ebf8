//! Network namespaces: make a socket inside a pod's namespace, from the thread that will use it.
//!
//! A socket belongs for ever to the namespace in which it was made, whoever uses it from wherever. So a thread steps into
//! the pod's namespace for the one call socket(2) and steps back; bind, connect and accept work from outside.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use crate::sys;

/// Where a thread finds its own network namespace (proc(5)).
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open by a descriptor. Clones share the descriptor.
#[derive(Clone)]
pub struct NetNs {
    held: Arc<Held>,
}

struct Held {
    fd: OwnedFd,
    dev: u64,
    ino: u64,
}

impl NetNs {
    /// Takes a descriptor of a network namespace, such as the one that comes with a pod (cni-zds.md 2).
    ///
    /// # Errors
    /// `InvalidInput` when the descriptor stands for anything but a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a network namespace");
        let kind = sys::namespace_kind(fd.as_fd()).map_err(|_| wrong())?;
        if kind != libc::CLONE_NEWNET {
            return Err(wrong());
        }
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { held: Arc::new(Held { fd, dev: stat.st_dev, ino: stat.st_ino }) })
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn current() -> io::Result<Self> {
        Self::open(OWN)
    }

    /// Opens a namespace by path, for example `/run/netns/web` or `/proc/1234/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened or is not a network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_fd(File::open(path)?.into())
    }

    /// Runs `work` inside this namespace, on the calling thread, and comes back; also when `work` panics.
    ///
    /// `work` is synchronous by design: a task must never be suspended while its thread stands in a foreign namespace.
    /// Make a socket in it and nothing else: that costs two setns calls, and none when the thread is there already.
    /// Calls may be nested. The first call on a thread remembers where the thread lives; nothing but this function may
    /// move the thread after that.
    ///
    /// A thread that cannot come back would silently make the next pod's sockets in this pod's namespace. There is no way
    /// to go on from that, so the process aborts.
    ///
    /// # Errors
    /// When the namespace cannot be entered (needs CAP_SYS_ADMIN in the user namespace that owns it and in our own);
    /// `work` did not run then.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        let visit = Visit::enter(self)?;
        let out = work();
        drop(visit);
        Ok(out)
    }

    /// Device and inode: equal for two descriptors of one namespace, different for two namespaces that live at one time.
    pub fn id(&self) -> (u64, u64) {
        (self.held.dev, self.held.ino)
    }

    /// The kernel's cookie of the namespace (SO_NETNS_COOKIE), the same that eBPF programs get from
    /// `bpf_get_netns_cookie`; never used twice while the machine is up.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel is older than 5.14.
    pub fn cookie(&self) -> io::Result<u64> {
        // AF_UNIX: exists in every kernel, needs no address family to be switched on in the namespace.
        let socket = self.run(|| Socket::new(Domain::UNIX, Type::DGRAM, None))??;
        let mut cookie = [0; 8];
        let len = sys::getsockopt(socket.as_fd(), libc::SOL_SOCKET, sys::SO_NETNS_COOKIE, &mut cookie)?;
        if len != cookie.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "SO_NETNS_COOKIE is not of 8 bytes"));
        }
        Ok(u64::from_ne_bytes(cookie))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.fd.as_fd()
    }
}

impl PartialEq for NetNs {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for NetNs {}

impl std::fmt::Debug for NetNs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NetNs({}:{})", self.held.dev, self.held.ino)
    }
}

thread_local! {
    /// Where this thread lives. A descriptor per thread saves opening /proc at every connection.
    static HOME: OnceCell<NetNs> = const { OnceCell::new() };
    /// How many visits are under way on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// A stay in a namespace that ends when it is dropped.
struct Visit {
    /// Where to go back to; none when the thread was there already.
    origin: Option<NetNs>,
}

impl Visit {
    fn enter(target: &NetNs) -> io::Result<Self> {
        let origin = if DEPTH.get() == 0 { home()? } else { NetNs::current()? };
        let origin = if origin == *target {
            None
        } else {
            go(target)?;
            Some(origin)
        };
        DEPTH.set(DEPTH.get() + 1);
        Ok(Self { origin })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if let Some(origin) = &self.origin
            && let Err(error) = go(origin)
        {
            tracing::error!(%error, namespace = ?origin, "cannot go back to the thread's own network namespace; aborting");
            std::process::abort();
        }
    }
}

fn home() -> io::Result<NetNs> {
    HOME.with(|home| {
        if let Some(known) = home.get() {
            return Ok(known.clone());
        }
        let found = NetNs::current()?;
        Ok(home.get_or_init(|| found).clone())
    })
}

fn go(target: &NetNs) -> io::Result<()> {
    Ok(move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
#[path = "netns_tests.rs"]
pub(crate) mod tests;
