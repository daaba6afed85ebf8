//! The relay: bytes both ways between two ends until both have closed or one has broken.
//!
//! An end is anything that is a [`Source`] and a [`Sink`]: a TCP connection ([`TcpEnd`], made from a tokio `TcpStream`), or a
//! tunnel stream for which a program writes an adapter. One task drives both directions, so an end needs no lock.
//!
//! What holds for every pair of ends:
//! * FIN in one direction leaves the other going. RST of one end becomes a reset of the other, in both directions.
//! * Nothing is read while earlier bytes wait for the sink, so that one direction holds less than two [`TURN`]s. The source
//!   hears [`Source::consumed`] only when the sink has handed the bytes on.
//! * An idle relay holds no buffer: it waits for readiness and only then borrows one from the worker's [`Buffers`].
//! * One wake-up drains what is ready, at most [`TURN`] bytes per direction, so that a fast flow cannot starve its
//!   neighbours on the worker; the directions take turns in going first.
//! * Dropping the relay closes both ends; [`Progress::abort_on_drop`] makes that a reset.

mod buffers;
mod progress;
mod pump;
mod splice;
mod tcp;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpStream;

pub use buffers::{Buffers, Lease, Limits, ReadSize};
pub use progress::Progress;
pub use tcp::TcpEnd;

use pump::{Fault, Pump};

/// Most bytes that a direction moves in one wake-up before others on the worker get their turn: one buffer of the largest
/// size. At the 1.5 to 2 GB/s of one core this is an interruption of 0.15 ms for the neighbours.
pub const TURN: usize = buffers::LARGEST;

/// The receiving half of an end.
pub trait Source {
    /// The next bytes, never an empty chunk; `None` is FIN, after which the relay does not ask again.
    ///
    /// An implementation that reads into memory of ours borrows it from `buffers` when there is something to read, and
    /// not before. A chunk larger than [`TURN`] makes the relay hold more than it promises.
    fn poll_recv(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>>;

    /// `bytes` more of what was received have left the relay: return flow-control credit for them.
    fn consumed(&mut self, bytes: usize);

    /// Ready when the end broke, while nobody reads from it: after its FIN, or while the other end is slow. An end that
    /// cannot tell stays pending; the break then shows at the next read or write.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let _ = cx;
        Poll::Pending
    }

    /// The TCP connection behind this half, when all its bytes are still in the kernel: lets two such ends be spliced.
    fn source_socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// The sending half of an end.
pub trait Sink {
    /// Waits until the sink takes more and says how many bytes, at most `want`, at least 1.
    ///
    /// A sink with flow control reserves that much. The relay gives it at once and no more.
    fn poll_ready(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>>;

    /// Takes bytes, as many as [`poll_ready`](Self::poll_ready) granted or fewer. They may stay queued until
    /// [`poll_flush`](Self::poll_flush).
    ///
    /// # Errors
    /// When the end is broken.
    fn start_send(&mut self, bytes: Bytes) -> Result<(), Broken>;

    /// Bytes taken by [`start_send`](Self::start_send) and not yet handed on (to the kernel, to the tunnel).
    fn queued(&self) -> usize;

    /// Hands on what is queued; ready when nothing is.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Sends FIN after what was sent. Called with nothing queued.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Ends the whole end with RST (RST_STREAM in a tunnel), both halves of it. The relay drops it next. May be called on
    /// an end that is broken or closed already.
    fn reset(&mut self);

    /// As [`Source::source_socket`], for sending.
    fn sink_socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// How an end broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// It was reset by whoever is behind it.
    Reset,
    /// It was lost: time-out, unreachable, tunnel gone.
    Lost,
}

/// The ends of a relay, in the order of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Both ends sent FIN and everything was delivered.
    Both,
    /// This end was reset, and therefore the other was reset by us.
    ResetBy(Side),
    /// This end was lost, and therefore the other was reset by us.
    LostBy(Side),
}

/// What can be handed to [`relay`]: an end, or a `TcpStream`, which becomes a [`TcpEnd`].
pub trait IntoEnd {
    /// The end.
    type End: Source + Sink;

    /// Makes it.
    fn into_end(self) -> Self::End;
}

impl<T: Source + Sink> IntoEnd for T {
    type End = T;

    fn into_end(self) -> T {
        self
    }
}

impl IntoEnd for TcpStream {
    type End = TcpEnd;

    fn into_end(self) -> TcpEnd {
        TcpEnd::new(self)
    }
}

/// Relays between two ends. Await it, or drop it to cut the connection.
///
/// `progress` shows at any time how many bytes went each way. `buffers` belongs to the worker and is shared by all its
/// relays.
pub fn relay<'a, A: IntoEnd, B: IntoEnd>(
    a: A,
    b: B,
    progress: &'a Progress,
    buffers: &'a Buffers,
) -> Relay<'a, A::End, B::End> {
    Relay {
        a: a.into_end(),
        b: b.into_end(),
        a_to_b: Pump::default(),
        b_to_a: Pump::default(),
        b_first: false,
        ended: false,
        progress,
        buffers,
    }
}

/// The future of [`relay`].
#[must_use = "a relay does nothing unless it is awaited"]
pub struct Relay<'a, A: Source + Sink, B: Source + Sink> {
    a: A,
    b: B,
    a_to_b: Pump,
    b_to_a: Pump,
    /// Which direction goes first in this turn.
    b_first: bool,
    ended: bool,
    progress: &'a Progress,
    buffers: &'a Buffers,
}

impl<A: Source + Sink + Unpin, B: Source + Sink + Unpin> Future for Relay<'_, A, B> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        match this.turn(cx) {
            Ok(false) => Poll::Pending,
            Ok(true) => this.end(Ended::Both),
            Err(fault) => {
                this.salvage(cx, fault);
                this.break_off(fault)
            }
        }
    }
}

/// Whether both directions are over, or who broke.
type Turn = Result<bool, Fatal>;

/// An end that broke.
#[derive(Clone, Copy)]
struct Fatal {
    side: Side,
    broken: Broken,
    /// It showed when we wrote to it, so that it may have sent bytes that nobody has read.
    writing: bool,
}

impl Fatal {
    fn of(fault: Fault, source: Side, sink: Side) -> Self {
        match fault {
            Fault::Source(broken) => Self { side: source, broken, writing: false },
            Fault::Sink(broken) => Self { side: sink, broken, writing: true },
        }
    }
}

impl<A: Source + Sink, B: Source + Sink> Relay<'_, A, B> {
    fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        self.b_first = !self.b_first;
        let both = if self.b_first {
            let back = self.b_to_a(cx)?;
            self.a_to_b(cx)? && back
        } else {
            let forth = self.a_to_b(cx)?;
            self.b_to_a(cx)? && forth
        };
        if both {
            return Ok(true);
        }
        // Nobody reads from a source whose sink is slow or whose FIN was seen: ask it whether it broke.
        if !self.a_to_b.reads()
            && let Poll::Ready(broken) = self.a.poll_gone(cx)
        {
            return Err(Fatal { side: Side::A, broken, writing: false });
        }
        if !self.b_to_a.reads()
            && let Poll::Ready(broken) = self.b.poll_gone(cx)
        {
            return Err(Fatal { side: Side::B, broken, writing: false });
        }
        Ok(false)
    }

    fn a_to_b(&mut self, cx: &mut Context<'_>) -> Turn {
        let outcome = self.a_to_b.turn(cx, &mut self.a, &mut self.b, self.buffers, self.progress.forth());
        outcome.map_err(|fault| Fatal::of(fault, Side::A, Side::B))
    }

    fn b_to_a(&mut self, cx: &mut Context<'_>) -> Turn {
        let outcome = self.b_to_a.turn(cx, &mut self.b, &mut self.a, self.buffers, self.progress.back());
        outcome.map_err(|fault| Fatal::of(fault, Side::B, Side::A))
    }

    /// An end that broke while we wrote to it may have sent bytes before (an answer, then close with our bytes unread),
    /// which its socket still has: without a proxy the application would find them in its own. What the other end takes at
    /// once is handed on.
    fn salvage(&mut self, cx: &mut Context<'_>, fault: Fatal) {
        let (a, b) = (&mut self.a, &mut self.b);
        match fault.side {
            _ if !fault.writing => {}
            Side::A => self.a_to_b.salvage(cx, a, b, self.buffers, self.progress.forth(), SALVAGE),
            Side::B => self.b_to_a.salvage(cx, b, a, self.buffers, self.progress.back(), SALVAGE),
        }
    }

    fn break_off(&mut self, fault: Fatal) -> Poll<Ended> {
        let lost = fault.broken == Broken::Lost;
        // The other end learns of it. A lost one is reset as well: the kernel, or the tunnel, need not go on trying.
        if fault.side == Side::B || lost {
            self.a.reset();
        }
        if fault.side == Side::A || lost {
            self.b.reset();
        }
        self.end(if lost { Ended::LostBy(fault.side) } else { Ended::ResetBy(fault.side) })
    }

    fn end(&mut self, how: Ended) -> Poll<Ended> {
        self.ended = true;
        Poll::Ready(how)
    }
}

/// What a broken end can still have: its receive buffer, 6 MiB by Linux' default (net.ipv4.tcp_rmem).
const SALVAGE: u64 = 6 * 1024 * 1024;

impl<A: Source + Sink, B: Source + Sink> Drop for Relay<'_, A, B> {
    fn drop(&mut self) {
        if !self.ended && self.progress.aborts_on_drop() {
            self.a.reset();
            self.b.reset();
        }
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;

#[cfg(test)]
mod memory_tests;
