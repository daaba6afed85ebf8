//! Where everything is pinned: `<bpffs>/culvert/v<ABI>/{maps,links,pods/<cookie>}`.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use crate::{RedirectError, bpf};

/// Folders of the pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(crate) fn below(bpffs: &Path) -> Self {
        Self { root: bpffs.join("culvert").join(format!("v{}", redirect_abi::ABI_VERSION)) }
    }

    /// Makes the folders, and mounts a BPF file system first where there is none.
    pub(crate) fn prepare(bpffs: &Path) -> Result<Self, RedirectError> {
        ensure_mounted(bpffs).map_err(|source| RedirectError::Bpffs { path: bpffs.into(), source })?;
        let pins = Self::below(bpffs);
        for folder in [pins.maps(), pins.links(), pins.pods()] {
            std::fs::create_dir_all(&folder).map_err(|source| RedirectError::Pin { path: folder, source })?;
        }
        Ok(pins)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn pod(&self, cookie: u64) -> PathBuf {
        self.pods().join(cookie.to_string())
    }

    pub(crate) fn lookup(&self, cookie: u64) -> PathBuf {
        self.pod(cookie).join("lookup")
    }

    pub(crate) fn guard(&self, cookie: u64) -> PathBuf {
        self.pod(cookie).join("guard")
    }

    /// Cookies of the pods that have pins.
    pub(crate) fn pod_cookies(&self) -> Result<Vec<u64>, RedirectError> {
        let folder = self.pods();
        let failed = |source| RedirectError::Pin { path: folder.clone(), source };
        let mut cookies = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            cookies.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        Ok(cookies)
    }

    /// Takes all pins away, hooks first: what is left of the guards meanwhile refuses rather than leaks.
    pub(crate) fn remove_all(&self) -> Result<(), RedirectError> {
        remove_links(&self.links())?;
        if self.pods().exists() {
            for cookie in self.pod_cookies()? {
                remove_links(&self.pod(cookie))?;
            }
        }
        remove_tree(&self.root)
    }
}

/// Detaches and removes the links in a folder, and the folder.
pub(crate) fn remove_links(folder: &Path) -> Result<(), RedirectError> {
    let failed = |source| RedirectError::Pin { path: folder.into(), source };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        remove_link(&entry.map_err(failed)?.path())?;
    }
    remove_tree(folder)
}

/// Detaches a link and removes its pin; one that is not there is not missed, and something that is no link is just removed.
pub(crate) fn remove_link(path: &Path) -> Result<(), RedirectError> {
    if let Ok(object) = bpf::open(path)
        && bpf::target(object.as_fd()).is_ok()
    {
        bpf::detach(object.as_fd()).map_err(|source| RedirectError::Pin { path: path.into(), source })?;
    }
    remove(path)
}

/// Removes a pin; one that is not there is not missed.
pub(crate) fn remove(path: &Path) -> Result<(), RedirectError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| RedirectError::Pin { path: path.into(), source }),
    }
}

/// Removes a folder with its pins.
fn remove_tree(path: &Path) -> Result<(), RedirectError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| RedirectError::Pin { path: path.into(), source }),
    }
}

fn ensure_mounted(path: &Path) -> io::Result<()> {
    /// BPF_FS_MAGIC, include/uapi/linux/magic.h
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    if !path.exists() {
        std::fs::create_dir_all(path)?;
    }
    if rustix::fs::statfs(path)?.f_type & 0xffff_ffff == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, Some(c"mode=0700"))?;
    tracing::info!(path = %path.display(), "mounted a BPF file system");
    Ok(())
}
