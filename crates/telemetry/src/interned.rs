//! A bounded table of label sets: each is made once, found without a copy, and dropped when it has been idle.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ahash::RandomState;

use crate::numbers::Counter;

/// Series idle for longer are dropped at the next scrape. Three times Prometheus' staleness of five minutes, so that a
/// scraper which misses a few rounds still sees the last value.
pub(crate) const IDLE: Duration = Duration::from_secs(15 * 60);

/// What a table holds: one label set and its numbers.
pub(crate) trait Entry: Sized {
    /// The label set, borrowed.
    type Labels<'a>: Copy + Hash;

    /// A new one, with a label set of its own.
    fn new(labels: Self::Labels<'_>) -> Self;

    /// Whether it has this label set.
    fn is(&self, labels: Self::Labels<'_>) -> bool;

    /// Where label sets are counted that found no room.
    fn overflow(labels: Self::Labels<'_>) -> Self::Labels<'_>;

    /// The second of its last use, kept by the table.
    fn used(&self) -> &AtomicU64;

    /// Whether nobody counts here now. The table's lock is held: nobody can find it meanwhile.
    fn is_idle(self: &Arc<Self>) -> bool;

    /// Marks it as gone, unless somebody counts here; says whether it is.
    fn evict(self: &Arc<Self>) -> bool {
        self.is_idle()
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Interned<E> {
    limit: usize,
    hasher: RandomState,
    epoch: Instant,
    table: RwLock<Table<E>>,
    /// Entries dropped because they were idle or the table was full.
    pub(crate) evicted: Counter,
    /// Label sets that found no room because every entry was in use.
    pub(crate) overflowed: Counter,
}

#[derive(Debug)]
struct Table<E> {
    by_hash: HashMap<u64, Vec<Arc<E>>>,
    len: usize,
}

impl<E: Entry> Interned<E> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hasher: RandomState::new(),
            epoch: Instant::now(),
            table: RwLock::new(Table { by_hash: HashMap::new(), len: 0 }),
            evicted: Counter::default(),
            overflowed: Counter::default(),
        }
    }

    /// The entry of the label set, made when it is not there.
    pub(crate) fn get(&self, labels: E::Labels<'_>, now: Instant) -> Arc<E> {
        let hash = self.hasher.hash_one(labels);
        let found = self.table.read().unwrap_or_else(PoisonError::into_inner).find(hash, labels);
        let entry = found.unwrap_or_else(|| self.insert(hash, labels));
        self.touch(&entry, now);
        entry
    }

    /// Notes that an entry was used.
    pub(crate) fn touch(&self, entry: &E, now: Instant) {
        entry.used().store(self.seconds(now), Ordering::Relaxed);
    }

    /// Drops entries that were idle for too long and returns the others.
    pub(crate) fn scrape(&self, now: Instant) -> Vec<Arc<E>> {
        let horizon = self.seconds(now).saturating_sub(IDLE.as_secs());
        if now.saturating_duration_since(self.epoch) > IDLE {
            let dropped = self.write().retain(|entry| entry.used().load(Ordering::Relaxed) > horizon);
            self.evicted.add(dropped);
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_hash.values().flatten().cloned().collect()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len
    }

    fn insert(&self, hash: u64, labels: E::Labels<'_>) -> Arc<E> {
        let mut table = self.write();
        if let Some(entry) = table.find(hash, labels) {
            return entry;
        }
        if table.len >= self.limit {
            self.evicted.add(table.make_room(self.limit));
        }
        if table.len >= self.limit {
            self.overflowed.inc();
            let labels = E::overflow(labels);
            return table.add(self.hasher.hash_one(labels), labels);
        }
        table.add(hash, labels)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table<E>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn seconds(&self, now: Instant) -> u64 {
        // One more than elapsed, so that "used in the first second" is not "never used".
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

impl<E: Entry> Table<E> {
    fn find(&self, hash: u64, labels: E::Labels<'_>) -> Option<Arc<E>> {
        self.by_hash.get(&hash)?.iter().find(|entry| entry.is(labels)).cloned()
    }

    /// Adds an entry unless it is there. Those of the overflow may exceed the limit by their few fixed labels.
    fn add(&mut self, hash: u64, labels: E::Labels<'_>) -> Arc<E> {
        if let Some(entry) = self.find(hash, labels) {
            return entry;
        }
        let entry = Arc::new(E::new(labels));
        self.by_hash.entry(hash).or_default().push(entry.clone());
        self.len += 1;
        entry
    }

    /// Drops the least recently used sixteenth of the entries that are idle, so that a full table does not pay for a scan
    /// at every new label set.
    fn make_room(&mut self, limit: usize) -> u64 {
        let mut idle: Vec<u64> =
            self.by_hash.values().flatten().filter(|e| e.is_idle()).map(|e| e.used().load(Ordering::Relaxed)).collect();
        let share = (limit / 16).max(1).min(idle.len());
        if share == 0 {
            return 0;
        }
        let (_, horizon, _) = idle.select_nth_unstable(share - 1);
        let horizon = *horizon;
        let mut left = share as u64;
        self.retain(|entry| {
            let drop = left > 0 && entry.used().load(Ordering::Relaxed) <= horizon && entry.is_idle();
            left -= u64::from(drop);
            !drop
        })
    }

    /// Keeps what `keep` wants and what is in use; returns how many went.
    fn retain(&mut self, mut keep: impl FnMut(&Arc<E>) -> bool) -> u64 {
        let before = self.len;
        let mut after = 0;
        self.by_hash.retain(|_, list| {
            list.retain(|entry| keep(entry) || !entry.evict());
            after += list.len();
            !list.is_empty()
        });
        self.len = after;
        (before - after) as u64
    }
}
