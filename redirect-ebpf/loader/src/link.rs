//! Finding the host's end of a pod's link, and making sure that it is that: a guard on another device would guard nothing.

use std::io;
use std::os::fd::BorrowedFd;

use crate::netlink::{ACK, Protocol, Request, Socket, attributes};
use crate::netns::inside;
use crate::{EnrollError, HostLink, Link};

const RTM_GETLINK: u16 = 18;
const IFLA_LINK: u16 = 5;
/// struct ifinfomsg: family, type, index, flags, change
const IFINFOMSG: usize = 16;
/// ARPHRD_ETHER, include/uapi/linux/if_arp.h
const ETHERNET: u16 = 1;

/// What a namespace says of one of its devices.
struct Device {
    kind: u16,
    /// Index of the other end in its own namespace.
    peer: Option<u32>,
}

/// Index of the host's end, in its namespace.
pub(crate) fn host_index(host: &HostLink<'_>, pod: BorrowedFd<'_>) -> Result<u32, EnrollError> {
    let failed = |source| EnrollError::HostLink { link: format!("{:?}", host.link), source };
    let wrong = |reason: &str| failed(io::Error::new(io::ErrorKind::InvalidInput, reason));
    let (index, device) = inside(host.netns, || resolve(host.link).and_then(|index| Ok((index, device(index)?))))
        .map_err(|source| EnrollError::Namespace { whose: "the host side", source })?
        .map_err(failed)?;
    if device.kind != ETHERNET {
        return Err(wrong("is no Ethernet device"));
    }
    let Some(peer) = device.peer else { return Err(wrong("is no end of a pair")) };
    let other = inside(pod, || self::device(peer))
        .map_err(|source| EnrollError::Namespace { whose: "the pod", source })?
        .map_err(|_| wrong("its other end is not in the pod"))?;
    if other.peer != Some(index) {
        return Err(wrong("its other end is not in the pod"));
    }
    Ok(index)
}

fn resolve(link: Link<'_>) -> io::Result<u32> {
    match link {
        Link::Index(index) => Ok(index),
        Link::Name(name) => {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let kind = rustix::net::SocketType::DGRAM;
            let socket = rustix::net::socket_with(rustix::net::AddressFamily::INET, kind, flags, None)?;
            Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
        }
    }
}

fn device(index: u32) -> io::Result<Device> {
    let mut message = [0u8; IFINFOMSG];
    message[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut found = None;
    let socket = Socket::open(Protocol::Route)?;
    socket.exchange(Request::new(RTM_GETLINK, ACK).bytes(&message), |answer| {
        found = parse(answer);
        Ok(())
    })?;
    found.ok_or_else(|| io::Error::other("the kernel described no device"))
}

fn parse(answer: &[u8]) -> Option<Device> {
    let kind = u16::from_ne_bytes(answer.get(2..4)?.try_into().ok()?);
    let peer = attributes(answer.get(IFINFOMSG..)?)
        .find(|(attribute, _)| *attribute == IFLA_LINK)
        .and_then(|(_, value)| value.try_into().ok())
        .map(u32::from_ne_bytes);
    Some(Device { kind, peer })
}
