//! The accepting side of a tunnel connection.
//!
//! ```text
//! handshake ──▶ serving ──drain, idle──▶ draining ──last stream──▶ ended
//!     │            │                        │
//!     └────────────┴── close, PING, abuse ──┴──▶ GOAWAY, ended
//! ```

mod driver;
mod request;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::limits::ServerLimits;
use crate::link::{Link, Stop};
use crate::pulse::ConnectionError;

pub use request::Request;

/// A tunnel connection that takes streams.
///
/// Its driver runs by itself. Dropping this stops the taking (as [`ServerHandle::graceful_shutdown`]); the streams that
/// live go on until they end.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    ended: watch::Receiver<bool>,
}

/// Steers a connection from elsewhere: drains, revocations.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    link: Arc<Link>,
    ended: watch::Receiver<bool>,
}

/// What the driver and the acceptor share. Requests point to the link only, so that nothing here points to itself.
#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    queue: Mutex<Queue>,
    acceptor: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Nobody will ask any more.
    abandoned: bool,
    end: Option<Result<(), ConnectionError>>,
}

/// Serves HTTP/2 on a secured transport. To be called inside a `LocalSet`.
///
/// The transport should write vectored, and keep what is written until it is flushed: each DATA frame comes as nine bytes
/// and a payload, which would be two TLS records otherwise.
pub fn serve<IO>(io: IO, limits: ServerLimits) -> Server
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let link = Arc::new(Link::default());
    let shared = Arc::new(Shared { link, queue: Mutex::default(), acceptor: AtomicWaker::new() });
    let (tell, ended) = watch::channel(false);
    tokio::task::spawn_local(driver::run(io, limits, shared.clone(), tell));
    Server { shared, ended }
}

impl Server {
    /// The next request; none once the connection has ended. May be dropped and called again.
    ///
    /// An error is how the connection ended, and the last thing that is said.
    pub async fn accept(&mut self) -> Option<Result<Request, ConnectionError>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`Server::accept`], to be polled.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Request, ConnectionError>>> {
        self.shared.acceptor.register(cx.waker());
        let mut queue = self.shared.queue();
        if let Some(request) = queue.requests.pop_front() {
            drop(queue);
            // There is room again.
            self.shared.link.wake();
            return Poll::Ready(Some(Ok(request.handed_over())));
        }
        match &mut queue.end {
            None => Poll::Pending,
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
        }
    }

    /// Tells the peer to open no more streams; the connection ends with the last one.
    pub fn graceful_shutdown(&self) {
        self.shared.link.stop(Stop::Drain);
    }

    /// To steer the connection from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle { link: self.shared.link.clone(), ended: self.ended.clone() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.shared.queue();
            queue.abandoned = true;
            std::mem::take(&mut queue.requests)
        };
        drop(left);
        self.shared.link.stop(Stop::Drain);
    }
}

impl ServerHandle {
    /// Tells the peer to open no more streams; the connection ends with the last one.
    pub fn graceful_shutdown(&self) {
        self.link.stop(Stop::Drain);
    }

    /// Ends the connection and every stream on it.
    pub fn close(&self) {
        self.link.stop(Stop::Now);
    }

    /// Streams now, requests without an answer included.
    pub fn streams(&self) -> usize {
        self.link.active()
    }

    /// Completes when the connection has ended.
    pub async fn ended(&mut self) {
        // An error means that the driver is gone, which is the same.
        if self.ended.wait_for(|ended| *ended).await.is_err() {
            tracing::trace!("driver of a tunnel connection was dropped");
        }
    }
}

impl Shared {
    /// A panic elsewhere leaves the queue as good as it was.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod abuse_tests;
#[cfg(test)]
mod tests;
