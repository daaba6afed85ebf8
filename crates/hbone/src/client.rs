//! The dialling side of one tunnel connection. The pool is made of these; the inner tunnel across networks, which is never
//! pooled (hbone.md 9), uses one directly.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{Connection, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use crate::cork::Cork;
use crate::headers::{Head, ResponseHeaders};
use crate::limits::ClientLimits;
use crate::link::{Link, Seat, Stop};
use crate::pulse::{Beat, ConnectionError, Pulse};
use crate::stream::TunnelStream;

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// [`Head::authority`] is not an authority.
    #[error("the authority is not valid")]
    Authority,
    /// The connection takes no more streams; the request was not sent.
    #[error("the tunnel connection takes no more streams")]
    Gone,
    /// The connection broke while the request was under way.
    #[error("the tunnel was lost")]
    Lost,
    /// The peer refused the stream unprocessed: it may be tried elsewhere (RFC 9113 8.7).
    #[error("the peer did not process the stream")]
    Refused,
    /// The peer reset the stream in place of an answer.
    #[error("the peer reset the stream")]
    Reset,
    /// The peer answered with a status other than 200.
    #[error("the peer answered with status {0}")]
    Status(u16),
    /// The peer said good-bye (GOAWAY), took the request all the same, and did not answer it.
    #[error("the peer ended the tunnel and did not answer")]
    Abandoned,
    /// No answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
}

impl StreamError {
    /// Whether the request may be tried on another connection: the peer did nothing for it, or nothing that an application
    /// could have noticed but a connection that ends at once, because without an answer no byte was sent.
    pub fn is_unprocessed(self) -> bool {
        matches!(self, Self::Gone | Self::Refused | Self::Abandoned)
    }
}

/// A tunnel connection to open streams on. Clones share it; the last one dropped drains it.
#[derive(Clone, Debug)]
pub struct Client {
    owner: Arc<Owner>,
}

/// Drains the connection when the last client is gone; the driver holds the inner part only.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    response_timeout: Duration,
    heavy_at: u64,
    cap: usize,
}

#[derive(Debug)]
struct Shared {
    link: Arc<Link>,
    /// None once no new streams are wanted. As long as one of these lives the library keeps the connection.
    requests: Mutex<Option<SendRequest<Bytes>>>,
}

/// Carries a connection's bytes; to be spawned. Completes when the connection has ended.
#[must_use = "a connection does nothing unless its driver is spawned"]
pub struct ClientDriver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Cork<IO>, Bytes>,
    pulse: Pulse,
    shared: Arc<Shared>,
}

/// Begins HTTP/2 on a secured transport.
///
/// # Errors
/// When the transport fails. The peer is not waited for (RFC 9113 3.4).
pub async fn connect<IO>(io: IO, limits: &ClientLimits) -> Result<(Client, ClientDriver<IO>), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (requests, mut connection) = limits.builder().handshake(Cork::new(io)).await?;
    let shared = Arc::new(Shared { link: Arc::new(Link::default()), requests: Mutex::new(Some(requests)) });
    let pulse = Pulse::new(connection.ping_pong(), limits.ping_every, limits.ping_timeout, limits.idle_release);
    let owner = Owner {
        shared: shared.clone(),
        response_timeout: limits.response_timeout,
        heavy_at: limits.spread_bytes,
        cap: limits.streams_per_connection,
    };
    Ok((Client { owner: Arc::new(owner) }, ClientDriver { connection, pulse, shared }))
}

impl Client {
    /// Opens a stream: sends the CONNECT and waits for the answer. A dropped future cancels the stream.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub async fn open(&self, head: &Head) -> Result<(TunnelStream, ResponseHeaders), StreamError> {
        self.open_seated(head, self.seat()).await
    }

    /// Whether the connection takes new streams.
    pub fn is_usable(&self) -> bool {
        self.owner.shared.is_usable()
    }

    /// Streams now.
    pub fn streams(&self) -> usize {
        self.owner.shared.link.active()
    }

    /// Takes no more streams; the connection ends with the last one.
    pub fn retire(&self) {
        self.owner.shared.retire();
    }

    /// Ends the connection and every stream on it.
    pub fn close(&self) {
        self.owner.shared.retire();
        self.owner.shared.link.stop(Stop::Now);
    }

    /// The response. An error when it does not come in time, or the peer ends the connection and leaves the request lying.
    async fn answer<R: Future>(&self, response: R) -> Result<R::Output, StreamError> {
        let mut response = pin!(response);
        let end = Instant::now() + self.owner.response_timeout;
        let mut good_bye = false;
        loop {
            // One timer serves both: nearly every answer is there before it is looked at the first time.
            match timeout_at(end.min(Instant::now() + GOOD_BYE / 2), &mut response).await {
                Ok(response) => return Ok(response),
                Err(_) if Instant::now() >= end => return Err(StreamError::TimedOut),
                Err(_) if good_bye => return Err(StreamError::Abandoned),
                Err(_) => good_bye = self.owner.shared.said_good_bye(),
            }
        }
    }

    /// Streams that fit beside those there are, by our limit and the peer's.
    pub(crate) fn room(&self) -> usize {
        let peer = self.owner.shared.requests().as_ref().map_or(0, SendRequest::current_max_send_streams);
        // A peer that allows none yet may allow some later: the first stream waits for it, up to the response timeout.
        self.owner.cap.min(peer.max(1)).saturating_sub(self.streams())
    }

    /// Whether one of the streams carried much.
    pub(crate) fn is_heavy(&self) -> bool {
        self.owner.shared.link.heavy() > 0
    }

    /// Counts a stream in before it is opened.
    pub(crate) fn seat(&self) -> Arc<Seat> {
        self.owner.shared.link.seat(self.owner.heavy_at)
    }

    pub(crate) async fn open_seated(
        &self,
        head: &Head,
        seat: Arc<Seat>,
    ) -> Result<(TunnelStream, ResponseHeaders), StreamError> {
        let request = head.request().ok_or(StreamError::Authority)?;
        let mut requests = self.owner.shared.requests().clone().ok_or(StreamError::Gone)?;
        let (response, send) = requests.send_request(request, false).map_err(|_| StreamError::Gone)?;
        drop(requests);
        let response = self.answer(response).await?.map_err(|e| failure(&e))?;
        if response.status() != http::StatusCode::OK {
            return Err(StreamError::Status(response.status().as_u16()));
        }
        let headers = ResponseHeaders::read(response.headers());
        Ok((TunnelStream::new(response.into_body(), send, seat), headers))
    }
}

/// How long a peer that has said good-bye may still take to answer: half of it at least, for it is looked at so often. A proxy
/// that is there answers in milliseconds; Istio's, when it drains, leaves requests that crossed its GOAWAY unanswered until it ends.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// What an error in place of a response means.
///
/// What the peer said counts even if the connection has ended since: it often ends with the very GOAWAY.
fn failure(e: &h2::Error) -> StreamError {
    if !e.is_remote() {
        StreamError::Lost
    } else if e.is_go_away() {
        // Our stream is above the last one that the peer processed, or it would not have this error (RFC 9113 6.8).
        StreamError::Refused
    } else if e.reason() == Some(Reason::REFUSED_STREAM) {
        StreamError::Refused
    } else {
        StreamError::Reset
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.retire();
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        // Dropped outside the lock: the last one wakes the driver.
        let last = self.requests().take();
        drop(last);
        self.link.wake();
    }

    /// False after a GOAWAY or an error, of which the library tells here first.
    fn is_usable(&self) -> bool {
        self.requests().as_mut().is_some_and(|requests| !is_over(requests))
    }

    /// Whether the peer takes no more streams. What we retired ourselves does not count.
    fn said_good_bye(&self) -> bool {
        self.requests().as_mut().is_some_and(is_over)
    }
}

fn is_over(requests: &mut SendRequest<Bytes>) -> bool {
    matches!(requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}

impl<IO> Future for ClientDriver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = self.get_mut();
        let link = me.shared.link.clone();
        link.register(cx.waker());
        if link.stopping() == Stop::Now {
            me.end();
            return Poll::Ready(Ok(()));
        }
        // Bytes before the clock: after a pause of this process an acknowledgement may lie there unread.
        let done = Pin::new(&mut me.connection).poll(cx);
        if done.is_ready() {
            me.end();
            return done.map_err(ConnectionError::from);
        }
        // Retired with streams: the destination is said to be gone, or the connection is full; the first may be true.
        if link.active() > 0 && me.shared.requests().is_none() {
            me.pulse.doubt(cx);
        }
        match me.pulse.poll(cx, link.active() > 0) {
            Beat::Fine => Poll::Pending,
            Beat::Idle => {
                me.shared.retire();
                Poll::Pending
            }
            Beat::Dead => {
                me.end();
                Poll::Ready(Err(ConnectionError::PingTimeout))
            }
        }
    }
}

impl<IO> ClientDriver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn end(&self) {
        self.shared.link.died();
        self.shared.retire();
    }
}

impl<IO> Drop for ClientDriver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn drop(&mut self) {
        self.end();
    }
}
