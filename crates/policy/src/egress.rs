//! What a workload may dial (egress NetworkPolicies), judged where it dials, before anything leaves.
//!
//! The policies are those that the source names in [`Egress`], in the form of DENY policies; what they compare is address and
//! port of the destination as Kubernetes has it: those of the pod behind a Service, or where no pod is known those that
//! were dialled. A connection whose end the source does not choose, because a waypoint does, may end at any of several
//! targets, and passes when it may reach all of them.
//!
//! Not judged: what a workload says to itself (Kubernetes, "Network Policies": "a Pod cannot block access to itself") and to
//! its own node ([`Egress::exempt`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh::Workload;
use mesh::addr::canonical;
use mesh::authz::{Action, Authorization, Match};
use mesh::workload::Egress;

use crate::matching::{Facts, Held};
use crate::miss::{Kind, NearestMiss, any, got, not};
use crate::set::PolicySet;
use crate::verdict::{Cause, Connection, Denial};

/// Where a connection may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The address; `None` where only a name is known, which somebody else looks up. Only what may be dialled at every
    /// address may be dialled there.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for Target {
    fn from(at: SocketAddr) -> Self {
        Self { ip: Some(canonical(at.ip())), port: at.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, "a name on port {}", self.port),
        }
    }
}

/// Proof that a workload may dial. Only [`judge`] and [`Leave::unrestricted`] make one.
///
/// ```compile_fail,E0451
/// let forged = policy::egress::Leave { targets: None };
/// ```
#[derive(Debug)]
#[must_use = "a permit that nobody uses opened nothing"]
pub struct Leave {
    /// What was judged; `None` when nothing restricts the source.
    targets: Option<Box<[Target]>>,
}

impl Leave {
    /// For a workload that no policy restricts, which is nearly every one: it may dial anything, and nothing is looked at.
    pub fn unrestricted(source: &Workload) -> Option<Self> {
        source.egress.is_none().then_some(Self { targets: None })
    }

    /// Whether it covers a target.
    pub fn covers(&self, target: Target) -> bool {
        self.targets.as_ref().is_none_or(|all| all.contains(&target))
    }
}

/// May it dial?
#[derive(Debug)]
pub enum Verdict {
    /// No.
    Denied(Denial),
    /// Yes.
    Permitted(Leave),
    /// Cannot be told yet: the workload names these policies, which the set does not hold. Hold the connection for a while,
    /// then deny it ([`Denial::not_held`]).
    Unknown(Vec<Arc<str>>),
}

/// Judges whether a workload may dial what may end at any of these targets.
///
/// 1. A policy that lets one of the targets not be reached denies, whatever else may be missing.
/// 2. A policy that is named and not held leaves the answer unknown.
/// 3. Otherwise it may.
pub fn judge(set: &PolicySet, source: &Workload, targets: Vec<Target>) -> Verdict {
    let Some(egress) = source.egress.as_deref() else { return Verdict::Permitted(Leave { targets: None }) };
    let mut judged: Vec<Target> = targets.iter().copied().filter(|t| !exempt(source, egress, *t)).collect();
    judged.sort_unstable();
    judged.dedup();
    let mut not_held = Vec::new();
    for key in &egress.policies {
        let Some(policy) = set.get(key) else {
            not_held.push(key.clone());
            continue;
        };
        if let Some(denial) = judged.iter().find_map(|target| denial(key, &policy, *target)) {
            return Verdict::Denied(denial);
        }
    }
    if !not_held.is_empty() && !judged.is_empty() {
        return Verdict::Unknown(not_held);
    }
    Verdict::Permitted(Leave { targets: Some(targets.into()) })
}

fn exempt(source: &Workload, egress: &Egress, target: Target) -> bool {
    let is = |other: &IpAddr| target.ip == Some(canonical(*other));
    source.addresses.iter().any(is) || egress.exempt.iter().any(is)
}

/// Why a policy does not let a target be reached, if it does not.
fn denial(key: &Arc<str>, policy: &Authorization, target: Target) -> Option<Denial> {
    let connection = Connection {
        source: None,
        // Of the source nothing is compared: the policy is its own.
        source_ip: Ipv4Addr::UNSPECIFIED.into(),
        destination_ip: target.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        destination_port: target.port,
    };
    let facts = Facts { destination_ip: target.ip, ..Facts::new(&connection) };
    let matching = facts.matching_rule(policy);
    let nearest = match (policy.action, matching) {
        (_, _) if policy.dry_run => return None,
        (Action::Deny, None) | (Action::Allow, Some(_)) => return None,
        (Action::Deny, Some(rule)) => nearest(&facts, key, policy, rule),
        // Control sends none; as everywhere, it lets through what it matches and nothing else.
        (Action::Allow, None) => None,
    };
    Some(Denial { cause: Cause::Egress { policy: key.clone(), target }, nearest })
}

/// Which of the things that are let out came closest. A clause of the rule is "not this", so that each of its matches which
/// holds is something that the connection lacked.
fn nearest(facts: &Facts<'_>, key: &Arc<str>, policy: &Authorization, rule: usize) -> Option<NearestMiss> {
    let clauses = &policy.rules.get(rule)?.clauses;
    let lacks = |matches: &[Match]| -> Vec<(Kind, String)> {
        let holding =
            matches.iter().flat_map(|m| lets(m).into_iter().filter(|(kind, ..)| facts.kind(m, *kind) == Held::Yes));
        holding.map(|(_, wanted, text)| (wanted, text)).collect()
    };
    let closest = clauses.iter().map(|c| lacks(&c.matches)).filter(|l| !l.is_empty()).min_by_key(Vec::len)?;
    let others = closest.len() - 1;
    let (kind, wanted) = closest.into_iter().next()?;
    Some(NearestMiss { policy: key.clone(), rule, kind: Some(kind), wanted, got: got(facts, kind), others })
}

/// The kinds of a match that say what is let out: each with the kind that would have to hold, and its values.
fn lets(m: &Match) -> [(Kind, Kind, String); 3] {
    [
        (Kind::NotDestinationPorts, Kind::DestinationPorts, any(&m.not_destination_ports)),
        (Kind::DestinationPorts, Kind::DestinationPorts, not(&m.destination_ports)),
        (Kind::NotDestinationIps, Kind::DestinationIps, any(&m.not_destination_ips)),
    ]
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
