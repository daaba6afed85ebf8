//! The clock of a connection: PINGs, and how long it has been without streams. One timer for both.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

/// How a tunnel connection ended when it did not end in order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The peer did not begin to speak HTTP/2 in time.
    #[error("the peer did not begin to speak HTTP/2 in time")]
    HandshakeTimeout,
    /// The transport failed.
    #[error("the transport failed: {0}")]
    Io(std::io::ErrorKind),
    /// A PING was not acknowledged in time.
    #[error("the peer did not acknowledge a PING in time")]
    PingTimeout,
    /// One side broke the protocol.
    #[error("HTTP/2 error: {0}")]
    Protocol(String),
    /// The peer opened and reset streams faster than anybody needs.
    #[error("the peer resets streams too fast")]
    TooManyResets,
}

impl From<h2::Error> for ConnectionError {
    fn from(e: h2::Error) -> Self {
        match e.get_io() {
            Some(io) => Self::Io(io.kind()),
            None => Self::Protocol(e.to_string()),
        }
    }
}

/// What the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing.
    Fine,
    /// A PING stayed without acknowledgement.
    Dead,
    /// No stream for the idle time. Said once.
    Idle,
}

/// ```text
/// Waiting(due) ──due──▶ Sent(deadline) ──ack──▶ Waiting
///                          └──deadline──▶ Dead
/// ```
#[derive(Clone, Copy, Debug)]
enum Pinging {
    /// The next PING goes out then.
    Waiting(Instant),
    /// Its acknowledgement is due by then.
    Sent(Instant),
}

pub(crate) struct Pulse {
    pings: Option<PingPong>,
    state: Pinging,
    every: Duration,
    timeout: Duration,
    idle: Duration,
    idle_at: Option<Instant>,
    idle_said: bool,
    doubted: bool,
    timer: Pin<Box<Sleep>>,
}

/// How long a peer that is said to be gone has to show that it is not: by acknowledging the PING of [`Pulse::doubt`], or by
/// letting a dial that is under way come to its end. Round trips within a cluster take milliseconds, a lost
/// segment is sent again after 200 ms (Linux' least); a pod that was killed with its network never answers.
pub(crate) const DOUBT: Duration = Duration::from_secs(2);

/// How often such a peer is asked. With [`DOUBT`], no stream hangs for more than 3 s after the peer's network has gone, which
/// leaves room below the 5 s that a connection may be held for anything.
const DOUBT_EVERY: Duration = Duration::from_secs(1);

impl Pulse {
    pub(crate) fn new(pings: Option<PingPong>, every: Duration, timeout: Duration, idle: Duration) -> Self {
        let due = Instant::now() + every;
        let timer = Box::pin(tokio::time::sleep_until(due));
        Self {
            pings,
            state: Pinging::Waiting(due),
            every,
            timeout,
            idle,
            idle_at: None,
            idle_said: false,
            doubted: false,
            timer,
        }
    }

    /// To be called whenever the driver runs; looks at the clock only when something has changed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, active: bool) -> Beat {
        if active {
            self.idle_at = None;
        } else if self.idle_at.is_none() && !self.idle_said {
            self.idle_at = Some(Instant::now() + self.idle);
            self.arm();
        }
        if matches!(self.state, Pinging::Sent(_)) && self.acknowledged(cx) {
            self.state = Pinging::Waiting(Instant::now() + self.every);
            self.arm();
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match self.state {
                Pinging::Sent(deadline) if now >= deadline => return Beat::Dead,
                Pinging::Waiting(due) if now >= due => self.send(cx, now),
                Pinging::Sent(_) | Pinging::Waiting(_) => {}
            }
            if self.idle_at.is_some_and(|at| now >= at) {
                self.idle_at = None;
                self.idle_said = true;
                self.arm();
                return Beat::Idle;
            }
            self.arm();
        }
        Beat::Fine
    }

    /// Asks at once whether the peer is still there, and from now on every [`DOUBT_EVERY`]: its destination is said to be gone. One
    /// that is there answers and its streams go on; of a pod that is killed some seconds after its object they would hang until
    /// the next PING times out.
    pub(crate) fn doubt(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.doubted, true) {
            return;
        }
        let now = Instant::now();
        (self.every, self.timeout) = (self.every.min(DOUBT_EVERY), self.timeout.min(DOUBT));
        if let Pinging::Waiting(_) = self.state {
            self.send(cx, now);
        }
        if let Pinging::Sent(deadline) = self.state {
            self.state = Pinging::Sent(deadline.min(now + DOUBT));
        }
        self.arm();
    }

    fn arm(&mut self) {
        let (Pinging::Waiting(ping) | Pinging::Sent(ping)) = self.state;
        let at = self.idle_at.map_or(ping, |idle| idle.min(ping));
        self.timer.as_mut().reset(at);
    }

    fn send(&mut self, cx: &mut Context<'_>, now: Instant) {
        // A failure means that the connection is gone, which its driver learns by itself.
        let sent = self.pings.as_mut().is_some_and(|p| p.send_ping(Ping::opaque()).is_ok());
        self.state = Pinging::Waiting(now + self.every);
        if sent && !self.acknowledged(cx) {
            self.state = Pinging::Sent(now + self.timeout);
        }
    }

    /// Also registers for the acknowledgement.
    fn acknowledged(&mut self, cx: &mut Context<'_>) -> bool {
        self.pings.as_mut().is_some_and(|p| matches!(p.poll_pong(cx), Poll::Ready(Ok(_))))
    }
}
