//! Weights: which of several backends comes next.

use std::sync::atomic::{AtomicU64, Ordering};

/// Chooses by weight, in turns that are spread as evenly as shares allow.
///
/// One counter, shared by all workers, is the whole state: turn `n` takes seat `n * step mod total`, and each backend owns
/// as many neighbouring seats as its weight. `step` has no divisor in common with `total`, so that `total` turns take every
/// seat once: shares are exact over every `total` turns, whichever worker takes them. It lies at the golden section of
/// `total`, which spreads any run of turns over the seats (the three-distance theorem), so that a small share comes at
/// regular distances and not in a burst.
///
/// The textbook way (nginx's smooth weighted round robin) keeps a number for each backend: a lock between workers, or
/// one state for each of them, which is only exact for each worker and not over all.
#[derive(Debug)]
pub(crate) struct Split {
    /// Where the seats of each backend end.
    ends: Box<[u64]>,
    step: u64,
    turn: AtomicU64,
}

impl Split {
    /// Backends with these weights.
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u64> = weights.into_iter().map(u64::from).collect();
        // Smaller numbers of the same shares, so that the exact period is short.
        let divisor = weights.iter().fold(0, |a, b| common_divisor(a, *b)).max(1);
        let mut total = 0;
        let ends: Box<[u64]> = weights
            .iter()
            .map(|w| {
                total += w / divisor;
                total
            })
            .collect();
        Self { ends, step: step(total), turn: AtomicU64::new(0) }
    }

    /// The next one; `None` when no backend has a weight.
    pub(crate) fn next(&self) -> Option<usize> {
        let total = *self.ends.last()?;
        if total == 0 {
            return None;
        }
        // No other memory hangs on the counter.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let seat = u128::from(turn % total) * u128::from(self.step) % u128::from(total);
        Some(self.ends.partition_point(|end| u128::from(*end) <= seat))
    }
}

/// How many numbers on each side of the golden section are looked at. Sums of weights up to 10 000 then all have one whose
/// quotients stay below 8.
const CANDIDATES: u64 = 64;

/// The best number near the golden section of `total`: without a divisor in common with it, and with the smallest quotients
/// in Euclid's algorithm, because large ones are what lets turns bunch (discrepancy of `n * step / total`).
fn step(total: u64) -> u64 {
    // 2^32 / golden ratio.
    let golden = u64::try_from((u128::from(total) * 2_654_435_769) >> 32).unwrap_or(1);
    let near = golden.saturating_sub(CANDIDATES)..=golden.saturating_add(CANDIDATES);
    let fit = near
        .filter(|s| (1..total).contains(s))
        .filter_map(|s| Some((largest_quotient(total, s)?, s.abs_diff(golden), s)));
    fit.min().map_or(1, |(_, _, s)| s)
}

/// The largest quotient in Euclid's algorithm; `None` when the numbers have a divisor in common.
fn largest_quotient(mut a: u64, mut b: u64) -> Option<u64> {
    let mut largest = 0;
    while b != 0 {
        largest = largest.max(a / b);
        (a, b) = (b, a % b);
    }
    (a == 1).then_some(largest)
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
