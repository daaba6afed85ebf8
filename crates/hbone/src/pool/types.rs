//! The pool's vocabulary.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh::{Identity, TunnelAddr};
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::Failure;
use crate::client::StreamError;
use crate::headers::ResponseHeaders;
use crate::pulse::ConnectionError;
use crate::stream::TunnelStream;

/// What must be the same for two streams to share a connection (design.md 4, hbone.md 10).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// UID of the workload that the tunnel ends at: an address alone may be another pod's tomorrow.
    pub destination: Arc<str>,
    /// Whose certificate is shown.
    pub source: Identity,
    /// Where to dial.
    pub tunnel: TunnelAddr,
    /// Which identities the peer may have.
    pub expected: Arc<[Identity]>,
    /// Address to dial from.
    pub source_ip: Option<IpAddr>,
}

/// Makes secured transports.
#[allow(async_fn_in_trait, reason = "used on one thread only, so nobody needs the future to be Send")]
pub trait Dial: 'static {
    /// The transport. It should write vectored and keep what is written until it is flushed, as [`serve`](crate::serve) says.
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;
    /// What may go wrong.
    type Error: fmt::Debug + fmt::Display + 'static;

    /// Connects and secures: on success the peer is one of [`PoolKey::expected`].
    fn dial(&self, key: &PoolKey) -> impl Future<Output = Result<Dialled<Self::Io>, Self::Error>>;
}

/// What a connection rests on: the certificates of both ends, or whatever else the dialler has checked.
pub trait Bond: fmt::Debug {
    /// Who is at the other end.
    fn peer(&self) -> &Identity;

    /// Whether new streams may go over the connection. Once false it stays false: a certificate has expired, for one.
    fn holds(&self) -> bool;

    /// Whether the connection must not carry anything any more: a certificate was revoked, for one. Ending it is the
    /// transport's matter; this says why it ended.
    fn is_broken(&self) -> bool;
}

/// An identity that is good for ever.
impl Bond for Identity {
    fn peer(&self) -> &Identity {
        self
    }

    fn holds(&self) -> bool {
        true
    }

    fn is_broken(&self) -> bool {
        false
    }
}

/// A new transport.
#[derive(Debug)]
pub struct Dialled<IO> {
    /// The transport.
    pub io: IO,
    /// Who is at the other end, and for how long that is sure.
    pub bond: Rc<dyn Bond>,
    /// How long its parts took.
    pub timings: DialTimings,
}

/// How long the parts of a dial took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialTimings {
    /// TCP connect.
    pub connect: Duration,
    /// TLS handshake.
    pub tls: Duration,
}

/// How long the parts of [`Pool::open`](super::Pool::open) took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// Until there was a connection to use; near zero when one was there.
    pub waited: Duration,
    /// Of that, the dial (which another stream may have begun earlier); none on a reused connection.
    pub dial: Option<DialTimings>,
    /// From sending the CONNECT to its answer.
    pub response: Duration,
}

/// A stream that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub stream: TunnelStream,
    /// What the peer says of the destination.
    pub headers: ResponseHeaders,
    /// Whether the connection was there before.
    pub reused: bool,
    /// Who the connection's peer is, and for how long that is sure.
    pub bond: Rc<dyn Bond>,
    /// How long it took.
    pub timings: Timings,
}

/// Which part took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A new connection.
    Dial,
    /// The peer's answer.
    Response,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "connection",
            Self::Response => "answer",
        })
    }
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E> {
    /// [`Head::authority`](crate::Head::authority) is not an authority.
    #[error("the authority is not valid")]
    Authority,
    /// The destination was evicted, or the pool closed, while the connection was being made.
    #[error("the destination is gone")]
    Closed,
    /// The dial failed. All that waited for it have the same error.
    #[error("{0}")]
    Dial(Rc<E>),
    /// HTTP/2 could not begin.
    #[error("{0}")]
    Handshake(ConnectionError),
    /// The connection broke while the request was under way.
    #[error("the tunnel was lost")]
    Lost,
    /// The peer answered with a status other than 200.
    #[error("the peer answered with status {0}")]
    Refused(u16),
    /// The peer reset the stream in place of an answer.
    #[error("the peer reset the stream")]
    Reset,
    /// It took too long.
    #[error("timed out waiting for the {0}")]
    TimedOut(Phase),
}

impl<E> From<StreamError> for OpenError<E> {
    fn from(e: StreamError) -> Self {
        match e {
            StreamError::Authority => Self::Authority,
            StreamError::Gone | StreamError::Lost | StreamError::Abandoned => Self::Lost,
            StreamError::Refused | StreamError::Reset => Self::Reset,
            StreamError::Status(status) => Self::Refused(status),
            StreamError::TimedOut => Self::TimedOut(Phase::Response),
        }
    }
}

impl<E> From<Failure<E>> for OpenError<E> {
    fn from(f: Failure<E>) -> Self {
        match f {
            Failure::Closed => Self::Closed,
            Failure::Dial(e) => Self::Dial(e),
            Failure::Handshake(e) => Self::Handshake(e),
            Failure::TimedOut => Self::TimedOut(Phase::Dial),
        }
    }
}

/// What happens to the streams of a connection that is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evict {
    /// They go on; the connection ends with the last one.
    WhenIdle,
    /// They break.
    Now,
}

/// What a pool holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Destinations.
    pub keys: usize,
    /// Connections that take streams.
    pub connections: usize,
    /// Streams on them, those under way included.
    pub streams: usize,
    /// Dials under way.
    pub dialling: usize,
    /// Requests that wait for a dial.
    pub waiting: usize,
    /// Streams opened since the start.
    pub opened: u64,
    /// Of those, on a connection that was there.
    pub reused: u64,
    /// Connections made since the start.
    pub dialled: u64,
    /// Dials failed since the start.
    pub dial_failures: u64,
    /// Requests tried a second time since the start.
    pub retried: u64,
}
