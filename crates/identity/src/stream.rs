//! TLS over a byte stream, on rustls' unbuffered API.
//!
//! Why not tokio-rustls: it reads one record (16 KiB) at a time and writes at most 64 KiB; here one system call moves up to
//! 128 KiB in and 256 KiB out, and an idle connection holds no buffer at all (performance.md 4, techniques 2, 3, 9).
//! Ciphertext is read into a buffer that the thread lends, decrypted there record by record as the caller asks for
//! plaintext; plaintext is sealed into another and written by as few calls as the socket allows.

mod error;
mod handshake;
mod records;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use error::{HandshakeError, StreamError};
pub use handshake::{accept, connect};

use crate::pool::Queue;
use records::{Connection, Step};

/// The plaintext of one record at most (RFC 8446 5.1).
const RECORD: usize = 16 << 10;

/// Plaintext taken by one write: 16 records, and 1 KiB so that the head of a full tunnel frame (256 KiB and 9 bytes) does
/// not push the last bytes of it into a write of their own.
const MOST_PLAINTEXT: usize = 16 * RECORD + 1024;

/// What a record of ciphertext can need at most: header 5, plaintext 2^14, and 256 more (RFC 8446 5.2).
const RECORD_ON_WIRE: usize = 5 + RECORD + 256;

/// The sizes that a read grows through: small messages, two records, eight records.
const READS: [usize; 3] = [4 << 10, 32 << 10, 128 << 10];

/// A connection after its handshake. Half-closes like TCP: `shutdown` sends `close_notify` and FIN and leaves the other
/// direction open. An end without `close_notify` is an error of kind `UnexpectedEof`, since it may be an attacker's cut.
///
/// Errors carry a [`StreamError`] inside where there is more to know than the kind.
pub struct SecureStream<IO> {
    io: IO,
    tls: Connection,
    /// Ciphertext read and not yet decrypted.
    incoming: Queue,
    /// Plaintext decrypted and not yet taken.
    plain: Queue,
    /// Ciphertext sealed and not yet written.
    outgoing: Queue,
    /// Index into [`READS`].
    read_size: usize,
    /// A writer's waker is registered below. A reader must then not write: it would put its own waker in that place, and
    /// the writer, a task of its own after a split, would never be woken.
    writer_waits: bool,
    /// `close_notify` came.
    peer_closed: bool,
    /// `close_notify` was queued.
    closed: bool,
    /// What broke the connection; everything after fails the same way.
    broken: Option<StreamError>,
}

impl<IO> SecureStream<IO> {
    /// The stream below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// The stream below. Reading or writing it breaks the connection.
    pub fn get_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// Bytes of buffers held now: none while the connection is idle.
    pub fn buffered(&self) -> usize {
        self.incoming.held() + self.plain.held() + self.outgoing.held()
    }

    /// The name of the negotiated key exchange, for logs.
    pub fn key_exchange(&self) -> Option<rustls::NamedGroup> {
        self.tls.key_exchange()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> SecureStream<IO> {
    fn new(io: IO, tls: Connection) -> Self {
        Self {
            io,
            tls,
            incoming: Queue::default(),
            plain: Queue::default(),
            outgoing: Queue::default(),
            read_size: 0,
            writer_waits: false,
            peer_closed: false,
            closed: false,
            broken: None,
        }
    }

    fn fail(&mut self, error: StreamError) -> io::Error {
        let error = self.broken.get_or_insert(error).clone();
        io::Error::new(error.kind(), error)
    }

    /// One step of TLS over what is there. Plaintext goes to `into` first, the rest of a record to `plain`.
    fn step(&mut self, into: &mut ReadBuf<'_>) -> Result<Step, StreamError> {
        self.tls.step(&mut self.incoming, into, &mut self.plain, &mut self.outgoing)
    }

    /// One read of the stream below. 0 = its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A part of a record that waits must find room for all of it.
        let least = if self.incoming.is_empty() { 1 } else { RECORD_ON_WIRE };
        let space = self.incoming.space(READS[self.read_size].max(least).saturating_sub(self.incoming.len()).max(1));
        let room = space.len();
        let mut buf = ReadBuf::new(space);
        match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
            Poll::Pending => {
                // Idle: nothing is held. A part of a record keeps its buffer, it will be needed at once.
                self.incoming.release();
                Poll::Pending
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) => {
                let got = buf.filled().len();
                self.incoming.fill(got);
                if got == room {
                    self.read_size = (self.read_size + 1).min(READS.len() - 1);
                } else if got < room / 8 {
                    self.read_size = self.read_size.saturating_sub(1);
                }
                Poll::Ready(Ok(got))
            }
        }
    }

    /// Writes what is sealed until it is all gone.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(written);
        }
        self.outgoing.release();
        Poll::Ready(Ok(()))
    }

    /// [`Self::poll_drain`] on behalf of who writes.
    fn poll_drain_for_writer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let drained = self.poll_drain(cx);
        self.writer_waits = drained.is_pending();
        drained
    }

    /// Writes what TLS says for itself (a key update, an alert), on behalf of who reads. If the socket is full it goes
    /// with the next write or flush.
    fn answer(&mut self, cx: &mut Context<'_>) {
        if !self.writer_waits
            && !self.outgoing.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            tracing::trace!(%error, "answer of TLS not written");
        }
    }

    /// Decrypts whatever whole records wait, so that only writing is left to do.
    fn settle(&mut self) -> Result<(), StreamError> {
        let mut nothing = ReadBuf::new(&mut []);
        loop {
            match self.step(&mut nothing)? {
                Step::Again => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Ready | Step::Blocked | Step::Closed => return Ok(()),
            }
        }
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.clone() {
            return Poll::Ready(Err(self.fail(error)));
        }
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Back-pressure: nothing more is sealed while the socket has not taken the last.
        ready!(self.poll_drain_for_writer(cx))?;
        if let Err(error) = self.settle() {
            return Poll::Ready(Err(self.fail(error)));
        }
        let taken = match self.tls.seal(bufs, &mut self.incoming, &mut self.outgoing) {
            Ok(taken) => taken,
            Err(error) => return Poll::Ready(Err(self.fail(error))),
        };
        match self.poll_drain_for_writer(cx) {
            // Accepted all the same: the rest goes with the next write or flush.
            Poll::Pending | Poll::Ready(Ok(())) => Poll::Ready(Ok(taken)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for SecureStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if !this.plain.is_empty() {
            let count = this.plain.len().min(buf.remaining());
            buf.put_slice(&this.plain.filled()[..count]);
            this.plain.consume(count);
            this.plain.release();
        }
        while buf.remaining() > 0 && !this.peer_closed {
            if let Some(error) = this.broken.clone() {
                if buf.filled().len() > before {
                    break;
                }
                return Poll::Ready(Err(this.fail(error)));
            }
            match this.step(buf) {
                Ok(Step::Again) => continue,
                Ok(Step::PeerClosed) => this.peer_closed = true,
                Ok(Step::Ready | Step::Blocked | Step::Closed) => {
                    // What is decrypted is handed over before the socket is asked again.
                    if buf.filled().len() > before {
                        break;
                    }
                    match ready!(this.poll_fill(cx)) {
                        Ok(0) => return Poll::Ready(Err(this.fail(StreamError::Truncated))),
                        Ok(_) => {}
                        Err(e) => return Poll::Ready(Err(e)),
                    }
                }
                Err(error) => {
                    // A peer that sent an alert is gone; it needs no answer.
                    if !matches!(error, StreamError::Alert(_)) {
                        this.tls.fetch_alert(&mut this.incoming, &mut this.outgoing);
                    }
                    this.broken = Some(error);
                    this.answer(cx);
                }
            }
        }
        this.answer(cx);
        if this.incoming.is_empty() {
            this.incoming.release();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for SecureStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_take(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain_for_writer(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed && this.broken.is_none() {
            if let Err(error) = this.settle().and_then(|()| this.tls.close(&mut this.incoming, &mut this.outgoing)) {
                return Poll::Ready(Err(this.fail(error)));
            }
            this.closed = true;
        }
        ready!(this.poll_drain_for_writer(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
