//! Where everything is pinned: `<bpffs>/culvert/v<ABI>/{maps,links,pods/<cookie>}`.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use redirect_abi::programs;
use rustix::mount::MountFlags;

use crate::{RedirectError, bpf, store, tc};

/// Folders of the pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(crate) fn below(bpffs: &Path) -> Self {
        Self { root: bpffs.join("culvert").join(format!("v{}", redirect_abi::ABI_VERSION)) }
    }

    /// The pins of every version that is there.
    pub(crate) fn every(bpffs: &Path) -> Result<Vec<Self>, RedirectError> {
        let versions = versions(bpffs)?.into_iter();
        Ok(versions.map(|version| Self { root: bpffs.join("culvert").join(format!("v{version}")) }).collect())
    }

    /// Removes the folder that holds them all, when nothing is in it any more.
    pub(crate) fn remove_home(bpffs: &Path) -> Result<(), RedirectError> {
        let home = bpffs.join("culvert");
        match std::fs::remove_dir(&home) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(RedirectError::Pin { path: home, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Makes an older version's pins ours: the folder is renamed, and the maps are looked at one by one afterwards.
    fn adopt(&self, bpffs: &Path) -> Result<(), RedirectError> {
        let ours = redirect_abi::ABI_VERSION;
        let mut others = versions(bpffs)?;
        let present = others.contains(&ours);
        others.retain(|version| *version != ours);
        let path = |version: u32| bpffs.join("culvert").join(format!("v{version}"));
        match others[..] {
            [] => Ok(()),
            [older] if !present && older < ours => {
                std::fs::rename(path(older), &self.root)
                    .map_err(|source| RedirectError::Pin { path: path(older), source })?;
                tracing::info!(from = older, to = ours, "pins of an older version taken over");
                Ok(())
            }
            [other, ..] => Err(RedirectError::OtherVersion { path: path(other), ours }),
        }
    }

    /// Makes the folders, and mounts a BPF file system first where there is none.
    pub(crate) fn prepare(bpffs: &Path) -> Result<Self, RedirectError> {
        ensure_mounted(bpffs).map_err(|source| RedirectError::Bpffs { path: bpffs.into(), source })?;
        let pins = Self::below(bpffs);
        pins.adopt(bpffs)?;
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

    pub(crate) fn dns(&self, cookie: u64) -> PathBuf {
        self.pod(cookie).join("dns")
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
        // A filter outlives its pin, in a namespace that nobody names here: without an entry its program passes everything.
        store::forget_all(self)?;
        if self.pods().exists() {
            for cookie in self.pod_cookies()? {
                tc::detach(programs::GUARD, &self.guard(cookie))?;
                remove_links(&self.pod(cookie))?;
            }
        }
        remove_tree(&self.root)
    }
}

/// Versions that have pins.
fn versions(bpffs: &Path) -> Result<Vec<u32>, RedirectError> {
    let folder = bpffs.join("culvert");
    let failed = |source| RedirectError::Pin { path: folder.clone(), source };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
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
