//! The series of Istio's TCP metrics: interned label sets, bounded in number, with live byte counters.
//!
//! A connection registers its counters with its series when it opens and takes them back when it closes. The value of a
//! byte metric is `closed connections + sum of the live ones`, read under the series' lock, so every byte is counted once,
//! the metric moves while a connection lives, and a relay pays nothing for it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::counters::Meter;
use crate::labels::{Labels, LabelsRef};
use crate::numbers::Counter;

/// Series idle for longer are dropped at the next scrape. Three times Prometheus' staleness of five minutes, so that a
/// scraper which misses a few rounds still sees the last value.
pub(crate) const IDLE: Duration = Duration::from_secs(15 * 60);

/// All series.
#[derive(Debug)]
pub(crate) struct Store {
    limit: usize,
    hasher: RandomState,
    epoch: Instant,
    table: RwLock<Table>,
    /// Series dropped because they were idle or the store was full.
    pub(crate) evicted: Counter,
    /// Label sets that found no room because every series was in use.
    pub(crate) overflowed: Counter,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<u64, Vec<Arc<Series>>>,
    len: usize,
}

/// One label set and its numbers.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    used: AtomicU64,
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    opened: u64,
    closed: u64,
    failed: u64,
    to_destination: u64,
    to_source: u64,
    live: Vec<Option<Arc<dyn Meter>>>,
    free: Vec<usize>,
    /// Set when the store dropped the series: nobody may count here any more.
    evicted: bool,
}

/// The numbers of one series at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) failed: u64,
    pub(crate) to_destination: u64,
    pub(crate) to_source: u64,
    /// Connections that are open now.
    pub(crate) live: u64,
}

/// A connection's place in its series; given back by [`Store::close`].
#[derive(Debug)]
pub(crate) struct Place {
    series: Arc<Series>,
    slot: usize,
}

impl Store {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hasher: RandomState::new(),
            epoch: Instant::now(),
            table: RwLock::default(),
            evicted: Counter::default(),
            overflowed: Counter::default(),
        }
    }

    /// Counts an opened connection and takes its meter in.
    pub(crate) fn open(&self, labels: LabelsRef<'_>, meter: Arc<dyn Meter>, now: Instant) -> Place {
        let (series, slot) = self.with(labels, now, |numbers| {
            numbers.opened += 1;
            let slot = numbers.free.pop().unwrap_or(numbers.live.len());
            if slot == numbers.live.len() {
                numbers.live.push(None);
            }
            numbers.live[slot] = Some(meter);
            slot
        });
        Place { series, slot }
    }

    /// Puts another meter in place of an open connection's; what the old one counted stays.
    pub(crate) fn swap(&self, place: &Place, meter: Arc<dyn Meter>) {
        let mut numbers = place.series.lock();
        if let Some(old) = numbers.live.get_mut(place.slot).and_then(|slot| slot.replace(meter)) {
            numbers.keep(&*old);
        }
    }

    /// Counts a closed connection: bytes stay with the series it opened on, the end goes to the flag's series.
    pub(crate) fn close(&self, place: Place, labels: LabelsRef<'_>, failed: bool, now: Instant) {
        let Place { series, slot } = place;
        let same = series.labels.borrow().flag == labels.flag;
        let mut numbers = series.lock();
        numbers.settle(slot);
        if same {
            numbers.closed += 1;
            numbers.failed += u64::from(failed);
        }
        drop(numbers);
        series.used.store(self.seconds(now), Ordering::Relaxed);
        if !same {
            self.with(labels, now, |numbers| {
                numbers.closed += 1;
                numbers.failed += u64::from(failed);
            });
        }
    }

    /// Counts a connection that failed before anything was known of it.
    pub(crate) fn fail(&self, labels: LabelsRef<'_>, now: Instant) {
        self.with(labels, now, |numbers| numbers.failed += 1);
    }

    /// Drops series that were idle for too long and returns the others with their numbers.
    pub(crate) fn scrape(&self, now: Instant) -> Vec<(Arc<Series>, Totals)> {
        let horizon = self.seconds(now).saturating_sub(IDLE.as_secs());
        if now.saturating_duration_since(self.epoch) > IDLE {
            let mut table = self.write();
            let dropped = table.retain(|series| series.used.load(Ordering::Relaxed) > horizon);
            self.evicted.add(dropped);
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_hash.values().flatten().map(|series| (series.clone(), series.totals())).collect()
    }

    /// How many series there are.
    pub(crate) fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len
    }

    /// Runs `count` on the series of the label set, making it when it is not there.
    fn with<R>(&self, labels: LabelsRef<'_>, now: Instant, count: impl FnOnce(&mut Numbers) -> R) -> (Arc<Series>, R) {
        let hash = labels.hash(&self.hasher);
        loop {
            let found = self.table.read().unwrap_or_else(PoisonError::into_inner).find(hash, labels);
            let series = found.unwrap_or_else(|| self.insert(hash, labels));
            let mut numbers = series.lock();
            if !numbers.evicted {
                series.used.store(self.seconds(now), Ordering::Relaxed);
                let result = count(&mut numbers);
                drop(numbers);
                return (series, result);
            }
            // Dropped between look-up and lock; the next round makes a new one.
        }
    }

    fn insert(&self, hash: u64, labels: LabelsRef<'_>) -> Arc<Series> {
        let mut table = self.write();
        if let Some(series) = table.find(hash, labels) {
            return series;
        }
        if table.len >= self.limit {
            self.evicted.add(table.make_room(self.limit));
        }
        if table.len >= self.limit {
            self.overflowed.inc();
            let labels = LabelsRef::overflow(labels.reporter, labels.flag);
            return table.add(labels.hash(&self.hasher), labels);
        }
        table.add(hash, labels)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn seconds(&self, now: Instant) -> u64 {
        // One more than elapsed, so that "used in the first second" is not "never used".
        now.saturating_duration_since(self.epoch).as_secs() + 1
    }
}

impl Table {
    fn find(&self, hash: u64, labels: LabelsRef<'_>) -> Option<Arc<Series>> {
        self.by_hash.get(&hash)?.iter().find(|s| s.labels.borrow() == labels).cloned()
    }

    /// Adds a series unless it is there. The overflow series of the two reporters may exceed the limit by their flags.
    fn add(&mut self, hash: u64, labels: LabelsRef<'_>) -> Arc<Series> {
        if let Some(series) = self.find(hash, labels) {
            return series;
        }
        let series = Arc::new(Series { labels: labels.to_owned(), used: AtomicU64::new(0), numbers: Mutex::default() });
        self.by_hash.entry(hash).or_default().push(series.clone());
        self.len += 1;
        series
    }

    /// Drops the least recently used sixteenth of the series that carry no connection, so that a full store does not
    /// pay for a scan at every new label set.
    fn make_room(&mut self, limit: usize) -> u64 {
        let mut idle: Vec<u64> =
            self.by_hash.values().flatten().filter(|s| s.is_idle()).map(|s| s.used.load(Ordering::Relaxed)).collect();
        let share = (limit / 16).max(1).min(idle.len());
        if share == 0 {
            return 0;
        }
        let (_, horizon, _) = idle.select_nth_unstable(share - 1);
        let horizon = *horizon;
        let mut left = share as u64;
        self.retain(|series| {
            let drop = left > 0 && series.used.load(Ordering::Relaxed) <= horizon && series.is_idle();
            left -= u64::from(drop);
            !drop
        })
    }

    /// Keeps what `keep` wants and what carries a connection; returns how many went.
    fn retain(&mut self, mut keep: impl FnMut(&Series) -> bool) -> u64 {
        let before = self.len;
        let mut after = 0;
        self.by_hash.retain(|_, list| {
            list.retain(|series| keep(series) || !series.evict());
            after += list.len();
            !list.is_empty()
        });
        self.len = after;
        (before - after) as u64
    }
}

impl Series {
    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Marks the series as gone unless it carries a connection.
    fn evict(&self) -> bool {
        let mut numbers = self.lock();
        numbers.evicted = numbers.is_idle();
        numbers.evicted
    }

    fn totals(&self) -> Totals {
        let numbers = self.lock();
        let (mut to_destination, mut to_source) = (numbers.to_destination, numbers.to_source);
        for meter in numbers.live.iter().flatten() {
            to_destination = to_destination.wrapping_add(meter.to_destination());
            to_source = to_source.wrapping_add(meter.to_source());
        }
        let Numbers { opened, closed, failed, .. } = *numbers;
        let live = (numbers.live.len() - numbers.free.len()) as u64;
        Totals { opened, closed, failed, to_destination, to_source, live }
    }
}

impl Numbers {
    fn is_idle(&self) -> bool {
        self.live.len() == self.free.len()
    }

    fn keep(&mut self, meter: &dyn Meter) {
        self.to_destination = self.to_destination.wrapping_add(meter.to_destination());
        self.to_source = self.to_source.wrapping_add(meter.to_source());
    }

    /// Moves the bytes of a live connection into the sum.
    fn settle(&mut self, slot: usize) {
        let Some(meter) = self.live.get_mut(slot).and_then(Option::take) else { return };
        self.keep(&*meter);
        self.free.push(slot);
        if self.is_idle() {
            // A burst of connections leaves no memory behind.
            (self.live, self.free) = (Vec::new(), Vec::new());
        }
    }
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
