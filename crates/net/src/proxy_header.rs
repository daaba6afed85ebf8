//! The PROXY protocol, version 2 (haproxy's proxy-protocol.txt, section 2.2): who the true client is, ahead of its bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use mesh::Identity;
use mesh::addr::canonical_socket;

/// The twelve bytes that begin every header (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_PROXY: u8 = 0x21;
/// AF_INET over STREAM, AF_INET6 over STREAM.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Two addresses and two ports.
const ADDRESSES_V4: usize = 12;
const ADDRESSES_V6: usize = 36;
/// Type of the record that carries the source's SPIFFE id (hbone.md 6).
const TLV_IDENTITY: u8 = 0xD0;
/// Type and length ahead of a record's value.
const TLV_HEAD: usize = 3;
/// The longest SPIFFE id (SPIFFE-ID 2.3). No certificate that we accept holds a longer one.
const LONGEST_IDENTITY: usize = 2048;

/// The header for a TCP connection from `src` to `dst`, with the source's SPIFFE id where it is known.
///
/// When the families differ both addresses are written as IPv6, the IPv4 one v4-mapped. An identity longer than a SPIFFE id
/// may be (2048 bytes) is left out, so that the receiver sees a client without identity rather than a cut one.
pub fn v2(src: SocketAddr, dst: SocketAddr, identity: Option<&Identity>) -> Bytes {
    let (src, dst) = (canonical_socket(src), canonical_socket(dst));
    let identity = identity.map(Identity::to_string).filter(|text| text.len() <= LONGEST_IDENTITY);
    let record = identity.as_ref().map_or(0, |text| TLV_HEAD + text.len());
    let mut out = BytesMut::with_capacity(SIGNATURE.len() + 4 + ADDRESSES_V6 + record);
    out.put_slice(&SIGNATURE);
    out.put_u8(VERSION_PROXY);
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.put_u8(TCP4);
            put_len(&mut out, ADDRESSES_V4 + record);
            out.put_slice(&from.octets());
            out.put_slice(&to.octets());
        }
        (from, to) => {
            out.put_u8(TCP6);
            put_len(&mut out, ADDRESSES_V6 + record);
            out.put_slice(&v6(from).octets());
            out.put_slice(&v6(to).octets());
        }
    }
    out.put_u16(src.port());
    out.put_u16(dst.port());
    if let Some(text) = identity {
        out.put_u8(TLV_IDENTITY);
        put_len(&mut out, text.len());
        out.put_slice(text.as_bytes());
    }
    out.freeze()
}

/// Lengths are at most 36 + 3 + 2048 here, so they fit the field of two bytes.
fn put_len(out: &mut BytesMut, len: usize) {
    out.put_u16(len as u16);
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(src: &str, dst: &str, identity: Option<&str>) -> Bytes {
        let identity = identity.map(|text| text.parse().unwrap());
        v2(src.parse().unwrap(), dst.parse().unwrap(), identity.as_ref())
    }

    #[test]
    fn ipv4_with_identity_to_the_byte() {
        let text = "spiffe://cluster.local/ns/shop/sa/web";
        let mut expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x34".to_vec();
        expected.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0x00, 0x50]);
        expected.extend([0xD0, 0x00, 37]);
        expected.extend(text.as_bytes());
        // 0x34 = 52 = 12 + 3 + 37
        assert_eq!(header("10.0.0.1:40000", "10.0.0.2:80", Some(text)), expected);
    }

    #[test]
    fn ipv6_without_identity_to_the_byte() {
        let mut expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24".to_vec();
        expected.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        expected.extend([0x01, 0x00, 0x1f, 0x90]);
        assert_eq!(header("[fd00::1]:256", "[fd00::2]:8080", None), expected);
    }

    #[test]
    fn mapped_addresses_count_as_ipv4_and_mixed_families_as_ipv6() {
        assert_eq!(header("[::ffff:10.0.0.1]:1", "10.0.0.2:2", None), header("10.0.0.1:1", "10.0.0.2:2", None));
        let mixed = header("10.0.0.1:1", "[fd00::2]:2", None);
        assert_eq!(mixed[13], TCP6);
        assert_eq!(mixed[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(mixed.len(), 16 + ADDRESSES_V6);
    }

    #[test]
    fn an_impossibly_long_identity_is_left_out() {
        let long = "a".repeat(LONGEST_IDENTITY);
        let identity = Identity::new("td", "ns", long).unwrap();
        let (src, dst) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        assert_eq!(v2(src, dst, Some(&identity)), v2(src, dst, None));
    }
}
