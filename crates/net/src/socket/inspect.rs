//! What a connected socket says of itself, and how to end it hard.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use mesh::{OriginalDst, PeerAddr};
use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys;

/// The other end's address, never v4-mapped.
///
/// # Errors
/// ENOTCONN when the other end has already reset the connection.
pub fn peer(stream: &TcpStream) -> io::Result<PeerAddr> {
    stream.peer_addr().map(PeerAddr::new)
}

/// Where the application wanted to go, as a transparent listener knows it: the accepted socket's own local address.
///
/// This is right for connections captured by eBPF or TPROXY, which keep the destination in the packet (design.md 3). Never
/// v4-mapped. When it equals an address of the listener's own, nobody was captured: somebody called the proxy itself.
///
/// # Errors
/// Those of getsockname(2).
pub fn original_dst(stream: &TcpStream) -> io::Result<OriginalDst> {
    stream.local_addr().map(OriginalDst::new)
}

/// Where the application wanted to go when iptables redirected it: SO_ORIGINAL_DST of IPv4, then of IPv6, then
/// [`original_dst`] (cni-zds.md 3). Only for pods whose rules are somebody else's, since it needs connection tracking.
///
/// # Errors
/// Those of getsockname(2).
pub fn original_dst_conntrack(stream: &TcpStream) -> io::Result<OriginalDst> {
    let socket = SockRef::from(stream);
    // Either call fails (ENOPROTOOPT, ENOENT, EINVAL) when connection tracking does not know the connection; the next
    // source of the answer takes over then.
    let tracked = socket.original_dst_v4().or_else(|_| socket.original_dst_v6());
    match tracked.ok().and_then(|found| found.as_socket()) {
        Some(found) => Ok(OriginalDst::new(found)),
        None => original_dst(stream),
    }
}

/// Looks at what a connection has received until `enough` makes something of it, and leaves every byte where it is.
///
/// `None` when it never will: the other end has sent its last byte, or the buffer is full.
///
/// # Errors
/// Those of recv(2).
pub async fn peek_until<T>(
    stream: &TcpStream,
    buffer: &mut [u8],
    enough: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let looked = stream.try_io(Interest::READABLE, || {
            let (count, _) = rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            let seen = buffer.get(..count).unwrap_or_default();
            match enough(seen) {
                Some(found) => Ok(Some(found)),
                None if seen.is_empty() || count == buffer.len() => Ok(None),
                // Has the runtime wait for more bytes and not for those that are there.
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A connection that is closed at the other end counts as readable for ever.
                if ready.is_read_closed() {
                    return Ok(None);
                }
            }
            done => return done,
        }
    }
}

/// Ends a connection with RST: the other end learns that what it got may be incomplete.
pub fn abort(stream: TcpStream) {
    with_reset_on_close(&stream);
    drop(stream);
}

/// Makes the coming close of a socket send RST and forget what was not yet sent (SO_LINGER on, 0 s; tcp(7)).
pub fn with_reset_on_close(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        // Cannot happen on a TCP socket; closing with FIN is what is left.
        tracing::debug!(%error, "SO_LINGER refused; the connection closes with FIN");
    }
}

/// Whether an error of reading or writing means that the other end reset the connection.
///
/// ECONNRESET is an RST as such. EPIPE on a socket that we have not shut down ourselves is an RST that came after the other
/// end's FIN (tcp_reset in the kernel), that is, somebody closed and then did not want our bytes.
pub fn closed_by_reset(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN | libc::ECONNABORTED))
}

/// The kernel's view of a connection (TCP_INFO).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHealth {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_var: Duration,
    /// The shortest round trip seen.
    pub min_rtt: Duration,
    /// Segments sent again since the connection began.
    pub retransmits: u32,
    /// Segments that count as lost at this moment.
    pub lost: u32,
    /// Most recent delivery rate, bytes per second.
    pub delivery_rate: u64,
    /// Bytes that the other end has acknowledged.
    pub bytes_acked: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// Health of a connection; none when the kernel does not say (a socket that is not TCP).
pub fn tcp_info(stream: &impl AsFd) -> Option<TcpHealth> {
    let mut raw = [0; TCP_INFO_LEN];
    let len = sys::getsockopt(stream.as_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, &mut raw).ok()?;
    // An older kernel writes a shorter structure; what it does not know stays 0.
    (len > RTT_VAR).then(|| TcpHealth {
        rtt: Duration::from_micros(u32_at(&raw, RTT).into()),
        rtt_var: Duration::from_micros(u32_at(&raw, RTT_VAR).into()),
        min_rtt: Duration::from_micros(u32_at(&raw, MIN_RTT).into()),
        retransmits: u32_at(&raw, TOTAL_RETRANS),
        lost: u32_at(&raw, LOST),
        delivery_rate: u64_at(&raw, DELIVERY_RATE),
        bytes_acked: u64_at(&raw, BYTES_ACKED),
        bytes_received: u64_at(&raw, BYTES_RECEIVED),
    })
}

// Offsets into struct tcp_info (linux/tcp.h), which only ever grows at its end.
const LOST: usize = 32;
const RTT: usize = 68;
const RTT_VAR: usize = 72;
const TOTAL_RETRANS: usize = 100;
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
const MIN_RTT: usize = 148;
const DELIVERY_RATE: usize = 160;
/// Up to and with the delivery rate (Linux 4.9).
const TCP_INFO_LEN: usize = 168;

fn u32_at(raw: &[u8; TCP_INFO_LEN], at: usize) -> u32 {
    raw[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn u64_at(raw: &[u8; TCP_INFO_LEN], at: usize) -> u64 {
    raw[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}
