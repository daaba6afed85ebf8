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

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use document::{Mistakes, watch};

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
        change: Box<Change>,
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
    watch: watch::Watcher,
    dirty: bool,
}

impl Watcher {
    /// Reads the file and watches it from then on.
    ///
    /// # Errors
    /// When the file is wrong or its folder cannot be watched.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        // Watch first: a change between reading and watching would be missed otherwise.
        let watch = watch::Watcher::new(path).map_err(|cause| OpenError::Watch { path: path.to_owned(), cause })?;
        let world = Arc::new(read(path.to_owned()).await?);
        Ok(Self { path: path.to_owned(), world, watch, dirty: false })
    }

    /// The world as it is now.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Waits for the next event. May be dropped and called again without loss.
    pub async fn next(&mut self) -> Event {
        loop {
            if !self.dirty {
                if let Err(e) = self.watch.changed().await {
                    return Event::Lost(e);
                }
                self.dirty = true;
            }
            let read = read(self.path.clone()).await;
            self.dirty = false;
            match read {
                Err(mistakes) => return Event::Broken(mistakes),
                Ok(new) => {
                    let change = self.world.difference(&new);
                    self.world = Arc::new(new);
                    if !change.is_empty() {
                        return Event::Changed { change: Box::new(change), world: self.world.clone() };
                    }
                }
            }
        }
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
