//! Drives one accepted connection until it ends, whether or not anybody still accepts.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Request, Shared};
use crate::cork::Cork;
use crate::limits::ServerLimits;
use crate::link::Stop;
use crate::pulse::{Beat, ConnectionError, Pulse};

type Connection<IO> = h2::server::Connection<Cork<IO>, Bytes>;

/// Why serving stopped.
enum Exit {
    /// The connection ended by itself.
    Ended(Result<(), ConnectionError>),
    /// It is to be ended with this GOAWAY.
    Abort(Reason, Result<(), ConnectionError>),
}

pub(super) async fn run<IO>(io: IO, limits: ServerLimits, shared: Arc<Shared>, tell: watch::Sender<bool>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let end = match handshake(io, &limits, &shared).await {
        Ok(Some(connection)) => serve(connection, limits, &shared).await,
        Ok(None) => Ok(()),
        Err(e) => Err(e),
    };
    shared.link.died();
    if let Err(error) = &end {
        tracing::debug!(%error, "tunnel connection ended");
    }
    let left = {
        let mut queue = shared.queue();
        queue.end = Some(end);
        std::mem::take(&mut queue.requests)
    };
    drop(left);
    shared.acceptor.wake();
    tell.send_replace(true);
}

/// None when the connection was closed meanwhile.
async fn handshake<IO>(
    io: IO,
    limits: &ServerLimits,
    shared: &Shared,
) -> Result<Option<Connection<IO>>, ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let closed = poll_fn(|cx| {
        shared.link.register(cx.waker());
        // No stream can be lost yet, so draining is closing.
        if shared.link.stopping() > Stop::No { Poll::Ready(()) } else { Poll::Pending }
    });
    let builder = limits.builder();
    tokio::select! {
        biased;
        () = closed => Ok(None),
        done = timeout(limits.handshake_timeout, builder.handshake(Cork::new(io))) => match done {
            Ok(connection) => Ok(Some(connection?)),
            Err(_) => Err(ConnectionError::HandshakeTimeout),
        },
    }
}

async fn serve<IO>(mut connection: Connection<IO>, limits: ServerLimits, shared: &Shared) -> Result<(), ConnectionError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Pulse::new(connection.ping_pong(), limits.ping_every, limits.ping_timeout, limits.idle_timeout);
    let bucket = Bucket::new(&limits);
    let mut driver = Driver { connection: &mut connection, pulse, bucket, limits: &limits, shared, draining: false };
    let exit = poll_fn(|cx| driver.poll(cx)).await;
    match exit {
        Exit::Ended(end) => end,
        Exit::Abort(reason, end) => {
            shared.link.died();
            connection.abrupt_shutdown(reason);
            let closed = timeout(limits.close_timeout, poll_fn(|cx| connection.poll_closed(cx))).await;
            tracing::trace!(?closed, "tunnel connection closed by force");
            end
        }
    }
}

struct Driver<'a, IO> {
    connection: &'a mut Connection<IO>,
    pulse: Pulse,
    bucket: Bucket,
    limits: &'a ServerLimits,
    shared: &'a Shared,
    draining: bool,
}

impl<IO> Driver<'_, IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        let link = &self.shared.link;
        link.register(cx.waker());
        match link.stopping() {
            Stop::No => {}
            Stop::Drain => self.drain(),
            Stop::Now => return Poll::Ready(Exit::Abort(Reason::NO_ERROR, Ok(()))),
        }
        // Bytes before the clock: after a pause of this process an acknowledgement may lie there unread.
        let mut end = self.poll_connection(cx);
        if end.is_pending() {
            match self.pulse.poll(cx, link.active() > 0) {
                Beat::Fine => {}
                Beat::Idle => {
                    self.drain();
                    end = self.poll_connection(cx);
                }
                Beat::Dead => {
                    let end = Err(ConnectionError::PingTimeout);
                    return Poll::Ready(Exit::Abort(Reason::NO_ERROR, end));
                }
            }
        }
        if !self.bucket.take(self.shared.link.take_unanswered()) {
            let end = Err(ConnectionError::TooManyResets);
            return Poll::Ready(Exit::Abort(Reason::ENHANCE_YOUR_CALM, end));
        }
        end.map(|end| match end {
            // We said good-bye and nobody is left: the peer need not wait for our last frame.
            Err(ConnectionError::Io(_)) if self.draining && self.shared.link.active() == 0 => Exit::Ended(Ok(())),
            end => Exit::Ended(end),
        })
    }

    fn drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        loop {
            if !self.has_room() {
                return self.connection.poll_closed(cx).map_err(ConnectionError::from);
            }
            match ready!(self.connection.poll_accept(cx)) {
                Some(Ok((request, respond))) => self.take(request, respond),
                Some(Err(e)) => return Poll::Ready(Err(e.into())),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Requests that nobody asks for stay with the library, whose limits then hold.
    fn has_room(&self) -> bool {
        let queue = self.shared.queue();
        queue.abandoned || queue.requests.len() < self.limits.accept_queue
    }

    fn take(&self, request: http::Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
        let mut queue = self.shared.queue();
        if queue.abandoned {
            // Not looked at, so the client may try elsewhere (RFC 9113 8.7).
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        // Streams spread on the client's side only: no byte count makes one heavy here.
        let seat = self.shared.link.seat(u64::MAX);
        queue.requests.push_back(Request::read(request, respond, self.limits.fields, seat));
        drop(queue);
        self.shared.acceptor.wake();
    }
}

/// How many unanswered resets are forgiven.
struct Bucket {
    full: u32,
    left: u32,
    per_second: u32,
    since: Instant,
}

impl Bucket {
    fn new(limits: &ServerLimits) -> Self {
        Self {
            full: limits.unanswered_resets,
            left: limits.unanswered_resets,
            per_second: limits.unanswered_resets_per_second,
            since: Instant::now(),
        }
    }

    /// Whether there was enough left.
    fn take(&mut self, resets: u32) -> bool {
        if resets == 0 {
            return true;
        }
        let seconds = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.since = Instant::now();
            self.left = self.left.saturating_add(seconds.saturating_mul(self.per_second)).min(self.full);
        }
        match self.left.checked_sub(resets) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
