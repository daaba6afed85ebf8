//! What the kernel programs and user space share: names, keys, values, counters and decisions.
//!
//! The decisions (`connect`, `lookup`, `setsockopt`, `guard`) are plain functions: a kernel program fetches facts, asks here and
//! acts, so that every rule of the redirector is tested on the host. Layouts are asserted at compile time on both sides.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod connect;
pub mod counters;
pub mod guard;
pub mod layout;
pub mod lookup;
pub mod marks;
pub mod sockopt;

pub use address::{Ip, Place};
pub use counters::{Counters, Reason};
pub use layout::{
    AddressKey, ListenerKey, MAX_SLOTS, Meta, OldSocket, PodState, PodValue, ProxyTag, Slots, SlotsKey, UID_BYTES,
};

/// Version of names, keys, values and their meaning. It is part of every pin path and of [`Meta`]; a change of layout or meaning
/// raises it, so that an old set and a new one never share maps.
pub const ABI_VERSION: u32 = 1;

/// Port that captured outbound connections are steered to (hbone.md section 1).
pub const PORT_OUTBOUND: u16 = 15001;
/// Port that captured inbound plaintext is steered to.
pub const PORT_INBOUND: u16 = 15006;
/// Port of the HBONE listener.
pub const PORT_HBONE: u16 = 15008;
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
    /// [`crate::AddressKey`] → 1: the addresses that are the pod itself.
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
    /// Every map that is pinned.
    pub const PINNED: [&str; 9] = [META, PROXIES, PODS, OWN, LISTENERS, SLOTS, OLD_SOCKETS, COUNTERS, TAGS];
}

/// Names of the programs in the object.
pub mod programs {
    /// Tags sockets of proxies at birth, refuses MPTCP in enrolled pods.
    pub const SOCK_CREATE: &str = "culvert_sock";
    /// Captures or refuses IPv4 connects.
    pub const CONNECT4: &str = "culvert_conn4";
    /// Captures or refuses IPv6 and v4-mapped connects.
    pub const CONNECT6: &str = "culvert_conn6";
    /// Keeps apps away from the mark bits.
    pub const SETSOCKOPT: &str = "culvert_setopt";
    /// Files the proxies' listeners.
    pub const SOCK_OPS: &str = "culvert_sockops";
    /// Picks the listener; one instance per pod.
    pub const LOOKUP: &str = "culvert_lookup";
    /// Watches the host's side of the veth; one instance per pod.
    pub const GUARD: &str = "culvert_guard";
    /// What stands in the object where the per-pod programs read the namespace cookie of their pod; a cookie is a small number, so no
    /// pod has this one.
    pub const COOKIE_PLACEHOLDER: u64 = 0x9e1f_43a7_c05d_b862;
}
