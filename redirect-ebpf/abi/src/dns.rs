//! Which UDP questions on a pod's `lo` belong to the proxy's DNS socket.

use crate::{Place, PodState};

/// UDP port of a name server (RFC 1035 section 4.2.1).
pub const PORT: u16 = 53;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// What is known of a datagram that arrived by `lo`.
#[derive(Clone, Copy, Debug)]
pub struct DnsFacts {
    /// `None` when the pod is not (or no longer) enrolled.
    pub pod: Option<PodState>,
    /// DNS is switched on for the pod.
    pub on: bool,
    /// Destination port, host byte order.
    pub port: u16,
    /// The destination.
    pub destination: Place,
}

/// What to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Not ours: the kernel delivers it.
    Ignore,
    /// To the proxy; by the primary interface when there is no socket of the proxy.
    Steer,
    /// By the primary interface: the rules brought it here, but nobody shall answer it.
    Forward,
}

/// Decides a datagram. Only our rules lead a foreign destination to `lo`, so one that is not for the proxy goes where it wanted to.
#[inline(always)]
pub const fn question(facts: &DnsFacts) -> Question {
    if facts.port != PORT || !matches!(facts.destination, Place::Foreign) {
        return Question::Ignore;
    }
    match facts.pod {
        Some(PodState::Enrolled) if facts.on => Question::Steer,
        _ => Question::Forward,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let asked = DnsFacts { pod: Some(PodState::Enrolled), on: true, port: 53, destination: Place::Foreign };
        for (facts, expected) in [
            (asked, Question::Steer),
            (DnsFacts { on: false, ..asked }, Question::Forward),
            (DnsFacts { pod: Some(PodState::Leaving), ..asked }, Question::Forward),
            (DnsFacts { pod: None, ..asked }, Question::Forward),
            (DnsFacts { port: 5353, ..asked }, Question::Ignore),
            (DnsFacts { destination: Place::Own, ..asked }, Question::Ignore),
            (DnsFacts { destination: Place::Loopback, ..asked }, Question::Ignore),
            (DnsFacts { destination: Place::Scoped, ..asked }, Question::Ignore),
        ] {
            assert_eq!(question(&facts), expected, "{facts:?}");
        }
    }
}
