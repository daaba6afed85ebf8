//! Finding a proxy's listener: the active generation first, then the previous one; in each, the slot of the 4-tuple first.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use redirect_abi::layout::slot;
use redirect_abi::{ListenerKey, MAX_SLOTS, PodValue, Slots, SlotsKey};

use crate::maps::{LISTENERS, SLOTS};

/// Which generation had a listener that `take` accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Active,
    Previous,
    None,
}

/// Offers listeners to `take` until it accepts one.
#[inline(always)]
pub(crate) fn find(cookie: u64, pod: &PodValue, port: u16, hash: u32, take: impl Fn(*mut bpf_sock) -> bool) -> Found {
    if pod.active != 0 && find_in(cookie, pod.active, port, hash, &take) {
        Found::Active
    } else if pod.previous != 0 && find_in(cookie, pod.previous, port, hash, &take) {
        Found::Previous
    } else {
        Found::None
    }
}

#[inline(always)]
fn find_in(cookie: u64, generation: u32, port: u16, hash: u32, take: &impl Fn(*mut bpf_sock) -> bool) -> bool {
    let key = SlotsKey { cookie, generation, port, pad: 0 };
    let Some(used) = SLOTS.get_ptr(&key) else { return false };
    let words = used.cast::<u64>();
    // SAFETY: both aligned words of a live element, whose bytes only ever turn from 0 to 1.
    let (low, high) = unsafe { (core::ptr::read_volatile(words), core::ptr::read_volatile(words.add(1))) };
    let count = Slots::count(low, high);
    if count == 0 {
        return false;
    }
    // No early end at `count`: each way out would be followed by the verifier through all that comes after. Walking some slots twice
    // costs only where nobody listens.
    for nth in 0..u32::from(MAX_SLOTS) {
        let key = ListenerKey { cookie, generation, port, slot: slot(hash, nth, count) };
        let map = core::ptr::from_ref(&LISTENERS).cast_mut().cast::<c_void>();
        // SAFETY: a look-up in a map of sockets gives a referenced socket or null.
        let socket = unsafe { bpf_map_lookup_elem(map, core::ptr::from_ref(&key).cast()) }.cast::<bpf_sock>();
        if socket.is_null() {
            continue;
        }
        let taken = take(socket);
        // SAFETY: the reference taken above is given back once, on this only path.
        unsafe { bpf_sk_release(socket.cast()) };
        if taken {
            return true;
        }
    }
    false
}
