//! Tells when a file may say something new.
//!
//! The folder is watched, not the file, so that a file that is replaced by a rename is seen, and so is the swap of the
//! `..data` link by which Kubernetes updates mounted ConfigMaps and Secrets.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches one file, or all files of a folder. Needs a tokio runtime with I/O.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    names: BTreeSet<OsString>,
    /// All files directly in the folder `path` are meant.
    folder: bool,
}

impl Watcher {
    /// Watches from now on: make the watcher first and read the file afterwards, or a change in between is missed.
    ///
    /// # Errors
    /// When the file's folder is not there or cannot be watched. The file itself may be missing.
    pub fn new(path: &Path) -> io::Result<Self> {
        Self::begin(path, false)
    }

    /// Watches all files directly in a folder from now on, also those that come later.
    ///
    /// # Errors
    /// When the folder is not there or cannot be watched.
    pub fn folder(path: &Path) -> io::Result<Self> {
        Self::begin(path, true)
    }

    fn begin(path: &Path, folder: bool) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "its successor is `unsafe`; an OwnedFd keeps the promise that it asks for")]
        let inotify = AsyncFd::with_interest(fd, Interest::READABLE)?;
        let mut made = Self { path: path.to_owned(), inotify, names: BTreeSet::new(), folder };
        made.watch()?;
        Ok(made)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Resolves when the file has been written, replaced or removed. May be dropped and called again without loss.
    ///
    /// # Errors
    /// When the folder is gone or the system cannot watch any longer.
    pub async fn changed(&mut self) -> io::Result<()> {
        while !self.drain().await? {}
        // A link may lead elsewhere now.
        self.watch()
    }

    /// Watches the folder of the file, and where it is a link also the folder of what it leads to.
    fn watch(&mut self) -> io::Result<()> {
        let written = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        if self.folder {
            let gone = WatchFlags::MOVED_FROM | WatchFlags::DELETE;
            inotify::add_watch(self.inotify.get_ref(), &self.path, written | gone | own)?;
            return Ok(());
        }
        let target = std::fs::canonicalize(&self.path).ok();
        for path in [Some(&self.path), target.as_ref()].into_iter().flatten() {
            let folder = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            match inotify::add_watch(self.inotify.get_ref(), folder, written | own) {
                Ok(_) => {}
                // What the link led to vanished in between; the event of the link itself comes.
                Err(_) if path != &self.path => {}
                Err(e) => return Err(e.into()),
            }
            self.names.extend(path.file_name().map(ToOwned::to_owned));
        }
        Ok(())
    }

    /// Reads the events that there are; says whether one concerns the file.
    async fn drain(&mut self) -> io::Result<bool> {
        let mut ready = self.inotify.readable_mut().await?;
        let mut hit = false;
        // Room for several events with a name of 255 bytes each (inotify(7)).
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut space);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|n| OsString::from_vec(n.to_bytes().to_vec()));
                    // Without a name: an overflow of the queue, or the folder itself.
                    let ours = |n: OsString| self.names.contains(&n) || n.as_encoded_bytes().starts_with(b"..");
                    hit |= self.folder || name.is_none_or(ours);
                    if event.events().contains(ReadFlags::IGNORED) && !self.path.exists() {
                        return Err(io::Error::new(io::ErrorKind::NotFound, "the folder is gone"));
                    }
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        ready.clear_ready();
        Ok(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;
    use tokio::time::timeout;

    /// Longer than any scheduling delay of a busy machine.
    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn writing_and_renaming_are_seen_and_neighbours_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.yaml");
        let mut watcher = Watcher::new(&path).unwrap();
        fs::write(&path, "a").unwrap();
        timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        fs::write(folder.path().join("new"), "b").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        fs::write(folder.path().join("other"), "c").unwrap();
        let quiet = timeout(Duration::from_millis(50), watcher.changed()).await;
        assert!(quiet.is_err(), "a neighbour was taken for the file");
    }

    #[tokio::test]
    async fn in_a_folder_every_file_counts_when_it_comes_changes_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::folder(folder.path()).unwrap();
        for name in ["a.yaml", "b.yaml", "a.yaml"] {
            fs::write(folder.path().join(name), "x").unwrap();
            timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        }
        fs::remove_file(folder.path().join("b.yaml")).unwrap();
        timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        let quiet = timeout(Duration::from_millis(50), watcher.changed()).await;
        assert!(quiet.is_err(), "nothing happened");
        drop(folder);
        assert!(timeout(SOON, watcher.changed()).await.unwrap().is_err(), "the folder is gone");
    }

    #[tokio::test]
    async fn the_swap_of_a_configmap_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("..1")).unwrap();
        fs::create_dir(at("..2")).unwrap();
        fs::write(at("..1").join("f"), "old").unwrap();
        fs::write(at("..2").join("f"), "new").unwrap();
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/f", at("f")).unwrap();
        let mut watcher = Watcher::new(&at("f")).unwrap();
        std::os::unix::fs::symlink("..2", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(at("f")).unwrap(), "new");
    }
}
