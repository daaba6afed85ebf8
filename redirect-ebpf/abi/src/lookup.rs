//! Which listener a new connection belongs to.

use crate::connect::TCP;
use crate::{LOOPBACK_IFINDEX, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND, Place, PodState, Reason, probe};

/// What is known when the kernel looks for a listener in a pod.
#[derive(Clone, Copy, Debug)]
pub struct LookupFacts {
    /// `None` when the pod is not (or no longer) enrolled.
    pub pod: Option<PodState>,
    /// IP protocol.
    pub protocol: u32,
    /// Interface the packet arrived by; for local delivery, the one its route names.
    pub ifindex: u32,
    /// The destination.
    pub local: Place,
    /// Destination port, host byte order.
    pub local_port: u16,
    /// The source.
    pub remote: Place,
}

/// Where the connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// The kernel's own look-up.
    Pass,
    /// The same, counted.
    Exempt(Reason),
    /// A proxy's listener on this port, or drop.
    To(u16),
}

/// Decides a look-up. `secondary` (the interface is a known one of the pod, but not its primary) and `probe` (the tuple is an open
/// connection of the kubelet) are asked only for what comes from outside.
#[inline(always)]
pub fn lookup(facts: &LookupFacts, secondary: impl FnOnce() -> bool, probe: impl FnOnce() -> bool) -> Steer {
    let Some(state) = facts.pod else { return Steer::Pass };
    if facts.protocol != TCP {
        return Steer::Pass;
    }
    if facts.ifindex == LOOPBACK_IFINDEX {
        // Table 100 brought a captured connection here, or table 101 the proxy's own connection to the app. Also in a pod that
        // leaves: a connect that was captured in the last moment has nowhere else to go, and the kernel cannot even refuse it,
        // because it has no route for an answer from a foreign address.
        return match facts.local {
            Place::Loopback | Place::Own => Steer::Pass,
            Place::Scoped | Place::Foreign => Steer::To(PORT_OUTBOUND),
        };
    }
    if matches!(state, PodState::Leaving) {
        return Steer::Pass;
    }
    // A call of the pod to itself shows the device of the address, not lo. No remote host can show these sources:
    // the kernel drops them as martians (IPv4), or the answers never leave the pod (IPv6).
    if matches!(facts.remote, Place::Own | Place::Loopback) {
        return Steer::Pass;
    }
    if secondary() {
        return Steer::Exempt(Reason::LookupSecondary);
    }
    if matches!(facts.local, Place::Own) && probe::reaches(facts.local_port) && probe() {
        return Steer::Exempt(Reason::LookupProbe);
    }
    Steer::To(if facts.local_port == PORT_HBONE { PORT_HBONE } else { PORT_INBOUND })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound() -> LookupFacts {
        LookupFacts {
            pod: Some(PodState::Enrolled),
            protocol: TCP,
            ifindex: 2,
            local: Place::Own,
            local_port: 80,
            remote: Place::Foreign,
        }
    }

    #[test]
    fn table() {
        let by_lo = LookupFacts { ifindex: 1, remote: Place::Own, ..inbound() };
        for (facts, expected) in [
            (inbound(), Steer::To(15006)),
            (LookupFacts { local_port: 15008, ..inbound() }, Steer::To(15008)),
            (LookupFacts { local_port: 15001, ..inbound() }, Steer::To(15006)),
            (LookupFacts { local: Place::Foreign, ..inbound() }, Steer::To(15006)),
            (LookupFacts { remote: Place::Scoped, ..inbound() }, Steer::To(15006)),
            (LookupFacts { remote: Place::Own, ..inbound() }, Steer::Pass),
            (LookupFacts { remote: Place::Loopback, ..inbound() }, Steer::Pass),
            (LookupFacts { protocol: 17, ..inbound() }, Steer::Pass),
            (LookupFacts { pod: None, ..inbound() }, Steer::Pass),
            (LookupFacts { pod: Some(PodState::Leaving), ..inbound() }, Steer::Pass),
            (LookupFacts { local: Place::Foreign, ..by_lo }, Steer::To(15001)),
            (LookupFacts { local: Place::Foreign, pod: Some(PodState::Leaving), ..by_lo }, Steer::To(15001)),
            (LookupFacts { pod: Some(PodState::Leaving), ..by_lo }, Steer::Pass),
            (LookupFacts { local: Place::Foreign, pod: None, ..by_lo }, Steer::Pass),
            (LookupFacts { local: Place::Foreign, local_port: 15008, ..by_lo }, Steer::To(15001)),
            (LookupFacts { local: Place::Own, remote: Place::Foreign, ..by_lo }, Steer::Pass),
            (LookupFacts { local: Place::Loopback, ..by_lo }, Steer::Pass),
        ] {
            assert_eq!(lookup(&facts, || false, || false), expected, "{facts:?}");
        }
    }

    #[test]
    fn probes_and_other_interfaces() {
        let by_lo = LookupFacts { ifindex: 1, local: Place::Foreign, remote: Place::Own, ..inbound() };
        for (facts, secondary, probe, expected) in [
            (inbound(), false, true, Steer::Exempt(Reason::LookupProbe)),
            (inbound(), true, false, Steer::Exempt(Reason::LookupSecondary)),
            (LookupFacts { local_port: 15006, ..inbound() }, false, true, Steer::To(15006)),
            (LookupFacts { local_port: 15001, ..inbound() }, false, true, Steer::To(15006)),
            (LookupFacts { local_port: 15008, ..inbound() }, false, true, Steer::To(15008)),
            (LookupFacts { local: Place::Foreign, ..inbound() }, false, true, Steer::To(15006)),
            (by_lo, true, true, Steer::To(15001)),
            (LookupFacts { remote: Place::Own, ..inbound() }, true, true, Steer::Pass),
            (LookupFacts { pod: None, ..inbound() }, true, true, Steer::Pass),
        ] {
            assert_eq!(lookup(&facts, || secondary, || probe), expected, "{facts:?}");
        }
    }
}
