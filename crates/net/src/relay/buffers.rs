//! The worker's pool of read buffers, and of pipes for splicing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::splice::Pipe;

/// Smallest buffer: one page. A request or a terminal's key stroke fits; thousands of waiting ones cost what they need.
pub(super) const SMALLEST: usize = 4 * 1024;
/// Largest buffer: from 64 KiB on little is gained, and a blocked flow holds it (docs/decisions/relay-buffers.md).
pub(super) const LARGEST: usize = 256 * 1024;
/// 4, 8, 16, 32, 64, 128, 256 KiB.
const CLASSES: usize = 7;
const _: () = assert!(SMALLEST << (CLASSES - 1) == LARGEST);

/// Reads of at most this many bytes are copied out, so that a queued key stroke does not keep a page from the pool. The
/// handle on a lent buffer costs an allocation too, and copying 1 KiB is some 20 ns.
const COPY_UP_TO: usize = 1024;

/// How much a pool may hold, and when flows are spliced.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes kept for later use while nobody reads. Above it a returned buffer goes back to the allocator.
    pub keep: usize,
    /// When more than this is lent out, further loans are of the smallest size: many slow readers then cost a page each
    /// and not 256 KiB.
    pub pressure: usize,
    /// After how many bytes a direction between two TCP connections may be spliced; none = never.
    pub splice_after: Option<u64>,
    /// Most pipes at one time, two descriptors each; flows beyond are copied.
    pub pipes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // One flow at a time reads on a worker; four large buffers cover both directions of two.
            keep: 4 * LARGEST,
            // 64 bulk flows that all wait for their readers.
            pressure: 64 * LARGEST,
            // Two full batches: a flow that is bulk and not one large message (docs/decisions/relay-buffers.md).
            splice_after: Some(2 * LARGEST as u64),
            // 32 of 1 MiB stay under the kernel's share of pipe memory for a user without CAP_SYS_RESOURCE (64 MiB,
            // fs.pipe-user-pages-soft) with two workers; beyond it new pipes shrink to two slots.
            pipes: 32,
        }
    }
}

/// The pool of one worker. Clones share it.
#[derive(Clone)]
pub struct Buffers {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    /// Uncontended on a worker; a lock and not a cell, because a buffer may be dropped wherever its bytes end up.
    free: Mutex<Free>,
    lent: AtomicUsize,
    peak: AtomicUsize,
    /// Pipes that exist, kept ones included.
    pipes: AtomicUsize,
}

#[derive(Default)]
struct Free {
    classes: [Vec<Box<[u8]>>; CLASSES],
    bytes: usize,
    pipes: Vec<Pipe>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Buffers {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        let free = Mutex::new(Free::default());
        let [lent, peak, pipes] = Default::default();
        Self { shared: Arc::new(Shared { limits, free, lent, peak, pipes }) }
    }

    /// Lends a buffer of at least `want` bytes, or as large as there is; of the smallest size when too much is lent out.
    pub fn lease(&self, want: usize) -> Lease {
        let pressed = self.shared.lent.load(Ordering::Relaxed) >= self.shared.limits.pressure;
        let class = if pressed { 0 } else { class_of(want) };
        let size = SMALLEST << class;
        let kept = {
            let mut free = self.shared.free();
            let kept = free.classes[class].pop();
            if kept.is_some() {
                free.bytes -= size;
            }
            kept
        };
        let lent = self.shared.lent.fetch_add(size, Ordering::Relaxed) + size;
        self.shared.peak.fetch_max(lent, Ordering::Relaxed);
        let memory = kept.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        Lease { memory, len: 0, shared: Arc::clone(&self.shared) }
    }

    /// Bytes that are lent out.
    pub fn lent(&self) -> usize {
        self.shared.lent.load(Ordering::Relaxed)
    }

    /// The most bytes that were lent out at any time.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    /// Bytes that are kept for later use.
    pub fn kept(&self) -> usize {
        self.shared.free().bytes
    }

    pub(super) fn splice_after(&self) -> Option<u64> {
        self.shared.limits.splice_after
    }

    /// An empty pipe, kept or new. None when there are enough or descriptors ran out: splicing is not worth a failure.
    pub(super) fn pipe(&self) -> Option<PooledPipe> {
        if let Some(pipe) = self.shared.free().pipes.pop() {
            return Some(PooledPipe { pipe: Some(pipe), shared: Arc::clone(&self.shared) });
        }
        if self.shared.pipes.load(Ordering::Relaxed) >= self.shared.limits.pipes {
            return None;
        }
        let pipe = Pipe::new().inspect_err(|error| tracing::debug!(%error, "no pipe to splice with")).ok()?;
        self.shared.pipes.fetch_add(1, Ordering::Relaxed);
        Some(PooledPipe { pipe: Some(pipe), shared: Arc::clone(&self.shared) })
    }

    /// Pipes that exist for this pool, kept ones included.
    pub fn pipes(&self) -> usize {
        self.shared.pipes.load(Ordering::Relaxed)
    }
}

/// As many flows as are likely to alternate between bulk and idle on one worker; two descriptors each.
const KEEP_PIPES: usize = 4;

/// A pipe that goes back to its pool when it is dropped empty, and is closed when it is dropped with bytes inside.
pub(super) struct PooledPipe {
    /// There until dropped.
    pipe: Option<Pipe>,
    shared: Arc<Shared>,
}

impl PooledPipe {
    pub(super) fn get(&mut self) -> Option<&mut Pipe> {
        self.pipe.as_mut()
    }
}

impl Drop for PooledPipe {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut free = self.shared.free();
        if pipe.is_empty() && free.pipes.len() < KEEP_PIPES {
            free.pipes.push(pipe);
        } else {
            self.shared.pipes.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn free(&self) -> MutexGuard<'_, Free> {
        // Nothing in here panics between two consistent states.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").field("lent", &self.lent()).field("kept", &self.kept()).finish_non_exhaustive()
    }
}

/// A borrowed buffer; goes back to its pool when it, or the last [`Bytes`] made of it, is dropped.
pub struct Lease {
    memory: Box<[u8]>,
    len: usize,
    shared: Arc<Shared>,
}

impl Lease {
    /// The whole buffer, to read into. Holds old bytes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// The first `len` bytes as a chunk to hand on, without a copy unless it is small.
    pub fn freeze(mut self, len: usize) -> Bytes {
        self.len = len.min(self.memory.len());
        if self.len <= COPY_UP_TO {
            return Bytes::copy_from_slice(self.as_ref());
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let size = memory.len();
        self.shared.lent.fetch_sub(size, Ordering::Relaxed);
        let mut free = self.shared.free();
        if free.bytes + size <= self.shared.limits.keep {
            free.bytes += size;
            free.classes[class_of(size)].push(memory);
        }
    }
}

fn class_of(want: usize) -> usize {
    let pages = want.div_ceil(SMALLEST).max(1).next_power_of_two();
    (pages.trailing_zeros() as usize).min(CLASSES - 1)
}

/// How large the next read of one source should be: doubles when a read fills it, halves after four small ones.
#[derive(Clone, Copy, Debug)]
pub struct ReadSize {
    size: u32,
    small: u8,
}

/// A lone short read between large ones (the end of a message) shall not shrink the size.
const SMALL_READS: u8 = 4;

impl Default for ReadSize {
    fn default() -> Self {
        Self { size: SMALLEST as u32, small: 0 }
    }
}

impl ReadSize {
    /// Bytes to ask for.
    pub fn get(self) -> usize {
        self.size as usize
    }

    /// Learns from a read of `read` bytes into a buffer of `asked`.
    pub fn learn(&mut self, read: usize, asked: usize) {
        if read >= asked {
            self.size = (self.size * 2).min(LARGEST as u32);
            self.small = 0;
        } else if read < self.get() / 4 {
            self.small += 1;
            if self.small >= SMALL_READS {
                self.size = (self.size / 2).max(SMALLEST as u32);
                self.small = 0;
            }
        } else {
            self.small = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_a_class() {
        let pool = Buffers::default();
        for (want, got) in [(0, SMALLEST), (1, SMALLEST), (SMALLEST, SMALLEST), (SMALLEST + 1, 2 * SMALLEST)] {
            assert_eq!(pool.lease(want).space().len(), got, "{want}");
        }
        assert_eq!(pool.lease(LARGEST - 1).space().len(), LARGEST);
        assert_eq!(pool.lease(10 * LARGEST).space().len(), LARGEST);
    }

    #[test]
    fn buffers_come_back_when_the_last_chunk_is_dropped() {
        let pool = Buffers::default();
        let mut lease = pool.lease(LARGEST);
        lease.space()[..3000].fill(7);
        let chunk = lease.freeze(3000);
        let part = chunk.slice(1000..2000);
        assert_eq!((pool.lent(), pool.kept()), (LARGEST, 0));
        drop(chunk);
        assert_eq!(pool.lent(), LARGEST);
        assert_eq!(part, [7; 1000][..]);
        drop(part);
        assert_eq!((pool.lent(), pool.kept(), pool.peak()), (0, LARGEST, LARGEST));
    }

    #[test]
    fn small_chunks_do_not_keep_the_buffer() {
        let pool = Buffers::default();
        let mut lease = pool.lease(LARGEST);
        lease.space()[0] = 9;
        let chunk = lease.freeze(1);
        assert_eq!(pool.lent(), 0);
        assert_eq!(chunk, [9][..]);
    }

    #[test]
    fn no_more_is_kept_than_allowed_and_pressure_makes_loans_small() {
        let pool = Buffers::new(Limits { keep: SMALLEST, pressure: 2 * SMALLEST, ..Limits::default() });
        let first = pool.lease(2 * SMALLEST);
        let mut second = pool.lease(LARGEST);
        assert_eq!(second.space().len(), SMALLEST);
        drop((first, second));
        assert_eq!((pool.lent(), pool.kept()), (0, SMALLEST));
    }

    #[test]
    fn the_read_size_follows_the_flow() {
        let mut size = ReadSize::default();
        for _ in 0..6 {
            size.learn(size.get(), size.get());
        }
        assert_eq!(size.get(), LARGEST);
        size.learn(LARGEST, LARGEST);
        assert_eq!(size.get(), LARGEST);
        for _ in 0..3 {
            size.learn(1, size.get());
        }
        assert_eq!(size.get(), LARGEST);
        size.learn(LARGEST / 2, LARGEST);
        for _ in 0..24 {
            size.learn(1, size.get());
        }
        assert_eq!(size.get(), SMALLEST);
    }

    #[test]
    fn pipes_are_bounded_and_come_back_empty_ones_only() {
        let pool = Buffers::new(Limits { pipes: 2, ..Limits::default() });
        let (one, two) = (pool.pipe(), pool.pipe());
        assert!(one.is_some() && two.is_some() && pool.pipe().is_none());
        drop((one, two));
        assert_eq!(pool.pipes(), 2);
        assert!(pool.pipe().is_some());
    }
}
