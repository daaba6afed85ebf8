//! Gathers the small frames of a turn into one write.
//!
//! The HTTP/2 library writes and flushes every DATA frame of 256 bytes or more by itself, so that 64 small answers cost 64
//! TLS records and 64 system calls (docs/decisions/first-profile.md). Here a flush of a few bytes only asks for another
//! turn of the connection's task. The tasks that are ready have theirs before that and add their frames; then the
//! connection reads again, as it does in every turn, and what was gathered goes out first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most, and what a write must stay under to be gathered: the plaintext of one TLS record. Larger
/// ones are bulk; copying them would cost more than a call.
const GATHERED: usize = 16 * 1024;

/// A transport whose small writes leave at the next read, at the latest with the next large write or the end.
pub(crate) struct Cork<IO> {
    io: IO,
    gathered: BytesMut,
    /// Some of it has not been offered to the transport yet.
    untried: bool,
    /// Something was written that the transport has not been asked to flush to its end.
    unflushed: bool,
    /// The transport broke while writing: told to the next who writes, so that what it received is read first.
    broken: Option<io::Error>,
}

impl<IO: AsyncWrite + Unpin> Cork<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self { io, gathered: BytesMut::new(), untried: false, unflushed: false, broken: None }
    }

    fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        self.untried = false;
        while !self.gathered.is_empty() {
            self.unflushed = true;
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        // An idle connection holds nothing.
        self.gathered = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_gathered(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if (!this.gathered.is_empty() || this.unflushed)
            && this.broken.is_none()
            && let Poll::Ready(Err(error)) = this.poll_out(cx)
        {
            this.broken = Some(error);
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Cork<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let offered = bufs.iter().map(|b| b.len()).sum();
        if this.gathered.len() + offered > GATHERED || this.broken.is_some() {
            ready!(this.poll_gathered(cx))?;
        }
        if offered > GATHERED {
            this.unflushed = true;
            return Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        }
        bufs.iter().for_each(|b| this.gathered.extend_from_slice(b));
        this.untried = true;
        Poll::Ready(Ok(offered))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gathered.is_empty() || this.broken.is_some() {
            return this.poll_out(cx);
        }
        // What the transport did not take wakes us when it does: asking for another turn before that would be one after the
        // other for as long as the peer does not read.
        if this.untried {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_gathered(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes everything and remembers the sizes of the writes; reading never brings anything.
    #[derive(Default)]
    struct Sizes {
        writes: Vec<usize>,
        bytes: Vec<u8>,
    }

    impl AsyncRead for Sizes {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sizes {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            this.writes.push(buf.len());
            this.bytes.extend_from_slice(buf);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// One turn of a connection: it reads, in vain.
    async fn turn<IO: AsyncRead + AsyncWrite + Unpin>(cork: &mut Cork<IO>) {
        let read = std::future::poll_fn(|cx| {
            let mut byte = [0; 1];
            Poll::Ready(Pin::new(&mut *cork).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready())
        });
        assert!(!read.await);
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_in_order_with_large_ones() {
        let mut cork = Cork::new(Sizes::default());
        let mut all = Vec::new();
        for (n, size) in [300, 300, 300].into_iter().enumerate() {
            let chunk = vec![n as u8; size];
            cork.write_all(&chunk).await.unwrap();
            cork.flush().await.unwrap();
            all.extend(chunk);
        }
        assert!(cork.io.writes.is_empty());
        turn(&mut cork).await;
        assert_eq!(cork.io.writes, [900]);
        // Nothing waits: nothing is held, and nothing more is written.
        turn(&mut cork).await;
        assert_eq!((cork.gathered.capacity(), cork.io.writes.len()), (0, 1));
        for size in [13, GATHERED + 1, 12 * 1024, 12 * 1024] {
            let chunk = vec![size as u8; size];
            cork.write_all(&chunk).await.unwrap();
            cork.flush().await.unwrap();
            all.extend(chunk);
        }
        cork.shutdown().await.unwrap();
        assert_eq!(cork.io.writes, [900, 13, GATHERED + 1, 12 * 1024, 12 * 1024]);
        assert_eq!(cork.io.bytes, all);
    }

    #[tokio::test]
    async fn a_flush_asks_for_another_turn() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut cork = Cork::new(ours);
        let mut byte = [0; 1];
        // The reader below is woken by the flush alone: nothing ever comes from the other side before it.
        let both = async {
            cork.write_all(b"x").await.unwrap();
            cork.flush().await.unwrap();
            cork.read(&mut [0; 1]).await.unwrap()
        };
        let answer = async {
            theirs.read_exact(&mut byte).await.unwrap();
            theirs.write_all(b"y").await.unwrap();
        };
        assert_eq!(tokio::join!(both, answer).0, 1);
        assert_eq!(&byte, b"x");
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_offered_the_same_again_and_again() {
        // Takes one byte, then no more.
        let (ours, _theirs) = tokio::io::duplex(1);
        let mut cork = Cork::new(ours);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut cork).poll_write(&mut cx, b"xyz").is_ready());
        for _ in 0..3 {
            assert!(Pin::new(&mut cork).poll_flush(&mut cx).is_ready());
            let mut byte = [0; 1];
            assert!(Pin::new(&mut cork).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending());
        }
        assert_eq!((cork.gathered.len(), woken.0.load(Ordering::Relaxed)), (2, 1));
    }

    #[tokio::test]
    async fn a_broken_transport_is_read_to_its_end_first() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"z").await.unwrap();
        drop(theirs);
        let mut cork = Cork::new(ours);
        cork.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        assert_eq!(cork.read(&mut byte).await.unwrap(), 1);
        assert_eq!(cork.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
