//! Addresses that say what they are for, so that two of them cannot be swapped by mistake.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// An IP address and the network it belongs to; the key of every look-up by address.
///
/// The empty network is legal and means the default one; its key is written `/10.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// Name of the network; empty for the default one.
    pub network: Arc<str>,
    /// The address, never v4-mapped (see [`canonical`]).
    pub ip: IpAddr,
}

impl NetworkAddress {
    /// An address in a network. A v4-mapped IPv6 address becomes the IPv4 address that it stands for.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self { network: network.into(), ip: canonical(ip) }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// Turns `::ffff:a.b.c.d` into `a.b.c.d`; dual-stack sockets report IPv4 peers in the former way.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// [`canonical`] for an address with a port.
pub fn canonical_socket(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical(addr.ip()), addr.port())
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// The address in its canonical form (never v4-mapped).
            pub fn new(addr: SocketAddr) -> Self {
                Self(canonical_socket(addr))
            }

            /// The IP address without the port.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role!(
    /// Where the application wanted to go, before anybody translated it.
    OriginalDst
);
role!(
    /// The other end of an accepted connection.
    PeerAddr
);
role!(
    /// Where a tunnel connection is dialled: the HBONE port of a pod or a waypoint.
    TunnelAddr
);
role!(
    /// The application's own listening address, which the proxy of its node connects to.
    AppAddr
);

/// A CIDR block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    addr: IpAddr,
    len: u8,
}

/// A text or a pair that is not a CIDR block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a CIDR block such as 10.0.0.0/8 or fd00::/64")]
pub struct CidrError(pub String);

impl Cidr {
    /// A block of the first `len` bits of `addr`; bits beyond are cleared.
    ///
    /// # Errors
    /// When `len` exceeds the bits of the address family.
    pub fn new(addr: IpAddr, len: u8) -> Result<Self, CidrError> {
        let fail = || CidrError(format!("{addr}/{len}"));
        let masked = match addr {
            IpAddr::V4(a) if len <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)))
            }
            IpAddr::V6(a) if len <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
            }
            _ => return Err(fail()),
        };
        Ok(Self { addr: masked, len })
    }

    /// The block of one address.
    pub fn host(addr: IpAddr) -> Self {
        Self { addr, len: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address of the block.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// Length of the prefix in bits.
    pub fn prefix_len(self) -> u8 {
        self.len
    }

    /// The same addresses in as few blocks as possible, sorted: no block lies in another, and halves of a block are that block.
    /// The /24s that nodes give their pods from one network become that network again.
    pub fn merged(blocks: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut sorted: Vec<Self> = blocks.into_iter().collect();
        // A block stands right before all that lie in it.
        sorted.sort_unstable();
        let mut merged: Vec<Self> = Vec::new();
        for mut block in sorted {
            if merged.last().is_some_and(|last| last.contains(block.addr)) {
                continue;
            }
            while let Some(whole) = merged.last().and_then(|last| last.whole_with(block)) {
                merged.pop();
                block = whole;
            }
            merged.push(block);
        }
        merged
    }

    /// The block of which the two are the halves, if they are; `self` is not `other`.
    fn whole_with(self, other: Self) -> Option<Self> {
        let parent = |of: Self| Self::new(of.addr, of.len.checked_sub(1)?).ok();
        parent(self).filter(|whole| self.len == other.len && parent(other) == Some(*whole))
    }

    /// Whether the address lies in the block. Families never match each other; v4-mapped counts as IPv4.
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        ip.is_ipv4() == self.addr.is_ipv4() && Self::new(ip, self.len).is_ok_and(|c| c.addr == self.addr)
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let fail = || CidrError(text.to_owned());
        match text.split_once('/') {
            Some((ip, len)) => Self::new(ip.parse().map_err(|_| fail())?, len.parse().map_err(|_| fail())?),
            None => Ok(Self::host(text.parse().map_err(|_| fail())?)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_ipv4() {
        let addr = PeerAddr::new("[::ffff:10.1.2.3]:80".parse().unwrap());
        assert_eq!(addr.to_string(), "10.1.2.3:80");
        assert_eq!(NetworkAddress::new("", "::ffff:10.1.2.3".parse().unwrap()).to_string(), "/10.1.2.3");
    }

    #[test]
    fn blocks_hold_their_addresses_and_no_others() {
        let block: Cidr = "10.1.2.3/8".parse().unwrap();
        assert_eq!(block.to_string(), "10.0.0.0/8");
        assert!(block.contains("10.255.0.1".parse().unwrap()));
        assert!(block.contains("::ffff:10.0.0.9".parse().unwrap()));
        assert!(!block.contains("11.0.0.1".parse().unwrap()));
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
        assert!(!all.contains("1.2.3.4".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("9.9.9.9".parse().unwrap()));
    }

    #[test]
    fn blocks_are_merged_into_the_fewest_that_hold_the_same_addresses() {
        let merged = |texts: &[&str]| {
            let blocks = texts.iter().map(|t| t.parse::<Cidr>().unwrap());
            Cidr::merged(blocks).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(merged(&[]), [""; 0]);
        assert_eq!(merged(&["10.0.2.0/24", "10.0.0.0/24", "10.0.3.0/24", "10.0.1.0/24"]), ["10.0.0.0/22"]);
        assert_eq!(merged(&["10.0.1.0/24", "10.0.2.0/24"]), ["10.0.1.0/24", "10.0.2.0/24"], "no halves of one block");
        assert_eq!(merged(&["10.0.0.0/16", "10.0.7.0/24", "10.0.0.0/24", "10.0.0.0/16"]), ["10.0.0.0/16"]);
        assert_eq!(merged(&["fd00:1::/64", "10.9.0.0/16", "fd00::/64"]), ["10.9.0.0/16", "fd00::/64", "fd00:1::/64"]);
        assert_eq!(merged(&["128.0.0.0/1", "0.0.0.0/1", "::/0"]), ["0.0.0.0/0", "::/0"]);
        assert_eq!(merged(&["0.0.0.0/0", "::/0", "10.0.0.1"]), ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn wrong_blocks_are_refused() {
        for text in ["10.0.0.0/33", "::/129", "x", "10.0.0.0/", "/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
