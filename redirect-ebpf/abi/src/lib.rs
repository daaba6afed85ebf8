//! What the kernel programs and user space share: names, keys, values, counters and decisions.
//!
//! The decisions (`connect`, `lookup`, `setsockopt`, `guard`, `question`, `probe`) are plain functions: a kernel program fetches facts, asks here and
//! acts, so that every rule of the redirector is tested on the host. Layouts are asserted at compile time on both sides.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod connect;
pub mod counters;
pub mod dns;
pub mod guard;
pub mod layout;
pub mod lookup;
pub mod marks;
pub mod probe;
pub mod sockopt;

pub use address::{Ip, Place};
pub use counters::{Counters, Reason};
pub use layout::{
    AddressKey, Destination, LinkKey, ListenerKey, MAX_SLOTS, Meta, OldSocket, PodState, PodValue, ProxyTag, Slots,
    SlotsKey, UID_BYTES,
};
pub use probe::{Kubelet, ProbeKey, ProbeValue};

/// Version of names, keys, values and their meaning. It is part of every pin path and of [`Meta`]. A new map needs no new version;
/// a change of layout or meaning does. An agent takes older pins over map by map: values may grow at their ends, where zero
/// must mean what it was before; anything else makes it refuse.
pub const ABI_VERSION: u32 = 1;

/// Port that captured outbound connections are steered to (hbone.md section 1).
pub const PORT_OUTBOUND: u16 = 15001;
/// Port that captured inbound plaintext is steered to.
pub const PORT_INBOUND: u16 = 15006;
/// Port of the HBONE listener.
pub const PORT_HBONE: u16 = 15008;
/// UDP port of the proxy's DNS socket (cni-zds.md section 3).
pub const PORT_DNS: u16 = 15053;
/// The three ports whose listeners enter the listener map.
pub const CAPTURE_PORTS: [u16; 3] = [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE];

/// Interface index of `lo`: the kernel gives it to the first device of every network namespace.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Names of the maps, as pinned and as found in the object.
pub mod maps {
    /// One [`crate::Meta`] at index 0: which version made these pins.
    pub const META: &str = "META";
    /// Cgroup id → generation of a proxy.
    pub const PROXIES: &str = "PROXIES";
    /// Namespace cookie → [`crate::PodValue`].
    pub const PODS: &str = "PODS";
    /// [`crate::AddressKey`] → [`crate::AddressKey::GIVEN`] or [`crate::AddressKey::FOUND`]: the addresses that are the pod itself.
    pub const OWN: &str = "OWN";
    /// [`crate::ListenerKey`] → listening socket of a proxy.
    pub const LISTENERS: &str = "LISTENERS";
    /// [`crate::SlotsKey`] → [`crate::Slots`]: the slots that a generation has used.
    pub const SLOTS: &str = "SLOTS";
    /// Socket cookie → [`crate::OldSocket`]: connections older than the enrolment.
    pub const OLD_SOCKETS: &str = "OLD_SOCKETS";
    /// Namespace cookie → [`crate::Counters`], one per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Socket → [`crate::ProxyTag`] (socket storage).
    pub const TAGS: &str = "TAGS";
    /// Cgroup id → [`crate::Kubelet`].
    pub const KUBELETS: &str = "KUBELETS";
    /// Socket → 1 (socket storage): a socket of the kubelet.
    pub const PROBERS: &str = "PROBERS";
    /// [`crate::ProbeKey`] → [`crate::ProbeValue`]: open connections of the kubelet.
    pub const PROBES: &str = "PROBES";
    /// [`crate::ProbeKey`] → nanoseconds since boot: when a connection of the kubelet ended.
    pub const ENDED: &str = "ENDED";
    /// Namespace cookie → index of the pod's primary interface in the pod.
    pub const PRIMARY: &str = "PRIMARY";
    /// [`crate::LinkKey`] → 1: other interfaces of a pod, which are not captured.
    pub const SECONDARY: &str = "SECONDARY";
    /// Prefixes of a pod's routes ([`crate::AddressKey`], longest match) → interface that carries them when it is not the primary one,
    /// else 0.
    pub const ROUTES: &str = "ROUTES";
    /// Socket → [`crate::Destination`] (socket storage): where the application wanted to go.
    pub const WANTED: &str = "WANTED";
    /// Every map that is pinned.
    pub const PINNED: [&str; 17] = [
        META,
        PROXIES,
        PODS,
        OWN,
        LISTENERS,
        SLOTS,
        OLD_SOCKETS,
        COUNTERS,
        TAGS,
        KUBELETS,
        PROBERS,
        PROBES,
        ENDED,
        PRIMARY,
        SECONDARY,
        ROUTES,
        WANTED,
    ];
}

/// Names of the programs in the object.
pub mod programs {
    /// Tags sockets of proxies at birth, refuses MPTCP in enrolled pods.
    pub const SOCK_CREATE: &str = "culvert_sock";
    /// Captures or refuses IPv4 connects.
    pub const CONNECT4: &str = "culvert_conn4";
    /// Captures or refuses IPv6 and v4-mapped connects.
    pub const CONNECT6: &str = "culvert_conn6";
    /// Puts the IPv4 destination of a captured connect back when another program has changed it.
    pub const RESTORE4: &str = "culvert_last4";
    /// The same for IPv6 and v4-mapped ones.
    pub const RESTORE6: &str = "culvert_last6";
    /// Keeps apps away from the mark bits.
    pub const SETSOCKOPT: &str = "culvert_setopt";
    /// Files the proxies' listeners.
    pub const SOCK_OPS: &str = "culvert_sockops";
    /// Picks the listener; one instance per pod.
    pub const LOOKUP: &str = "culvert_lookup";
    /// Watches the host's side of the veth; one instance per pod.
    pub const GUARD: &str = "culvert_guard";
    /// Brings DNS questions to the proxy, on the pod's `lo`; one instance per pod.
    pub const DNS: &str = "culvert_dns";
    /// What stands in the object where the per-pod programs read the namespace cookie of their pod; a cookie is a small number, so no
    /// pod has this one.
    pub const COOKIE_PLACEHOLDER: u64 = 0x9e1f_43a7_c05d_b862;
}
