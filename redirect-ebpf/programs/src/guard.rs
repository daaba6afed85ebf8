//! tcx ingress on the host's end of a pod's veth: what may leave the pod.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use redirect_abi::guard::{Content, Sender, Verdict, carried, ether, guard};

use crate::context::{count, pod, read};
use crate::maps::{OLD_SOCKETS, POD_COOKIE, PROXIES};
use crate::packet::{ETHERNET, IPV6_HEADER, load, protocol};
use crate::probe;

/// `TCX_NEXT`: let the next program (another CNI's) look at it.
const NEXT: i32 = -1;
/// `TCX_DROP`.
const DROP: i32 = 2;
/// Extension headers to look through (RFC 8200 section 4.1 names six, and each should occur once).
const EXTENSIONS: usize = 6;

#[classifier]
pub fn culvert_guard(ctx: TcContext) -> i32 {
    let cookie = POD_COOKIE.load();
    let Some(entry) = pod(cookie) else { return NEXT };
    let verdict = guard(
        entry.state(),
        content(&ctx).unwrap_or(Content::Malformed),
        || sender(ctx.skb.skb),
        || probe::answered(&ctx, cookie),
    );
    match verdict {
        Verdict::Pass(reason) => {
            count(cookie, reason);
            NEXT
        }
        Verdict::Drop(reason) => {
            count(cookie, reason);
            DROP
        }
    }
}

/// Whose packet this is: the socket travels with it across the veth.
#[inline(always)]
fn sender(skb: *mut __sk_buff) -> Sender {
    let socket = read!(skb, __bindgen_anon_2.sk);
    if socket.is_null() {
        return Sender::Nobody;
    }
    // SAFETY: a helper call on the context; 0 when no full socket stands behind the packet.
    let cgroup = unsafe { bpf_skb_cgroup_id(skb) };
    // SAFETY: a helper call on a socket that was checked not to be null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    if PROXIES.get_ptr(&cgroup).is_some() {
        return Sender::Proxy { mark: if full.is_null() { 0 } else { read!(full, mark) } };
    }
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if OLD_SOCKETS.get_ptr(&cookie).is_some() {
        return Sender::Old;
    }
    if !full.is_null() {
        Sender::App { mark: read!(full, mark) }
    } else if cgroup != 0 {
        // A request of an app's listener.
        Sender::App { mark: 0 }
    } else {
        Sender::Nobody
    }
}

#[inline(always)]
fn content(ctx: &TcContext) -> Result<Content, ()> {
    let skb = ctx.skb.skb;
    if read!(skb, vlan_present) != 0 {
        return Ok(Content::OtherEther);
    }
    match u16::from_be(read!(skb, protocol) as u16) {
        ether::IPV4 => ipv4(ctx),
        ether::IPV6 => ipv6(ctx),
        ether::ARP => Ok(Content::Arp),
        _ => Ok(Content::OtherEther),
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Result<Content, ()> {
    let version: u8 = load(ctx, ETHERNET)?;
    let header = usize::from(version & 0xf) * 4;
    if version >> 4 != 4 || header < 20 {
        return Err(());
    }
    // Every fragment repeats the protocol, and reassembly wants them equal (RFC 791 section 3.2).
    let fragment = u16::from_be(load(ctx, ETHERNET + 6)?) & 0x3fff != 0;
    transport(ctx, load(ctx, ETHERNET + 9)?, ETHERNET + header, header - 20, fragment)
}

#[inline(always)]
fn ipv6(ctx: &TcContext) -> Result<Content, ()> {
    let mut next: u8 = load(ctx, ETHERNET + 6)?;
    let mut offset = ETHERNET + IPV6_HEADER;
    for _ in 0..EXTENSIONS {
        match next {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                next = load(ctx, offset)?;
                // Length in units of 8 bytes, not counting the first (RFC 8200 section 4.3). The sum stays below 14 + 40 + 6 * 2048.
                offset += (usize::from(load::<u8>(ctx, offset + 1)?) + 1) * 8;
            }
            // The first fragment's header tells what the packet will be; one that hides it behind more headers is refused.
            protocol::FRAGMENT => return transport(ctx, load(ctx, offset)?, offset + 8, 0, true),
            _ => return transport(ctx, next, offset, offset - ETHERNET - IPV6_HEADER, false),
        }
    }
    Err(())
}

#[inline(always)]
fn transport(ctx: &TcContext, protocol: u8, offset: usize, options: usize, fragment: bool) -> Result<Content, ()> {
    match protocol {
        protocol::ICMP | protocol::ICMPV6 => Ok(Content::Icmp),
        protocol::UDP if fragment => Ok(Content::Udp { dns: false }),
        protocol::UDP => {
            const DNS: u16 = 53;
            let source = u16::from_be(load(ctx, offset)?);
            let destination = u16::from_be(load(ctx, offset + 2)?);
            Ok(Content::Udp { dns: source == DNS || destination == DNS })
        }
        _ if fragment => Ok(Content::Fragment),
        protocol::TCP => tcp(ctx, offset, options),
        _ => Ok(Content::OtherProtocol),
    }
}

#[inline(always)]
fn tcp(ctx: &TcContext, offset: usize, options: usize) -> Result<Content, ()> {
    let header = usize::from(load::<u8>(ctx, offset + 12)? >> 4) * 4;
    let flags: u8 = load(ctx, offset + 13)?;
    let (length, end) = (ctx.len() as usize, offset + header);
    if header < 20 || end > length {
        return Err(());
    }
    // All bytes of the frame count, also those after the length that the IP header admits to.
    Ok(Content::Tcp { flags, payload: carried(flags, (length - end) as u32, (options + header - 20) as u32) })
}
