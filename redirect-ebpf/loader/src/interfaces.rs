//! What a pod's namespace has beside its primary interface: other interfaces, their addresses, and the routes that use them.
//!
//! Only what the primary interface carries is captured, because only that one has a guard. The rest is left alone, counted and
//! named. An interface counts when it is up and has an address that is not link-local; one that comes later is captured like
//! the primary one until the pod is looked at again, which is the safe side.

use std::io;
use std::net::IpAddr;

use redirect_abi::{Ip, LOOPBACK_IFINDEX};

use crate::netlink::{DUMP, Protocol, Request, Socket, attributes};

// include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const IFF_UP: u32 = 1;
const RTN_UNICAST: u8 = 1;
const TABLE_MAIN: u32 = 254;
/// RTM_F_CLONED: an entry of the IPv6 cache, not a route.
const CLONED: u32 = 0x200;
/// RT_SCOPE_LINK of an address: link-local.
const SCOPE_LINK: u8 = 253;

// Root in a pod can make as many as it likes, and the maps are shared with all pods of the node. Real pods have a handful of each;
// with more, all of the pod is captured like its primary interface.
const MOST_INTERFACES: usize = 32;
const MOST_ADDRESSES: usize = 64;
const MOST_ROUTES: usize = 128;

/// An interface of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// Its index in the pod.
    pub index: u32,
    /// Its addresses, link-local ones left out.
    pub addresses: Vec<IpAddr>,
}

/// A route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) destination: Ip,
    /// In bits, of the family's own address.
    pub(crate) prefix: u32,
    pub(crate) v4: bool,
    /// Interface that carries it when it is not the primary one; 0 = the primary one.
    pub(crate) elsewhere: u32,
}

/// What is there beside the primary interface.
#[derive(Clone, Default, Debug)]
pub(crate) struct Secondary {
    pub(crate) interfaces: Vec<Interface>,
    /// All routes of the main table, so that the longest prefix decides; empty when there are no such interfaces.
    pub(crate) routes: Vec<Route>,
}

impl Secondary {
    /// Addresses of these interfaces: they are the pod's own as well.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces.iter().flat_map(|interface| interface.addresses.iter().copied())
    }
}

/// Looks around in the calling thread's namespace.
pub(crate) fn secondary(primary: u32) -> io::Result<Secondary> {
    let mut interfaces = links(primary)?;
    if interfaces.is_empty() {
        return Ok(Secondary::default());
    }
    let addresses = addresses()?;
    if interfaces.len() > MOST_INTERFACES || addresses.len() > MOST_ADDRESSES {
        return Ok(too_many());
    }
    for (index, address) in addresses {
        if let Some(interface) = interfaces.iter_mut().find(|interface| interface.index == index) {
            interface.addresses.push(address);
        }
    }
    interfaces.retain(|interface| !interface.addresses.is_empty());
    if interfaces.is_empty() {
        return Ok(Secondary::default());
    }
    let others: Vec<u32> = interfaces.iter().map(|interface| interface.index).collect();
    let routes = routes()?;
    if routes.len() > MOST_ROUTES {
        return Ok(too_many());
    }
    Ok(Secondary { interfaces, routes: merge(routes, &others) })
}

fn too_many() -> Secondary {
    tracing::warn!("a pod has more interfaces, addresses or routes than can be told apart: all of it is captured");
    Secondary::default()
}

/// Devices that are up and not the primary one, without addresses yet. Like the other two it stops noting when there are too many.
fn links(primary: u32) -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    dump(RTM_GETLINK, &[0; 16], |answer| {
        // struct ifinfomsg: family, type, index, flags, change
        let (Some(index), Some(flags)) = (word(answer, 4), word(answer, 8)) else { return };
        let name = attribute(answer, 16, IFLA_IFNAME).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
        let other = index != primary && index != LOOPBACK_IFINDEX;
        if flags & IFF_UP != 0 && other && found.len() <= MOST_INTERFACES {
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            found.push(Interface { name, index, addresses: Vec::new() });
        }
    })?;
    Ok(found)
}

fn addresses() -> io::Result<Vec<(u32, IpAddr)>> {
    let mut found = Vec::new();
    dump(RTM_GETADDR, &[0; 8], |answer| {
        // struct ifaddrmsg: family, prefix, flags, scope, index
        let (Some(scope), Some(index)) = (answer.get(3), word(answer, 4)) else { return };
        // IPv4 names the own address IFA_LOCAL; on links between two points IFA_ADDRESS is the other end.
        let address = attribute(answer, 8, IFA_LOCAL).or_else(|| attribute(answer, 8, IFA_ADDRESS)).and_then(ip);
        if let Some(address) = address.filter(|_| *scope < SCOPE_LINK && found.len() <= MOST_ADDRESSES) {
            found.push((index, address));
        }
    })?;
    Ok(found)
}

/// A route as the kernel lists it.
#[derive(Clone, Debug)]
struct Listed {
    destination: Ip,
    prefix: u32,
    v4: bool,
    metric: u32,
    devices: Vec<u32>,
}

fn routes() -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0u8; 12];
        header[0] = family as u8;
        dump(RTM_GETROUTE, &header, |answer| {
            if found.len() <= MOST_ROUTES {
                found.extend(listed(answer));
            }
        })?;
    }
    Ok(found)
}

fn listed(answer: &[u8]) -> Option<Listed> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let (family, prefix, kind) = (*answer.first()?, u32::from(*answer.get(1)?), *answer.get(7)?);
    let table = attribute(answer, 12, RTA_TABLE).and_then(|b| word(b, 0)).unwrap_or(u32::from(*answer.get(4)?));
    if kind != RTN_UNICAST || table != TABLE_MAIN || word(answer, 8)? & CLONED != 0 {
        return None;
    }
    let v4 = i32::from(family) == libc::AF_INET;
    let destination = match attribute(answer, 12, RTA_DST) {
        Some(bytes) => Ip::from(ip(bytes)?),
        None if v4 => Ip::from_v4(0),
        None => Ip([0; 4]),
    };
    let metric = attribute(answer, 12, RTA_PRIORITY).and_then(|b| word(b, 0)).unwrap_or(0);
    let mut devices: Vec<u32> = attribute(answer, 12, RTA_OIF).and_then(|b| word(b, 0)).into_iter().collect();
    if let Some(mut hops) = attribute(answer, 12, RTA_MULTIPATH) {
        // struct rtnexthop: length, flags, hops, index
        while let Some(length) = hops.get(0..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes) {
            devices.extend(word(hops, 4));
            match hops.get(usize::from(length).next_multiple_of(4)..) {
                Some(rest) if length >= 8 => hops = rest,
                _ => break,
            }
        }
    }
    Some(Listed { destination, prefix, v4, metric, devices })
}

/// One route for each prefix: the one of the lowest metric. One that may use the primary interface counts as the primary's, so that
/// it is captured.
fn merge(mut listed: Vec<Listed>, others: &[u32]) -> Vec<Route> {
    listed.sort_by_key(|route| route.metric);
    let mut routes: Vec<Route> = Vec::new();
    for route in listed {
        let same = |r: &Route| r.destination == route.destination && r.prefix == route.prefix && r.v4 == route.v4;
        if routes.iter().any(same) {
            continue;
        }
        let elsewhere = match route.devices.as_slice() {
            [first, ..] if route.devices.iter().all(|device| others.contains(device)) => *first,
            _ => 0,
        };
        routes.push(Route { destination: route.destination, prefix: route.prefix, v4: route.v4, elsewhere });
    }
    routes
}

fn dump(kind: u16, header: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let socket = Socket::open(Protocol::Route)?;
    socket.exchange(Request::new(kind, DUMP).bytes(header), |answer| {
        each(answer);
        Ok(())
    })
}

fn attribute(answer: &[u8], header: usize, wanted: u16) -> Option<&[u8]> {
    /// NLA_F_NESTED and NLA_F_NET_BYTEORDER.
    const FLAGS: u16 = 0xc000;
    attributes(answer.get(header..)?).find(|(kind, _)| kind & !FLAGS == wanted).map(|(_, value)| value)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, prefix: u32, metric: u32, devices: &[u32]) -> Listed {
        let address: IpAddr = text.parse().unwrap();
        Listed { destination: address.into(), prefix, v4: address.is_ipv4(), metric, devices: devices.to_vec() }
    }

    #[test]
    fn the_best_route_of_a_prefix_counts() {
        let listed = vec![
            route("0.0.0.0", 0, 0, &[2]),
            route("10.9.0.0", 16, 100, &[3]),
            route("10.9.0.0", 16, 50, &[2]),
            route("10.8.0.0", 16, 0, &[3]),
            route("10.7.0.0", 16, 0, &[3, 2]),
            route("10.6.0.0", 16, 0, &[3, 4]),
            route("::", 0, 0, &[3]),
            route("10.5.0.0", 16, 0, &[9]),
        ];
        let merged = merge(listed, &[3, 4]);
        let elsewhere = |text: &str, prefix| {
            let ip = Ip::from(text.parse::<IpAddr>().unwrap());
            merged.iter().find(|r| r.destination == ip && r.prefix == prefix).map(|r| r.elsewhere)
        };
        assert_eq!(elsewhere("0.0.0.0", 0), Some(0));
        assert_eq!(elsewhere("10.9.0.0", 16), Some(0));
        assert_eq!(elsewhere("10.8.0.0", 16), Some(3));
        assert_eq!(elsewhere("10.7.0.0", 16), Some(0));
        assert_eq!(elsewhere("10.6.0.0", 16), Some(3));
        assert_eq!(elsewhere("::", 0), Some(3));
        assert_eq!(elsewhere("10.5.0.0", 16), Some(0));
        assert_eq!(merged.len(), 7);
    }
}
