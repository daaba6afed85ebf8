//! Byte buffers that a thread lends to its connections.
//!
//! A connection holds a buffer only while bytes are in it, so an idle connection holds none, and a busy thread uses the
//! same warm memory over and over (performance.md 4, techniques 2, 3 and 9).

use std::cell::RefCell;

/// Sizes that are lent. 4 KiB: what small messages need. 32 KiB: one full record (16 KiB + 22 bytes) and more. 128 KiB: a
/// read of eight records. 272 KiB: one full write (17 sealed records: 257 KiB and 17 x 22
/// bytes) with room for a key update.
const CLASSES: [usize; 4] = [4 << 10, 32 << 10, 128 << 10, 272 << 10];

/// Free buffers that a thread keeps per size: 64 KiB, 256 KiB, 512 KiB and 544 KiB at most.
const KEPT: [usize; 4] = [16, 8, 4, 2];

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 4]> = const { RefCell::new([const { Vec::new() }; 4]) };
}

/// Lends a buffer of at least `least` bytes. Its content is whatever the last user left: ciphertext or plaintext of
/// the same process, never handed out as data.
pub(crate) fn take(least: usize) -> Box<[u8]> {
    let Some(class) = CLASSES.iter().position(|size| *size >= least) else {
        return vec![0; least].into();
    };
    let kept = FREE.try_with(|free| free.borrow_mut()[class].pop()).ok().flatten();
    kept.unwrap_or_else(|| vec![0; CLASSES[class]].into())
}

/// Takes a buffer back.
pub(crate) fn give(buffer: Box<[u8]>) {
    let Some(class) = CLASSES.iter().position(|size| *size == buffer.len()) else { return };
    // At the end of a thread its store is gone, and the buffer is simply freed.
    let given = FREE.try_with(|free| {
        let free = &mut free.borrow_mut()[class];
        if free.len() < KEPT[class] {
            free.push(buffer);
        }
    });
    if given.is_err() {
        tracing::trace!("buffer freed: the thread is ending");
    }
}

/// A queue of bytes in a lent buffer. Empty means that no buffer is held.
#[derive(Default)]
pub(crate) struct Queue {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Bytes of memory held.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The free space behind what waits, at least `least` bytes of it.
    pub(crate) fn space(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < least {
            self.make_room(least);
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes of the space were filled.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end + count);
    }

    /// The first `count` bytes are done with.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Puts bytes at the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.fill(bytes.len());
    }

    /// Gives the buffer back if nothing waits in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty() && !self.bytes.is_empty() {
            (self.start, self.end) = (0, 0);
            give(std::mem::take(&mut self.bytes));
        }
    }

    fn make_room(&mut self, least: usize) {
        let waiting = self.len();
        if self.bytes.len() - waiting >= least {
            self.bytes.copy_within(self.start..self.end, 0);
        } else {
            let mut larger = take(waiting + least);
            larger[..waiting].copy_from_slice(self.filled());
            give(std::mem::replace(&mut self.bytes, larger));
        }
        (self.start, self.end) = (0, waiting);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_order_across_growth_and_gives_back() {
        let mut queue = Queue::default();
        let (mut put, mut got) = (0_u32, 0_u32);
        for round in 0..2000_u32 {
            for _ in 0..(round % 7) {
                queue.push(&put.to_be_bytes());
                put += 1;
            }
            for _ in 0..(round % 5) {
                if queue.len() >= 4 {
                    assert_eq!(queue.filled()[..4], got.to_be_bytes());
                    queue.consume(4);
                    got += 1;
                }
            }
        }
        while !queue.is_empty() {
            assert_eq!(queue.filled()[..4], got.to_be_bytes());
            queue.consume(4);
            got += 1;
        }
        assert_eq!(put, got);
        queue.release();
        assert_eq!(queue.bytes.len(), 0);
    }

    #[test]
    fn sizes_are_the_smallest_that_fit() {
        assert_eq!([take(1).len(), take(4097).len(), take(32769).len()], [4096, 32768, 131_072]);
        assert_eq!(take(300_000).len(), 300_000);
    }
}
