//! A histogram of atomics, for values that any thread may add without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// How often values fell below which of `N` bounds. Values are added in thousandths of the bounds' unit, so that the sum is
/// exact.
#[derive(Debug)]
pub(crate) struct Spread<const N: usize> {
    thousandths: AtomicU64,
    count: AtomicU64,
    buckets: [AtomicU64; N],
}

impl<const N: usize> Default for Spread<N> {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { thousandths: AtomicU64::new(0), count: AtomicU64::new(0), buckets }
    }
}

impl<const N: usize> Spread<N> {
    /// Adds a value; `bounds` ascend.
    pub(crate) fn add(&self, thousandths: u64, bounds: &[f64; N]) {
        self.thousandths.fetch_add(thousandths, Ordering::Relaxed);
        let value = thousandths as f64 / 1e3;
        if let Some(bucket) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Sum, count, and buckets with the rest above the last bound.
    pub(crate) fn read(&self, bounds: &[f64; N]) -> (f64, u64, Vec<(f64, u64)>) {
        let count = self.count.load(Ordering::Relaxed);
        let mut buckets: Vec<_> =
            bounds.iter().copied().zip(self.buckets.iter().map(|b| b.load(Ordering::Relaxed))).collect();
        let below: u64 = buckets.iter().map(|(_, n)| n).sum();
        // Read without a lock: a bucket may be ahead of the count for a moment.
        buckets.push((f64::INFINITY, count.saturating_sub(below)));
        (self.thousandths.load(Ordering::Relaxed) as f64 / 1e3, count.max(below), buckets)
    }
}
