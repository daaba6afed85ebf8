//! The series of Istio's TCP metrics: interned label sets, bounded in number, with live byte counters.
//!
//! A connection registers its counters with its series when it opens and takes them back when it closes. The value of a
//! byte metric is `closed connections + sum of the live ones`, read under the series' lock, so every byte is counted once,
//! the metric moves while a connection lives, and a relay pays nothing for it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::counters::Meter;
use crate::interned::{Entry, Interned};
use crate::labels::{Labels, LabelsRef};

/// All series.
#[derive(Debug)]
pub(crate) struct Store(pub(crate) Interned<Series>);

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
        Self(Interned::new(limit))
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
        self.0.touch(&series, now);
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
        let all = self.0.scrape(now).into_iter();
        all.map(|series| (series.totals(), series)).map(|(totals, series)| (series, totals)).collect()
    }

    /// Runs `count` on the series of the label set, making it when it is not there.
    fn with<R>(&self, labels: LabelsRef<'_>, now: Instant, count: impl FnOnce(&mut Numbers) -> R) -> (Arc<Series>, R) {
        loop {
            let series = self.0.get(labels, now);
            let mut numbers = series.lock();
            if !numbers.evicted {
                let result = count(&mut numbers);
                drop(numbers);
                return (series, result);
            }
            // Dropped between look-up and lock; the next round makes a new one.
        }
    }
}

impl Entry for Series {
    type Labels<'a> = LabelsRef<'a>;

    fn new(labels: LabelsRef<'_>) -> Self {
        Self { labels: labels.to_owned(), used: AtomicU64::new(0), numbers: Mutex::default() }
    }

    fn is(&self, labels: LabelsRef<'_>) -> bool {
        self.labels.borrow() == labels
    }

    /// One for each reporter and flag.
    fn overflow<'a>(labels: Self::Labels<'a>) -> Self::Labels<'a> {
        LabelsRef::overflow(labels.reporter, labels.flag)
    }

    fn used(&self) -> &AtomicU64 {
        &self.used
    }

    fn is_idle(self: &Arc<Self>) -> bool {
        self.lock().is_idle()
    }

    fn evict(self: &Arc<Self>) -> bool {
        let mut numbers = self.lock();
        numbers.evicted = numbers.is_idle();
        numbers.evicted
    }
}

impl Series {
    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
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
