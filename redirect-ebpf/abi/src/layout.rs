//! Keys and values of the maps. Padding is explicit, because the kernel hashes keys byte by byte.

use crate::Ip;

/// Listening sockets that one generation may have per pod and port: one per worker thread of a proxy.
pub const MAX_SLOTS: u16 = 16;
/// Room for a pod's UID; Kubernetes writes 36 characters.
pub const UID_BYTES: usize = 64;
/// First word of [`Meta`], so that a foreign map under our path is noticed.
pub const MAGIC: u32 = 0x4355_4c56;

/// Which set of programs made the pins.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Meta {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`crate::ABI_VERSION`] of the maker.
    pub version: u32,
}

/// How far a pod is enrolled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodState {
    /// New connections are captured.
    Enrolled,
    /// New connections are direct; the guard watches those captured before.
    Leaving,
}

/// What the programs know of a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodValue {
    /// Generation that receives connections; 0 = none yet, so connects are refused.
    pub active: u32,
    /// Generation that receives them when the active one has no listener; 0 = none.
    pub previous: u32,
    /// [`PodValue::HAS_V4`], [`PodValue::HAS_V6`], [`PodValue::DNS`], [`PodValue::SECONDARY`].
    pub flags: u32,
    /// 0 enrolled, anything else leaving.
    pub leaving: u32,
    /// The pod's UID, zero-padded; read by user space only.
    pub uid: [u8; UID_BYTES],
}

impl PodValue {
    /// The pod has an IPv4 address, rules and routes.
    pub const HAS_V4: u32 = 1;
    /// The pod has an IPv6 address, rules and routes.
    pub const HAS_V6: u32 = 2;

    /// Questions to port 53 go to the proxy.
    pub const DNS: u32 = 4;
    /// The pod has other interfaces, with entries in the maps of links and routes.
    pub const SECONDARY: u32 = 8;

    /// How far the pod is enrolled.
    #[inline(always)]
    pub const fn state(&self) -> PodState {
        if self.leaving == 0 { PodState::Enrolled } else { PodState::Leaving }
    }

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether connections to this family can be captured.
    #[inline(always)]
    pub const fn serves(&self, ip: &Ip) -> bool {
        self.flags & (if ip.is_v4() { Self::HAS_V4 } else { Self::HAS_V6 }) != 0
    }
}

/// An address of a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressKey {
    /// Namespace cookie.
    pub cookie: u64,
    /// The address.
    pub ip: Ip,
}

impl AddressKey {
    /// Value of an address that the agent gave at enrolment.
    pub const GIVEN: u32 = 1;
    /// Value of an address that was found on another interface; root in the pod can put any there.
    pub const FOUND: u32 = 2;
}

/// An interface of a pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LinkKey {
    /// Namespace cookie.
    pub cookie: u64,
    /// Index in the pod.
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
}

/// Length of a route's prefix in the map of routes: the cookie counts in full, and IPv4 is v4-mapped.
#[inline(always)]
pub const fn route_bits(prefix: u32, v4: bool) -> u32 {
    64 + prefix + if v4 { 96 } else { 0 }
}

/// A listener of a proxy.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerKey {
    /// Namespace cookie.
    pub cookie: u64,
    /// Generation of the proxy.
    pub generation: u32,
    /// One of [`crate::CAPTURE_PORTS`], host byte order.
    pub port: u16,
    /// Worker slot, below [`MAX_SLOTS`].
    pub slot: u16,
}

/// The listeners of one generation on one port of one pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SlotsKey {
    /// Namespace cookie.
    pub cookie: u64,
    /// Generation of the proxy.
    pub generation: u32,
    /// One of [`crate::CAPTURE_PORTS`], host byte order.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// The tag that makes a socket the proxy's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProxyTag {
    /// Generation of the proxy at the socket's birth.
    pub generation: u32,
    /// Zero; bit 0 was used by earlier versions.
    pub pad: u32,
}

/// Where an application wanted to go with a connect that was captured, before anybody could change it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Destination {
    /// The address.
    pub ip: Ip,
    /// The port, as the context of the connect hook shows it (network byte order, in the lower half).
    pub port: u32,
    /// 1 while it stands for the socket's present connect; 0 when the socket has connected to something that is not captured.
    pub live: u32,
}

/// A connection that is older than the enrolment of its pod.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldSocket {
    /// Namespace cookie of the pod.
    pub cookie: u64,
}

/// Which slots a generation has ever used on one port: a byte each, so that two CPUs can note two slots without atomics.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slots {
    /// 1 = used.
    pub used: [u8; MAX_SLOTS as usize],
}

impl Slots {
    /// Slots to look through: the highest one ever used, plus one.
    #[inline(always)]
    pub const fn count(low: u64, high: u64) -> u32 {
        if high != 0 { 16 - high.leading_zeros() / 8 } else { 8 - low.leading_zeros() / 8 }
    }

    /// The same, from the value itself.
    pub const fn len(&self) -> u32 {
        let mut count = self.used.len();
        while count > 0 && self.used[count - 1] == 0 {
            count -= 1;
        }
        count as u32
    }

    /// No slot was used.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The `nth` slot to try for a connection with this hash, out of `count` (which is not 0); from `count` on they come again.
#[inline(always)]
pub const fn slot(hash: u32, nth: u32, count: u32) -> u16 {
    // Without its top bit the sum cannot wrap, so that `count` neighbours are `count` slots.
    (((hash >> 1) + nth) % count) as u16
}

/// Spreads a 4-tuple over the slots. Peers choose their port, so this balances and protects nothing.
#[inline(always)]
pub const fn spread(remote: &Ip, remote_port: u32, local: &Ip, local_port: u32) -> u32 {
    // Multiplicative mixing (Knuth, the golden ratio); the high bits are the mixed ones.
    let mut hash = remote_port ^ (local_port << 16);
    let mut i = 0;
    while i < 4 {
        hash = (hash ^ remote.0[i] ^ local.0[i].rotate_left(7)).wrapping_mul(0x9e37_79b1);
        hash ^= hash >> 15;
        i += 1;
    }
    hash
}

const _: () = {
    assert!(size_of::<Meta>() == 8);
    assert!(size_of::<PodValue>() == 16 + UID_BYTES);
    assert!(core::mem::offset_of!(PodValue, leaving) == 12);
    assert!(core::mem::offset_of!(PodValue, uid) == 16);
    assert!(size_of::<AddressKey>() == 24);
    assert!(core::mem::offset_of!(AddressKey, ip) == 8);
    assert!(size_of::<LinkKey>() == 16 && core::mem::offset_of!(LinkKey, ifindex) == 8);
    assert!(route_bits(32, true) == 192 && route_bits(128, false) == 192 && size_of::<AddressKey>() * 8 == 192);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(core::mem::offset_of!(ListenerKey, generation) == 8);
    assert!(core::mem::offset_of!(ListenerKey, port) == 12);
    assert!(core::mem::offset_of!(ListenerKey, slot) == 14);
    assert!(size_of::<SlotsKey>() == 16);
    assert!(core::mem::offset_of!(SlotsKey, port) == 12);
    assert!(size_of::<Slots>() == 16 && MAX_SLOTS == 16);
    assert!(size_of::<ProxyTag>() == 8);
    assert!(size_of::<OldSocket>() == 8);
    assert!(size_of::<Destination>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_tried() {
        for count in 1..=u32::from(MAX_SLOTS) {
            for hash in [0, 1, 7, 0x7fff_fff0, u32::MAX - 3, u32::MAX] {
                let mut seen: Vec<u16> = (0..count).map(|nth| slot(hash, nth, count)).collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen, (0..count as u16).collect::<Vec<_>>(), "hash {hash:#x}");
            }
        }
    }

    #[test]
    fn holes_do_not_shorten_the_walk() {
        for bits in 0..=u16::MAX {
            let mut slots = Slots::default();
            for (i, used) in slots.used.iter_mut().enumerate() {
                *used = (bits >> i & 1) as u8;
            }
            let word = |at: usize| u64::from_le_bytes(slots.used[at..at + 8].try_into().unwrap());
            assert_eq!(Slots::count(word(0), word(8)), 16 - bits.leading_zeros());
            assert_eq!(slots.len(), 16 - bits.leading_zeros());
            assert_eq!(slots.is_empty(), bits == 0);
        }
    }

    #[test]
    fn neighbouring_ports_spread_evenly() {
        let (remote, local) = (Ip::from_v4(0x0500_000a), Ip::from_v4(0x0600_000a));
        let mut slots = [0u32; 4];
        for port in 32768..36768 {
            slots[slot(spread(&remote, port, &local, 80), 0, 4) as usize] += 1;
        }
        // 4000 connections over 4 slots: 1000 each, and 10 % is more than three standard deviations (27).
        assert!(slots.iter().all(|n| (900..1100).contains(n)), "{slots:?}");
    }
}
