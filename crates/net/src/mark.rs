//! Packet marks of the proxy's own sockets (SO_MARK); the rules in the pod and the eBPF programs know the same values.

/// A captured connection of the application on its way to the proxy's outbound listener.
///
/// The bit is clear of Istio's 0x539 and 0x111, kube-proxy's 0xC000, Calico's 0xffff0000, Cilium's 0xf00 and AWS' 0x80.
pub const CAPTURE: u32 = 0x1000;

/// A connection of the proxy to the application with the client's address as its source; the answers carry it back.
pub const RETURN: u32 = 0x2000;

/// Both bits. Other bits of a mark belong to others and are kept.
pub const MASK: u32 = CAPTURE | RETURN;

/// What a stock Istio proxy puts on every socket of its own (cni-zds.md 3).
pub const ISTIO: u32 = 0x539;
