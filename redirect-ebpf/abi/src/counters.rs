//! Counters per pod and reason.

/// Room in [`Counters`]; more than [`Reason::ALL`], so that a reason can be added without a new layout.
pub const ROOM: usize = 40;

/// One pod's counters, indexed by [`Reason`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub [u64; ROOM]);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// Why something was captured, passed or refused. The order is part of the layout: add at the end.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// All reasons, in the order of the layout.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// Label for metrics and status.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)+ }
            }
        }
    };
}

reasons! {
    /// A connect was captured.
    Captured = "captured",
    /// A connect to loopback or to the pod itself passed.
    ConnectLocal = "connect_local",
    /// Refused at once: no proxy listens.
    ConnectNoListener = "connect_no_listener",
    /// Refused: the socket is bound to a device.
    ConnectBoundDevice = "connect_bound_device",
    /// Refused: the destination needs a device, or the pod has no address of its family.
    ConnectUnroutable = "connect_unroutable",
    /// Refused: neither TCP nor a datagram socket (MPTCP older than the enrolment).
    ConnectProtocol = "connect_protocol",
    /// Refused: the mark could not be set.
    ConnectError = "connect_error",
    /// A stock proxy's socket with a foreign source was marked RETURN.
    ProxyReturned = "proxy_returned",
    /// Refused: an option that would lead around the capture.
    OptionRefused = "option_refused",
    /// Refused: an MPTCP socket.
    SocketRefused = "socket_refused",
    /// Steered to an outbound listener. The four of these count look-ups: a stray segment of a connection that has ended makes one
    /// too, so they are at least the number of connections.
    LookupOutbound = "lookup_outbound",
    /// Steered to an inbound plaintext listener.
    LookupInbound = "lookup_inbound",
    /// Steered to an HBONE listener.
    LookupHbone = "lookup_hbone",
    /// A look-up found no listener: refused.
    LookupNoListener = "lookup_no_listener",
    /// A look-up went to the previous generation because the active one has no listener.
    LookupFallback = "lookup_fallback",
    /// TCP of the proxy passed.
    GuardProxy = "guard_proxy",
    /// TCP of a connection older than the enrolment passed in clear.
    GuardOld = "guard_old",
    /// TCP without socket, without SYN and without payload passed.
    GuardBare = "guard_bare",
    /// UDP to or from port 53 passed.
    GuardDns = "guard_dns",
    /// Other UDP passed.
    GuardUdp = "guard_udp",
    /// ICMP and ICMPv6 passed.
    GuardIcmp = "guard_icmp",
    /// ARP passed.
    GuardArp = "guard_arp",
    /// TCP of a pod that is leaving passed.
    GuardLeaving = "guard_leaving",
    /// Dropped: TCP of a socket that is neither the proxy's nor old.
    DropApp = "drop_app",
    /// Dropped: TCP without socket that opens a connection or carries bytes.
    DropNoSocket = "drop_no_socket",
    /// Dropped: a fragment of something that is neither UDP nor ICMP.
    DropFragment = "drop_fragment",
    /// Dropped: an IP protocol other than TCP, UDP and ICMP.
    DropProtocol = "drop_protocol",
    /// Dropped: neither IP nor ARP, or tagged with a VLAN.
    DropEther = "drop_ether",
    /// Dropped: headers that cannot be read.
    DropMalformed = "drop_malformed",
    /// Dropped: a captured connection of a pod that is leaving, or the proxy's own to the app, tried the wire.
    DropCaptured = "drop_captured",
    /// A proxy opened more listeners than there are slots.
    ListenerOverflow = "listener_overflow",
    /// A probe of the kubelet was let through to the application.
    LookupProbe = "lookup_probe",
    /// A probe's answer passed in clear.
    GuardProbe = "guard_probe",
    /// A question to port 53 went to the proxy.
    DnsSteered = "dns_steered",
    /// A question to port 53 went to its server, because the proxy has no socket for it.
    DnsForwarded = "dns_forwarded",
    /// A connect that another than the primary interface carries passed in clear.
    ConnectSecondary = "connect_secondary",
    /// A connection that arrived by another than the primary interface passed in clear.
    LookupSecondary = "lookup_secondary",
    /// The address of a captured connect was changed by another program of the node, and put back.
    ConnectRestored = "connect_restored",
    /// The address of a captured connect was changed by another program of the node after we had put it back.
    ConnectRewritten = "connect_rewritten",
    /// An application's end of a connection from the proxy could not be bound to `lo`: a client that happens to come in clear from
    /// the very port that the proxy shows there is not answered.
    AcceptedUnbound = "accepted_unbound",
}

const _: () = assert!(Reason::ALL.len() <= ROOM && size_of::<Counters>() == 8 * ROOM);

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self([0; ROOM]);

    /// The count for a reason.
    pub const fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_labels_are_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(Reason::ALL.iter().filter(|r| r.label() == reason.label()).count(), 1);
        }
    }
}
