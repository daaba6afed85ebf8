//! What to do with a connect(2).

use crate::{Place, PodState, Reason, marks};

/// `IPPROTO_TCP`.
pub const TCP: u32 = 6;
/// `IPPROTO_MPTCP`.
pub const MPTCP: u32 = 262;
/// `SOCK_STREAM`.
pub const STREAM: u32 = 1;

/// What is known when a socket connects.
#[derive(Clone, Copy, Debug)]
pub struct ConnectFacts {
    /// `None` for a namespace that is not enrolled.
    pub pod: Option<PodState>,
    /// The socket carries a proxy's tag.
    pub proxy: bool,
    /// `SOCK_STREAM` or another type.
    pub kind: u32,
    /// IP protocol of the socket.
    pub protocol: u32,
    /// The socket's mark.
    pub mark: u32,
    /// Index of the device the socket is bound to; 0 = none.
    pub bound_device: u32,
    /// The destination.
    pub destination: Place,
    /// The pod has rules and routes for the destination's family.
    pub family_served: bool,
    /// The bound source; `None` when the kernel shall choose.
    pub source: Option<Place>,
}

/// What the hook does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    /// Not ours: nothing is changed and nothing counted.
    Ignore,
    /// Let it pass, with this mark.
    Pass {
        /// Mark the socket must have; equal to the present one when nothing changes.
        mark: u32,
        /// What is counted.
        reason: Option<Reason>,
    },
    /// Set this mark; refuse if that fails.
    Capture {
        /// The new mark.
        mark: u32,
    },
    /// Refuse; [`Reason::ConnectNoListener`] is ECONNREFUSED, the others EPERM.
    Refuse(Reason),
}

/// Decides a connect. `secondary` (another than the primary interface carries it: the one that the socket is bound to, or else
/// the one that routes name) is asked for what would be refused or captured, `listening` last and only for what would be captured.
#[inline(always)]
pub fn connect(facts: &ConnectFacts, secondary: impl FnOnce() -> bool, listening: impl FnOnce() -> bool) -> Connect {
    let Some(state) = facts.pod else { return Connect::Ignore };
    if facts.proxy {
        return proxy(facts);
    }
    if facts.protocol != TCP {
        // Datagrams are not in the mesh yet. A stream that is not plain TCP has subflows that no hook sees.
        let foreign = matches!(state, PodState::Enrolled) && !matches!(facts.destination, Place::Loopback | Place::Own);
        return if facts.kind == STREAM && foreign {
            Connect::Refuse(Reason::ConnectProtocol)
        } else {
            Connect::Ignore
        };
    }
    // A socket that was captured or accepted, disconnected and now connects again starts clean.
    let clean = facts.mark & !marks::MASK;
    match (state, facts.destination) {
        (PodState::Leaving, _) => Connect::Pass { mark: clean, reason: None },
        (_, Place::Loopback | Place::Own) => Connect::Pass { mark: clean, reason: Some(Reason::ConnectLocal) },
        (_, Place::Foreign) if secondary() => Connect::Pass { mark: clean, reason: Some(Reason::ConnectSecondary) },
        _ if facts.bound_device != 0 => Connect::Refuse(Reason::ConnectBoundDevice),
        (_, Place::Scoped) => Connect::Refuse(Reason::ConnectUnroutable),
        _ if !facts.family_served => Connect::Refuse(Reason::ConnectUnroutable),
        _ if !listening() => Connect::Refuse(Reason::ConnectNoListener),
        _ => Connect::Capture { mark: marks::captured(facts.mark) },
    }
}

/// The proxy's own sockets pass; a stock one that shows a foreign source gets RETURN, because it has one mark for everything.
#[inline(always)]
fn proxy(facts: &ConnectFacts) -> Connect {
    let stock = facts.mark & marks::STOCK_MASK == marks::STOCK && !marks::ours(facts.mark);
    if stock && facts.protocol == TCP && matches!(facts.source, Some(Place::Foreign | Place::Scoped)) {
        return Connect::Pass { mark: marks::returned(facts.mark), reason: Some(Reason::ProxyReturned) };
    }
    Connect::Ignore
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ConnectFacts {
        ConnectFacts {
            pod: Some(PodState::Enrolled),
            proxy: false,
            kind: STREAM,
            protocol: TCP,
            mark: 0,
            bound_device: 0,
            destination: Place::Foreign,
            family_served: true,
            source: None,
        }
    }

    fn decide(facts: ConnectFacts) -> Connect {
        connect(&facts, || false, || true)
    }

    #[test]
    fn an_app_is_captured_and_keeps_its_bits() {
        assert_eq!(decide(facts()), Connect::Capture { mark: 0x1000 });
        assert_eq!(decide(ConnectFacts { mark: 0x2539, ..facts() }), Connect::Capture { mark: 0x1539 });
    }

    #[test]
    fn a_mark_does_not_make_a_proxy() {
        let f = ConnectFacts { mark: marks::STOCK, source: Some(Place::Foreign), ..facts() };
        assert_eq!(decide(f), Connect::Capture { mark: 0x1539 });
    }

    #[test]
    fn not_enrolled_is_ignored() {
        assert_eq!(decide(ConnectFacts { pod: None, bound_device: 3, ..facts() }), Connect::Ignore);
    }

    #[test]
    fn loopback_and_own_pass_even_bound_and_without_proxy() {
        for destination in [Place::Loopback, Place::Own] {
            let f = ConnectFacts { destination, bound_device: 2, mark: 0x1004, ..facts() };
            let expected = Connect::Pass { mark: 4, reason: Some(Reason::ConnectLocal) };
            assert_eq!(connect(&f, || panic!("asked for a route"), || panic!("asked for a listener")), expected);
        }
    }

    #[test]
    fn refusals() {
        for (f, reason) in [
            (ConnectFacts { bound_device: 2, ..facts() }, Reason::ConnectBoundDevice),
            (ConnectFacts { destination: Place::Scoped, ..facts() }, Reason::ConnectUnroutable),
            (ConnectFacts { family_served: false, ..facts() }, Reason::ConnectUnroutable),
            (ConnectFacts { protocol: MPTCP, ..facts() }, Reason::ConnectProtocol),
        ] {
            assert_eq!(decide(f), Connect::Refuse(reason));
        }
        assert_eq!(connect(&facts(), || false, || false), Connect::Refuse(Reason::ConnectNoListener));
    }

    #[test]
    fn datagrams_are_left_alone() {
        assert_eq!(decide(ConnectFacts { protocol: 17, kind: 2, ..facts() }), Connect::Ignore);
    }

    #[test]
    fn a_leaving_pod_connects_directly_and_clean() {
        let f = ConnectFacts { pod: Some(PodState::Leaving), mark: 0x1001, ..facts() };
        assert_eq!(decide(f), Connect::Pass { mark: 1, reason: None });
    }

    #[test]
    fn proxies_pass() {
        let ours = ConnectFacts { proxy: true, mark: marks::RETURN, source: Some(Place::Foreign), ..facts() };
        assert_eq!(decide(ours), Connect::Ignore);
        let stock = ConnectFacts { proxy: true, mark: marks::STOCK, ..facts() };
        assert_eq!(decide(stock), Connect::Ignore);
        assert_eq!(decide(ConnectFacts { source: Some(Place::Own), ..stock }), Connect::Ignore);
        let spoofed = ConnectFacts { source: Some(Place::Foreign), destination: Place::Own, ..stock };
        assert_eq!(decide(spoofed), Connect::Pass { mark: 0x2539, reason: Some(Reason::ProxyReturned) });
    }

    #[test]
    fn other_interfaces_are_left_alone() {
        let pass = Connect::Pass { mark: 1, reason: Some(Reason::ConnectSecondary) };
        let f = ConnectFacts { mark: 0x1001, ..facts() };
        assert_eq!(connect(&f, || true, || panic!("asked for a listener")), pass);
        assert_eq!(connect(&ConnectFacts { family_served: false, ..f }, || true, || true), pass);
        assert_eq!(connect(&ConnectFacts { bound_device: 3, ..f }, || true, || true), pass);
        let scoped = ConnectFacts { destination: Place::Scoped, ..f };
        assert_eq!(connect(&scoped, || true, || true), Connect::Refuse(Reason::ConnectUnroutable));
    }
}
