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

/// What HTTP/2 writes in one turn leaves together up to so many bytes: the plaintext of one TLS record. Larger writes are
/// bulk, and pass as they are.
const TOGETHER: usize = 16 * 1024;

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
    /// Whether small writes wait there, and since when.
    together: Option<Since>,
    /// Who wants to see the heads of requests.
    heads: Option<Arc<Heads>>,
}

/// Since when gathered bytes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// They were not flushed yet.
    ThisTurn,
    /// They were, and another turn was asked for.
    LastTurn,
    /// That turn is under way, or over: they go as soon as they can.
    Before,
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
        Self { recv, send, held, gather: BytesMut::new(), together: None, heads: None }
    }

    /// For HTTP/2, which writes and flushes each larger frame by itself: head, message and trailers of a small answer would be
    /// three frames of the tunnel, and as many writes of the far proxy to its application. Here they wait for the end of the
    /// next turn of the connection's task: a message is written in the turn after its head. Only for who flushes in every turn,
    /// as HTTP/2 does.
    pub(crate) fn together(mut self) -> Self {
        self.together = Some(Since::ThisTurn);
        self
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
        if self.together.is_some() {
            if self.gather.len() + total > TOGETHER {
                ready!(self.poll_gathered(cx))?;
            }
            if total <= TOGETHER {
                if self.gather.is_empty() {
                    self.together = Some(Since::ThisTurn);
                }
                all.iter().for_each(|part| self.gather.extend_from_slice(part));
                return Poll::Ready(Ok(total));
            }
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

    /// Sends what was gathered, as far as there is credit.
    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gather.is_empty() {
            let room = ready!(self.send.poll_capacity(cx, self.gather.len())).map_err(broken)?;
            self.send.send(self.gather.split_to(room).freeze()).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
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
        match this.together {
            _ if this.gather.is_empty() => {}
            Some(Since::LastTurn) => this.together = Some(Since::Before),
            // There was no credit: of that this task hears. Who writes next hears of an error, for what came is read first.
            Some(Since::Before) => {
                if let Poll::Ready(Err(error)) = this.poll_gathered(cx) {
                    tracing::trace!(%error, "gathered bytes were not sent");
                }
            }
            Some(Since::ThisTurn) | None => {}
        }
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

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gather.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if this.together == Some(Since::ThisTurn) {
            this.together = Some(Since::LastTurn);
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        this.together = Some(Since::Before);
        match this.poll_gathered(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Accepted all the same: the rest goes when there is credit.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gathered(cx))?;
        Poll::Ready(this.send.finish().map_err(broken))
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hbone::{Client, ClientLimits, Head, Headers, ResponseHeaders, ServerLimits, TunnelStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// Both ends of a stream, and what keeps its tunnel open.
    async fn stream() -> (TunnelStream, TunnelStream, Client) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (client, driver) = hbone::connect(near, &ClientLimits::default()).await.unwrap();
        spawn_local(driver);
        let mut server = hbone::serve(far, ServerLimits::default());
        let head = Head { authority: "10.0.0.1:80".to_owned(), headers: Headers::default() };
        let accepted = async {
            let request = server.accept().await.unwrap().unwrap();
            request.accept(&ResponseHeaders::default()).unwrap()
        };
        let (opened, accepted) = tokio::join!(client.open(&head), accepted);
        (opened.unwrap().0, accepted, client)
    }

    /// One turn of an HTTP/2 connection: it reads, in vain, writes, and flushes.
    async fn turn(io: &mut TunnelIo, bytes: &[u8]) {
        poll_fn(|cx| {
            let mut byte = [0; 1];
            let mut read = hyper::rt::ReadBuf::new(&mut byte);
            assert!(Pin::new(&mut *io).poll_read(cx, read.unfilled()).is_pending());
            assert!(matches!(Pin::new(&mut *io).poll_write(cx, bytes), Poll::Ready(Ok(n)) if n == bytes.len()));
            Pin::new(&mut *io).poll_flush(cx).map(|flushed| flushed.unwrap())
        })
        .await;
    }

    #[tokio::test]
    async fn writes_of_two_turns_leave_together_and_none_waits_longer() {
        let story = async {
            let (ours, theirs, _client) = stream().await;
            let (recv, send) = ours.split();
            let (mut theirs, _send) = theirs.split();
            let mut io = TunnelIo::new(recv, send, Bytes::new()).together();
            turn(&mut io, b"head").await;
            turn(&mut io, b"body").await;
            assert_eq!(theirs.data().await.unwrap().unwrap(), "headbody");
            turn(&mut io, b"alone").await;
            turn(&mut io, b"").await;
            assert_eq!(theirs.data().await.unwrap().unwrap(), "alone");
            // Bulk is not copied, and does not overtake.
            turn(&mut io, b"small").await;
            turn(&mut io, &[b'x'; TOGETHER + 1]).await;
            assert_eq!(theirs.data().await.unwrap().unwrap(), "small");
            assert_eq!(theirs.data().await.unwrap().unwrap().len(), TOGETHER + 1);
        };
        LocalSet::new().run_until(story).await;
    }
}
