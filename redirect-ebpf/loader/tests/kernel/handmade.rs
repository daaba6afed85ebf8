//! Packets that no connect made: raw sockets and frames.

use redirect_loader::Reason;

use crate::Test;
use crate::lab::Lab;
use crate::wire::{MARKER, Sniffer, frame, ipv4, ipv6, segment, send_frame, send_raw4, send_raw6, warm_up};

pub const TESTS: &[Test] = &[("handmade_packets_do_not_leave", handmade_packets_do_not_leave)];

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;

type Vector = (&'static str, fn());

const HANDMADE: &[Vector] = &[
    ("raw socket, SYN", || send_raw4(&ipv4(6, 0, &segment(SYN)))),
    ("raw socket, data", || send_raw4(&ipv4(6, 0, &segment(ACK | PUSH)))),
    ("raw socket, data without flags", || send_raw4(&ipv4(6, 0, &segment(0)))),
    ("raw socket, RST with data", || send_raw4(&ipv4(6, 0, &segment(4)))),
    ("raw IPv6 socket, SYN", || send_raw6(&segment(SYN))),
    ("raw IPv6 socket, data", || send_raw6(&segment(ACK))),
    ("raw socket, SCTP", || send_raw4(&ipv4(132, 0, MARKER))),
    ("raw socket, IP in IP", || send_raw4(&ipv4(4, 0, &ipv4(6, 0, &segment(SYN))))),
    ("raw socket, GRE", || send_raw4(&ipv4(47, 0, MARKER))),
    ("AF_PACKET, SYN", || send_frame(&frame(&ipv4(6, 0, &segment(SYN))))),
    ("AF_PACKET, data", || send_frame(&frame(&ipv4(6, 0, &segment(ACK))))),
    ("AF_PACKET, IPv6 data", || send_frame(&frame(&ipv6(6, &segment(ACK))))),
    ("AF_PACKET, IPv6 destination options before TCP", || {
        let options = [&[6u8, 0, 1, 4, 0, 0, 0, 0][..], &segment(ACK)].concat();
        send_frame(&frame(&ipv6(60, &options)));
    }),
    ("AF_PACKET, first fragment", || send_frame(&frame(&ipv4(6, 0x2000, &[segment(ACK), vec![0; 3]].concat())))),
    ("AF_PACKET, later fragment", || send_frame(&frame(&ipv4(6, 0x0010, MARKER)))),
    ("AF_PACKET, IPv6 fragment", || {
        let fragment = [&[6u8, 0, 0, 1, 0, 0, 0, 7][..], &segment(ACK), &[0; 3]].concat();
        send_frame(&frame(&ipv6(44, &fragment)));
    }),
    ("AF_PACKET, IPv6 in IPv4", || send_frame(&frame(&ipv4(41, 0, &ipv6(6, &segment(SYN)))))),
    ("AF_PACKET, IPv6 ESP", || send_frame(&frame(&ipv6(50, MARKER)))),
    ("AF_PACKET, TCP with a header longer than the frame", || {
        let mut bytes = segment(ACK);
        bytes[12] = 0xf0;
        send_frame(&frame(&ipv4(6, 0, &bytes[..40])));
    }),
    ("AF_PACKET, bytes behind the IP packet", || {
        let empty = segment(ACK)[..20].to_vec();
        send_frame(&[frame(&ipv4(6, 0, &empty)), MARKER.to_vec()].concat());
    }),
];

/// Frames that a node does not forward in any case; the guard's counter is the proof for them.
const NOT_FORWARDED: &[(&str, u8, u8, Reason)] =
    &[("VLAN tag", 0x81, 0x00, Reason::DropEther), ("unknown Ethernet type", 0x88, 0xb5, Reason::DropEther)];

fn handmade_packets_do_not_leave() {
    let mut lab = Lab::new();
    warm_up(&lab);
    let sniffer = Sniffer::start(&lab);
    // What the node cuts to size itself, or drops, proves nothing here.
    let cut_by_the_node =
        ["AF_PACKET, TCP with a header longer than the frame", "AF_PACKET, bytes behind the IP packet"];
    for (name, send) in HANDMADE.iter().filter(|(name, _)| !cut_by_the_node.contains(name)) {
        lab.run("pod", send);
        assert!(!sniffer.leaks(&lab).is_empty(), "without the guard {name} must be seen, or this test proves nothing");
    }
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    let drops = [
        Reason::DropApp,
        Reason::DropNoSocket,
        Reason::DropFragment,
        Reason::DropProtocol,
        Reason::DropEther,
        Reason::DropMalformed,
    ];
    let dropped = |lab: &Lab| drops.iter().map(|reason| lab.count(*reason)).sum::<u64>();
    for (name, send) in HANDMADE {
        let before = dropped(&lab);
        lab.run("pod", send);
        sniffer.assert_silent(&lab, name);
        assert_eq!(dropped(&lab), before + 1, "{name} was not counted");
    }
    for (name, high, low, reason) in NOT_FORWARDED {
        let before = lab.count(*reason);
        let mut bytes = frame(&ipv4(6, 0, &segment(SYN)));
        bytes.splice(12..12, [*high, *low, 0, 5]);
        lab.run("pod", || send_frame(&bytes));
        sniffer.assert_silent(&lab, name);
        assert_eq!(lab.count(*reason), before + 1, "{name}");
    }
}
