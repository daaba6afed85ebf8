//! Probes of the node's kubelet: which connections are exempt from capture, and what of them may leave a pod.
//!
//! The kubelet is a cgroup that the agent registered, in the node's own network namespace. A socket made there is tagged at birth;
//! when it connects, its 4-tuple is filed before the SYN leaves, and taken out when the socket closes. A pod lets in exactly the
//! filed tuples. No address and no mark makes a probe: another process of the node, or a remote host, cannot hold a tuple that
//! the kubelet's socket holds.

use crate::{CAPTURE_PORTS, Ip, PORT_DNS, Place};

/// A connection of the kubelet, seen from the kubelet. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProbeKey {
    /// The node's address.
    pub source: Ip,
    /// The pod's address.
    pub destination: Ip,
    /// The kubelet's port.
    pub source_port: u16,
    /// The application's port.
    pub destination_port: u16,
    /// Zero.
    pub pad: u32,
}

/// What is filed for an open connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeValue {
    /// Cookie of the kubelet's socket: only its owner takes an entry out.
    pub socket: u64,
}

/// A registered kubelet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kubelet {
    /// Cookie of the network namespace that it probes from.
    pub netns: u64,
}

/// How long the last packets of an ended probe may still leave the pod, in nanoseconds: the kubelet's side is in TIME_WAIT for
/// that long (TCP_TIMEWAIT_LEN), and the kernel gives up its socket, but not its tuple, as soon as its FIN is acknowledged.
pub const LINGER_NS: u64 = 60_000_000_000;

/// Whether a connect of the kubelet is worth filing.
#[inline(always)]
pub const fn filed(destination: Place) -> bool {
    !matches!(destination, Place::Loopback | Place::Scoped)
}

/// Whether a pod lets a filed probe through to this port: its application's, never a port of the proxy, where a probe could speak to
/// the proxy as if it were a captured connection.
#[inline(always)]
pub const fn reaches(port: u16) -> bool {
    let [outbound, inbound, hbone] = CAPTURE_PORTS;
    port != outbound && port != inbound && port != hbone && port != PORT_DNS
}

/// How far a probe's tuple got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Open.
    Open,
    /// Closed by the kubelet so many nanoseconds ago.
    Ended(u64),
    /// Not the kubelet's.
    Unknown,
}

impl Probe {
    /// Whether an answer may leave the pod in clear. It never opens a connection; after the end it carries nothing.
    #[inline(always)]
    pub const fn answers(self, lone_syn: bool, payload: u32) -> bool {
        match self {
            Self::Open => !lone_syn,
            Self::Ended(age) => !lone_syn && payload == 0 && age <= LINGER_NS,
            Self::Unknown => false,
        }
    }
}

const _: () = {
    assert!(size_of::<ProbeKey>() == 40);
    assert!(core::mem::offset_of!(ProbeKey, source_port) == 32);
    assert!(core::mem::offset_of!(ProbeKey, pad) == 36);
    assert!(size_of::<ProbeValue>() == 8 && size_of::<Kubelet>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_reach_applications_only() {
        for port in [1, 80, 15000, 15021, 15090, u16::MAX] {
            assert!(reaches(port), "{port}");
        }
        for port in [15001, 15006, 15008, 15053] {
            assert!(!reaches(port), "{port}");
        }
    }

    #[test]
    fn loopback_is_not_filed() {
        assert!(filed(Place::Foreign) && filed(Place::Own));
        assert!(!filed(Place::Loopback) && !filed(Place::Scoped));
    }

    #[test]
    fn answers_by_state() {
        for (probe, lone_syn, payload, expected) in [
            (Probe::Open, false, 0, true),
            (Probe::Open, false, 1400, true),
            (Probe::Open, true, 0, false),
            (Probe::Ended(0), false, 0, true),
            (Probe::Ended(LINGER_NS), false, 0, true),
            (Probe::Ended(LINGER_NS + 1), false, 0, false),
            (Probe::Ended(0), false, 1, false),
            (Probe::Ended(0), true, 0, false),
            (Probe::Unknown, false, 0, false),
        ] {
            assert_eq!(probe.answers(lone_syn, payload), expected, "{probe:?} {lone_syn} {payload}");
        }
    }
}
