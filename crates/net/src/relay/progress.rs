//! How far a relay has come, visible to its owner while it runs.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Live counters of one relay. Written by the relay alone; anybody may read, from any thread.
#[derive(Debug, Default)]
pub struct Progress {
    forth: Counter,
    back: Counter,
    abort: AtomicBool,
}

impl Progress {
    /// Nothing moved yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that came from the first end and were handed on to the second.
    pub fn a_to_b(&self) -> u64 {
        self.forth.get()
    }

    /// Bytes that came from the second end and were handed on to the first.
    pub fn b_to_a(&self) -> u64 {
        self.back.get()
    }

    /// When the first byte from the first end was handed on.
    pub fn first_a_to_b(&self) -> Option<Instant> {
        self.forth.first.get().copied()
    }

    /// When the first byte from the second end was handed on.
    pub fn first_b_to_a(&self) -> Option<Instant> {
        self.back.first.get().copied()
    }

    /// How many of all these bytes, both ways, were spliced: they never left the kernel.
    pub fn spliced(&self) -> u64 {
        self.forth.spliced.load(Ordering::Relaxed) + self.back.spliced.load(Ordering::Relaxed)
    }

    /// What happens to the ends when the relay is dropped before it ended: reset (true), or closed as the ends close when
    /// they are dropped (false, the default). A reset tells both applications that the transfer is incomplete.
    pub fn abort_on_drop(&self, abort: bool) {
        self.abort.store(abort, Ordering::Relaxed);
    }

    pub(super) fn aborts_on_drop(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }

    pub(super) fn forth(&self) -> &Counter {
        &self.forth
    }

    pub(super) fn back(&self) -> &Counter {
        &self.back
    }
}

/// One direction. There is one writer, so an addition needs no locked instruction.
#[derive(Debug, Default)]
pub(super) struct Counter {
    bytes: AtomicU64,
    spliced: AtomicU64,
    first: OnceLock<Instant>,
}

impl Counter {
    pub(super) fn get(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        let before = self.get();
        if before == 0 && bytes > 0 {
            self.first.get_or_init(Instant::now);
        }
        self.bytes.store(before + bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that [`add`](Self::add) has counted already as spliced.
    pub(super) fn add_spliced(&self, bytes: usize) {
        self.spliced.store(self.spliced.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }
}
