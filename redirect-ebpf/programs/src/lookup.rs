//! `sk_lookup` in a pod's namespace: which listener gets a new connection.

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::bpf_sk_assign;
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use redirect_abi::layout::spread;
use redirect_abi::lookup::{LookupFacts, Steer, lookup};
use redirect_abi::{Ip, PORT_HBONE, PORT_OUTBOUND, PodValue, Reason};

use crate::context::{count, place, pod, read, read_ip6};
use crate::listeners::{Found, find};
use crate::maps::POD_COOKIE;
use crate::{probe, secondary};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
/// `BPF_SK_LOOKUP_F_NO_REUSEPORT`: the socket named here, not one of its reuseport group (an older generation may be in it).
const NO_REUSEPORT: u64 = 2;
const AF_INET: u32 = 2;

#[sk_lookup]
pub fn culvert_lookup(ctx: SkLookupContext) -> u32 {
    let ctx = ctx.lookup;
    let cookie = POD_COOKIE.load();
    let Some(entry) = pod(cookie) else { return SK_PASS };
    // All of them are read before the family is looked at: the compiler would join reads in two branches into one at a computed
    // offset, which the verifier forbids. Those of the other family are zero.
    let (remote4, local4) = (read!(ctx, remote_ip4), read!(ctx, local_ip4));
    let (remote6, local6) = (read_ip6!(ctx, remote_ip6), read_ip6!(ctx, local_ip6));
    let (remote, local) =
        if read!(ctx, family) == AF_INET { (Ip::from_v4(remote4), Ip::from_v4(local4)) } else { (remote6, local6) };
    let local_port = read!(ctx, local_port);
    let facts = LookupFacts {
        pod: Some(entry.state()),
        protocol: read!(ctx, protocol),
        ifindex: read!(ctx, ingress_ifindex),
        local: place(cookie, local),
        local_port: local_port as u16,
        remote: place(cookie, remote),
    };
    let other_link = || secondary::arrived(cookie, entry, facts.ifindex);
    match lookup(&facts, other_link, || probe::arrived(ctx, remote, local, facts.local_port)) {
        Steer::Pass => SK_PASS,
        Steer::Exempt(reason) => {
            count(cookie, reason);
            SK_PASS
        }
        Steer::To(port) => {
            let hash = spread(&remote, u32::from(read!(ctx, remote_port)), &local, local_port);
            // Hidden from the optimiser, which would copy the walk over the slots for each port; the verifier checks every copy.
            assign(ctx, cookie, entry, core::hint::black_box(port), core::hint::black_box(hash))
        }
    }
}

#[inline(always)]
fn assign(ctx: *mut bpf_sk_lookup, cookie: u64, pod: &PodValue, port: u16, hash: u32) -> u32 {
    let found = find(cookie, pod, port, hash, |socket| {
        // A listener of the other family is refused by the kernel; the next slot is tried then.
        // SAFETY: a helper call on the context and a referenced socket.
        unsafe { bpf_sk_assign(ctx.cast(), socket.cast(), NO_REUSEPORT) == 0 }
    });
    if found == Found::None {
        count(cookie, Reason::LookupNoListener);
        return SK_DROP;
    }
    if found == Found::Previous {
        count(cookie, Reason::LookupFallback);
    }
    count(
        cookie,
        match port {
            PORT_OUTBOUND => Reason::LookupOutbound,
            PORT_HBONE => Reason::LookupHbone,
            _ => Reason::LookupInbound,
        },
    );
    SK_PASS
}
