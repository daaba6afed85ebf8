//! UDP for DNS: queries that applications sent to other servers, received with the address that they were sent to, and
//! answers that leave as if from there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd;

use mesh::OriginalDst;
use mesh::addr::canonical_socket;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::listen::transparent;
use crate::netns::NetNs;
use crate::sys;

/// A socket that receives what a pod's application sent to a port of any server, as eBPF or TPROXY hand it over: with its
/// own source and destination.
#[derive(Debug)]
pub struct CapturedUdp {
    socket: UdpSocket,
    port: u16,
}

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes in the buffer.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: OriginalDst,
    /// The buffer was too short: its end is lost.
    pub truncated: bool,
}

impl CapturedUdp {
    /// Opens a transparent, non-blocking socket on every address of one family inside `netns`.
    ///
    /// One socket per family and not one for both: whoever assigns a packet to a socket (bpf_sk_assign, TPROXY) looks for
    /// one of the packet's family. SO_REUSEPORT is on, for the time of an upgrade in which two generations serve. `None`
    /// for IPv6 where the namespace has none.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and bind(2): EADDRINUSE when the port is taken by somebody who does not share it,
    /// EPERM without CAP_NET_ADMIN in the namespace.
    pub fn bind(netns: &NetNs, ipv6: bool, port: u16, mark: Option<u32>) -> io::Result<Option<Self>> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        match Self::attempt(netns, SocketAddr::new(any, port), mark) {
            Err(error) if ipv6 && super::listen::no_ipv6(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    fn attempt(netns: &NetNs, at: SocketAddr, mark: Option<u32>) -> io::Result<Self> {
        let socket = open(Some(netns), at)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_port(true)?;
        transparent(&socket, at)?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        let (level, name) = if at.is_ipv6() {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR)
        };
        sys::setsockopt_int(socket.as_fd(), level, name, 1)?;
        socket.bind(&at.into())?;
        let port = socket.local_addr()?.as_socket().map_or(at.port(), |own| own.port());
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, port })
    }

    /// The port that the socket is bound to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until a datagram may be there for [`Self::try_recv`].
    ///
    /// # Errors
    /// Only when the runtime is going away.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// A datagram that waits; `None` when there is none.
    ///
    /// # Errors
    /// Those of recvmsg(2); the socket stays usable.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        match self.socket.try_io(Interest::READABLE, || receive(&self.socket, buffer)) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Datagram> {
    let received = sys::recv_with_destination(socket.as_fd(), buffer)?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a datagram without its {what}"));
    let from = address(received.from.0.get(..received.from.1).unwrap_or_default()).ok_or_else(|| bad("sender"))?;
    let to = received.to.as_ref().and_then(|to| address(to)).ok_or_else(|| bad("destination"))?;
    Ok(Datagram { len: received.len, from, to: OriginalDst::new(to), truncated: received.truncated })
}

/// Reads a `sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)): family in the host's order, the rest in the network's.
fn address(raw: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*raw.first_chunk()?);
    let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *raw.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = *raw.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*raw.get(24..)?.first_chunk()?);
            let whole = SocketAddrV6::new(ip.into(), port, 0, scope);
            Some(canonical_socket(whole.into()))
        }
        _ => None,
    }
}

/// Sends one datagram from inside `netns` to `to`, as if `from` had sent it, which need not be an address of ours.
///
/// Each one from a socket of its own, closed at once: a socket that stayed bound to a server's address would also receive
/// what is sent there, in a namespace where such packets are delivered locally. It costs some 15 µs, of which most is
/// entering the namespace.
///
/// # Errors
/// Those of socket(2), setsockopt(2), bind(2) and sendto(2).
pub fn answer_as(netns: &NetNs, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = open(Some(netns), from)?;
    transparent(&socket, from)?;
    // Another worker or generation may be answering as the same server at this moment.
    socket.set_reuse_port(true)?;
    socket.bind(&from.into())?;
    let sent = socket.send_to(payload, &to.into())?;
    // A datagram goes whole or not at all.
    debug_assert_eq!(sent, payload.len());
    Ok(())
}

/// A socket inside `netns` that talks to `to` alone: what others send to it is not received.
///
/// The port is the kernel's choice among some 28 000, so that whoever wants to forge an answer has to guess it.
///
/// # Errors
/// Those of socket(2), setsockopt(2) and connect(2): ENETUNREACH without a route.
pub fn udp_to(netns: Option<&NetNs>, to: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = open(netns, to)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}

/// Waits until a socket of [`udp_to`] has a datagram, or has been told by ICMP that there will be none. The runtime's own
/// `readable` does not wake for the latter.
///
/// # Errors
/// What ICMP said: ECONNREFUSED when nobody listens there, EHOSTUNREACH and the like.
pub async fn udp_readable(socket: &UdpSocket) -> io::Result<()> {
    loop {
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_readable() {
            return Ok(());
        }
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        // Somebody has taken the error already: it is forgotten, or this would never wait again.
        drop(socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into())));
    }
}

/// A socket bound to one address of `netns`, whose port a second generation of the proxy may share.
///
/// # Errors
/// Those of socket(2), setsockopt(2) and bind(2).
pub fn udp_at(netns: &NetNs, at: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = open(Some(netns), at)?;
    socket.set_reuse_port(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

fn open(netns: Option<&NetNs>, family_of: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(family_of);
    let make = || Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP));
    match netns {
        Some(netns) => netns.run(make)?,
        None => make(),
    }
}

#[cfg(test)]
#[path = "datagram_tests.rs"]
mod tests;
