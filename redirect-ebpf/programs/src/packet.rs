//! Reading headers of packets at tcx hooks.

use aya_ebpf::programs::TcContext;
use redirect_abi::Ip;
use redirect_abi::guard::ether;

use crate::context::read;

/// Length of an Ethernet header; `lo` has one too.
pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV6_HEADER: usize = 40;

/// IP protocol numbers.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DESTINATION: u8 = 60;
}

/// Addresses of a packet, and where its transport header starts.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) source: Ip,
    pub(crate) destination: Ip,
    pub(crate) transport: usize,
}

/// Addresses of a packet of this transport protocol; nothing for fragments, and for IPv6 with extension headers.
#[inline(always)]
pub(crate) fn ends(ctx: &TcContext, wanted: u8) -> Result<Ends, ()> {
    match u16::from_be(read!(ctx.skb.skb, protocol) as u16) {
        ether::IPV4 => {
            // First what turns most packets away.
            if load::<u8>(ctx, ETHERNET + 9)? != wanted {
                return Err(());
            }
            let version: u8 = load(ctx, ETHERNET)?;
            let header = usize::from(version & 0xf) * 4;
            let fragment = u16::from_be(load(ctx, ETHERNET + 6)?) & 0x3fff != 0;
            if version >> 4 != 4 || header < 20 || fragment {
                return Err(());
            }
            let (source, destination) = (load(ctx, ETHERNET + 12)?, load(ctx, ETHERNET + 16)?);
            let transport = ETHERNET + header;
            Ok(Ends { source: Ip::from_v4(source), destination: Ip::from_v4(destination), transport })
        }
        ether::IPV6 => {
            if load::<u8>(ctx, ETHERNET + 6)? != wanted {
                return Err(());
            }
            let (source, destination) = (load(ctx, ETHERNET + 8)?, load(ctx, ETHERNET + 24)?);
            Ok(Ends { source: Ip(source), destination: Ip(destination), transport: ETHERNET + IPV6_HEADER })
        }
        _ => Err(()),
    }
}

#[inline(always)]
pub(crate) fn load<T>(ctx: &TcContext, offset: usize) -> Result<T, ()> {
    ctx.load(offset).map_err(|_| ())
}
