//! Addresses as the kernel's contexts show them.

/// An address as four words in network byte order; IPv4 is v4-mapped (`::ffff:a.b.c.d`), so that one key serves both families.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ip(pub [u32; 4]);

/// What an address is to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Loopback, or unspecified (which connect(2) takes for loopback).
    Loopback,
    /// One of the pod's own addresses.
    Own,
    /// `fe80::/10` or multicast: it needs a device, so it cannot be routed to `lo`.
    Scoped,
    /// Everything else.
    Foreign,
}

/// Third word of a v4-mapped address (RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Ip {
    /// From an IPv4 address in network byte order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// From sixteen bytes as written in a packet.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0u32; 4];
        let mut i = 0;
        while i < 4 {
            words[i] = u32::from_ne_bytes([octets[4 * i], octets[4 * i + 1], octets[4 * i + 2], octets[4 * i + 3]]);
            i += 1;
        }
        Self(words)
    }

    /// Sixteen bytes as written in a packet.
    pub fn octets(&self) -> [u8; 16] {
        let mut octets = [0u8; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// `0.0.0.0`, `::` or `::ffff:0.0.0.0`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[3] == 0 && (self.0[2] == 0 || self.0[2] == MAPPED)
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            return self.first_byte(3) == 127;
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && u32::from_be(self.0[3]) == 1
    }

    /// `fe80::/10`, `ff00::/8` or `224.0.0.0/4`.
    #[inline(always)]
    pub const fn is_scoped(&self) -> bool {
        if self.is_v4() {
            return self.first_byte(3) & 0xf0 == 0xe0;
        }
        let high = u32::from_be(self.0[0]) >> 16;
        high & 0xffc0 == 0xfe80 || high & 0xff00 == 0xff00
    }

    /// What this address is to a pod that calls it its own or not.
    #[inline(always)]
    pub const fn place(&self, own: bool) -> Place {
        if self.is_loopback() || self.is_unspecified() {
            Place::Loopback
        } else if own {
            Place::Own
        } else if self.is_scoped() {
            Place::Scoped
        } else {
            Place::Foreign
        }
    }

    #[inline(always)]
    const fn first_byte(&self, word: usize) -> u32 {
        u32::from_be(self.0[word]) >> 24
    }
}

impl From<core::net::IpAddr> for Ip {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Ip> for core::net::IpAddr {
    fn from(ip: Ip) -> Self {
        core::net::Ipv6Addr::from(ip.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn place(text: &str, own: bool) -> Place {
        Ip::from(text.parse::<IpAddr>().unwrap()).place(own)
    }

    #[test]
    fn places() {
        for (text, own, expected) in [
            ("127.0.0.1", false, Place::Loopback),
            ("127.255.3.4", false, Place::Loopback),
            ("::1", false, Place::Loopback),
            ("::ffff:127.0.0.1", false, Place::Loopback),
            ("0.0.0.0", false, Place::Loopback),
            ("::", false, Place::Loopback),
            ("::ffff:0.0.0.0", false, Place::Loopback),
            ("10.0.0.5", true, Place::Own),
            ("fd00::5", true, Place::Own),
            ("fe80::1", true, Place::Own),
            ("10.0.0.6", false, Place::Foreign),
            ("128.0.0.1", false, Place::Foreign),
            ("::2", false, Place::Foreign),
            ("2001:db8::1", false, Place::Foreign),
            ("169.254.169.254", false, Place::Foreign),
            ("fe80::1", false, Place::Scoped),
            ("febf::1", false, Place::Scoped),
            ("fec0::1", false, Place::Foreign),
            ("ff02::1", false, Place::Scoped),
            ("224.0.0.1", false, Place::Scoped),
        ] {
            assert_eq!(place(text, own), expected, "{text} own={own}");
        }
    }

    #[test]
    fn both_spellings_of_an_ipv4_address_are_one_key() {
        let plain = Ip::from("10.1.2.3".parse::<IpAddr>().unwrap());
        let mapped = Ip::from("::ffff:10.1.2.3".parse::<IpAddr>().unwrap());
        assert_eq!(plain, mapped);
        assert!(plain.is_v4());
        assert_eq!(IpAddr::from(mapped), "10.1.2.3".parse::<IpAddr>().unwrap());
    }
}
