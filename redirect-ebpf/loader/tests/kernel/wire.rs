//! What really leaves the pod: frames written by hand, and a sniffer in the peer's namespace.

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Lab, PATIENCE, PEER4, PEER6, POD4, POD6};

/// Bytes that must not be seen outside of the pod.
pub const MARKER: &[u8] = b"culvert-marker-that-must-not-leak";

const ETH_P_ALL: u16 = 3;
const ETHERNET: usize = 14;

/// Listens to all frames that reach the peer.
pub struct Sniffer(Socket);

impl Sniffer {
    pub fn start(lab: &Lab) -> Self {
        let socket = lab.run("peer", packet_socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Frames since the last call that carry the marker or open a TCP connection in the pod's name. What was sent before this call
    /// has arrived before the datagram that this call sends: the links keep their order.
    pub fn leaks(&self, lab: &Lab) -> Vec<Vec<u8>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let fence = format!("fence {} {}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        lab.run("pod", || {
            let socket = UdpSocket::bind((POD4, 0)).unwrap();
            socket.send_to(fence.as_bytes(), (PEER4, 9)).unwrap();
        });
        let mut found = Vec::new();
        loop {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 65536];
            let read = self.0.recv(&mut buffer).unwrap_or_else(|e| panic!("the fence did not arrive: {e}"));
            // SAFETY: the kernel has written the first `read` bytes.
            let frame: Vec<u8> = buffer[..read].iter().map(|b| unsafe { b.assume_init() }).collect();
            if contains(&frame, fence.as_bytes()) {
                return found;
            }
            if contains(&frame, MARKER) || opens_from_pod(&frame) {
                found.push(frame);
            }
        }
    }

    pub fn assert_silent(&self, lab: &Lab, what: &str) {
        let leaks = self.leaks(lab);
        assert!(leaks.is_empty(), "{what} leaked {} frames, the first: {:02x?}", leaks.len(), leaks[0]);
    }
}

fn contains(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

/// A SYN without ACK with the pod's source address.
fn opens_from_pod(frame: &[u8]) -> bool {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let (pod4, pod6): (Ipv4Addr, Ipv6Addr) = (POD4.parse().unwrap(), POD6.parse().unwrap());
    let flags = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame[23] == 6 && frame[26..30] == pod4.octets() => frame[ETHERNET + 20 + 13],
        Some([0x86, 0xdd]) if frame[20] == 6 && frame[22..38] == pod6.octets() => frame[ETHERNET + 40 + 13],
        _ => return false,
    };
    flags & (SYN | ACK) == SYN
}

/// An AF_PACKET socket on `eth0` of the calling thread's namespace.
fn packet_socket() -> Socket {
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).unwrap();
    let ifindex = rustix::net::netdevice::name_to_index(&socket, "eth0").unwrap();
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = ifindex as i32;
    // SAFETY: pointer and length describe the local variable.
    let failed = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    socket
}

/// Writes a frame to `eth0`, past everything that routing and hooks could do.
pub fn send_frame(frame: &[u8]) {
    assert_eq!(packet_socket().send(frame).unwrap(), frame.len());
}

/// Sends an IPv4 packet through a raw socket with its own header.
pub fn send_raw4(packet: &[u8]) {
    const IPPROTO_RAW: i32 = 255;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW))).unwrap();
    let to = std::net::SocketAddr::new(PEER4.parse().unwrap(), 0);
    assert_eq!(socket.send_to(packet, &to.into()).unwrap(), packet.len());
}

/// Sends bytes as TCP over IPv6 through a raw socket.
pub fn send_raw6(segment: &[u8]) {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::TCP)).unwrap();
    let to = std::net::SocketAddr::new(PEER6.parse().unwrap(), 0);
    assert_eq!(socket.send_to(segment, &to.into()).unwrap(), segment.len());
}

/// A TCP segment to port 80 with the marker.
pub fn segment(flags: u8) -> Vec<u8> {
    // ports, sequence, acknowledgement, header length 5 words, flags, window, checksum, urgent
    let mut bytes = vec![0xc0, 0x01, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    bytes.extend_from_slice(MARKER);
    bytes
}

/// An IPv4 packet from the pod to the peer. `fragment` is the field of flags and offset.
pub fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let (source, destination): (Ipv4Addr, Ipv4Addr) = (POD4.parse().unwrap(), PEER4.parse().unwrap());
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet from the pod to the peer.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = (POD6.parse().unwrap(), PEER6.parse().unwrap());
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An Ethernet frame from the pod to the node.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ether_type);
    frame.extend(packet);
    frame
}

/// Lets the node know its neighbours, so that no frame waits for discovery.
pub fn warm_up(lab: &Lab) {
    for (pod, peer) in [(POD4, PEER4), (POD6, PEER6)] {
        let (pod, peer): (IpAddr, IpAddr) = (pod.parse().unwrap(), peer.parse().unwrap());
        let server = lab.run("peer", || UdpSocket::bind((peer, 4000)).unwrap());
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        lab.run("pod", || UdpSocket::bind((pod, 0)).unwrap().send_to(b"hello", (peer, 4000)).unwrap());
        server.recv(&mut [0; 8]).unwrap();
    }
}
