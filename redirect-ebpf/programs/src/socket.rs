//! `cgroup/sock_create` tags a proxy's and the kubelet's sockets at birth; `sockops` files listeners and probes.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_set_retval, bpf_sock_hash_update};
use aya_ebpf::macros::{cgroup_sock, sock_ops};
use aya_ebpf::programs::{SockContext, SockOpsContext};
use redirect_abi::connect::MPTCP;
use redirect_abi::{CAPTURE_PORTS, ListenerKey, MAX_SLOTS, PodState, ProxyTag, Reason, Slots, SlotsKey, marks, sockopt};

use crate::context::{bind_to_device, count, netns_cookie, pod, read, set_tag, storage_of, tag};
use crate::maps::{LISTENERS, PROBERS, PROXIES, SLOTS, WANTED};
use crate::{probe, restore};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const EPROTONOSUPPORT: i32 = 93;
/// `BPF_SOCK_OPS_TCP_LISTEN_CB`.
const LISTEN: u32 = 11;
/// `BPF_SOCK_OPS_TCP_CONNECT_CB`.
const CONNECT: u32 = 3;
/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`.
const ACCEPTED: u32 = 5;
/// `BPF_SOCK_OPS_STATE_CB`.
const STATE: u32 = 10;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;
const HANDLED: u32 = 1;

#[cgroup_sock(sock_create)]
pub fn culvert_sock(ctx: SockContext) -> i32 {
    let socket = ctx.sock;
    // SAFETY: a helper call without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the element stays readable while this program runs.
    if let Some(generation) = unsafe { PROXIES.get(&cgroup) } {
        let value = ProxyTag { generation: *generation, pad: 0 };
        // An untagged socket of the proxy would be captured like an app's and run in a circle: better not born.
        return if set_tag(socket, value) { ALLOW } else { REFUSE };
    }
    let cookie = netns_cookie(socket);
    let Some(entry) = pod(cookie) else {
        probe::born(socket);
        return ALLOW;
    };
    // The subflows of an MPTCP socket connect past the connect hook. Refused with what a kernel without MPTCP says, so that
    // programs that only prefer it (Go's listeners) fall back to TCP.
    if entry.state() == PodState::Enrolled && read!(socket, protocol) == MPTCP {
        count(cookie, Reason::SocketRefused);
        // SAFETY: a helper call; if it fails the refusal stays EPERM.
        unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
        return REFUSE;
    }
    ALLOW
}

#[sock_ops]
pub fn culvert_sockops(ctx: SockOpsContext) -> u32 {
    let ctx = ctx.ops;
    match read!(ctx, op) {
        LISTEN => listens(ctx),
        CONNECT => connects(ctx),
        ACCEPTED => accepted(ctx),
        STATE => probe::changes(ctx),
        _ => {}
    }
    HANDLED
}

/// Before a SYN leaves: addresses and ports stand.
#[inline(always)]
fn connects(ctx: *mut bpf_sock_ops) {
    let socket = read!(ctx, __bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    // Most sockets of a node are neither; two look-ups are all they pay.
    let (wanted, prober) = (storage_of(&WANTED, socket), storage_of(&PROBERS, socket));
    // Hidden from the optimiser, which would join the two tests by or-ing pointers; the verifier forbids that.
    let (captured, kubelet) = (core::hint::black_box(!wanted.is_null()), core::hint::black_box(!prober.is_null()));
    if captured {
        restore::check(ctx, wanted, &probe::tuple(ctx));
    } else if kubelet {
        probe::connects(ctx, probe::tuple(ctx));
    }
}

/// An application's end of the proxy's connection to it shows a client's address with a port of the proxy's choice. A SYN from
/// outside may show the same two: it must not meet this socket, which would answer it (by `lo`) with a challenge ACK that nobody
/// waits for. Bound to `lo`, where alone its packets come from, the socket is none for what arrives elsewhere; nor is what remains
/// of it in TIME_WAIT.
#[inline(always)]
fn accepted(ctx: *mut bpf_sock_ops) {
    let socket = read!(ctx, __bindgen_anon_2.sk);
    if socket.is_null() || !marks::returns(read!(socket, mark)) {
        return;
    }
    let cookie = netns_cookie(ctx);
    // Left unbound it works, but for that one port of that one client.
    if pod(cookie).is_some() && !bind_to_device(ctx, sockopt::LO) {
        count(cookie, Reason::AcceptedUnbound);
    }
}

#[inline(always)]
fn listens(ctx: *mut bpf_sock_ops) {
    let port = read!(ctx, local_port) as u16;
    if !CAPTURE_PORTS.contains(&port) {
        return;
    }
    let socket = read!(ctx, __bindgen_anon_2.sk);
    if socket.is_null() {
        return;
    }
    // Whoever is not the proxy never gets into the map, whatever it listens on. That it can answer for foreign addresses
    // (IP_TRANSPARENT) cannot be asked for here: Istio's proxy sets it right after it listens.
    if let Some(tag) = tag(socket) {
        file(ctx, port, tag.generation);
    }
}

/// Puts a listener into the first free slot of its generation.
#[inline(always)]
fn file(ctx: *mut bpf_sock_ops, port: u16, generation: u32) {
    let cookie = netns_cookie(ctx);
    let slots = SlotsKey { cookie, generation, port, pad: 0 };
    // Present already (EEXIST) is as good as made; when it could be neither, the look-up below says so.
    let _ = SLOTS.insert(&slots, Slots::default(), NOEXIST);
    let Some(used) = SLOTS.get_ptr_mut(&slots) else { return count(cookie, Reason::ListenerOverflow) };
    for slot in 0..MAX_SLOTS {
        let mut key = ListenerKey { cookie, generation, port, slot };
        let map = core::ptr::from_ref(&LISTENERS).cast_mut().cast::<c_void>();
        // SAFETY: context, map and key are what the helper wants; the key is read before the call returns.
        if unsafe { bpf_sock_hash_update(ctx, map, (&raw mut key).cast(), NOEXIST) } == 0 {
            // SAFETY: a byte of a live element; other CPUs may write other bytes at the same time.
            unsafe { core::ptr::write_volatile(used.cast::<u8>().add(usize::from(slot)), 1) };
            return;
        }
    }
    count(cookie, Reason::ListenerOverflow);
}
