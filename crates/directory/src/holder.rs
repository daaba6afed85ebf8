//! The one place where the current snapshot hangs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::snapshot::Snapshot;

/// Publishes snapshots: one writer, any number of readers, none of which ever waits.
///
/// A writer clones what is there, edits the clone and stores it; two writers would undo each other's work.
#[derive(Debug, Default)]
pub struct Directory {
    current: ArcSwap<Snapshot>,
}

impl Directory {
    /// A directory that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// The current snapshot. It stays as it is for as long as the caller keeps it.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces the current snapshot.
    pub fn store(&self, snapshot: Snapshot) {
        self.current.store(Arc::new(snapshot));
    }
}
