//! The order of status writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::object::Key;
use crate::world::Status;

/// First and longest pause after a failure: the API server may be away for minutes, and a missing right is not given in
/// seconds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What is to be written: the newest words per object.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Key, Waiting>,
    /// In the order of their times.
    order: BTreeSet<(Instant, Key)>,
    /// Objects that are being written; newer words for them wait.
    under_way: BTreeSet<Key>,
    /// How often writing an object failed in a row.
    failures: BTreeMap<Key, u32>,
}

#[derive(Debug)]
struct Waiting {
    status: Status,
    due: Instant,
}

impl Queue {
    /// New words; they replace older ones for the same object.
    pub(super) fn extend(&mut self, statuses: impl IntoIterator<Item = Status>) {
        let now = Instant::now();
        for status in statuses {
            self.put(status, now);
        }
    }

    fn put(&mut self, status: Status, due: Instant) {
        let key = status.object.clone();
        if let Some(old) = self.waiting.insert(key.clone(), Waiting { status, due }) {
            self.order.remove(&(old.due, key.clone()));
        }
        if !self.under_way.contains(&key) {
            self.order.insert((due, key));
        }
    }

    /// When the next write is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Takes the next write that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Key, Status)> {
        let (due, key) = self.order.first().cloned()?;
        if due > now {
            return None;
        }
        self.order.remove(&(due, key.clone()));
        let waiting = self.waiting.remove(&key)?;
        self.under_way.insert(key.clone());
        Some((key, waiting.status))
    }

    /// A write is done.
    pub(super) fn done(&mut self, key: &Key) {
        self.failures.remove(key);
        self.land(key);
    }

    /// A write failed; it is due again after a pause, which is returned, unless newer words are waiting.
    pub(super) fn failed(&mut self, key: Key, status: Status, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = PAUSE.0.saturating_mul(1 << (*failures).min(9)).min(PAUSE.1);
        *failures = failures.saturating_add(1);
        let status = self.waiting.remove(&key).map_or(status, |newer| newer.status);
        self.land(&key);
        self.put(status, now + pause);
        pause
    }

    fn land(&mut self, key: &Key) {
        self.under_way.remove(key);
        if let Some(waiting) = self.waiting.get(key) {
            self.order.insert((waiting.due, key.clone()));
        }
    }
}
