//! "Whatever none of them lets through", as clauses.
//!
//! A policy matches when a rule matches, a rule when all its clauses hold, a clause when one of its matches holds, a match
//! when all its kinds hold (discovery.md 4, "Evaluation"). So one DENY rule whose clauses are one for each allowance,
//! each "not its peers, or not its ports", matches exactly what no allowance lets through:
//!
//! ```text
//! deny  =  AND over allowances of ( other end not in peers  OR  port not in ports )
//! ```
//!
//! An empty list is "anything" on the wire, so that lists which happen to be empty are told apart before: an allowance
//! that lets nothing through makes no clause (it always holds), and without any clause the rule denies everything.

use mesh::addr::Cidr;
use mesh::authz::{Clause, Match, Rule};

use super::Direction;
use crate::policies::blocks::merged;

/// An allowance with everything looked up. `None` is "any".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Let {
    pub(super) peers: Option<Vec<Cidr>>,
    pub(super) ports: Option<Vec<(u16, u16)>>,
}

/// The DENY rule of a pod that is isolated by policies which let these through. `None`: everything is let through.
pub(super) fn rule(direction: Direction, lets: impl IntoIterator<Item = Let>) -> Option<Rule> {
    // Those for the same ports become one: not A, and not B, is neither.
    let mut by_ports: Vec<Let> = Vec::new();
    for one in lets {
        let one = Let { ports: one.ports.and_then(joined), ..one };
        if one.ports.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        match by_ports.iter_mut().find(|l| l.ports == one.ports) {
            Some(same) => same.peers = same.peers.take().zip(one.peers).map(|(a, b)| [a, b].concat()),
            None => by_ports.push(one),
        }
    }
    let mut clauses = Vec::new();
    for Let { peers, ports } in by_ports {
        let peers = match peers.map(merged) {
            None => None,
            Some(blocks) if blocks.is_empty() => continue,
            Some(blocks) => Some(match direction {
                Direction::Egress => Match { not_destination_ips: blocks, ..Match::default() },
                Direction::Ingress => Match { not_source_ips: blocks, ..Match::default() },
            }),
        };
        let matches: Vec<Match> = peers.into_iter().chain(ports.map(not_on)).collect();
        if matches.is_empty() {
            return None;
        }
        clauses.push(Clause { matches });
    }
    Some(Rule { clauses })
}

/// Whether these are all ports.
pub(super) fn whole(ports: Vec<(u16, u16)>) -> bool {
    joined(ports).is_none()
}

/// Sorted ranges with gaps between them; `None` for all ports.
fn joined(mut ranges: Vec<(u16, u16)>) -> Option<Vec<(u16, u16)>> {
    ranges.sort_unstable();
    let mut done: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match done.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => done.push((first, last)),
        }
    }
    (done != [(1, u16::MAX)]).then_some(done)
}

/// None of these ports. The wire has single ports only, so that of a wide range those beside it are named: never more than
/// 32 768, which are about 100 kB.
fn not_on(ranges: Vec<(u16, u16)>) -> Match {
    let count: usize = ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum();
    if count <= usize::from(u16::MAX / 2) + 1 {
        let not_destination_ports = ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
        return Match { not_destination_ports, ..Match::default() };
    }
    let mut destination_ports = Vec::new();
    let mut next = 1;
    for (first, last) in ranges {
        destination_ports.extend(next..first);
        let Some(after) = last.checked_add(1) else { return Match { destination_ports, ..Match::default() } };
        next = after;
    }
    destination_ports.extend(next..=u16::MAX);
    Match { destination_ports, ..Match::default() }
}
