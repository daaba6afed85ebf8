//! Watches the file and hands out what changed.
//!
//! ```text
//!            folder event               read well, differs
//!   Quiet ────────────────► Dirty ────────────────────────► Quiet + Event::Changed
//!                             │ wrong or unreadable
//!                             └───────────────────────────► Quiet + Event::Broken (the old world stays)
//! ```
//! The folder is watched, not the file, so that a file that is replaced by a rename is seen, and so is the swap of the
//! `..data` link by which Kubernetes updates mounted ConfigMaps.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use document::Mistakes;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::world::World;
use crate::Change;

/// Why a file cannot be read and watched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is wrong.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// Its folder cannot be watched.
    #[error("{}: cannot be watched: {cause}", .path.display())]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// What happened to the file.
#[derive(Debug)]
pub enum Event {
    /// It is wrong now; the old world stays.
    Broken(Mistakes),
    /// It says something new.
    Changed {
        /// What differs.
        change: Change,
        /// All of it.
        world: Arc<World>,
    },
    /// The system cannot watch any longer (the folder is gone). No event follows.
    Lost(io::Error),
}

/// Watches a file. Needs a tokio runtime with I/O.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    world: Arc<World>,
    inotify: AsyncFd<OwnedFd>,
    names: BTreeSet<OsString>,
    dirty: bool,
}

impl Watcher {
    /// Reads the file and watches it from then on.
    ///
    /// # Errors
    /// When the file is wrong or its folder cannot be watched.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let fail = |cause| OpenError::Watch { path: path.to_owned(), cause };
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
        #[expect(deprecated, reason = "its successor is `unsafe`; an OwnedFd keeps the promise that it asks for")]
        let inotify = AsyncFd::with_interest(fd, Interest::READABLE).map_err(fail)?;
        let mut made =
            Self { path: path.to_owned(), world: Arc::default(), inotify, names: BTreeSet::new(), dirty: false };
        // Watch first: a change between reading and watching would be missed otherwise.
        made.watch().map_err(fail)?;
        made.world = Arc::new(read(path.to_owned()).await?);
        Ok(made)
    }

    /// The world as it is now.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Waits for the next event. May be dropped and called again without loss.
    pub async fn next(&mut self) -> Event {
        loop {
            while !self.dirty {
                if let Err(e) = self.wait().await {
                    return Event::Lost(e);
                }
            }
            let read = read(self.path.clone()).await;
            self.dirty = false;
            // A link may lead elsewhere now.
            if let Err(e) = self.watch() {
                return Event::Lost(e);
            }
            match read {
                Err(mistakes) => return Event::Broken(mistakes),
                Ok(new) => {
                    let change = self.world.difference(&new);
                    self.world = Arc::new(new);
                    if !change.is_empty() {
                        return Event::Changed { change, world: self.world.clone() };
                    }
                }
            }
        }
    }

    /// Watches the folder of the file, and where it is a link also the folder of what it leads to.
    fn watch(&mut self) -> io::Result<()> {
        let target = std::fs::canonicalize(&self.path).ok();
        for path in [Some(&self.path), target.as_ref()].into_iter().flatten() {
            let folder = match path.parent() {
                Some(p) if !p.as_os_str().is_empty() => p,
                _ => Path::new("."),
            };
            let flags =
                WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            match inotify::add_watch(self.inotify.get_ref(), folder, flags | WatchFlags::ONLYDIR) {
                Ok(_) => {}
                // What the link led to vanished in between; the event of the link itself comes.
                Err(_) if path != &self.path => {}
                Err(e) => return Err(e.into()),
            }
            self.names.extend(path.file_name().map(ToOwned::to_owned));
        }
        Ok(())
    }

    async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable_mut().await?;
        // Room for several events with a name of 255 bytes each (inotify(7)).
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(ready.get_inner(), &mut space);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|n| OsString::from_vec(n.to_bytes().to_vec()));
                    let flags = event.events();
                    // Without a name: an overflow of the queue, or the folder itself.
                    self.dirty |=
                        name.is_none_or(|n| self.names.contains(&n) || n.as_encoded_bytes().starts_with(b".."));
                    if flags.contains(ReadFlags::IGNORED) && !self.path.exists() {
                        return Err(io::Error::new(io::ErrorKind::NotFound, "the folder is gone"));
                    }
                }
                Err(Errno::WOULDBLOCK) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

async fn read(path: PathBuf) -> Result<World, Mistakes> {
    // Large files take a while to read and check; the runtime has other work.
    let name = path.clone();
    tokio::task::spawn_blocking(move || super::load(&path)).await.unwrap_or_else(|e| {
        Err(Mistakes(vec![document::Mistake {
            file: name.display().to_string(),
            line: 1,
            column: 1,
            field: String::new(),
            what: format!("reading was cut short: {e}"),
            remedy: String::new(),
        }]))
    })
}
