//! One direction of a relay.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::buffers::PooledPipe;
use super::progress::Counter;
use super::splice::Spliced;
use super::{Broken, Buffers, Sink, Source, TURN};

/// Which half of a direction broke.
pub(super) enum Fault {
    Source(Broken),
    Sink(Broken),
}

/// One direction.
///
/// ```text
/// Copying <-> Splicing        (two TCP ends, bulk)
///    |           |
///    +--- FIN ---+--> Closing --> Closed
///                                   ^
///    sink broken: ------------------+
/// ```
#[derive(Default)]
pub(super) struct Pump {
    state: State,
    /// Received, and not yet taken by the sink.
    pending: Bytes,
    /// Taken by the sink, and not yet reported as consumed.
    in_sink: usize,
    /// The sink is the one we wait for.
    blocked: bool,
    /// Where the counter stood when this turn began.
    began: u64,
}

#[derive(Default)]
enum State {
    #[default]
    Copying,
    /// The pipe is there only while something moves.
    Splicing(Option<PooledPipe>),
    Closing,
    Closed,
}

/// What a step says of the next one.
enum Step {
    Again,
    Wait,
}

/// Batches of at least this size make a flow bulk, which is worth a pipe; below it a flow is copied again.
const BULK: usize = 32 * 1024;

impl Pump {
    /// Moves what is ready, at most [`TURN`] bytes. True when this direction is over; false when the waker is set.
    pub(super) fn turn<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        buffers: &Buffers,
        counter: &Counter,
    ) -> Result<bool, Fault> {
        self.began = counter.get();
        loop {
            self.blocked = false;
            let step = match &mut self.state {
                State::Copying => self.copy(cx, source, sink, buffers, counter)?,
                State::Splicing(_) => self.splice(cx, source, sink, buffers, counter)?,
                State::Closing => self.close(cx, source, sink, counter)?,
                State::Closed => return Ok(true),
            };
            match step {
                Step::Wait => return Ok(false),
                Step::Again if counter.get() - self.began >= TURN as u64 => {
                    cx.waker().wake_by_ref();
                    return Ok(false);
                }
                Step::Again => {}
            }
        }
    }

    /// Whether the source is being read (or will be at the next turn) at this moment.
    pub(super) fn reads(&self) -> bool {
        matches!(self.state, State::Copying | State::Splicing(_)) && !self.blocked
    }

    /// Hands on what a broken source still has, as far as the sink takes it at once, and never a FIN: the kernel reports
    /// FIN after a reset that somebody was already told of. At most `most` bytes.
    pub(super) fn salvage<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        buffers: &Buffers,
        counter: &Counter,
        most: u64,
    ) {
        let until = counter.get() + most;
        while counter.get() < until {
            let more = match &mut self.state {
                State::Copying => {
                    if sink.queued() > 0 && !matches!(self.flush(cx, source, sink, counter), Ok(true)) {
                        return;
                    }
                    let (_, stop) = self.gather(cx, source, sink, buffers);
                    matches!(self.flush(cx, source, sink, counter), Ok(true)) && matches!(stop, Stop::Batch)
                }
                State::Splicing(pipe) => {
                    match (pipe.as_mut().and_then(PooledPipe::get), source.source_socket(), sink.sink_socket()) {
                        (Some(pipe), Some(from), Some(to)) => {
                            matches!(pipe.turn(cx, from, to, &mut |n| counter.add(n)), Spliced::Batch)
                        }
                        _ => {
                            self.state = State::Copying;
                            true
                        }
                    }
                }
                State::Closing | State::Closed => false,
            };
            if !more {
                return;
            }
        }
    }

    fn copy<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        buffers: &Buffers,
        counter: &Counter,
    ) -> Result<Step, Fault> {
        // What an earlier turn left goes first, and nothing is read meanwhile.
        if sink.queued() > 0 && !self.flush(cx, source, sink, counter)? {
            return Ok(Step::Wait);
        }
        let (gathered, stop) = self.gather(cx, source, sink, buffers);
        let clear = if self.in_sink > 0 { self.flush(cx, source, sink, counter)? } else { true };
        match stop {
            Stop::Failed(fault) => return Err(fault),
            Stop::Fin => {
                self.state = State::Closing;
                return Ok(Step::Again);
            }
            Stop::SinkFull => {
                self.blocked = true;
                return Ok(if clear && gathered > 0 { Step::Again } else { Step::Wait });
            }
            Stop::SourceIdle | Stop::Batch => {}
        }
        if clear && gathered >= BULK {
            self.begin_splice(source, sink, buffers, counter);
        }
        Ok(if clear && matches!(stop, Stop::Batch) { Step::Again } else { Step::Wait })
    }

    /// Takes from the source what is ready and gives it to the sink, up to one batch, without flushing.
    fn gather<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        buffers: &Buffers,
    ) -> (usize, Stop) {
        let mut gathered = 0;
        while gathered < BATCH {
            if self.pending.is_empty() {
                match source.poll_recv(cx, buffers) {
                    Poll::Ready(Ok(Some(chunk))) => self.pending = chunk,
                    Poll::Ready(Ok(None)) => return (gathered, Stop::Fin),
                    Poll::Ready(Err(broken)) => return (gathered, Stop::Failed(Fault::Source(broken))),
                    Poll::Pending => return (gathered, Stop::SourceIdle),
                }
                continue;
            }
            let granted = match sink.poll_ready(cx, self.pending.len()) {
                Poll::Ready(Ok(granted)) => granted.min(self.pending.len()),
                Poll::Ready(Err(broken)) => return (gathered, Stop::Failed(Fault::Sink(broken))),
                Poll::Pending => return (gathered, Stop::SinkFull),
            };
            let chunk = self.pending.split_to(granted);
            self.in_sink += granted;
            gathered += granted;
            if let Err(broken) = sink.start_send(chunk) {
                return (gathered, Stop::Failed(Fault::Sink(broken)));
            }
        }
        (gathered, Stop::Batch)
    }

    /// True when the sink has nothing queued any more.
    fn flush<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        counter: &Counter,
    ) -> Result<bool, Fault> {
        let outcome = sink.poll_flush(cx);
        let taken = self.in_sink.saturating_sub(sink.queued());
        self.in_sink -= taken;
        if taken > 0 {
            counter.add(taken);
            source.consumed(taken);
        }
        match outcome {
            Poll::Ready(Ok(())) => Ok(true),
            Poll::Ready(Err(broken)) => Err(Fault::Sink(broken)),
            Poll::Pending => {
                self.blocked = true;
                Ok(false)
            }
        }
    }

    fn close<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        counter: &Counter,
    ) -> Result<Step, Fault> {
        if !self.flush(cx, source, sink, counter)? {
            return Ok(Step::Wait);
        }
        match sink.poll_finish(cx) {
            Poll::Ready(Ok(())) => {
                self.state = State::Closed;
                Ok(Step::Again)
            }
            Poll::Ready(Err(broken)) => Err(Fault::Sink(broken)),
            Poll::Pending => Ok(Step::Wait),
        }
    }

    /// Goes over to splicing when both ends are sockets with nothing of ours in between.
    fn begin_splice<S: Source, K: Sink>(&mut self, source: &S, sink: &K, buffers: &Buffers, counter: &Counter) {
        let due = buffers.splice_after().is_some_and(|after| counter.get() >= after);
        if due && self.pending.is_empty() && source.source_socket().is_some() && sink.sink_socket().is_some() {
            self.state = State::Splicing(None);
        }
    }

    fn splice<S: Source, K: Sink>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut K,
        buffers: &Buffers,
        counter: &Counter,
    ) -> Result<Step, Fault> {
        let State::Splicing(held) = &mut self.state else { return Ok(Step::Again) };
        if held.is_none() {
            *held = buffers.pipe();
        }
        let pipe = held.as_mut().and_then(PooledPipe::get);
        let (Some(pipe), Some(from), Some(to)) = (pipe, source.source_socket(), sink.sink_socket()) else {
            // No pipe to be had: copying always works.
            self.state = State::Copying;
            return Ok(Step::Again);
        };
        let mut moved = 0;
        let outcome = pipe.turn(cx, from, to, &mut |n| {
            moved += n;
            counter.add(n);
        });
        counter.add_spliced(moved);
        source.consumed(moved);
        match outcome {
            Spliced::Batch => Ok(Step::Again),
            Spliced::SinkFull => {
                self.blocked = true;
                Ok(Step::Wait)
            }
            Spliced::SourceIdle => {
                // An idle flow holds no pipe. One that brings few bytes at a time is copied again: that is as cheap then.
                let bulk = counter.get() - self.began >= BULK as u64;
                let next = if bulk { State::Splicing(None) } else { State::Copying };
                self.state = next;
                Ok(Step::Wait)
            }
            Spliced::Fin => {
                self.state = State::Closing;
                Ok(Step::Again)
            }
            Spliced::SourceFailed(broken) => Err(Fault::Source(broken)),
            Spliced::SinkFailed(broken) => Err(Fault::Sink(broken)),
        }
    }
}

/// Bytes that are gathered before they are flushed: one largest buffer, or sixteen tunnel frames of 16 KiB.
const BATCH: usize = TURN;

/// Why gathering stopped.
enum Stop {
    Batch,
    SourceIdle,
    SinkFull,
    Fin,
    Failed(Fault),
}
