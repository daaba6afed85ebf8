//! Connections of the kubelet: filed when they open, taken out when they close, looked for in pods.

use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_ops};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::TcContext;
use redirect_abi::probe::{Probe, filed};
use redirect_abi::{AddressKey, Ip, ProbeKey, ProbeValue};

use crate::context::{keep, netns_cookie, read, read_ip6};
use crate::maps::{ENDED, KUBELETS, OWN, PROBERS, PROBES};
use crate::packet::{ends, load, protocol};

const AF_INET: u32 = 2;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const STATE_CALLBACKS: i32 = 4;
/// `BPF_TCP_CLOSE`.
const CLOSE: u32 = 7;

/// Tags a socket that the kubelet makes in its own namespace.
#[inline(always)]
pub(crate) fn born(socket: *mut bpf_sock) {
    // SAFETY: a helper call without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the element stays readable while this program runs.
    let Some(kubelet) = (unsafe { KUBELETS.get(&cgroup) }) else { return };
    if kubelet.netns == netns_cookie(socket) {
        // Without memory for the tag this socket's probe meets the policy like everybody's.
        let _ = keep(&PROBERS, socket, 1u32);
    }
}

/// Before the SYN of the kubelet's socket leaves.
#[inline(always)]
pub(crate) fn connects(ctx: *mut bpf_sock_ops, key: ProbeKey) {
    if !filed(key.destination.place(false)) {
        return;
    }
    // Taking it out again comes first: a tuple that nobody takes out must not be filed.
    // SAFETY: a helper call on the context.
    if unsafe { bpf_sock_ops_cb_flags_set(ctx, STATE_CALLBACKS) } != 0 {
        return;
    }
    // SAFETY: a helper call on the context.
    let value = ProbeValue { socket: unsafe { bpf_get_socket_cookie(ctx.cast()) } };
    // A full map forgets the least recently used; if it cannot even do that, this probe meets the policy.
    let _ = PROBES.insert(&key, value, 0);
}

/// A socket that asked for it changed its state.
#[inline(always)]
pub(crate) fn changes(ctx: *mut bpf_sock_ops) {
    if read!(ctx, __bindgen_anon_1.args[1]) != CLOSE {
        return;
    }
    let key = tuple(ctx);
    // SAFETY: the element stays readable while this program runs.
    let Some(value) = (unsafe { PROBES.get(&key) }) else { return };
    // SAFETY: a helper call on the context.
    if value.socket != unsafe { bpf_get_socket_cookie(ctx.cast()) } {
        return;
    }
    // SAFETY: a helper call without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // Without it the pod's last FIN is dropped and sent again; harmless.
    let _ = ENDED.insert(&key, now, 0);
    // Gone already is as good.
    let _ = PROBES.remove(&key);
}

/// Whether a connection that arrives in a pod is an open one of the kubelet.
#[inline(always)]
pub(crate) fn arrived(ctx: *mut bpf_sk_lookup, remote: Ip, local: Ip, local_port: u16) -> bool {
    let key = ProbeKey {
        source: remote,
        destination: local,
        source_port: u16::from_be(read!(ctx, remote_port)),
        destination_port: local_port,
        pad: 0,
    };
    PROBES.get_ptr(&key).is_some()
}

/// What a TCP packet that leaves a pod answers; one that shows another's address answers nothing.
#[inline(always)]
pub(crate) fn answered(ctx: &TcContext, cookie: u64) -> Probe {
    let Ok(key) = answer(ctx) else { return Probe::Unknown };
    // SAFETY: the element stays readable while this program runs.
    if unsafe { OWN.get(&AddressKey { cookie, ip: key.destination }) } != Some(&AddressKey::GIVEN) {
        return Probe::Unknown;
    }
    if PROBES.get_ptr(&key).is_some() {
        return Probe::Open;
    }
    // SAFETY: the element stays readable while this program runs.
    match unsafe { ENDED.get(&key) } {
        // SAFETY: a helper call without arguments.
        Some(ended) => Probe::Ended(unsafe { bpf_ktime_get_ns() }.saturating_sub(*ended)),
        None => Probe::Unknown,
    }
}

#[inline(always)]
fn answer(ctx: &TcContext) -> Result<ProbeKey, ()> {
    let ends = ends(ctx, protocol::TCP)?;
    Ok(ProbeKey {
        source: ends.destination,
        destination: ends.source,
        source_port: u16::from_be(load(ctx, ends.transport + 2)?),
        destination_port: u16::from_be(load(ctx, ends.transport)?),
        pad: 0,
    })
}

#[inline(always)]
pub(crate) fn tuple(ctx: *mut bpf_sock_ops) -> ProbeKey {
    // All read before the family is looked at, as in `lookup`.
    let (local4, remote4) = (read!(ctx, local_ip4), read!(ctx, remote_ip4));
    let (local6, remote6) = (read_ip6!(ctx, local_ip6), read_ip6!(ctx, remote_ip6));
    let (source, destination) =
        if read!(ctx, family) == AF_INET { (Ip::from_v4(local4), Ip::from_v4(remote4)) } else { (local6, remote6) };
    ProbeKey {
        source,
        destination,
        source_port: read!(ctx, local_port) as u16,
        // The context shows it in network byte order, in the upper half of the word.
        destination_port: u32::from_be(read!(ctx, remote_port)) as u16,
        pad: 0,
    }
}
