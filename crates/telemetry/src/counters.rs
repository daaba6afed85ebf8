//! The live byte counters of one connection, shared between the relay (which writes) and the scrape (which reads).

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What a relay says of itself while it runs. Any thread may ask at any time.
///
/// Directions are named by the ends of the connection, never "sent" or "received", because Istio's metrics and its access
/// log use those words in opposite senses (telemetry.md 1 and 3).
pub trait Meter: fmt::Debug + Send + Sync {
    /// Bytes from the source to the destination so far; never shrinks.
    fn to_destination(&self) -> u64;
    /// Bytes from the destination to the source so far; never shrinks.
    fn to_source(&self) -> u64;
    /// When the first byte came back from the destination.
    fn first_byte(&self) -> Option<Instant>;
}

/// Bytes of one connection, by direction, and when the first byte came back.
///
/// A [`Meter`] for relays that have none of their own. Each direction has one writer (one thread owns a connection), so a write is a plain load and store and costs no more
/// than it would in a `Cell`; any thread may read at any time.
#[derive(Debug, Default)]
pub struct Counters {
    to_destination: AtomicU64,
    to_source: AtomicU64,
    first_byte: OnceLock<Instant>,
}

impl Counters {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that went from the source to the destination. Only the thread that owns the connection calls this.
    pub fn add_to_destination(&self, bytes: u64) {
        self.to_destination.store(self.to_destination().saturating_add(bytes), Ordering::Relaxed);
    }

    /// Adds bytes that went from the destination to the source. Only the thread that owns the connection calls this.
    pub fn add_to_source(&self, bytes: u64) {
        let before = self.to_source();
        if before == 0 && bytes > 0 {
            self.first_byte.get_or_init(Instant::now);
        }
        self.to_source.store(before.saturating_add(bytes), Ordering::Relaxed);
    }
}

impl Meter for Counters {
    fn to_destination(&self) -> u64 {
        self.to_destination.load(Ordering::Relaxed)
    }

    fn to_source(&self) -> u64 {
        self.to_source.load(Ordering::Relaxed)
    }

    fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_is_stamped_once_and_only_by_the_way_back() {
        let counters = Counters::new();
        counters.add_to_destination(10);
        assert_eq!(counters.first_byte(), None);
        counters.add_to_source(1);
        let first = counters.first_byte().unwrap();
        counters.add_to_source(5);
        assert_eq!(counters.first_byte(), Some(first));
        assert_eq!((counters.to_destination(), counters.to_source()), (10, 6));
    }
}
