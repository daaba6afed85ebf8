//! Streams for the HTTP library: what it reads is copied once, out of the frames that came; what it writes is copied once,
//! into the frames that go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hbone::{Broken, RecvHalf, SendHalf};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::ambiguity::Heads;

/// Most bytes of one write: what the library gathers of a body comes in pieces of at most some hundred KiB, and a stream
/// that waits for its window must not hold more than that.
const WRITE: usize = 256 * 1024;

/// Space that is reserved at a time for writes: some ten heads share an allocation, and an idle stream keeps at most this.
const CHUNK: usize = 4 * 1024;

/// A stream of a tunnel.
pub(crate) struct TunnelIo {
    recv: RecvHalf,
    send: SendHalf,
    /// Bytes that came and were not read; no credit was returned for them.
    held: Bytes,
    /// Where writes are gathered.
    gather: BytesMut,
    /// Who wants to see the heads of requests.
    heads: Option<Arc<Heads>>,
}

/// What a request goes out on.
pub(crate) enum UpstreamIo {
    /// A stream of a tunnel.
    Tunnel(TunnelIo),
    /// A workload without a tunnel.
    Plain(TokioIo<TcpStream>),
    /// One of these, with the application's own TLS on it.
    Secured(Box<TokioIo<TlsStream<TokioIo<UpstreamIo>>>>),
}

impl TunnelIo {
    /// A stream of which `held` was read already, without returning credit for it.
    pub(crate) fn new(recv: RecvHalf, send: SendHalf, held: Bytes) -> Self {
        Self { recv, send, held, gather: BytesMut::new(), heads: None }
    }

    /// Shows the heads of requests as they come; what was read already belongs to the first.
    pub(crate) fn shown(mut self) -> (Self, Arc<Heads>) {
        let heads = Arc::new(Heads::new(&self.held));
        self.heads = Some(heads.clone());
        (self, heads)
    }

    fn send(&mut self, cx: &mut Context<'_>, all: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = all.iter().map(|part| part.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut room = ready!(self.send.poll_capacity(cx, total.min(WRITE))).map_err(broken)?;
        let sent = room;
        if self.gather.capacity() < room {
            self.gather.reserve(room.max(CHUNK));
        }
        for part in all {
            let now = part.len().min(room);
            self.gather.extend_from_slice(&part[..now]);
            room -= now;
            if room == 0 {
                break;
            }
        }
        self.send.send(self.gather.split().freeze()).map_err(broken)?;
        Poll::Ready(Ok(sent))
    }
}

fn broken(why: Broken) -> io::Error {
    let kind = match why {
        Broken::Lost => io::ErrorKind::ConnectionAborted,
        Broken::Reset => io::ErrorKind::ConnectionReset,
        Broken::Stopped => io::ErrorKind::BrokenPipe,
    };
    io::Error::new(kind, why)
}

impl Read for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            match ready!(this.recv.poll_data(cx)).map_err(broken)? {
                Some(bytes) => {
                    if let Some(heads) = &this.heads {
                        heads.read(&bytes);
                    }
                    this.held = bytes;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let now = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..now]);
        this.held.advance(now);
        if this.held.is_empty() {
            // The frame's memory goes at once, also when the stream is idle from now on.
            this.held = Bytes::new();
        }
        this.recv.release(now);
        Poll::Ready(Ok(()))
    }
}

impl Write for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().send(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().send(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.finish().map_err(broken))
    }
}

impl Read for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_read(cx, buf),
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Secured(io) => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl Write for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_write(cx, buf),
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Secured(io) => Pin::new(&mut **io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Secured(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tunnel(io) => io.is_write_vectored(),
            Self::Plain(io) => io.is_write_vectored(),
            Self::Secured(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_flush(cx),
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Secured(io) => Pin::new(&mut **io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(io) => Pin::new(io).poll_shutdown(cx),
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Secured(io) => Pin::new(&mut **io).poll_shutdown(cx),
        }
    }
}
