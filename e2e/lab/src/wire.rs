//! What packets on the wire give away.

use lab::Captured;

/// Source ports of the packets that show the marker; 0 where there is none to be read.
pub fn ports_that_show(captured: &Captured, marker: &str) -> Vec<u16> {
    let shows = |packet: &&[u8]| packet.windows(marker.len()).any(|w| w == marker.as_bytes());
    captured.iter().filter(shows).map(|packet| source_port(packet).unwrap_or(0)).collect()
}

/// Packets to an IPv4 address.
pub fn packets_to(captured: &Captured, to: std::net::Ipv4Addr) -> usize {
    let is_there = |packet: &&[u8]| ether_type(packet) == Some(0x0800) && packet.get(30..34) == Some(&to.octets());
    captured.iter().filter(is_there).count()
}

const ETHERNET: usize = 14;
const TCP: u8 = 6;

fn ether_type(packet: &[u8]) -> Option<u16> {
    packet.get(12..14)?.try_into().ok().map(u16::from_be_bytes)
}

fn source_port(packet: &[u8]) -> Option<u16> {
    let (protocol, at) = match ether_type(packet)? {
        0x0800 => (*packet.get(ETHERNET + 9)?, ETHERNET + usize::from(packet.get(ETHERNET)? & 0xf) * 4),
        0x86dd => (*packet.get(ETHERNET + 6)?, ETHERNET + 40),
        _ => return None,
    };
    let port = packet.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    port.filter(|_| protocol == TCP)
}
