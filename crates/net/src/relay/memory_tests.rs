//! The relay between ends in memory whose every answer is chosen by the test: chunk sizes, pauses, credit, partial flushes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

/// What one end does at its next calls; when the list is used up everything is instant and unlimited.
#[derive(Clone, Debug, Default)]
struct Script {
    /// Chunks that arrive; 0 is a pause.
    arrivals: Vec<usize>,
    /// Bytes granted by `poll_ready`; 0 is a pause.
    grants: Vec<usize>,
    /// Bytes that a flush gets rid of before it pauses.
    flushes: Vec<usize>,
    last: Last,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Last {
    #[default]
    Fin,
    Reset,
    Lost,
}

/// What happened at an end.
#[derive(Debug, Default)]
struct Seen {
    sent: usize,
    consumed: usize,
    delivered: Vec<u8>,
    finished: bool,
    reset: bool,
}

struct End {
    arrivals: VecDeque<usize>,
    grants: VecDeque<usize>,
    flushes: VecDeque<usize>,
    last: Last,
    granted: usize,
    queue: VecDeque<Bytes>,
    /// Most bytes received and not reported as consumed.
    most_held: Rc<RefCell<usize>>,
    seen: Rc<RefCell<Seen>>,
}

impl End {
    fn new(script: &Script) -> Self {
        Self {
            arrivals: script.arrivals.iter().copied().collect(),
            grants: script.grants.iter().copied().collect(),
            flushes: script.flushes.iter().copied().collect(),
            last: script.last,
            granted: 0,
            queue: VecDeque::new(),
            most_held: Rc::default(),
            seen: Rc::default(),
        }
    }
}

/// The byte at a position of every stream.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

fn pause<T>(cx: &mut Context<'_>) -> Poll<T> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl Source for End {
    fn poll_recv(&mut self, cx: &mut Context<'_>, _buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>> {
        let mut seen = self.seen.borrow_mut();
        match self.arrivals.pop_front() {
            Some(0) => pause(cx),
            Some(n) => {
                let chunk = (seen.sent..seen.sent + n).map(byte).collect();
                seen.sent += n;
                let held = seen.sent - seen.consumed;
                let mut most = self.most_held.borrow_mut();
                *most = held.max(*most);
                Poll::Ready(Ok(Some(chunk)))
            }
            None => Poll::Ready(match self.last {
                Last::Fin => Ok(None),
                Last::Reset => Err(Broken::Reset),
                Last::Lost => Err(Broken::Lost),
            }),
        }
    }

    fn consumed(&mut self, bytes: usize) {
        let mut seen = self.seen.borrow_mut();
        seen.consumed += bytes;
        assert!(seen.consumed <= seen.sent, "credit for bytes that never came");
    }
}

impl Sink for End {
    fn poll_ready(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
        assert!(want > 0);
        let granted = self.grants.pop_front().unwrap_or(want);
        if granted == 0 {
            return pause(cx);
        }
        self.granted = granted.min(want);
        Poll::Ready(Ok(self.granted))
    }

    fn start_send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        assert!(!bytes.is_empty() && bytes.len() <= self.granted, "more than granted");
        self.granted -= bytes.len();
        assert!(!self.seen.borrow().finished, "bytes after FIN");
        self.queue.push_back(bytes);
        Ok(())
    }

    fn queued(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.queue.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut allowed = self.flushes.pop_front().unwrap_or(usize::MAX);
        let mut seen = self.seen.borrow_mut();
        while let Some(mut chunk) = self.queue.pop_front() {
            let now = chunk.split_to(allowed.min(chunk.len()));
            allowed -= now.len();
            seen.delivered.extend_from_slice(&now);
            if !chunk.is_empty() {
                self.queue.push_front(chunk);
                return pause(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        assert!(self.queue.is_empty(), "FIN overtakes bytes");
        let mut seen = self.seen.borrow_mut();
        assert!(!seen.finished, "FIN twice");
        seen.finished = true;
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        self.seen.borrow_mut().reset = true;
    }
}

fn script() -> impl Strategy<Value = Script> {
    let sizes = |most: usize| {
        let size = prop_oneof![Just(0), Just(1), 1..100_usize, 1..most];
        prop::collection::vec(size, 0..60)
    };
    let last = prop_oneof![8 => Just(Last::Fin), 1 => Just(Last::Reset), 1 => Just(Last::Lost)];
    (sizes(LARGEST_CHUNK), sizes(20_000), sizes(20_000), last).prop_map(|(arrivals, grants, flushes, last)| Script {
        arrivals,
        grants,
        flushes,
        last,
    })
}

const LARGEST_CHUNK: usize = 70_000;

/// Drives a relay by hand; every pause wakes at once, so more polls than pauses and turns mean that it hangs.
fn drive(a: End, b: End, progress: &Progress) -> Ended {
    let buffers = Buffers::default();
    let mut future = relay(a, b, progress, &buffers);
    let (waker, woken) = counting_waker();
    let mut cx = Context::from_waker(&waker);
    for _ in 0..10_000 {
        let before = woken.load(std::sync::atomic::Ordering::Relaxed);
        if let Poll::Ready(ended) = Pin::new(&mut future).poll(&mut cx) {
            return ended;
        }
        assert!(woken.load(std::sync::atomic::Ordering::Relaxed) > before, "pending, and nobody will wake it");
    }
    panic!("the relay does not end");
}

fn counting_waker() -> (Waker, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let count = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    (Waker::from(std::sync::Arc::new(Count(count.clone()))), count)
}

proptest! {
    #[test]
    fn whatever_the_ends_do_bytes_credit_and_endings_are_exact(one in script(), two in script()) {
        let (a, b) = (End::new(&one), End::new(&two));
        let (a_seen, b_seen) = (a.seen.clone(), b.seen.clone());
        let held = [a.most_held.clone(), b.most_held.clone()];
        let progress = Progress::new();
        let ended = drive(a, b, &progress);
        let (a, b) = (a_seen.borrow(), b_seen.borrow());
        for (from, to, counted) in [(&a, &b, progress.a_to_b()), (&b, &a, progress.b_to_a())] {
            prop_assert_eq!(counted, from.consumed as u64);
            prop_assert_eq!(from.consumed, to.delivered.len());
            prop_assert!(to.delivered.iter().enumerate().all(|(at, got)| *got == byte(at)));
        }
        for most in held {
            let most = *most.borrow();
            prop_assert!(most < TURN + 2 * LARGEST_CHUNK, "{} bytes held", most);
        }
        match ended {
            Ended::Both => {
                prop_assert!(one.last == Last::Fin && two.last == Last::Fin);
                prop_assert!(a.finished && b.finished && !a.reset && !b.reset);
                prop_assert_eq!(a.consumed, a.sent);
                prop_assert_eq!(b.consumed, b.sent);
                prop_assert_eq!(a.sent, one.arrivals.iter().sum::<usize>());
            }
            Ended::ResetBy(side) => {
                let (script, other) = if side == Side::A { (&one, &b) } else { (&two, &a) };
                prop_assert_eq!(script.last, Last::Reset);
                prop_assert!(other.reset && !other.finished);
            }
            Ended::LostBy(side) => {
                let script = if side == Side::A { &one } else { &two };
                prop_assert_eq!(script.last, Last::Lost);
                prop_assert!(a.reset && b.reset);
            }
        }
    }
}

/// Never idle, never full: what a fast neighbour looks like. Counts what was taken from it since the last look.
struct Flood(Bytes, Rc<RefCell<usize>>);

impl Source for Flood {
    fn poll_recv(&mut self, _cx: &mut Context<'_>, _buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>> {
        *self.1.borrow_mut() += 1;
        assert!(*self.1.borrow() < 1000, "one turn without end");
        Poll::Ready(Ok(Some(self.0.clone())))
    }

    fn consumed(&mut self, _bytes: usize) {}
}

impl Sink for Flood {
    fn poll_ready(&mut self, _cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
        Poll::Ready(Ok(want))
    }

    fn start_send(&mut self, _bytes: Bytes) -> Result<(), Broken> {
        Ok(())
    }

    fn queued(&self) -> usize {
        0
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

#[test]
fn a_flood_leaves_both_directions_and_the_neighbours_their_turns() {
    let (progress, buffers) = (Progress::new(), Buffers::default());
    let chunk = Bytes::from(vec![0; 16 * 1024]);
    let taken = Rc::<RefCell<usize>>::default();
    let mut flood = relay(Flood(chunk.clone(), taken.clone()), Flood(chunk, taken.clone()), &progress, &buffers);
    let (waker, woken) = counting_waker();
    let mut cx = Context::from_waker(&waker);
    for turn in 1..100_u64 {
        // Every poll comes back, has asked for another one, and has given each direction exactly its share.
        *taken.borrow_mut() = 0;
        assert!(Pin::new(&mut flood).poll(&mut cx).is_pending());
        assert_eq!(woken.load(std::sync::atomic::Ordering::Relaxed) as u64, 2 * turn);
        assert_eq!((progress.a_to_b(), progress.b_to_a()), (turn * TURN as u64, turn * TURN as u64));
    }
}

#[test]
fn a_break_while_nobody_reads_is_noticed() {
    /// Sends FIN at once and is reset later.
    struct Leaver(End);
    impl Source for Leaver {
        fn poll_recv(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>> {
            self.0.poll_recv(cx, buffers)
        }
        fn consumed(&mut self, bytes: usize) {
            self.0.consumed(bytes);
        }
        fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
            match self.0.flushes.pop_front() {
                Some(_) => pause(cx),
                None => Poll::Ready(Broken::Reset),
            }
        }
    }
    impl Sink for Leaver {
        fn poll_ready(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
            self.0.poll_ready(cx, want)
        }
        fn start_send(&mut self, bytes: Bytes) -> Result<(), Broken> {
            self.0.start_send(bytes)
        }
        fn queued(&self) -> usize {
            self.0.queued()
        }
        fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            self.0.poll_flush(cx)
        }
        fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            self.0.poll_finish(cx)
        }
        fn reset(&mut self) {
            self.0.reset();
        }
    }
    let (progress, buffers) = (Progress::new(), Buffers::default());
    let leaver = Leaver(End::new(&Script { flushes: vec![0; 3], ..Script::default() }));
    let silent = End::new(&Script { arrivals: vec![0; 1000], ..Script::default() });
    let silent_seen = silent.seen.clone();
    let mut future = relay(leaver, silent, &progress, &buffers);
    let mut cx = Context::from_waker(Waker::noop());
    let ended = (0..100).find_map(|_| match Pin::new(&mut future).poll(&mut cx) {
        Poll::Ready(ended) => Some(ended),
        Poll::Pending => None,
    });
    assert_eq!(ended, Some(Ended::ResetBy(Side::A)));
    assert!(silent_seen.borrow().finished && silent_seen.borrow().reset, "FIN first, then the reset");
}
