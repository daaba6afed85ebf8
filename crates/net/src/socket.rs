//! Sockets of the proxy: made inside pods' network namespaces, with the options that the capture design asks for. TCP but for
//! the UDP of DNS ([`CapturedUdp`]).

mod connect;
mod datagram;
mod inspect;
mod listen;

use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

pub use connect::{ConnectError, ConnectOptions, connect};
pub use datagram::{CapturedUdp, Datagram, answer_as, udp_at, udp_readable, udp_to};
pub use inspect::{
    TcpHealth, abort, closed_by_reset, original_dst, original_dst_conntrack, peek_until, peer, tcp_info,
    with_reset_on_close,
};
pub use listen::{ListenOptions, listen, listen_here};

use crate::netns::NetNs;

/// Idle time before the first keep-alive probe, and between probes (hbone.md 10: 180 s / 180 s / 9).
const KEEPALIVE: Duration = Duration::from_secs(180);
/// Unanswered probes before the connection counts as lost.
const KEEPALIVE_PROBES: u32 = 9;

/// Keep-alive 180 s / 180 s / 9 (hbone.md 10). Sockets of [`connect`] and those accepted from [`listen`] have it already.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_keepalive(stream: &TcpStream) -> io::Result<()> {
    keepalive(&SockRef::from(stream))
}

/// No delay for small segments (Nagle off). Sockets of [`connect`] and those accepted from [`listen`] have it already.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_nodelay(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

fn keepalive(socket: &Socket) -> io::Result<()> {
    let every = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&every)
}

/// A non-blocking stream socket made inside `netns` (or where the thread is).
fn open(netns: Option<&NetNs>, domain: Domain) -> io::Result<Socket> {
    let make = || Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP));
    match netns {
        Some(netns) => netns.run(make)?,
        None => make(),
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
