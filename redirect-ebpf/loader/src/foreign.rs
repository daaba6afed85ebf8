//! What others have put into a pod that would fight with our capture: another mesh's rules, and rules that use our tables or marks.
//!
//! Two meshes in one pod would each redirect what the other sends; the pod is refused before anything is changed.

use std::io;

use redirect_abi::marks;

use crate::EnrollError;
use crate::netlink::{DUMP, Protocol, Request, Socket, attributes};
use crate::routing;

const RTM_GETRULE: u16 = 34;
// include/uapi/linux/netfilter/nfnetlink.h, nf_tables.h
const NFT_GETCHAIN: u16 = 10 << 8 | 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
// include/uapi/linux/fib_rules.h
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

/// One names the mesh; some more do no harm.
const ENOUGH: usize = 16;

/// A policy routing rule as the kernel lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    pub(crate) preference: u32,
    pub(crate) mark: u32,
    pub(crate) mask: u32,
    pub(crate) table: u32,
}

/// Looks for both in the calling thread's namespace.
pub(crate) fn check(uid: &str) -> Result<(), EnrollError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| EnrollError::Route { what, source }
    };
    let rules = rules().map_err(failed("list rules"))?;
    let chains = chains().map_err(failed("list netfilter chains"))?;
    if let Some((mesh, found)) = mesh(&rules, &chains) {
        return Err(EnrollError::OtherMesh { uid: uid.into(), mesh, found });
    }
    match rules.iter().find_map(|rule| conflict(*rule)) {
        Some(found) => Err(EnrollError::Conflict { uid: uid.into(), found }),
        None => Ok(()),
    }
}

/// Names the mesh that captures this namespace, and what shows it.
fn mesh(rules: &[Rule], chains: &[(String, String)]) -> Option<(&'static str, String)> {
    if let Some(rule) = rules.iter().find(|rule| istio(rule)) {
        return Some(("Istio ambient", format!("rule {}: mark 0x111/0xfff to table 100", rule.preference)));
    }
    chains
        .iter()
        .find_map(|(table, chain)| Some((owner(table, chain)?, format!("netfilter chain {chain} in table {table}"))))
}

fn istio(rule: &Rule) -> bool {
    (rule.mark, rule.mask, rule.table) == (0x111, 0xfff, 100)
}

/// Whose netfilter chain it is (cni-zds.md section 4; the init programs of Linkerd and Kuma).
fn owner(table: &str, chain: &str) -> Option<&'static str> {
    if table.starts_with("istio-ambient-") {
        Some("Istio ambient")
    } else if chain.starts_with("ISTIO_") {
        Some("Istio")
    } else if chain.starts_with("PROXY_INIT_") {
        Some("Linkerd")
    } else if chain.starts_with("KUMA_MESH_") || table.starts_with("kuma-mesh") {
        Some("Kuma")
    } else {
        None
    }
}

/// What makes a rule unbearable beside ours.
fn conflict(rule: Rule) -> Option<String> {
    if routing::ours(rule) {
        return None;
    }
    let Rule { preference, mark, mask, table } = rule;
    if routing::TABLES.contains(&table) {
        return Some(format!("rule {preference} leads to table {table}"));
    }
    (mask & mark & marks::MASK != 0).then(|| format!("rule {preference} looks for mark {mark:#x}/{mask:#x}"))
}

/// Rules that matter; root in a pod can make as many others as it likes, so those are not kept.
fn rules() -> io::Result<Vec<Rule>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0u8; 12];
        header[0] = family as u8;
        let socket = Socket::open(Protocol::Route)?;
        socket.exchange(Request::new(RTM_GETRULE, DUMP).bytes(&header), |answer| {
            let wanted = |rule: &Rule| istio(rule) || conflict(*rule).is_some();
            found.extend(rule(answer).filter(wanted).filter(|_| found.len() < ENOUGH));
            Ok(())
        })?;
    }
    Ok(found)
}

fn rule(answer: &[u8]) -> Option<Rule> {
    let table = u32::from(*answer.get(4)?);
    let word = |wanted: u16| {
        let (_, value) = attributes(answer.get(12..)?).find(|(kind, _)| *kind == wanted)?;
        value.try_into().ok().map(u32::from_ne_bytes)
    };
    Some(Rule {
        preference: word(FRA_PRIORITY).unwrap_or(0),
        mark: word(FRA_FWMARK).unwrap_or(0),
        mask: word(FRA_FWMASK).unwrap_or(0),
        table: word(FRA_TABLE).unwrap_or(table),
    })
}

/// Table and name of netfilter chains of meshes, those of `iptables-nft` among them, and of `iptables-legacy` where the kernel has it.
fn chains() -> io::Result<Vec<(String, String)>> {
    let wanted = |(table, chain): &(String, String)| owner(table, chain).is_some();
    let mut found = Vec::new();
    let text = |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
    let listed = Socket::open(Protocol::Netfilter).and_then(|socket| {
        // struct nfgenmsg: family (all), version, resource
        socket.exchange(Request::new(NFT_GETCHAIN, DUMP).bytes(&[0; 4]), |answer| {
            let attribute = |wanted: u16| {
                attributes(answer.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| text(value))
            };
            let chain = attribute(NFTA_CHAIN_TABLE).zip(attribute(NFTA_CHAIN_NAME));
            found.extend(chain.filter(wanted).filter(|_| found.len() < ENOUGH));
            Ok(())
        })
    });
    match listed {
        // A kernel without nf_tables has no chains of it.
        Err(error) if absent(&error) => {}
        other => other?,
    }
    found.extend(crate::xtables::chains()?.into_iter().filter(wanted));
    Ok(found)
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOENT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(preference: u32, mark: u32, mask: u32, table: u32) -> Rule {
        Rule { preference, mark, mask, table }
    }

    #[test]
    fn rules_that_fight_with_ours() {
        for (rule, fights) in [
            (rule(0, 0, 0, 255), false),
            (rule(32766, 0, 0, 254), false),
            (rule(2, 0x1000, 0x1000, 100), false),
            (rule(0, 0x2000, 0x2000, 101), false),
            (rule(6, 0, 0, 100), false),
            (rule(1000, 0, 0, 100), true),
            (rule(1000, 0, 0, 101), true),
            (rule(2, 0, 0, 100), true),
            (rule(50, 0x1, 0xffff_ffff, 50), false),
            (rule(50, 0x1000, 0xf000, 50), true),
            (rule(50, 0x4000, 0x4000, 50), false),
        ] {
            assert_eq!(conflict(rule).is_some(), fights, "{rule:?}");
        }
    }

    #[test]
    fn meshes_are_named() {
        let chain = |table: &str, chain: &str| vec![(table.to_owned(), chain.to_owned())];
        let none: &[(String, String)] = &[];
        assert_eq!(mesh(&[rule(32764, 0x111, 0xfff, 100)], none).unwrap().0, "Istio ambient");
        assert_eq!(mesh(&[], &chain("istio-ambient-nat", "istio-output")).unwrap().0, "Istio ambient");
        assert_eq!(mesh(&[], &chain("nat", "ISTIO_OUTPUT")).unwrap().0, "Istio");
        assert_eq!(mesh(&[], &chain("nat", "PROXY_INIT_REDIRECT")).unwrap().0, "Linkerd");
        assert_eq!(mesh(&[], &chain("nat", "KUMA_MESH_INBOUND")).unwrap().0, "Kuma");
        assert!(mesh(&[rule(2, 0x1000, 0x1000, 100)], &chain("nat", "DOCKER")).is_none());
    }
}
