//! A TCP connection as an end of a relay.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use super::buffers::LARGEST;
use super::{Broken, Buffers, ReadSize, Sink, Source};
use crate::socket::{closed_by_reset, with_reset_on_close};

/// A TCP connection as an end of a relay. It owns the connection: dropping it closes it.
pub struct TcpEnd {
    stream: Arc<TcpStream>,
    size: ReadSize,
    queue: Queue,
    gone: Option<Gone>,
}

/// Waits for EPOLLERR. Made when first needed, since a connection that ends orderly never needs it.
type Gone = Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + Sync>>;

impl TcpEnd {
    /// Takes a connection over.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), size: ReadSize::default(), queue: Queue::default(), gone: None }
    }

    /// Bytes to send ahead of everything from the other end, such as a PROXY header.
    #[must_use]
    pub fn with_preface(mut self, preface: Bytes) -> Self {
        self.queue.push(preface);
        self
    }

    /// The connection itself, for its addresses and its health.
    pub fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    fn send_queue(&self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let used = self.queue.slices(&mut slices);
        let total: usize = slices[..used].iter().map(|slice| slice.len()).sum();
        attempt(&self.stream, Interest::WRITABLE, total, || {
            let control = &mut SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(&*self.stream, &slices[..used], control, SendFlags::NOSIGNAL)?)
        })
    }
}

/// One system call on a non-blocking socket. A transfer of less than `asked` says that the kernel has no more at this
/// moment; tokio then waits for the next event instead of trying again in vain (one system call saved per wake-up).
fn attempt(
    stream: &TcpStream,
    interest: Interest,
    asked: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let mut moved = None;
    let outcome = stream.try_io(interest, || {
        let n = call()?;
        moved = Some(n);
        // 0 is FIN when reading; that state stays, so there is nothing to wait for.
        if 0 < n && n < asked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match moved {
        Some(n) => Ok(n),
        None => Err(outcome.err().unwrap_or_else(|| io::ErrorKind::WouldBlock.into())),
    }
}

fn broken(error: &io::Error) -> Broken {
    if closed_by_reset(error) {
        Broken::Reset
    } else {
        tracing::debug!(%error, "connection lost");
        Broken::Lost
    }
}

impl Source for TcpEnd {
    fn poll_recv(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            ready!(self.stream.poll_read_ready(cx)).map_err(|error| broken(&error))?;
            let mut lease = buffers.lease(self.size.get());
            let asked = lease.space().len();
            let outcome = attempt(&self.stream, Interest::READABLE, asked, || {
                Ok(rustix::net::recv(&*self.stream, &mut *lease.space(), RecvFlags::empty())?.0)
            });
            match outcome {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(n) => {
                    self.size.learn(n, asked);
                    return Poll::Ready(Ok(Some(lease.freeze(n))));
                }
                Err(error) if again(&error) => {}
                Err(error) => return Poll::Ready(Err(broken(&error))),
            }
        }
    }

    /// Nothing to do: the kernel opens TCP's window as the socket is read, and it is read only when the sink keeps up.
    fn consumed(&mut self, _bytes: usize) {}

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let stream = &self.stream;
        let gone = self.gone.get_or_insert_with(|| {
            let stream = Arc::clone(stream);
            Box::pin(async move { stream.ready(Interest::ERROR).await })
        });
        let outcome = ready!(gone.as_mut().poll(cx));
        self.gone = None;
        Poll::Ready(match outcome.and_then(|_| self.stream.take_error()) {
            Ok(Some(error)) | Err(error) => broken(&error),
            // Somebody has already been told of the error: a read or a write of ours, a moment ago.
            Ok(None) => Broken::Reset,
        })
    }

    fn source_socket(&self) -> Option<&TcpStream> {
        Some(&self.stream)
    }
}

impl Sink for TcpEnd {
    fn poll_ready(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, Broken>> {
        if self.queue.full() {
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(Ok(want))
    }

    fn start_send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        self.queue.push(bytes);
        Ok(())
    }

    fn queued(&self) -> usize {
        self.queue.bytes
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.queue.bytes > 0 {
            ready!(self.stream.poll_write_ready(cx)).map_err(|error| broken(&error))?;
            match self.send_queue() {
                Ok(n) => self.queue.advance(n),
                Err(error) if again(&error) => {}
                Err(error) => return Poll::Ready(Err(broken(&error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let outcome = rustix::net::shutdown(&*self.stream, Shutdown::Write);
        Poll::Ready(outcome.map_err(|error| broken(&error.into())))
    }

    fn reset(&mut self) {
        with_reset_on_close(&self.stream);
    }

    fn sink_socket(&self) -> Option<&TcpStream> {
        self.queue.is_empty().then_some(&*self.stream)
    }
}

pub(super) fn again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Chunks per system call. Sixteen tunnel frames of 16 KiB make a batch; 64 leave room for smaller ones and cost 1 KiB of
/// stack.
const SLICES: usize = 64;

/// What waits to be written. The first chunk sits in place, so that the common case of one chunk allocates nothing.
#[derive(Default)]
struct Queue {
    head: Bytes,
    rest: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn full(&self) -> bool {
        self.bytes >= LARGEST || self.rest.len() + 1 >= SLICES
    }

    fn push(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if self.head.is_empty() {
            self.head = bytes;
        } else if !bytes.is_empty() {
            self.rest.push_back(bytes);
        }
    }

    fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES]) -> usize {
        let mut used = 0;
        for (slot, chunk) in into.iter_mut().zip(std::iter::once(&self.head).chain(&self.rest)) {
            *slot = IoSlice::new(chunk);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while n > 0 {
            let step = n.min(self.head.len());
            self.head.advance(step);
            n -= step;
            if self.head.is_empty() {
                self.head = self.rest.pop_front().unwrap_or_default();
            }
        }
        if self.bytes == 0 {
            // Neither a buffer nor the list itself stays with an idle connection.
            self.head = Bytes::new();
            self.rest = VecDeque::new();
        }
    }
}
