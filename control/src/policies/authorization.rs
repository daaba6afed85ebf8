//! AuthorizationPolicy, lowered to what a node proxy can judge (discovery.md 4, "How istiod lowers Kubernetes policy").
//!
//! # What L4 cannot see
//!
//! A node proxy sees identities, addresses and ports; hosts, paths, methods, tokens and forwarded addresses it does not
//! see. Istio drops an ALLOW rule that asks for one of those, which only forbids more; so do we. From a DENY rule Istio
//! strips them inside each match, and a match that is left empty matches nothing: `from: principal X` with
//! `to: path /admin` then denies nothing at all, although its author asked for a denial. We never take less than what was
//! asked:
//!
//! - A rule is read as its alternatives: one source, one operation, all conditions. Each alternative denies on its L4
//!   part, whatever stood beside that part. That is what Istio's wire does when a match keeps an L4 field
//!   (`ports` + `paths` denies on `ports`), and is stricter where Istio's disarms (`X` + `/admin` denies X).
//! - An alternative without any L4 part is left out: it would forbid everything, and an outage is not what its author
//!   asked for either. If that leaves a policy without rules, its condition is False: "has no effect at L4".
//! - A value that cannot be read (a port that is none, an address that is none) counts as one that cannot be seen: the
//!   ALLOW gets smaller, the DENY wider.
//!
//! A rule that its author left empty (`- {}`) matches everything, as in Istio.

mod lower;
mod request;
mod value;

use std::sync::Arc;

use kubernetes::object::security as api;
use mesh::authz::{Action, Authorization, Rule, Scope};

pub use request::ForWaypoint;

use crate::object::{Faults, Labels, Meta, annotation, shown};
use crate::world::Condition;

/// Type of the condition on an AuthorizationPolicy that node proxies enforce (waypoint-api.md 3).
pub const CONDITION: &str = "ZtunnelAccepted";

/// An AuthorizationPolicy, as far as node proxies are concerned with it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Names, generation.
    pub meta: Meta,
    /// What is wrong with it, and what of it a node proxy cannot see.
    pub faults: Faults,
    selector: Labels,
    enforced: Enforced,
}

#[derive(Clone, Debug, PartialEq)]
enum Enforced {
    /// By a waypoint, if by anybody: it has targets.
    ByWaypoint(Box<ForWaypoint>),
    /// By node proxies.
    Here { action: Action, rules: Arc<[Rule]>, dry_run: bool, empty: bool },
    /// By nobody: an action that node proxies do not have.
    No,
}

impl From<&api::AuthorizationPolicy> for AuthorizationPolicy {
    fn from(policy: &api::AuthorizationPolicy) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&policy.metadata);
        let spec = &policy.spec;
        let selector = selector(spec.selector.as_ref(), &mut faults);
        let action = match spec.action.as_ref().unwrap_or(&api::Action::Allow) {
            api::Action::Allow => Some(Action::Allow),
            api::Action::Deny => Some(Action::Deny),
            other => {
                faults.add(
                    "spec.action",
                    format!("{} is not enforced by node proxies, so the policy has no effect", shown(other.as_str())),
                    "use ALLOW or DENY, or attach the policy to a waypoint with targetRefs",
                );
                None
            }
        };
        let enforced = match action {
            _ if !spec.target_refs.is_empty() || spec.target_ref.is_some() => {
                faults = Faults::default();
                let dry_run = annotation(&policy.metadata, "istio.io/dry-run") == Some("true");
                Enforced::ByWaypoint(Box::new(request::for_waypoint(policy, &meta, dry_run, &mut faults)))
            }
            None => Enforced::No,
            Some(action) => {
                let rules = lower::rules(action, &meta.namespace, &spec.rules, &mut faults);
                let empty = action == Action::Deny && rules.is_empty() && !spec.rules.is_empty();
                let dry_run = annotation(&policy.metadata, "istio.io/dry-run") == Some("true");
                Enforced::Here { action, rules: rules.into(), dry_run, empty }
            }
        };
        Self { meta, faults, selector, enforced }
    }
}

impl AuthorizationPolicy {
    /// What waypoints get, if it has targets.
    pub fn for_waypoint(&self) -> Option<&ForWaypoint> {
        match &self.enforced {
            Enforced::ByWaypoint(policy) => Some(policy),
            Enforced::Here { .. } | Enforced::No => None,
        }
    }

    /// The labels that a workload must have to name this policy. `None`: it is not for workloads that name it.
    pub fn selects(&self) -> Option<&Labels> {
        Some(&self.selector).filter(|s| !s.is_empty() && matches!(self.enforced, Enforced::Here { .. }))
    }

    /// What goes over the wire. `None`: node proxies do not enforce it.
    pub fn resource(&self, root_namespace: &str) -> Option<Authorization> {
        let Enforced::Here { action, rules, dry_run, .. } = &self.enforced else { return None };
        let scope = match (self.selector.is_empty(), *self.meta.namespace == *root_namespace) {
            (false, _) => Scope::WorkloadSelector,
            (true, true) => Scope::Global,
            (true, false) => Scope::Namespace,
        };
        Some(Authorization {
            name: self.meta.name.clone(),
            namespace: self.meta.namespace.clone(),
            scope,
            action: *action,
            rules: rules.to_vec(),
            dry_run: *dry_run,
        })
    }

    /// What is to be said on it. `None` for a policy with targets, which is a waypoint's matter.
    pub fn condition(&self) -> Option<Condition> {
        let (status, reason, message) = match &self.enforced {
            Enforced::ByWaypoint(_) => return None,
            Enforced::No | Enforced::Here { empty: true, .. } => (false, "UnsupportedValue", self.faults.to_string()),
            Enforced::Here { .. } if self.faults.is_empty() => {
                (true, "Accepted", "the node proxies enforce it".to_owned())
            }
            Enforced::Here { .. } => (true, "UnsupportedValue", self.faults.to_string()),
        };
        Some(Condition { kind: CONDITION, status, reason, message })
    }
}

/// The labels of a selector. Istio has equality only, so that a `*` is a character like others: it occurs in no label.
pub(super) fn selector(selector: Option<&kubernetes::object::WorkloadSelector>, faults: &mut Faults) -> Labels {
    let labels = selector.iter().flat_map(|s| &s.match_labels).map(|(k, v)| (k.as_str(), v.as_str()));
    for (key, value) in labels.clone().filter(|(k, v)| k.is_empty() || k.contains('*') || v.contains('*')) {
        faults.add(
            "spec.selector.matchLabels",
            format!("{} = {} is a label that no workload can have, so nothing is selected", shown(key), shown(value)),
            "write the label as the workload has it; there are no wildcards",
        );
    }
    Labels::new(labels)
}
