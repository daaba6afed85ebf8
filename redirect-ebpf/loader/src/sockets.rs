//! The pod's TCP connections, by sock_diag(7).

use std::io;

use redirect_abi::{Ip, marks};

use crate::netlink::{ACK, DUMP, Protocol, Request, Socket, attributes};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_MARK: u16 = 15;
const IPPROTO_TCP: u8 = 6;
/// struct inet_diag_msg up to its attributes.
const ANSWER: usize = 72;
/// struct inet_diag_sockid within it.
const ID: std::ops::Range<usize> = 4..52;

// include/net/tcp_states.h
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) cookie: u64,
    pub(crate) mark: u32,
    local: Ip,
    remote: Ip,
    family: u8,
    id: Vec<u8>,
}

impl Connection {
    /// Goes to or comes from the pod's own loopback: it never leaves by a device.
    pub(crate) fn stays_inside(&self) -> bool {
        self.local.is_loopback() && self.remote.is_loopback()
    }

    /// Carries one of our mark bits, so it needs rules and routes.
    pub(crate) fn captured(&self) -> bool {
        marks::ours(self.mark)
    }
}

/// All connections of the calling thread's namespace that can still send bytes.
pub(crate) fn connections() -> io::Result<Vec<Connection>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // A socket of its own: an error would leave the rest of a dump in the first one.
        let socket = Socket::open(Protocol::SockDiag)?;
        let states = !(1u32 << TIME_WAIT | 1 << CLOSE | 1 << LISTEN);
        let mut request = vec![family as u8, IPPROTO_TCP, 0, 0];
        request.extend_from_slice(&states.to_ne_bytes());
        request.resize(56, 0);
        socket.exchange(Request::new(SOCK_DIAG_BY_FAMILY, DUMP).bytes(&request), |answer| {
            found.extend(parse(answer));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Ends a connection with a RST, like `ss -K`.
pub(crate) fn destroy(connection: &Connection) -> io::Result<()> {
    let socket = Socket::open(Protocol::SockDiag)?;
    let mut request = vec![connection.family, IPPROTO_TCP, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&connection.id);
    match socket.acknowledged(Request::new(SOCK_DESTROY, ACK).bytes(&request)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn parse(answer: &[u8]) -> Option<Connection> {
    let id = answer.get(ID)?;
    let family = *answer.first()?;
    let mark = attributes(answer.get(ANSWER..)?)
        .find(|(kind, _)| *kind == INET_DIAG_MARK)
        .and_then(|(_, value)| value.try_into().ok())
        .map_or(0, u32::from_ne_bytes);
    Some(Connection {
        // sport, dport, src, dst, interface, cookie
        cookie: u64::from_ne_bytes(id.get(40..48)?.try_into().ok()?),
        mark,
        local: address(family, id.get(4..20)?)?,
        remote: address(family, id.get(20..36)?)?,
        family,
        id: id.to_vec(),
    })
}

fn address(family: u8, bytes: &[u8]) -> Option<Ip> {
    if i32::from(family) == libc::AF_INET {
        return Some(Ip::from_v4(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)));
    }
    Some(Ip::from_octets(bytes.try_into().ok()?))
}
