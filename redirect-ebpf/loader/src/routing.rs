//! Policy routing in the pod's namespace, both families.
//!
//! | preference | rule | why |
//! |---|---|---|
//! | 0 | mark RETURN → table 101 (`local <pod> dev lo`) | the proxy's SYN to the app shows ifindex 1 and does not look like inbound |
//! | 1 | table local | moved from 0; the pod's own addresses |
//! | 2 | mark CAPTURE → table 100 (`local default dev lo src <pod>`) | a captured connect loops to lo with its true source and destination |
//! | 3 | mark RETURN → table 100 | the app's answers to a client's address loop to lo |
//! | 4 | UDP to 53 with Istio's mark 0x539 → main | the proxy's own questions |
//! | 5 | UDP from 53 to 53 → main | an app that serves on port 53 answers a client there |
//! | 6 | UDP to 53 → table 100 | questions loop to lo, where the proxy's socket gets them |
//!
//! Rules 4 to 6 stand only while DNS is switched on, and concern only what the pod itself sends (`iif lo`).

use std::io;
use std::net::IpAddr;

use redirect_abi::marks;

use crate::EnrollError;
use crate::netlink::{ACK, CREATE, EXCLUSIVE, Protocol, REPLACE, Request, Socket};

// include/uapi/linux/rtnetlink.h, fib_rules.h
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FR_ACT_TO_TBL: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
pub(crate) const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
pub(crate) const TABLE_LOOP: u8 = 100;
pub(crate) const TABLE_SELF: u8 = 101;
const LO: u32 = redirect_abi::LOOPBACK_IFINDEX;

/// The families with the addresses a pod has in each.
struct Family<'a> {
    number: u8,
    bits: u8,
    addresses: Vec<&'a IpAddr>,
}

#[derive(Clone, Copy)]
struct Rule {
    preference: u32,
    /// Value and mask.
    mark: Option<(u32, u32)>,
    /// Only UDP that the pod itself sends to port 53.
    questions: bool,
    /// Only from port 53.
    from_server: bool,
    table: u8,
}

const fn rule(preference: u32, mark: Option<(u32, u32)>, table: u8) -> Rule {
    Rule { preference, mark, questions: false, from_server: false, table }
}

const SELF_RULE: Rule = rule(0, Some((marks::RETURN, marks::RETURN)), TABLE_SELF);
const LOCAL_MOVED: Rule = rule(1, None, TABLE_LOCAL);
const LOCAL_STOCK: Rule = rule(0, None, TABLE_LOCAL);
const LOOP_RULES: [Rule; 2] = [
    rule(2, Some((marks::CAPTURE, marks::CAPTURE)), TABLE_LOOP),
    rule(3, Some((marks::RETURN, marks::RETURN)), TABLE_LOOP),
];
/// The exceptions stand before what they except.
const DNS_RULES: [Rule; 3] = [
    Rule { questions: true, ..rule(4, Some((marks::STOCK, marks::STOCK_MASK)), TABLE_MAIN) },
    Rule { questions: true, from_server: true, ..rule(5, None, TABLE_MAIN) },
    Rule { questions: true, ..rule(6, None, TABLE_LOOP) },
];

/// The tables that are ours in a pod.
pub(crate) const TABLES: [u32; 2] = [TABLE_LOOP as u32, TABLE_SELF as u32];

/// Whether a listed rule is one of ours.
pub(crate) fn ours(found: crate::foreign::Rule) -> bool {
    let all = [SELF_RULE, LOOP_RULES[0], LOOP_RULES[1], DNS_RULES[0], DNS_RULES[1], DNS_RULES[2]];
    all.iter().any(|rule| {
        (rule.preference, u32::from(rule.table), rule.mark.unwrap_or((0, 0)))
            == (found.preference, found.table, (found.mark, found.mask))
    })
}

/// Sets routes and rules; repairs what is there. The calling thread must be in the pod's namespace.
pub(crate) fn up(addresses: &[IpAddr]) -> Result<(), EnrollError> {
    let socket = open()?;
    for family in families(addresses) {
        // Routes first: a rule that leads into an empty table falls through to the wire.
        for address in &family.addresses {
            socket
                .acknowledged(self_route(RTM_NEWROUTE, CREATE | REPLACE, address))
                .map_err(route(address, "table 101"))?;
        }
        if let Some(address) = family.addresses.first() {
            let request = loop_route(RTM_NEWROUTE, CREATE | REPLACE, &family, Some(address));
            socket.acknowledged(request).map_err(route(address, "table 100"))?;
        }
        for rule in [LOCAL_MOVED, SELF_RULE, LOOP_RULES[0], LOOP_RULES[1]] {
            present(&socket, &family, rule)?;
        }
        absent(&socket, &family, LOCAL_STOCK)?;
    }
    Ok(())
}

/// Leads the pod's questions to `lo`, or no more. The calling thread must be in the pod's namespace.
pub(crate) fn questions(addresses: &[IpAddr], on: bool) -> Result<(), EnrollError> {
    let socket = open()?;
    for family in families(addresses) {
        if on {
            DNS_RULES.iter().try_for_each(|rule| present(&socket, &family, *rule))?;
        } else {
            DNS_RULES.iter().rev().try_for_each(|rule| absent(&socket, &family, *rule))?;
        }
    }
    Ok(())
}

/// Takes rules and routes away again; what is not there is not missed.
pub(crate) fn down(addresses: &[IpAddr]) -> Result<(), EnrollError> {
    questions(addresses, false)?;
    let socket = open()?;
    for family in families(addresses) {
        present(&socket, &family, LOCAL_STOCK)?;
        for rule in [SELF_RULE, LOOP_RULES[0], LOOP_RULES[1], LOCAL_MOVED] {
            absent(&socket, &family, rule)?;
        }
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        };
        for address in &family.addresses {
            gone(socket.acknowledged(self_route(RTM_DELROUTE, 0, address))).map_err(route(address, "table 101"))?;
        }
        if let Some(address) = family.addresses.first() {
            let request = loop_route(RTM_DELROUTE, 0, &family, None);
            gone(socket.acknowledged(request)).map_err(route(address, "table 100"))?;
        }
    }
    Ok(())
}

fn open() -> Result<Socket, EnrollError> {
    Socket::open(Protocol::Route).map_err(|source| EnrollError::Route { what: "rtnetlink".into(), source })
}

fn families(addresses: &[IpAddr]) -> impl Iterator<Item = Family<'_>> {
    let v4 = addresses.iter().filter(|a| a.is_ipv4()).collect();
    let v6 = addresses.iter().filter(|a| a.is_ipv6()).collect();
    [
        Family { number: libc::AF_INET as u8, bits: 32, addresses: v4 },
        Family { number: libc::AF_INET6 as u8, bits: 128, addresses: v6 },
    ]
    .into_iter()
    .filter(|family| !family.addresses.is_empty())
}

fn present(socket: &Socket, family: &Family<'_>, rule: Rule) -> Result<(), EnrollError> {
    match socket.acknowledged(rule_request(RTM_NEWRULE, CREATE | EXCLUSIVE, family, rule)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map_err(|source| rule_error("add", family, rule, source)),
    }
}

fn absent(socket: &Socket, family: &Family<'_>, rule: Rule) -> Result<(), EnrollError> {
    // The same rule may be there twice after an interrupted change; the number of rounds is bounded all the same.
    for _ in 0..4 {
        match socket.acknowledged(rule_request(RTM_DELRULE, 0, family, rule)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            other => other.map_err(|source| rule_error("delete", family, rule, source))?,
        }
    }
    Ok(())
}

fn rule_error(verb: &str, family: &Family<'_>, rule: Rule, source: io::Error) -> EnrollError {
    let version = if family.bits == 32 { 4 } else { 6 };
    let what = format!("{verb} IPv{version} rule {} to table {}", rule.preference, rule.table);
    EnrollError::Route { what, source }
}

fn rule_request(kind: u16, flags: u16, family: &Family<'_>, rule: Rule) -> Request {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags
    let request = Request::new(kind, ACK | flags)
        .bytes(&[family.number, 0, 0, 0, rule.table, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0])
        .attribute_u32(FRA_PRIORITY, rule.preference)
        .attribute_u32(FRA_TABLE, rule.table.into());
    let request = match rule.mark {
        Some((mark, mask)) => request.attribute_u32(FRA_FWMARK, mark).attribute_u32(FRA_FWMASK, mask),
        None => request,
    };
    if !rule.questions {
        return request;
    }
    // struct fib_rule_port_range: start, end, host byte order
    let [low, high] = redirect_abi::dns::PORT.to_ne_bytes();
    let range = [low, high, low, high];
    let request = request
        .attribute(FRA_IIFNAME, b"lo\0")
        .attribute(FRA_IP_PROTO, &[redirect_abi::dns::UDP])
        .attribute(FRA_DPORT_RANGE, &range);
    if rule.from_server { request.attribute(FRA_SPORT_RANGE, &range) } else { request }
}

fn route<'a>(address: &'a IpAddr, table: &'a str) -> impl Fn(io::Error) -> EnrollError + 'a {
    move |source| EnrollError::Route { what: format!("route of {address} in {table}"), source }
}

fn self_route(kind: u16, flags: u16, address: &IpAddr) -> Request {
    let (family, bits) = if address.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    route_request(kind, flags, family as u8, bits, TABLE_SELF).attribute(RTA_DST, &octets(address))
}

fn loop_route(kind: u16, flags: u16, family: &Family<'_>, source: Option<&IpAddr>) -> Request {
    let request = route_request(kind, flags, family.number, 0, TABLE_LOOP);
    match source {
        Some(source) => request.attribute(RTA_PREFSRC, &octets(source)),
        None => request,
    }
}

fn route_request(kind: u16, flags: u16, family: u8, prefix: u8, table: u8) -> Request {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    Request::new(kind, ACK | flags)
        .bytes(&[family, prefix, 0, 0, table, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0])
        .attribute_u32(RTA_TABLE, table.into())
        .attribute_u32(RTA_OIF, LO)
}

pub(crate) fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
