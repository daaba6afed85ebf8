//! What a connection's driver, its streams and its owner share: counts, and the wish to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// How far a connection is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Go on.
    No = 0,
    /// Take no new streams, end when the last one ends.
    Drain = 1,
    /// End now.
    Now = 2,
}

/// Relaxed everywhere: all parties are usually on one thread, and the counts are independent of each other. Wake-ups
/// carry their own ordering.
#[derive(Debug, Default)]
pub(crate) struct Link {
    active: AtomicUsize,
    heavy: AtomicUsize,
    stop: AtomicU8,
    dead: AtomicBool,
    unanswered: AtomicU32,
    driver: AtomicWaker,
}

/// A stream's place on its connection; shared by its two halves.
#[derive(Debug)]
pub(crate) struct Seat {
    link: Arc<Link>,
    bytes: AtomicU64,
    heavy_at: u64,
}

impl Link {
    /// Counts a stream in. `heavy_at`: from so many bytes on it counts as heavy.
    pub(crate) fn seat(self: &Arc<Self>, heavy_at: u64) -> Arc<Seat> {
        self.active.fetch_add(1, Ordering::Relaxed);
        Arc::new(Seat { link: self.clone(), bytes: AtomicU64::new(0), heavy_at })
    }

    /// Streams now.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Streams now that carried much.
    pub(crate) fn heavy(&self) -> usize {
        self.heavy.load(Ordering::Relaxed)
    }

    /// Asks the driver to stop; never takes back an earlier wish.
    pub(crate) fn stop(&self, how: Stop) {
        self.stop.fetch_max(how as u8, Ordering::Relaxed);
        self.driver.wake();
    }

    /// What was asked for.
    pub(crate) fn stopping(&self) -> Stop {
        match self.stop.load(Ordering::Relaxed) {
            0 => Stop::No,
            1 => Stop::Drain,
            _ => Stop::Now,
        }
    }

    /// From now on what streams see is the end of the connection, not the peer's will.
    pub(crate) fn died(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is over.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// The peer reset a stream before it had an answer.
    pub(crate) fn reset_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        self.driver.wake();
    }

    /// How many of those since the last call.
    pub(crate) fn take_unanswered(&self) -> u32 {
        match self.unanswered.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.unanswered.swap(0, Ordering::Relaxed),
        }
    }

    /// The driver is to be woken through this.
    pub(crate) fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Wakes the driver.
    pub(crate) fn wake(&self) {
        self.driver.wake();
    }
}

impl Seat {
    /// The stream carried so many more bytes.
    pub(crate) fn count(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < self.heavy_at && before.saturating_add(bytes as u64) >= self.heavy_at {
            self.link.heavy.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The connection it is on.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if *self.bytes.get_mut() >= self.heavy_at {
            self.link.heavy.fetch_sub(1, Ordering::Relaxed);
        }
        // The driver begins its idle time with the last one.
        if self.link.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.link.driver.wake();
        }
    }
}
