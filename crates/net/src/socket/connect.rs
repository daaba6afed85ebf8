//! Connections from inside a pod, with a source address that may be somebody else's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use mesh::addr::{canonical, canonical_socket};
use socket2::{Domain, Socket};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{keepalive, listen, open};
use crate::netns::NetNs;
use crate::sys;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Where to.
    pub to: SocketAddr,
    /// Address to appear as, with any port; it need not be ours (IP_TRANSPARENT). The rules of the pod must lead the
    /// answers back: see [`crate::mark::RETURN`].
    pub source: Option<IpAddr>,
    /// SO_MARK.
    pub mark: Option<u32>,
    /// How long to wait for the other end's answer.
    pub timeout: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The other end's host answered that nobody listens there.
    #[error("connection refused by {to}")]
    Refused {
        /// The destination.
        to: SocketAddr,
    },
    /// No answer in time.
    #[error("{to} did not answer within {after:?}")]
    TimedOut {
        /// The destination.
        to: SocketAddr,
        /// How long we waited at most; the kernel may have given up earlier.
        after: Duration,
    },
    /// There is no way to the destination, or a router said so.
    #[error("{to} cannot be reached: {error}")]
    Unreachable {
        /// The destination.
        to: SocketAddr,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
    /// The source address cannot be used: other family, not allowed, no port left.
    #[error("cannot use the source address {from}: {error}")]
    Source {
        /// The source; unspecified when the kernel was to choose.
        from: IpAddr,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
    /// A firewall or an eBPF program forbids it.
    #[error("connecting to {to} is forbidden on this host: {error}")]
    Forbidden {
        /// The destination.
        to: SocketAddr,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
    /// Descriptors or memory ran out: try again later.
    #[error("no socket to be had: {0}")]
    Exhausted(#[source] io::Error),
    /// The pod's network namespace cannot be entered, or an option cannot be set there.
    #[error("cannot make a socket: {0}")]
    Setup(#[source] io::Error),
    /// Anything else that connect(2) says.
    #[error("cannot connect to {to}: {error}")]
    Other {
        /// The destination.
        to: SocketAddr,
        /// The kernel's word.
        #[source]
        error: io::Error,
    },
}

/// How long the first ports of a shown source may stay without an answer. On `lo` the kernel answers within the call of connect(2), or
/// not at all; this leaves it the time slices of a crowded machine.
const SHOWN_ANSWERS: Duration = Duration::from_millis(200);
/// Ports that are tried for a shown source, the last one until the time is over. Two misses in a row need both to be in use by others.
const SHOWN_TRIES: usize = 3;
/// Where further ports come from: below the ranges that clients take theirs from (32768 and up on Linux, 49152 and up elsewhere, RFC
/// 6335 section 6), above those that services have.
const SHOWN_PORTS: std::ops::RangeInclusive<u16> = 16384..=32767;

/// Connects from inside `netns` (or from where the thread is). TCP_NODELAY and keep-alive are on.
///
/// With a source that is somebody else's, the kernel may choose a port from which that somebody already has a connection to the same
/// destination, in clear: it does not see the two as one, but the destination does, and answers there and not here. An attempt that
/// stays without an answer is therefore made again from another port.
///
/// Dropping the future gives the attempt up.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(netns: Option<&NetNs>, options: &ConnectOptions) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + options.timeout;
    let mut port = 0;
    if options.source.is_some() {
        for _ in 1..SHOWN_TRIES {
            let until = deadline.min(Instant::now() + SHOWN_ANSWERS);
            match tokio::time::timeout_at(until, attempt(netns, options, port)).await {
                Ok(Err(ConnectError::Source { error, .. })) if port != 0 && in_use(&error) => {}
                Ok(done) => return done,
                Err(_elapsed) => {}
            }
            port = rand::random_range(SHOWN_PORTS);
        }
    }
    match tokio::time::timeout_at(deadline, attempt(netns, options, port)).await {
        Ok(done) => done,
        Err(_elapsed) => Err(ConnectError::TimedOut { to: canonical_socket(options.to), after: options.timeout }),
    }
}

/// One attempt, without an end of its own. `port` is the source's; 0 = the kernel's choice.
async fn attempt(netns: Option<&NetNs>, options: &ConnectOptions, port: u16) -> Result<TcpStream, ConnectError> {
    let to = canonical_socket(options.to);
    let socket = TcpSocket::from_std_stream(prepare(netns, options, to, port)?.into());
    socket.connect(to).await.map_err(|error| classify(error, options, to))
}

fn prepare(netns: Option<&NetNs>, options: &ConnectOptions, to: SocketAddr, port: u16) -> Result<Socket, ConnectError> {
    let setup =
        |error: io::Error| if exhausted(&error) { ConnectError::Exhausted(error) } else { ConnectError::Setup(error) };
    let socket = open(netns, Domain::for_address(to)).map_err(setup)?;
    socket.set_tcp_nodelay(true).map_err(setup)?;
    keepalive(&socket).map_err(setup)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark).map_err(setup)?;
    }
    if let Some(from) = options.source.map(canonical) {
        bind(&socket, SocketAddr::new(from, port), to).map_err(|error| ConnectError::Source { from, error })?;
    }
    Ok(socket)
}

/// Binds the address. Port 0 is left to connect(2): IP_BIND_ADDRESS_NO_PORT lets the kernel give one local port to many destinations,
/// where bind would take it whole (28 000 connections per source and no more).
fn bind(socket: &Socket, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    if from.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "source and destination are of different families"));
    }
    listen::transparent(socket, to)?;
    if from.port() == 0 {
        // Level IP on IPv6 sockets too: the flag sits in the part of the socket that both families share.
        sys::setsockopt_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    } else {
        // An application may still listen on this port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&from.into())
}

fn classify(error: io::Error, options: &ConnectOptions, to: SocketAddr) -> ConnectError {
    let unspecified = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => ConnectError::Refused { to },
        Some(libc::ETIMEDOUT) => ConnectError::TimedOut { to, after: options.timeout },
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ENONET) => {
            ConnectError::Unreachable { to, error }
        }
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => {
            ConnectError::Source { from: options.source.unwrap_or(unspecified), error }
        }
        Some(libc::EPERM | libc::EACCES) => ConnectError::Forbidden { to, error },
        _ if exhausted(&error) => ConnectError::Exhausted(error),
        _ => ConnectError::Other { to, error },
    }
}

fn in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

fn exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
