//! What may leave a pod by its veth.
//!
//! Rules: ARP, UDP and ICMP pass and are counted. TCP passes when the proxy sent it or when its connection is older than the
//! enrolment; but never on the proxy's connections with the application, which are in clear, have our mark and belong on `lo`
//! (root in the pod can lead them to the wire by address translation). Answers to a probe of the kubelet pass while the kubelet has
//! the connection open. Packets without a socket (answers of the kernel to
//! strays, TIME_WAIT) pass without payload and without a lone SYN; a SYN-ACK without socket is a SYN cookie of the proxy's
//! listener, and what follows it needs a socket. A bare RST passes from anyone: it ends a connection and carries nothing.
//! Neither has more options than the kernel writes: such packets can be made by hand and forwarded. Fragments pass only of UDP
//! and ICMP. All other protocols (SCTP, tunnels, DCCP, raw ones), all other Ethernet types and VLAN-tagged frames are dropped,
//! and so is what cannot be read.

use crate::probe::Probe;
use crate::{PodState, Reason, marks};

/// Ethernet types (IEEE 802), host byte order.
pub mod ether {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// TCP flags (RFC 9293 section 3.1).
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Options that the kernel writes into packets of its own: timestamps with two NOPs (RFC 7323 appendix A).
const KERNEL_OPTIONS: u32 = 12;
/// And into the SYN-ACK of a SYN cookie: maximum segment size, window scale and a NOP on top.
const KERNEL_SYN_OPTIONS: u32 = 20;

/// Bytes that a TCP packet can carry out: what is behind its TCP header, and options (IP options and extension headers among
/// them) beyond those that the kernel writes.
#[inline(always)]
pub const fn carried(flags: u8, behind: u32, options: u32) -> u32 {
    let usual = if flags & flags::SYN != 0 { KERNEL_SYN_OPTIONS } else { KERNEL_OPTIONS };
    behind + options.saturating_sub(usual)
}

/// Who sent a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// A socket of a proxy's cgroup, with this mark.
    Proxy {
        /// The socket's mark; 0 for a request of a listener.
        mark: u32,
    },
    /// A connection filed as older than the enrolment.
    Old,
    /// Another socket, with this mark.
    App {
        /// The socket's mark.
        mark: u32,
    },
    /// No socket: the kernel, or a forwarded packet.
    Nobody,
}

/// What is inside the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// ARP.
    Arp,
    /// TCP, not fragmented.
    Tcp {
        /// Flag byte.
        flags: u8,
        /// What it carries; see [`carried`].
        payload: u32,
    },
    /// UDP, or a fragment of it; whether a port is 53.
    Udp {
        /// To or from port 53 (false for later fragments).
        dns: bool,
    },
    /// ICMP or ICMPv6, or a fragment of it.
    Icmp,
    /// A fragment of anything else.
    Fragment,
    /// Another IP protocol.
    OtherProtocol,
    /// Another Ethernet type, or a VLAN tag.
    OtherEther,
    /// Headers that cannot be read.
    Malformed,
}

/// What the guard does. The reason is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it pass.
    Pass(Reason),
    /// Drop it.
    Drop(Reason),
}

/// Decides a packet. `sender` is asked for TCP only, `probe` (what the packet answers) last.
#[inline(always)]
pub fn guard(
    state: PodState,
    content: Content,
    sender: impl FnOnce() -> Sender,
    probe: impl FnOnce() -> Probe,
) -> Verdict {
    if matches!(state, PodState::Leaving) {
        return leaving(content, sender);
    }
    match content {
        Content::Arp => Verdict::Pass(Reason::GuardArp),
        Content::Udp { dns: true } => Verdict::Pass(Reason::GuardDns),
        Content::Udp { dns: false } => Verdict::Pass(Reason::GuardUdp),
        Content::Icmp => Verdict::Pass(Reason::GuardIcmp),
        Content::Fragment => Verdict::Drop(Reason::DropFragment),
        Content::OtherProtocol => Verdict::Drop(Reason::DropProtocol),
        Content::OtherEther => Verdict::Drop(Reason::DropEther),
        Content::Malformed => Verdict::Drop(Reason::DropMalformed),
        Content::Tcp { flags, payload } => tcp(flags, payload, sender(), probe),
    }
}

#[inline(always)]
fn tcp(flags: u8, payload: u32, sender: Sender, probe: impl FnOnce() -> Probe) -> Verdict {
    let bare_reset = payload == 0 && flags & flags::RST != 0 && flags & flags::SYN == 0;
    let lone_syn = flags & (flags::SYN | flags::ACK) == flags::SYN;
    match sender {
        Sender::Proxy { mark } if marks::ours(mark) => Verdict::Drop(Reason::DropCaptured),
        Sender::Proxy { .. } => Verdict::Pass(Reason::GuardProxy),
        Sender::Old => Verdict::Pass(Reason::GuardOld),
        _ if bare_reset => Verdict::Pass(Reason::GuardBare),
        // A captured connection has nothing to do with the kubelet's tuple.
        Sender::App { mark } if marks::ours(mark) => Verdict::Drop(Reason::DropApp),
        _ if !lone_syn && probe().answers(lone_syn, payload) => Verdict::Pass(Reason::GuardProbe),
        Sender::App { .. } => Verdict::Drop(Reason::DropApp),
        Sender::Nobody if lone_syn || payload != 0 => Verdict::Drop(Reason::DropNoSocket),
        Sender::Nobody => Verdict::Pass(Reason::GuardBare),
    }
}

/// A leaving pod talks directly; only what was captured must not fall out of its tunnel into the clear.
#[inline(always)]
fn leaving(content: Content, sender: impl FnOnce() -> Sender) -> Verdict {
    if let Content::Tcp { flags, payload } = content {
        let bare_reset = payload == 0 && flags & flags::RST != 0;
        if let Sender::App { mark } | Sender::Proxy { mark } = sender()
            && marks::ours(mark)
            && !bare_reset
        {
            return Verdict::Drop(Reason::DropCaptured);
        }
    }
    Verdict::Pass(Reason::GuardLeaving)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: Content = Content::Tcp { flags: flags::SYN, payload: 0 };
    const ACK: Content = Content::Tcp { flags: flags::ACK, payload: 0 };
    const DATA: Content = Content::Tcp { flags: flags::ACK, payload: 1 };
    const SYN_ACK: Content = Content::Tcp { flags: flags::SYN | flags::ACK, payload: 0 };
    const RST: Content = Content::Tcp { flags: flags::RST, payload: 0 };
    const APP: Sender = Sender::App { mark: 0 };

    fn enrolled(content: Content, sender: Sender) -> Verdict {
        guard(PodState::Enrolled, content, || sender, || Probe::Unknown)
    }

    #[test]
    fn tcp_by_sender() {
        for content in [SYN, ACK, DATA, SYN_ACK] {
            assert_eq!(enrolled(content, Sender::Proxy { mark: 0x539 }), Verdict::Pass(Reason::GuardProxy));
            assert_eq!(enrolled(content, Sender::Old), Verdict::Pass(Reason::GuardOld));
            assert_eq!(enrolled(content, APP), Verdict::Drop(Reason::DropApp));
            assert_eq!(enrolled(content, Sender::App { mark: 0x539 }), Verdict::Drop(Reason::DropApp));
        }
        assert_eq!(enrolled(SYN, Sender::Nobody), Verdict::Drop(Reason::DropNoSocket));
        assert_eq!(enrolled(DATA, Sender::Nobody), Verdict::Drop(Reason::DropNoSocket));
        assert_eq!(enrolled(ACK, Sender::Nobody), Verdict::Pass(Reason::GuardBare));
        assert_eq!(enrolled(SYN_ACK, Sender::Nobody), Verdict::Pass(Reason::GuardBare));
        assert_eq!(enrolled(RST, APP), Verdict::Pass(Reason::GuardBare));
    }

    #[test]
    fn odd_flags_do_not_carry_bytes_out() {
        for flags in 0..=u8::MAX {
            assert!(matches!(enrolled(Content::Tcp { flags, payload: 1 }, APP), Verdict::Drop(_)), "{flags:#x}");
            let nobody = enrolled(Content::Tcp { flags, payload: 1 }, Sender::Nobody);
            assert!(matches!(nobody, Verdict::Drop(_)), "{flags:#x}");
            if flags & flags::SYN != 0 {
                let app = enrolled(Content::Tcp { flags, payload: 0 }, APP);
                assert!(matches!(app, Verdict::Drop(_)), "{flags:#x}");
            }
        }
    }

    #[test]
    fn the_proxys_connection_to_the_app_never_leaves() {
        for mark in [0x1000, 0x2000, 0x2539] {
            for state in [PodState::Enrolled, PodState::Leaving] {
                for content in [SYN, ACK, DATA] {
                    let verdict = guard(state, content, || Sender::Proxy { mark }, || Probe::Open);
                    assert_eq!(verdict, Verdict::Drop(Reason::DropCaptured));
                }
            }
        }
    }

    #[test]
    fn options_count_beyond_those_of_the_kernel() {
        for (flags, behind, options, expected) in [
            (flags::ACK, 0, 12, 0),
            (flags::ACK, 3, 13, 4),
            (flags::RST, 0, 40, 28),
            (flags::SYN | flags::ACK, 0, 20, 0),
            (flags::SYN, 0, 21, 1),
        ] {
            assert_eq!(carried(flags, behind, options), expected);
        }
    }

    #[test]
    fn other_protocols() {
        let never = || -> Sender { panic!("sender asked for a packet that is not TCP") };
        for (content, expected) in [
            (Content::Arp, Verdict::Pass(Reason::GuardArp)),
            (Content::Udp { dns: true }, Verdict::Pass(Reason::GuardDns)),
            (Content::Udp { dns: false }, Verdict::Pass(Reason::GuardUdp)),
            (Content::Icmp, Verdict::Pass(Reason::GuardIcmp)),
            (Content::Fragment, Verdict::Drop(Reason::DropFragment)),
            (Content::OtherProtocol, Verdict::Drop(Reason::DropProtocol)),
            (Content::OtherEther, Verdict::Drop(Reason::DropEther)),
            (Content::Malformed, Verdict::Drop(Reason::DropMalformed)),
        ] {
            assert_eq!(guard(PodState::Enrolled, content, never, || Probe::Open), expected);
        }
    }

    #[test]
    fn leaving_keeps_the_captured_off_the_wire() {
        let leaving = |content, sender| guard(PodState::Leaving, content, || sender, || Probe::Unknown);
        assert_eq!(leaving(DATA, Sender::App { mark: 0x1000 }), Verdict::Drop(Reason::DropCaptured));
        assert_eq!(leaving(ACK, Sender::App { mark: 0x2000 }), Verdict::Drop(Reason::DropCaptured));
        assert_eq!(leaving(DATA, APP), Verdict::Pass(Reason::GuardLeaving));
        assert_eq!(leaving(SYN, Sender::Nobody), Verdict::Pass(Reason::GuardLeaving));
        assert_eq!(leaving(Content::OtherProtocol, APP), Verdict::Pass(Reason::GuardLeaving));
    }

    #[test]
    fn answers_to_probes() {
        let verdict = |content, sender, probe| guard(PodState::Enrolled, content, || sender, || probe);
        let pass = Verdict::Pass(Reason::GuardProbe);
        for content in [ACK, DATA, SYN_ACK, Content::Tcp { flags: flags::FIN | flags::ACK, payload: 0 }] {
            assert_eq!(verdict(content, APP, Probe::Open), pass);
            assert_eq!(verdict(content, Sender::Nobody, Probe::Open), pass);
            assert_eq!(verdict(content, Sender::App { mark: 0x1000 }, Probe::Open), Verdict::Drop(Reason::DropApp));
        }
        assert_eq!(verdict(SYN, APP, Probe::Open), Verdict::Drop(Reason::DropApp));
        assert_eq!(verdict(SYN, Sender::Nobody, Probe::Open), Verdict::Drop(Reason::DropNoSocket));
        assert_eq!(verdict(ACK, APP, Probe::Ended(1)), pass);
        assert_eq!(verdict(DATA, APP, Probe::Ended(1)), Verdict::Drop(Reason::DropApp));
        assert_eq!(verdict(DATA, Sender::Nobody, Probe::Ended(1)), Verdict::Drop(Reason::DropNoSocket));
    }
}
