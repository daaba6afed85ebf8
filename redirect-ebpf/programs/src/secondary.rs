//! Interfaces of a pod beside its primary one: what they carry is not captured.

use aya_ebpf::btf_maps::lpm_trie::Key;
use redirect_abi::{AddressKey, Ip, LinkKey, PodValue};

use crate::maps::{ROUTES, SECONDARY};

/// Cookie and address, every bit.
const FULL: u32 = size_of::<AddressKey>() as u32 * 8;

/// Whether a destination is carried by another than the primary interface: the one that the socket is bound to, or else the one
/// that the pod's routes name.
#[inline(always)]
pub(crate) fn carries(cookie: u64, pod: &PodValue, bound_device: u32, destination: Ip) -> bool {
    if !pod.has(PodValue::SECONDARY) {
        return false;
    }
    if bound_device != 0 {
        return known(cookie, bound_device);
    }
    route(cookie, pod, destination) != 0
}

/// The interface beside the primary one that the pod's routes name for a destination; 0 = none.
#[inline(always)]
pub(crate) fn route(cookie: u64, pod: &PodValue, destination: Ip) -> u32 {
    if !pod.has(PodValue::SECONDARY) {
        return 0;
    }
    ROUTES.get(&Key::new(FULL, AddressKey { cookie, ip: destination })).copied().unwrap_or(0)
}

/// Whether a packet came by a known interface that is not the primary one.
#[inline(always)]
pub(crate) fn arrived(cookie: u64, pod: &PodValue, ifindex: u32) -> bool {
    pod.has(PodValue::SECONDARY) && known(cookie, ifindex)
}

#[inline(always)]
fn known(cookie: u64, ifindex: u32) -> bool {
    SECONDARY.get_ptr(&LinkKey { cookie, ifindex, pad: 0 }).is_some()
}
