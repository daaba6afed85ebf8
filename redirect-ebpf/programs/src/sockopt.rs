//! `cgroup/setsockopt`: the mark bits are ours, and captured sockets stay captured.

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use redirect_abi::sockopt::{OptionFacts, SetOption, setsockopt};
use redirect_abi::Reason;

use crate::context::{count, netns_cookie, pod, read, tag};
use crate::maps::PROXIES;

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[cgroup_sockopt(setsockopt)]
pub fn culvert_setopt(ctx: SockoptContext) -> i32 {
    let ctx = ctx.sockopt;
    let cookie = netns_cookie(ctx);
    let socket = read!(ctx, __bindgen_anon_1.sk);
    if socket.is_null() {
        return ignore(ctx);
    }
    let tag = tag(socket);
    // Hidden from the optimiser, which would join the two tests by or-ing pointers; the verifier forbids that.
    let pod = core::hint::black_box(pod(cookie).is_some());
    if !pod && tag.is_none() {
        return ignore(ctx);
    }
    let facts = OptionFacts {
        pod,
        proxy: tag.is_some() || caller_is_proxy(),
        kind: read!(socket, type_),
        option: (read!(ctx, level), read!(ctx, optname)),
        value: value(ctx),
        mark: read!(socket, mark),
    };
    match setsockopt(&facts) {
        SetOption::Ignore => ignore(ctx),
        SetOption::AllowSeen => {
            // With a length of its own the kernel takes the bytes seen here, also where the caller named more than a page.
            set_length(ctx, size_of::<u32>() as i32);
            ALLOW
        }
        SetOption::Refuse => {
            count(cookie, Reason::OptionRefused);
            REFUSE
        }
    }
}

/// Accepted sockets carry no tag; the proxy may still set options on them.
#[inline(always)]
fn caller_is_proxy() -> bool {
    // SAFETY: a helper call without arguments.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    PROXIES.get_ptr(&cgroup).is_some()
}

/// The kernel shall read the caller's own buffer: also the only way for values longer than a page (iptables).
#[inline(always)]
fn ignore(ctx: *mut bpf_sockopt) -> i32 {
    set_length(ctx, 0);
    ALLOW
}

#[inline(always)]
fn set_length(ctx: *mut bpf_sockopt, length: i32) {
    // SAFETY: optlen is a writable field of this context.
    unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!((*ctx).optlen), length) };
}

#[inline(always)]
fn value(ctx: *mut bpf_sockopt) -> Option<u32> {
    let start = read!(ctx, __bindgen_anon_2.optval).cast::<u32>();
    let end = read!(ctx, __bindgen_anon_3.optval_end).cast::<u32>();
    // SAFETY: bounds as the verifier wants them: four bytes at `start` end at or before `end`.
    unsafe { if start.add(1) > end { None } else { Some(core::ptr::read_volatile(start)) } }
}
