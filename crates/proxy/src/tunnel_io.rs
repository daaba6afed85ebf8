//! A tunnel stream as one end of a relay.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hbone::{RecvHalf, ResetReason, SendHalf, TunnelStream};
use net::relay::{Broken, Buffers, Sink, Source};

/// Both halves of a stream, as the relay wants them.
pub struct TunnelEnd {
    recv: RecvHalf,
    send: SendHalf,
    /// The peer takes no more bytes, but what it sent is still good: it is not asked again whether it broke.
    stopped: bool,
    /// Bytes that were read already, to go first.
    first: Bytes,
}

impl TunnelEnd {
    /// Both directions of a stream.
    pub fn new(stream: TunnelStream) -> Self {
        let (recv, send) = stream.split();
        Self { recv, send, stopped: false, first: Bytes::new() }
    }

    /// Both directions of a stream of which something was read already, without returning credit for it.
    pub fn resumed(recv: RecvHalf, send: SendHalf, first: Bytes) -> Self {
        Self { recv, send, stopped: false, first }
    }
}

/// Stopped means that the peer ended its own direction in order and takes no more: the application behind us has to
/// hear a reset, or it would go on sending into nothing.
fn broken(why: hbone::Broken) -> Broken {
    match why {
        hbone::Broken::Lost => Broken::Lost,
        hbone::Broken::Reset | hbone::Broken::Stopped => Broken::Reset,
    }
}

impl Source for TunnelEnd {
    fn poll_recv(&mut self, cx: &mut Context<'_>, _buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        self.recv.poll_data(cx).map_err(broken)
    }

    fn consumed(&mut self, bytes: usize) {
        self.recv.release(bytes);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.stopped {
            return Poll::Pending;
        }
        match ready!(self.send.poll_broken(cx)) {
            // What the peer has sent is still good: it is read to its end first.
            hbone::Broken::Stopped => {
                self.stopped = true;
                Poll::Pending
            }
            why => Poll::Ready(broken(why)),
        }
    }
}

impl Sink for TunnelEnd {
    fn poll_ready(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
        self.send.poll_capacity(cx, want).map_err(broken)
    }

    fn start_send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        self.send.send(bytes).map_err(broken)
    }

    fn queued(&self) -> usize {
        0
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(self.send.finish().map_err(broken))
    }

    fn reset(&mut self) {
        self.send.reset(ResetReason::App);
    }
}
