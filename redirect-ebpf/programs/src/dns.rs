//! tcx ingress on a pod's `lo`: which UDP questions to port 53 go to the proxy.
//!
//! What both sides agreed on:
//!
//! * **The proxy** binds, inside the pod's namespace, a UDP socket to the wildcard address and port 15053 (`[::]:15053` dual-stack, or one
//!   socket per family) and sets IP_TRANSPARENT / IPV6_TRANSPARENT on it. It is recognised by the tag that every socket of a
//!   registered cgroup has from birth. SO_REUSEPORT is wanted (several workers, two generations): kernels from 6.6 on pick anew among
//!   the members of a reuseport group, so each member must be able to answer: bind when discovery is there, close to stop. Older
//!   kernels cannot be told to use a socket with SO_REUSEPORT at all: there every question goes on to its server.
//! * **What arrives** is the application's own datagram: source = the pod's address and the application's port, destination = the
//!   server that was asked, port 53. The proxy reads the destination with IP_RECVORIGDSTADDR / IPV6_RECVORIGDSTADDR (address and
//!   port) or IP_PKTINFO / IPV6_RECVPKTINFO (address).
//! * **Answers** leave from a transparent UDP socket bound to (server, 53), SO_REUSEADDR and SO_REUSEPORT, to the application's
//!   address and port. They reach the application by `lo` (its address is local; rule 1 decides before any of ours), connected
//!   sockets too, and are not steered: their destination is the pod itself. No mark is needed on it.
//! * **The proxy's own questions** carry the mark 0x539 (`net::mark::ISTIO`, mask 0xfff), so that rule 4 sends them by the
//!   main table. A stock proxy has that mark on all its sockets. Without it they come back to port 15053.
//! * **Nobody is needed**: when no tagged socket is bound (proxy dead, not yet there, or DNS switched off in it), the question goes on to
//!   the server that was asked, by the pod's primary interface. Nothing is lost and nothing has to be switched.
//! * Not steered: destinations on loopback and the pod's own addresses, questions from source port 53 (an application that serves on
//!   port 53 answers a client there), sockets bound to a device, forwarded packets, and sockets with the mark 0x539.
//! * TCP to port 53 is captured like all TCP and arrives at 15001 with its original destination.
//! * Switched on per pod at enrolment (`PodSpec::dns`); enrolling again with another value switches it.

use aya_ebpf::bindings::{__sk_buff, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_redirect_neigh, bpf_sk_assign, bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use redirect_abi::dns::{DnsFacts, Question, question};
use redirect_abi::{PORT_DNS, PodValue, Reason};

use crate::context::{count, place, pod, tag};
use crate::maps::{POD_COOKIE, PRIMARY};
use crate::packet::{Ends, ends, load, protocol};
use crate::secondary;

/// `TCX_NEXT`: deliver it, or let the next program look at it.
const NEXT: i32 = -1;
/// `BPF_F_CURRENT_NETNS`: of the device, which is the pod's `lo`.
const CURRENT_NETNS: u64 = u64::MAX;
/// Sockets of others may be in the proxy's reuseport group; each try, with another source port, meets a member at random. Two
/// generations of a proxy need one; with as many strangers as members of ours, six miss once in 64.
const TRIES: u16 = 6;

#[classifier]
pub fn culvert_dns(ctx: TcContext) -> i32 {
    let Ok((ends, source_port, port)) = datagram(&ctx) else { return NEXT };
    if port != redirect_abi::dns::PORT {
        return NEXT;
    }
    let cookie = POD_COOKIE.load();
    let entry = pod(cookie);
    let facts = DnsFacts {
        pod: entry.map(PodValue::state),
        on: entry.is_some_and(|entry| entry.has(PodValue::DNS)),
        port,
        destination: place(cookie, ends.destination),
    };
    match question(&facts) {
        Question::Ignore => NEXT,
        Question::Steer if steer(ctx.skb.skb, &ends, source_port) => {
            count(cookie, Reason::DnsSteered);
            NEXT
        }
        Question::Steer | Question::Forward => forward(cookie, entry, &ends),
    }
}

/// Sends the packet where its sender meant it to go. Without an entry it is delivered here, and nobody listens.
#[inline(always)]
fn forward(cookie: u64, entry: Option<&PodValue>, ends: &Ends) -> i32 {
    let elsewhere = entry.map_or(0, |entry| secondary::route(cookie, entry, ends.destination));
    let device = if elsewhere != 0 {
        elsewhere
    } else {
        // SAFETY: the element stays readable while this program runs.
        let Some(primary) = (unsafe { PRIMARY.get(&cookie) }) else { return NEXT };
        *primary
    };
    count(cookie, Reason::DnsForwarded);
    // SAFETY: a helper call without memory: the kernel finds the neighbour by its routes.
    unsafe { bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32 }
}

#[inline(always)]
fn datagram(ctx: &TcContext) -> Result<(Ends, u16, u16), ()> {
    let ends = ends(ctx, protocol::UDP)?;
    let source = u16::from_be(load(ctx, ends.transport)?);
    Ok((ends, source, u16::from_be(load(ctx, ends.transport + 2)?)))
}

/// Gives the packet to a DNS socket of a proxy; whether there was one.
#[inline(always)]
fn steer(skb: *mut __sk_buff, ends: &Ends, source_port: u16) -> bool {
    // SAFETY: a structure of integers, written in full for the family that its length names.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let length = if ends.source.is_v4() {
        tuple.__bindgen_anon_1.ipv4.saddr = ends.source.0[3];
        tuple.__bindgen_anon_1.ipv4.daddr = ends.destination.0[3];
        tuple.__bindgen_anon_1.ipv4.dport = PORT_DNS.to_be();
        12
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = ends.source.0;
        tuple.__bindgen_anon_1.ipv6.daddr = ends.destination.0;
        tuple.__bindgen_anon_1.ipv6.dport = PORT_DNS.to_be();
        36
    };
    for attempt in 0..TRIES {
        let port = source_port.wrapping_add(attempt).to_be();
        if length == 12 {
            tuple.__bindgen_anon_1.ipv4.sport = port;
        } else {
            tuple.__bindgen_anon_1.ipv6.sport = port;
        }
        // SAFETY: the tuple is a local of at least this length; the answer is a referenced socket or null.
        let socket = unsafe { bpf_sk_lookup_udp(skb.cast(), &raw mut tuple, length, CURRENT_NETNS, 0) };
        if socket.is_null() {
            return false;
        }
        let ours = assign(skb, socket);
        // SAFETY: the reference taken above is given back once, on this only path.
        unsafe { bpf_sk_release(socket.cast()) };
        if ours {
            return true;
        }
    }
    false
}

#[inline(always)]
fn assign(skb: *mut __sk_buff, socket: *mut bpf_sock) -> bool {
    // SAFETY: helper calls on the context and a referenced socket.
    tag(socket).is_some() && unsafe { bpf_sk_assign(skb.cast(), socket.cast(), 0) } == 0
}
