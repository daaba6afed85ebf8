//! One flow inside a tunnel: two halves that end by themselves.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};

use crate::link::Seat;

/// How a half ended when it did not end in order (hbone.md 5, RFC 9113 7 and 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Broken {
    /// The tunnel broke underneath.
    #[error("the tunnel was lost")]
    Lost,
    /// The far end's application reset its connection: reset ours as well.
    #[error("the far end reset the connection")]
    Reset,
    /// Only when sending: the peer wants no more bytes, but has ended its own direction in order (RST_STREAM with NO_ERROR or
    /// CANCEL, as stock peers say it). What it sent is still good and ends as FIN.
    #[error("the far end takes no more bytes")]
    Stopped,
}

/// Why we reset a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// The application's connection was reset or broke (CONNECT_ERROR, RFC 9113 8.5).
    App,
    /// We do not want the stream any more, and what was sent so far is whole (CANCEL: peers take it for FIN).
    Cancelled,
    /// It is our fault (INTERNAL_ERROR).
    Internal,
}

/// A flow, both ways.
#[derive(Debug)]
pub struct TunnelStream {
    recv: RecvHalf,
    send: SendHalf,
}

/// The direction from the peer.
#[derive(Debug)]
pub struct RecvHalf {
    inner: RecvStream,
    ended: bool,
    seat: Arc<Seat>,
}

/// The direction to the peer.
///
/// Dropped before [`SendHalf::finish`] it resets the stream, so that a truncated flow never looks like a whole one.
#[derive(Debug)]
pub struct SendHalf {
    inner: SendStream<Bytes>,
    ended: bool,
    seat: Arc<Seat>,
}

impl TunnelStream {
    pub(crate) fn new(recv: RecvStream, send: SendStream<Bytes>, seat: Arc<Seat>) -> Self {
        let recv = RecvHalf { inner: recv, ended: false, seat: seat.clone() };
        Self { recv, send: SendHalf { inner: send, ended: false, seat } }
    }

    /// The two directions.
    pub fn split(self) -> (RecvHalf, SendHalf) {
        (self.recv, self.send)
    }
}

impl RecvHalf {
    /// The next bytes as they came, without a copy; none is FIN, and stays so.
    ///
    /// The peer gets no credit for them before [`RecvHalf::release`].
    ///
    /// # Errors
    /// [`Broken::Reset`] or [`Broken::Lost`].
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        while !self.ended {
            match ready!(self.inner.poll_data(cx)) {
                // Legal padding of the wire, but a relay would take it for nothing to do.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.seat.count(bytes.len());
                    return Poll::Ready(Ok(Some(bytes)));
                }
                None => self.ended = true,
                Some(Err(e)) => match broken(&e) {
                    Some(broken) => return Poll::Ready(Err(broken)),
                    None => self.ended = true,
                },
            }
        }
        Poll::Ready(Ok(None))
    }

    /// [`RecvHalf::poll_data`] as a future; may be dropped and called again.
    ///
    /// # Errors
    /// As there.
    pub async fn data(&mut self) -> Result<Option<Bytes>, Broken> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// So many received bytes have been taken by the application: the peer may send as many more.
    pub fn release(&mut self, bytes: usize) {
        if let Err(e) = self.inner.flow_control().release_capacity(bytes) {
            // More than was received: credit is not given, which at worst slows the peer.
            tracing::debug!(bytes, error = %e, "credit of a tunnel stream not released");
        }
    }
}

/// What an error in place of bytes means; none = FIN.
fn broken(e: &h2::Error) -> Option<Broken> {
    match e.reason() {
        _ if !e.is_reset() => Some(Broken::Lost),
        Some(Reason::NO_ERROR | Reason::CANCEL) if e.is_remote() => None,
        Some(Reason::STREAM_CLOSED) => Some(Broken::Lost),
        _ => Some(Broken::Reset),
    }
}

impl SendHalf {
    /// How many bytes may be sent now: at least one, at most `want`.
    ///
    /// Call it with bytes in hand. Credit that is granted is kept from the other streams of the tunnel until it is used or
    /// given back with [`SendHalf::give_back`].
    ///
    /// # Errors
    /// Any [`Broken`].
    pub fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
        if self.ended {
            return Poll::Ready(Err(Broken::Stopped));
        }
        let want = want.max(1);
        if self.inner.capacity() < want {
            self.inner.reserve_capacity(want);
        }
        while self.inner.capacity() == 0 {
            match ready!(self.inner.poll_capacity(cx)) {
                // The library may announce credit that a change of settings has taken away again.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(self.why())),
            }
        }
        Poll::Ready(Ok(self.inner.capacity().min(want)))
    }

    /// Gives back what [`SendHalf::poll_capacity`] granted and was not used.
    pub fn give_back(&mut self) {
        self.inner.reserve_capacity(0);
    }

    /// Sends bytes, without a copy. More than was granted is kept until there is credit, so memory is bounded only if the
    /// caller asks first.
    ///
    /// # Errors
    /// Any [`Broken`].
    pub fn send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        if self.ended {
            return Err(Broken::Stopped);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len();
        self.inner.send_data(bytes, false).map_err(|_| self.why())?;
        self.seat.count(len);
        Ok(())
    }

    /// Asks for credit and sends all of it. A dropped future has sent a part.
    ///
    /// # Errors
    /// Any [`Broken`].
    pub async fn send_all(&mut self, mut bytes: Bytes) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let now = poll_fn(|cx| self.poll_capacity(cx, bytes.len())).await?;
            self.send(bytes.split_to(now))?;
        }
        Ok(())
    }

    /// FIN: END_STREAM. The other direction goes on.
    ///
    /// # Errors
    /// Any [`Broken`].
    pub fn finish(&mut self) -> Result<(), Broken> {
        if self.ended {
            return Ok(());
        }
        self.inner.send_data(Bytes::new(), true).map_err(|_| self.why())?;
        self.ended = true;
        Ok(())
    }

    /// Resets the stream, both ways. Bytes not written yet are dropped.
    pub fn reset(&mut self, reason: ResetReason) {
        self.ended = true;
        self.inner.send_reset(match reason {
            ResetReason::App => Reason::CONNECT_ERROR,
            ResetReason::Cancelled => Reason::CANCEL,
            ResetReason::Internal => Reason::INTERNAL_ERROR,
        });
    }

    /// Ready when the peer has ended the stream by force: the way to hear of it while there is nothing to send.
    pub fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.inner.poll_reset(cx).map(|r| self.meaning(r))
    }

    /// Why the library would not take any more.
    fn why(&mut self) -> Broken {
        let mut cx = Context::from_waker(Waker::noop());
        match self.inner.poll_reset(&mut cx) {
            Poll::Ready(r) => self.meaning(r),
            Poll::Pending => Broken::Lost,
        }
    }

    fn meaning(&self, reason: Result<Reason, h2::Error>) -> Broken {
        match reason {
            Ok(Reason::CONNECT_ERROR) => Broken::Reset,
            // The library does not tell a GOAWAY's reason from a reset's.
            _ if self.seat.link().is_dead() => Broken::Lost,
            Ok(Reason::NO_ERROR | Reason::CANCEL) => Broken::Stopped,
            Ok(Reason::STREAM_CLOSED) | Err(_) => Broken::Lost,
            Ok(_) => Broken::Reset,
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended {
            self.inner.send_reset(Reason::CONNECT_ERROR);
        }
    }
}
