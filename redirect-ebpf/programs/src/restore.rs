//! `cgroup/connect4` and `connect6` once more, after everybody else's: load balancers in the socket layer (Cilium, Calico) turn a
//! Service's address into a pod's, but the proxy must see what the application asked for.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use redirect_abi::{Destination, Ip, PodState, ProbeKey, Reason};

use crate::context::{count, keep, netns_cookie, pod, put, read, read_ip6, storage_of};
use crate::maps::WANTED;

const ALLOW: i32 = 1;

/// Notes where a captured connect wants to go; whether that worked.
#[inline(always)]
pub(crate) fn note(socket: *mut bpf_sock, ip: Ip, port: u32) -> bool {
    keep(&WANTED, socket, Destination { ip, port, live: 1 })
}

/// The socket connects to something that is not captured: what was noted before is over.
#[inline(always)]
pub(crate) fn forget(socket: *mut bpf_sock) {
    // SAFETY: the storage lives as long as the socket.
    if let Some(wanted) = unsafe { storage_of(&WANTED, socket).as_mut() } {
        wanted.live = 0;
    }
}

#[cgroup_sock_addr(connect4)]
pub fn culvert_last4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let now = (Ip::from_v4(read!(ctx, user_ip4)), read!(ctx, user_port));
    if let Some(wanted) = changed(ctx, now) {
        put!(ctx, user_ip4, wanted.ip.0[3]);
        put!(ctx, user_port, wanted.port);
    }
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn culvert_last6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    let now = (read_ip6!(ctx, user_ip6), read!(ctx, user_port));
    if let Some(wanted) = changed(ctx, now) {
        put!(ctx, user_ip6[0], wanted.ip.0[0]);
        put!(ctx, user_ip6[1], wanted.ip.0[1]);
        put!(ctx, user_ip6[2], wanted.ip.0[2]);
        put!(ctx, user_ip6[3], wanted.ip.0[3]);
        put!(ctx, user_port, wanted.port);
    }
    ALLOW
}

/// What a captured connect wanted, when that is not what stands there now.
#[inline(always)]
fn changed(ctx: *mut bpf_sock_addr, now: (Ip, u32)) -> Option<Destination> {
    let cookie = netns_cookie(ctx);
    if pod(cookie)?.state() != PodState::Enrolled {
        return None;
    }
    let socket = read!(ctx, __bindgen_anon_1.sk);
    if socket.is_null() {
        return None;
    }
    // SAFETY: the storage lives as long as the socket.
    let wanted = *unsafe { storage_of(&WANTED, socket).as_ref() }?;
    if wanted.live == 0 || now == (wanted.ip, wanted.port) {
        return None;
    }
    count(cookie, Reason::ConnectRestored);
    Some(wanted)
}

/// The SYN is about to leave: counts a destination that was changed after all.
#[inline(always)]
pub(crate) fn check(ctx: *mut bpf_sock_ops, wanted: *const Destination, key: &ProbeKey) {
    // SAFETY: the storage lives as long as the socket.
    let Some(wanted) = (unsafe { wanted.as_ref() }) else { return };
    let port = u32::from(key.destination_port.to_be());
    if wanted.live != 0 && (wanted.ip != key.destination || wanted.port != port) {
        count(netns_cookie(ctx), Reason::ConnectRewritten);
    }
}
