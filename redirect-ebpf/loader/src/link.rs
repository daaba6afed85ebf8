//! Finding the host's end of a pod's link, and making sure that it is that: a guard on another device would guard nothing.

use std::io;
use std::os::fd::BorrowedFd;

use crate::netlink::{ACK, Protocol, Request, Socket, attributes};
use crate::netns::inside;
use crate::{EnrollError, HostLink, Link};

const RTM_GETLINK: u16 = 18;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// struct ifinfomsg: family, type, index, flags, change
const IFINFOMSG: usize = 16;
/// ARPHRD_ETHER, include/uapi/linux/if_arp.h
const ETHERNET: u16 = 1;

/// NLA_F_NESTED
const NESTED: u16 = 0x8000;

/// What a namespace says of one of its devices.
struct Device {
    kind: u16,
    /// Index of the other end in its own namespace.
    peer: Option<u32>,
    /// What made it: `veth`, `netkit`, `ipvlan`; empty for hardware.
    maker: String,
}

/// Both ends of a pod's link, each in its own namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) host: u32,
    pub(crate) pod: u32,
}

/// Both ends of the link whose host side is named here.
pub(crate) fn ends(host: &HostLink<'_>, pod: BorrowedFd<'_>) -> Result<Ends, EnrollError> {
    let failed = |source| EnrollError::HostLink { link: format!("{:?}", host.link), source };
    let wrong = |reason: String| failed(io::Error::new(io::ErrorKind::InvalidInput, reason));
    let (index, device) = inside(host.netns, || resolve(host.link).and_then(|index| Ok((index, device(index)?))))
        .map_err(|source| EnrollError::Namespace { whose: "the host side", source })?
        .map_err(failed)?;
    // netkit hands packets over without tc ingress of the host's end, so a guard there would see nothing.
    if device.kind != ETHERNET || device.maker == "netkit" {
        return Err(wrong(format!("is a {} device, which has no place for the guard", device.named())));
    }
    let Some(peer) = device.peer else {
        return Err(wrong(format!("is a {} device, no end of a pair (ipvlan and macvlan have none)", device.named())));
    };
    let other = inside(pod, || self::device(peer))
        .map_err(|source| EnrollError::Namespace { whose: "the pod", source })?
        .map_err(|_| wrong("its other end is not in the pod".into()))?;
    if other.peer != Some(index) {
        return Err(wrong("its other end is not in the pod (ipvlan and macvlan name their parent here)".into()));
    }
    Ok(Ends { host: index, pod: peer })
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
    let info = attributes(answer.get(IFINFOMSG..)?).find(|(attribute, _)| attribute & !NESTED == IFLA_LINKINFO);
    let maker = info
        .and_then(|(_, info)| attributes(info).find(|(attribute, _)| *attribute == IFLA_INFO_KIND))
        .map(|(_, name)| String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned());
    Some(Device { kind, peer, maker: maker.unwrap_or_default() })
}

impl Device {
    fn named(&self) -> &str {
        if self.maker.is_empty() { "hardware or loopback" } else { &self.maker }
    }
}

/// Index of the other end of a pair, in the namespace of that other end, as the device of this name in a pod tells it.
///
/// # Errors
/// When the namespace cannot be entered, has no such device, or the device is no Ethernet device with another end.
pub fn peer_index(netns: BorrowedFd<'_>, device: &str) -> io::Result<u32> {
    let found = inside(netns, || resolve(Link::Name(device)).and_then(self::device))??;
    let wrong = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{device} {reason}"));
    if found.kind != ETHERNET {
        return Err(wrong("is no Ethernet device"));
    }
    found.peer.ok_or_else(|| wrong("is no end of a pair"))
}
