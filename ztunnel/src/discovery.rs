//! Where the world comes from: a file that is followed, or a control plane.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use chassis::readiness::Condition;
use document::Mistakes;
use tokio::sync::mpsc;
use xds::Change;
use xds::local::{Event, OpenError, Watcher};

use crate::here::Shared;
use crate::worker::Command;

/// Applies changes and tells the workers what is gone.
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Vec<mpsc::UnboundedSender<Command>>,
    pub(crate) synced: Condition,
}

impl Follower {
    /// Applies one change.
    pub(crate) fn apply(&self, change: Change) {
        let removed: Arc<[Arc<str>]> = change.removed.clone().into();
        let synced = change.synced;
        self.shared.world.apply(change);
        if !removed.is_empty() {
            for worker in &self.workers {
                if worker.send(Command::Evict(removed.clone())).is_err() {
                    tracing::debug!("a worker has ended");
                }
            }
        }
        if synced {
            self.synced.met();
        }
    }

    /// Takes a world that never changes.
    pub(crate) async fn text(self, text: &str) -> Result<Infallible, Mistakes> {
        let world = xds::local::parse("localText", text)?;
        self.apply(world.change());
        Ok(std::future::pending().await)
    }

    /// Follows a file for ever. A file that is broken at the start is an error; one that breaks later leaves the world
    /// as it was.
    pub(crate) async fn file(self, path: &Path) -> Result<Infallible, OpenError> {
        let mut watcher = Watcher::open(path).await?;
        let first = watcher.world().change();
        self.apply(Change { synced: true, ..first });
        loop {
            match watcher.next().await {
                Event::Changed { change, .. } => self.apply(change),
                Event::Broken(mistakes) => tracing::warn!(file = %path.display(), %mistakes, "file not taken over"),
                Event::Lost(cause) => return Err(OpenError::Watch { path: path.to_owned(), cause }),
            }
        }
    }
}
