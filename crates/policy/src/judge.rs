//! The order in which policies decide (discovery.md 4).

use std::sync::Arc;

use mesh::addr::canonical;
use mesh::authz::{Action, Authorization, is_network_policy};

use crate::matching::Facts;
use crate::miss::nearest;
use crate::set::{Applicable, PolicySet};
use crate::verdict::{Cause, Connection, Denial, DryRun, Effect, Judgement, Permit, Reason, Subject, Verdict};

/// Judges one connection to one subject.
///
/// 1. An enforced DENY rule that matches denies, whatever else may be missing.
/// 2. A policy that the subject names and the set does not hold leaves the answer unknown: it may be a DENY that takes
///    a yes away as well as an ALLOW that takes a no away.
/// 3. Without an enforced ALLOW policy it may pass.
/// 4. It may pass when an ALLOW rule matches; otherwise it may not, and the nearest miss is named.
///
/// Policies that stand for NetworkPolicies do not take part when a pod calls itself, by its Service for one: Kubernetes exempts
/// that (concept page "Network Policies": "a Pod cannot block access to itself"). Nobody else has the pod's address: a packet
/// from outside that shows it is a martian to the kernel. Nor do they when its own node calls in clear ("traffic to and from
/// the node where a Pod is running is always allowed"): programs of the node have no identity, and who has one is a pod, whatever
/// address it shows.
pub fn judge(set: &PolicySet, subject: &Subject, connection: &Connection) -> Judgement {
    let facts = Facts::new(connection);
    let Applicable { mut held, mut not_held } = set.applicable(subject);
    if connection.source_ip == connection.destination_ip || is_own_node(subject, connection) {
        held.retain(|(key, _)| !is_network_policy(key));
        not_held.retain(|key| !is_network_policy(key));
    }
    let enforced = |action: Action| held.iter().copied().filter(move |(_, p)| !p.dry_run && p.action == action);

    let verdict = if let Some((policy, rule)) = first_match(&facts, enforced(Action::Deny)) {
        Verdict::Denied(Denial { cause: Cause::DenyRule { policy, rule }, nearest: None })
    } else if !not_held.is_empty() {
        Verdict::Unknown(not_held)
    } else if enforced(Action::Allow).next().is_none() {
        Verdict::Permitted(Permit::new(connection.clone(), subject.clone(), Reason::NoAllowApplies))
    } else if let Some((policy, rule)) = first_match(&facts, enforced(Action::Allow)) {
        Verdict::Permitted(Permit::new(connection.clone(), subject.clone(), Reason::Rule { policy, rule }))
    } else {
        let nearest = nearest(&facts, enforced(Action::Allow));
        Verdict::Denied(Denial { cause: Cause::NoAllowMatched, nearest })
    };
    let dry = held.iter().filter(|(_, p)| p.dry_run);
    let dry_run = dry.map(|(key, policy)| dry_run(&facts, key, policy, &verdict)).collect();
    Judgement { verdict, dry_run }
}

fn is_own_node(subject: &Subject, connection: &Connection) -> bool {
    let source = canonical(connection.source_ip);
    let node = subject.node.iter().flat_map(|addresses| addresses.iter());
    connection.source.is_none() && node.into_iter().any(|own| canonical(*own) == source)
}

fn first_match<'a>(
    facts: &Facts<'_>,
    mut policies: impl Iterator<Item = (&'a Arc<str>, &'a Authorization)>,
) -> Option<(Arc<str>, usize)> {
    policies.find_map(|(key, policy)| Some((key.clone(), facts.matching_rule(policy)?)))
}

/// What enforcing this one policy beside the enforced ones would change.
fn dry_run(facts: &Facts<'_>, key: &Arc<str>, policy: &Authorization, verdict: &Verdict) -> DryRun {
    let rule = facts.matching_rule(policy);
    let effect = match (policy.action, rule, verdict) {
        (Action::Deny, Some(_), Verdict::Permitted(_)) => Effect::WouldDeny,
        (Action::Allow, None, Verdict::Permitted(p)) if *p.reason() == Reason::NoAllowApplies => Effect::WouldDeny,
        (Action::Allow, Some(_), Verdict::Denied(d)) if d.cause == Cause::NoAllowMatched => Effect::WouldPermit,
        _ => Effect::None,
    };
    DryRun { policy: key.clone(), action: policy.action, rule, effect }
}
