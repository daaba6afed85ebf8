//! Whether a pod's rules and routes lead where its capture needs them, for an audit.
//!
//! The kernel is asked as packets would ask it, one look-up each: a rule of somebody else before ours does as much harm as one of
//! ours that is gone, and root in a pod can make more rules than one wants to list.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use redirect_abi::{dns, marks};

use crate::EnrollError;
use crate::enroll::pod_namespace;
use crate::netlink::{ACK, Protocol, Request, Socket, attributes};
use crate::netns::inside;
use crate::routing::{TABLE_LOCAL, TABLE_LOOP, TABLE_SELF, octets};

// include/uapi/linux/rtnetlink.h
const RTM_GETROUTE: u16 = 26;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTA_DST: u16 = 1;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;

/// Addresses that no pod has, for documentation (RFC 5737, RFC 3849).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// The source port of an ordinary question: any but 53.
const ANY_PORT: u16 = 40000;

/// A packet that the pod might send.
#[derive(Clone, Copy, Debug)]
struct Packet {
    to: IpAddr,
    mark: u32,
    /// A question to port 53 over UDP from this port; `None` = anything.
    question: Option<u16>,
}

/// Whether all rules and routes that [`crate::Redirector::enroll`] set for these addresses are in force.
///
/// # Errors
/// When the namespace cannot be entered, or the kernel does not answer.
pub fn is_routed(netns: BorrowedFd<'_>, addresses: &[IpAddr], dns: bool) -> Result<bool, EnrollError> {
    let failed = |source| EnrollError::Route { what: "ask for routes".into(), source };
    inside(netns, || stand(addresses, dns)).map_err(pod_namespace)?.map_err(failed)
}

/// The same for the calling thread's namespace.
fn stand(addresses: &[IpAddr], dns: bool) -> io::Result<bool> {
    let socket = Socket::open(Protocol::Route)?;
    for (packet, table, wanted) in wanted(addresses, dns) {
        let found = table_of(&socket, packet)?;
        if (found == Some(table.into())) != wanted {
            tracing::debug!(?packet, ?found, table, wanted, "a packet of the pod would go elsewhere");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Packets, each with a table and whether it decides about them (the table in `routing`).
fn wanted(addresses: &[IpAddr], dns: bool) -> Vec<(Packet, u8, bool)> {
    let mut wanted = Vec::new();
    for to in ELSEWHERE.into_iter().filter(|e| addresses.iter().any(|a| a.is_ipv4() == e.is_ipv4())) {
        let packet = |mark| Packet { to, mark, question: None };
        wanted.push((packet(marks::CAPTURE), TABLE_LOOP, true));
        wanted.push((packet(marks::RETURN), TABLE_LOOP, true));
        if dns {
            let question = |mark, from| Packet { to, mark, question: Some(from) };
            wanted.push((question(0, ANY_PORT), TABLE_LOOP, true));
            wanted.push((question(marks::STOCK, ANY_PORT), TABLE_LOOP, false));
            wanted.push((question(0, dns::PORT), TABLE_LOOP, false));
        }
    }
    for to in addresses.iter().copied() {
        let packet = |mark| Packet { to, mark, question: None };
        wanted.push((packet(marks::RETURN), TABLE_SELF, true));
        wanted.push((packet(0), TABLE_LOCAL, true));
    }
    wanted
}

/// The table that decides about a packet; `None` = it cannot be sent.
fn table_of(socket: &Socket, packet: Packet) -> io::Result<Option<u32>> {
    let (family, bits) = if packet.to.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let request = Request::new(RTM_GETROUTE, ACK)
        .bytes(&[family as u8, bits, 0, 0, 0, 0, 0, 0])
        .bytes(&RTM_F_LOOKUP_TABLE.to_ne_bytes())
        .attribute(RTA_DST, &octets(&packet.to))
        .attribute_u32(RTA_MARK, packet.mark);
    let request = match packet.question {
        Some(from) => request
            .attribute(RTA_IP_PROTO, &[dns::UDP])
            .attribute(RTA_SPORT, &from.to_be_bytes())
            .attribute(RTA_DPORT, &dns::PORT.to_be_bytes()),
        None => request,
    };
    let mut table = None;
    let answered = socket.exchange(request, |answer| {
        let word = |(kind, value): (u16, &[u8])| (kind == RTA_TABLE).then(|| value.try_into().ok())?;
        table = attributes(answer.get(12..).unwrap_or_default()).find_map(word).map(u32::from_ne_bytes);
        Ok(())
    });
    match answered {
        // No route, or one that refuses (unreachable, prohibit, blackhole).
        Err(error) if refused(&error) => Ok(None),
        answered => answered.map(|()| table),
    }
}

fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL))
}
