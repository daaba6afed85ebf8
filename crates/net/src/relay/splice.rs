//! Moving bytes between two TCP connections inside the kernel, through a pipe (splice(2)).

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::tcp::again;
use super::{Broken, TURN};
use crate::socket::closed_by_reset;

/// A pipe, and how much is in it.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// What came of a turn.
pub(super) enum Spliced {
    /// A whole turn's worth was moved; there is probably more.
    Batch,
    /// The pipe is empty and so is the source; the waker is set.
    SourceIdle,
    /// The sink takes no more; the waker is set.
    SinkFull,
    /// The source sent FIN and everything was moved.
    Fin,
    SourceFailed(Broken),
    SinkFailed(Broken),
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A slot of the pipe takes one fragment of a segment, often far less than a page's worth; more slots let one call
        // move more. Refused (EPERM) when the user's share of pipe memory is used up: then the default of 16 slots stays.
        if let Err(error) = fcntl_setpipe_size(&write, PIPE_BYTES) {
            tracing::debug!(%error, "pipe keeps its default size");
        }
        Ok(Self { read, write, held: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what is ready, at most a turn's worth, and reports what the sink took.
    pub(super) fn turn(
        &mut self,
        cx: &mut Context<'_>,
        source: &TcpStream,
        sink: &TcpStream,
        taken: &mut dyn FnMut(usize),
    ) -> Spliced {
        let mut moved = 0;
        while moved < TURN {
            if self.held > 0 {
                match self.empty(cx, sink) {
                    Poll::Ready(Ok(n)) => {
                        moved += n;
                        taken(n);
                    }
                    Poll::Ready(Err(error)) => return Spliced::SinkFailed(broken(&error)),
                    Poll::Pending => return Spliced::SinkFull,
                }
                continue;
            }
            match self.fill(cx, source) {
                Poll::Ready(Ok(0)) => return Spliced::Fin,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Spliced::SourceFailed(broken(&error)),
                Poll::Pending => return Spliced::SourceIdle,
            }
        }
        Spliced::Batch
    }

    /// From the source into the empty pipe. With an empty pipe "would block" can only mean an empty socket.
    fn fill(&mut self, cx: &mut Context<'_>, source: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(source.poll_read_ready(cx))?;
            match source.try_io(Interest::READABLE, || Ok(splice(source, None, &self.write, None, TURN, FLAGS)?)) {
                Ok(n) => {
                    self.held = n;
                    return Poll::Ready(Ok(n));
                }
                Err(error) if again(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// From the pipe into the sink.
    fn empty(&mut self, cx: &mut Context<'_>, sink: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            std::task::ready!(sink.poll_write_ready(cx))?;
            match sink.try_io(Interest::WRITABLE, || Ok(splice(&self.read, None, sink, None, self.held, FLAGS)?)) {
                Ok(n) => {
                    self.held -= n.min(self.held);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if again(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Not MORE: the kernel would hold back the last segment of a message.
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// 256 slots of a page each; the most that an unprivileged user may ask for (fs.pipe-max-size). Only slots are allocated
/// by this (10 KiB), pages are those of the segments.
const PIPE_BYTES: usize = 1024 * 1024;

fn broken(error: &io::Error) -> Broken {
    if closed_by_reset(error) { Broken::Reset } else { Broken::Lost }
}
