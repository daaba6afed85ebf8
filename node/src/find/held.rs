//! A network namespace that is held open.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use net::NetNs;

/// Device and inode of a namespace: names it as long as it lives.
pub(crate) type NsId = (u64, u64);

/// A network namespace, held by a descriptor: it lives on while this does, whoever else has left it. Equal when it is the same
/// namespace, whatever it was found by.
#[derive(Clone)]
pub(crate) struct Held {
    fd: Arc<OwnedFd>,
    id: NsId,
    path: PathBuf,
}

impl Held {
    /// Opens a namespace by a path such as `/var/run/netns/cni-1` or `/proc/1234/ns/net`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let netns = NetNs::open(path)?;
        let fd = netns.as_fd().try_clone_to_owned()?;
        Ok(Self { fd: Arc::new(fd), id: netns.id(), path: path.to_owned() })
    }

    pub(crate) fn id(&self) -> NsId {
        self.id
    }

    pub(crate) fn fd(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }

    /// By what it was found; may lead elsewhere by now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Held {}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (net:[{}])", self.path.display(), self.id.1)
    }
}
