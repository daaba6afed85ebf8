//! `cgroup/connect4` and `connect6`: capture, pass or refuse before routing has seen anything.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_set_retval, bpf_setsockopt};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use redirect_abi::connect::{Connect, ConnectFacts, connect};
use redirect_abi::sockopt::{self, SO_MARK, SOL_SOCKET};
use redirect_abi::{Ip, LOOPBACK_IFINDEX, PORT_OUTBOUND, Reason, marks};

use crate::context::{bind_to_device, count, netns_cookie, place, pod, read, read_ip6, tag};
use crate::listeners::{Found, find};
use crate::maps::OLD_SOCKETS;
use crate::{restore, secondary};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub fn culvert_conn4(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    hook(ctx, Ip::from_v4(read!(ctx, user_ip4)), |socket| Ip::from_v4(read!(socket, src_ip4)))
}

#[cgroup_sock_addr(connect6)]
pub fn culvert_conn6(ctx: SockAddrContext) -> i32 {
    let ctx = ctx.sock_addr;
    hook(ctx, read_ip6!(ctx, user_ip6), |socket| read_ip6!(socket, src_ip6))
}

#[inline(always)]
fn hook(ctx: *mut bpf_sock_addr, destination: Ip, source: impl Fn(*mut bpf_sock) -> Ip) -> i32 {
    let cookie = netns_cookie(ctx);
    let Some(entry) = pod(cookie) else { return ALLOW };
    let socket = read!(ctx, __bindgen_anon_1.sk);
    if socket.is_null() {
        count(cookie, Reason::ConnectError);
        return REFUSE;
    }
    let source = source(socket);
    let mark = read!(socket, mark);
    let bound = read!(socket, bound_dev_if);
    // Accepted from the proxy, and disconnected since: that binding was ours (`socket::accepted`).
    let accepted = marks::returns(mark) && bound == LOOPBACK_IFINDEX;
    if accepted && !bind_to_device(ctx, sockopt::NO_DEVICE) {
        count(cookie, Reason::ConnectError);
        return REFUSE;
    }
    let facts = ConnectFacts {
        pod: Some(entry.state()),
        proxy: tag(socket).is_some(),
        kind: read!(socket, type_),
        protocol: read!(socket, protocol),
        mark,
        bound_device: if accepted { 0 } else { bound },
        destination: place(cookie, destination),
        family_served: entry.serves(&destination),
        source: if source.is_unspecified() { None } else { Some(place(cookie, source)) },
    };
    let elsewhere = || secondary::carries(cookie, entry, facts.bound_device, destination);
    let decision = connect(&facts, elsewhere, || find(cookie, entry, PORT_OUTBOUND, 0, |_| true) != Found::None);
    let result = act(ctx, cookie, mark, facts.proxy, decision);
    if !matches!(decision, Connect::Capture { .. }) {
        restore::forget(socket);
    } else if !restore::note(socket, destination, read!(ctx, user_port)) {
        count(cookie, Reason::ConnectError);
        return REFUSE;
    }
    result
}

#[inline(always)]
fn act(ctx: *mut bpf_sock_addr, cookie: u64, mark: u32, proxy: bool, decision: Connect) -> i32 {
    if !proxy {
        // A connection that was older than the enrolment, disconnected and connected anew, is old no more.
        // SAFETY: a helper call on the context.
        let socket = unsafe { bpf_get_socket_cookie(ctx.cast()) };
        if OLD_SOCKETS.get_ptr(&socket).is_some() && OLD_SOCKETS.remove(&socket).is_err() {
            count(cookie, Reason::ConnectError);
            return REFUSE;
        }
    }
    let (wanted, reason) = match decision {
        Connect::Ignore => return ALLOW,
        Connect::Pass { mark, reason } => (mark, reason),
        Connect::Capture { mark } => (mark, Some(Reason::Captured)),
        Connect::Refuse(reason) => {
            count(cookie, reason);
            if reason == Reason::ConnectNoListener {
                // SAFETY: a helper call; if it fails the refusal stays EPERM.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            return REFUSE;
        }
    };
    if wanted != mark && !set_mark(ctx, wanted) {
        count(cookie, Reason::ConnectError);
        return REFUSE;
    }
    if let Some(reason) = reason {
        count(cookie, reason);
    }
    ALLOW
}

#[inline(always)]
fn set_mark(ctx: *mut bpf_sock_addr, mut mark: u32) -> bool {
    let (value, length) = ((&raw mut mark).cast(), size_of::<u32>() as i32);
    // SAFETY: value and length describe the local variable.
    unsafe { bpf_setsockopt(ctx.cast(), SOL_SOCKET, SO_MARK, value, length) == 0 }
}
