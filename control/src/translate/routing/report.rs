//! What owners of routes and policies are told (gateway-api.md 6, waypoint-api.md 3).

use std::collections::BTreeSet;
use std::sync::Arc;

use kubernetes::object::route as api;

use super::backend::{Origin, Wrong};
use super::{Port, attached_ports, caller, fits, selects};
use crate::object::backend_tls::Roots;
use crate::object::request::KeySource;
use crate::object::route::{Parent, Route};
use crate::object::{BackendTlsPolicy, Faults, Key, Kind, RequestAuthentication, condition, shown};
use crate::translate::waypoint::{Binding, Refusal};
use crate::world::{Condition, ParentStatus, State};

/// A message of a condition is for people: the first few say it.
const SHOWN: usize = 8;

type Verdict = (bool, &'static str, String);

impl State {
    /// What is said of the parents of a route.
    pub(in crate::translate) fn parents_of(&self, route: &Route) -> Vec<ParentStatus> {
        route.parents.iter().map(|p| self.parent_status(route, p)).collect()
    }

    fn parent_status(&self, route: &Route, parent: &Parent) -> ParentStatus {
        let accepted = self.accepted(route, parent);
        let mut conditions = vec![said("Accepted", accepted.clone())];
        if let Ok(key) = &parent.target {
            conditions.push(said("ResolvedRefs", self.resolved(route, key)));
            if accepted.0 || accepted.1 != "NoMatchingParent" {
                conditions.push(said("ResolvedWaypoints", waypoints(key, &self.binding_of(key))));
            }
        }
        if accepted.0 && !route.faults.is_empty() {
            let what = match route.rules.iter().any(|r| r.dropped) {
                true => "Dropped Rule: one whose matches cannot be read is left out; others with a fault answer 500",
                false => "Fall Back: rules with a fault answer 500",
            };
            let message = format!("{what}. {}", route.faults);
            conditions.push(said("PartiallyInvalid", (true, "UnsupportedValue", message)));
        }
        conditions.sort();
        ParentStatus { reference: parent.written.clone(), conditions }
    }

    fn accepted(&self, route: &Route, parent: &Parent) -> Verdict {
        let no_parent = |what: String| (false, "NoMatchingParent", what);
        let key = match &parent.target {
            Ok(key) => key,
            Err(what) => return no_parent(what.clone()),
        };
        let there = match key.kind {
            Kind::Service => self.services.get(&key.namespace, &key.name).map(|s| s.external_name),
            _ => self.entries.get(&key.namespace, &key.name).map(|_| false),
        };
        match there {
            None => return no_parent(format!("there is no {key}; name one that exists")),
            Some(true) => {
                return no_parent(format!("{key} is an alias (type ExternalName), to which nothing is addressed"));
            }
            Some(false) => {}
        }
        if route.hopeless() {
            return (false, "UnsupportedValue", format!("no rule can be followed. {}", route.faults));
        }
        let ports = self.ports_of(key);
        let meant: Vec<&Port> = ports.iter().filter(|p| selects(parent, p)).collect();
        if meant.is_empty() {
            return no_parent(format!("{key} has no such port"));
        }
        let fitting: Vec<u16> = meant.iter().filter(|p| fits(route.kind, p.protocol)).map(|p| p.number).collect();
        if fitting.is_empty() {
            let what = format!(
                "the ports of {key} speak something else than a {} is for; see its appProtocol",
                route.kind.object()
            );
            return no_parent(what);
        }
        let lost = self.lost(route, key, &ports, &fitting);
        let lost_to = |lost: &[u16]| {
            let ports = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("port {ports} of {key} has routes of a stronger kind (GRPCRoute, HTTPRoute, TLSRoute, TCPRoute)")
        };
        if lost.len() == fitting.len() {
            return (false, "Conflicted", format!("{}; remove those, or name another port", lost_to(&lost)));
        }
        let mut message = match &*caller(route, key) {
            "" => "routes every caller".to_owned(),
            namespace => format!("routes callers of namespace {namespace}"),
        };
        if !lost.is_empty() {
            message += &format!(". But {}", lost_to(&lost));
        }
        (true, "Accepted", message)
    }

    /// Ports that routes of a stronger kind have.
    fn lost(&self, route: &Route, parent: &Key, ports: &[Port], fitting: &[u16]) -> Vec<u16> {
        let own = caller(route, parent);
        let stronger = self.layer7.stronger(parent, route.kind).filter(|r| caller(r, parent) == own);
        let taken: BTreeSet<u16> =
            stronger.flat_map(|r| attached_ports(r, parent, ports).collect::<Vec<_>>()).collect();
        fitting.iter().copied().filter(|p| taken.contains(p)).collect()
    }

    fn resolved(&self, route: &Route, parent: &Key) -> Verdict {
        let origin = Origin::from(route);
        let wrong = route.references().filter_map(|to| self.find(&origin, to, parent).err());
        wrongs(wrong.chain(self.missing_extensions(route)).collect(), "every backend is there")
    }

    /// What is said of a policy with targets; `None` without.
    pub(in crate::translate) fn policy_condition(&self, policy: &Key) -> Option<Condition> {
        let (targets, invalid, faults) = match policy.kind {
            Kind::AuthorizationPolicy => {
                let made = self.for_waypoint(policy)?;
                let faults = &self.policies.authorization_policy(&policy.namespace, &policy.name)?.faults;
                let provider = made.provider.as_ref().and_then(|p| self.provider(p).err());
                let invalid = made.ready.invalid.as_ref().map(|i| i.reason.clone()).or(provider);
                (&made.targets, invalid, faults.clone())
            }
            _ => {
                let made = self.requests.get(&policy.namespace, &policy.name)?;
                if made.aimless {
                    return Some(aimless(made));
                }
                let invalid = made.ready.invalid.as_ref().map(|i| i.reason.clone());
                (&made.targets, invalid, self.request_faults(made))
            }
        };
        Some(said(condition::WAYPOINT_ACCEPTED, self.policy_verdict(policy, targets, invalid, &faults)))
    }

    fn request_faults(&self, policy: &RequestAuthentication) -> Faults {
        let mut faults = policy.faults.clone();
        for (i, source) in policy.keys.iter().enumerate() {
            let fetched = matches!(source, KeySource::Discovery(_) | KeySource::Uri(_));
            if let (true, Err(reason)) = (fetched, self.keys_of(source)) {
                let what = format!("there are no keys, so no token of the issuer is valid: {reason}");
                faults.add(
                    format!("spec.jwtRules[{i}]"),
                    what,
                    "make jwksUri reachable for the control plane, or write jwks",
                );
            }
        }
        faults
    }

    fn policy_verdict(&self, policy: &Key, targets: &[Key], invalid: Option<String>, faults: &Faults) -> Verdict {
        if let Some(reason) = invalid {
            return (false, "Invalid", joined(&format!("everything is refused: {reason}"), faults));
        }
        let secures = targets.iter().any(|t| self.secures(policy, t));
        let then = if secures { ". Until then connections to what it governs are refused" } else { "" };
        self.standing(policy, targets).verdict(targets.len(), then, faults, "the waypoint enforces it")
    }

    /// Which targets of a policy are not there, and which have no waypoint.
    pub(super) fn standing(&self, policy: &Key, targets: &[Key]) -> Standing {
        let mut standing = Standing::default();
        let Standing { missing, unbound } = &mut standing;
        for target in targets {
            match target.kind {
                Kind::Gateway => match self.gateways.get(&target.namespace, &target.name) {
                    None => missing.push(format!("there is no {target}")),
                    Some(gateway) if gateway.address.is_none() => unbound.push(format!("{target} is not ready")),
                    Some(_) => {}
                },
                Kind::GatewayClass if policy.namespace != self.settings.root_namespace => {
                    let root = &self.settings.root_namespace;
                    missing.push(format!("{target} can be the target of a policy in namespace {root} only"));
                }
                Kind::GatewayClass if self.classes.get("", &target.name).is_none() => {
                    missing.push(format!("there is no {target}"));
                }
                Kind::GatewayClass => {}
                Kind::GrpcRoute | Kind::HttpRoute => match self.layer7.routes.get(target) {
                    None => missing.push(format!("there is no {target}")),
                    Some(route) => {
                        let parents = route.parents.iter().filter_map(|p| p.target.as_ref().ok());
                        if !parents.into_iter().any(|p| matches!(self.binding_of(p), Ok(Some(_)))) {
                            unbound.push(format!("{target} is attached to nothing that has a waypoint"));
                        }
                    }
                },
                _ if self.ports_of(target).is_empty() => {
                    missing.push(format!("there is no {target}, or it has no port"))
                }
                _ => match self.binding_of(target) {
                    Ok(Some(_)) => {}
                    Ok(None) => unbound.push(format!("{target} has no waypoint; label it istio.io/use-waypoint")),
                    Err(refusal) => unbound.push(format!("{target}: {}", refusal.message)),
                },
            }
        }
        standing
    }

    /// What is said of the targets of a BackendTLSPolicy.
    pub(in crate::translate) fn tls_ancestors(&self, policy: &BackendTlsPolicy) -> Vec<ParentStatus> {
        let roots = self.roots_of(policy);
        let resolved = match &roots {
            Ok((_, wrong)) => match wrong.first() {
                None => (true, "ResolvedRefs", "every root is there".to_owned()),
                Some((reason, what)) => (false, *reason, what.clone()),
            },
            Err((reason, what)) => (false, *reason, what.clone()),
        };
        let one = |(key, section): &(Key, Option<Arc<str>>)| {
            let accepted = if let Err((_, what)) = &roots {
                let reason = if policy.roots == Roots::Unclear { "Invalid" } else { "NoValidCACertificate" };
                (false, reason, format!("{what}; until then the service answers 503"))
            } else if !self.tls_counts(policy, key, section.as_ref()) {
                (false, "Conflicted", format!("an older policy is attached to {key} already"))
            } else if self.ports_of(key).is_empty() {
                (false, "TargetNotFound", format!("there is no {key}"))
            } else if let Some(name) = section.as_ref().filter(|s| !self.ports_of(key).iter().any(|p| p.name == **s)) {
                (false, "TargetNotFound", format!("{key} has no port of the name {}", shown(name)))
            } else {
                (true, "Accepted", "waypoints make TLS to its endpoints".to_owned())
            };
            let reference = api::ParentReference {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                name: key.name.to_string(),
                section_name: section.as_ref().map(ToString::to_string),
                ..api::ParentReference::default()
            };
            let mut conditions = vec![said("Accepted", accepted), said("ResolvedRefs", resolved.clone())];
            conditions.sort();
            ParentStatus { reference, conditions }
        };
        policy.targets.iter().map(one).collect()
    }

    /// What a DestinationRule says that is not followed, or that nobody reads it.
    pub(in crate::translate) fn destination_condition(&self, key: &Key) -> Option<Condition> {
        let rule = self.destinations.get(&key.namespace, &key.name)?;
        let mut faults = rule.faults.clone();
        let host = self.destination_host(rule);
        let owners = || self.hosts.of(&host).iter().map(|k| &k.namespace).collect::<BTreeSet<_>>();
        let root = key.namespace == self.settings.root_namespace;
        if rule.speaks() && !root && !owners().is_empty() && !owners().contains(&key.namespace) {
            let what = "the host is one of another namespace, whose own rules count, so this one has no effect";
            faults.add("spec.host", what, "write the rule in the namespace of the service, or in the root namespace");
        }
        let reason = if rule.speaks() { "PartiallyInvalid" } else { "Invalid" };
        let made = || Condition { kind: condition::ACCEPTED, status: false, reason, message: faults.to_string() };
        (!faults.is_empty()).then(made)
    }
}

/// How the targets of a policy stand.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Those that are not there.
    pub(super) missing: Vec<String>,
    /// Those that have no waypoint.
    unbound: Vec<String>,
}

impl Standing {
    /// What is said of the policy. `then`: what follows while a target has no waypoint; `done`: that all is well.
    pub(super) fn verdict(self, targets: usize, then: &str, faults: &Faults, done: &str) -> Verdict {
        let Self { missing, unbound } = self;
        let few = |all: &[String]| all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(". ");
        if !unbound.is_empty() {
            return (false, "AncestorNotBound", format!("{}{then}", few(&unbound)));
        }
        if missing.len() == targets {
            let message = if missing.is_empty() { faults.to_string() } else { few(&missing) };
            return (false, "TargetNotFound", message);
        }
        if !missing.is_empty() || !faults.is_empty() {
            return (true, "PartiallyInvalid", joined(&few(&missing), faults));
        }
        (true, "Accepted", done.to_owned())
    }
}

/// What is said of references, of which some are wrong.
pub(super) fn wrongs(wrong: Vec<Wrong>, good: &str) -> Verdict {
    let Some(first) = wrong.first() else { return (true, "ResolvedRefs", good.to_owned()) };
    let mut message = wrong.iter().take(SHOWN).map(|w| w.message.as_str()).collect::<Vec<_>>().join(". ");
    if wrong.len() > SHOWN {
        message += &format!(". And {} more", wrong.len() - SHOWN);
    }
    (false, first.reason, message)
}

pub(super) fn said(kind: &'static str, (status, reason, message): Verdict) -> Condition {
    Condition { kind, status, reason, message }
}

/// A sentence, if there is one, and faults, if there are any.
pub(super) fn joined(sentence: &str, faults: &Faults) -> String {
    let faults = faults.to_string();
    [sentence, &faults].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(". ")
}

fn aimless(policy: &RequestAuthentication) -> Condition {
    let message = joined("without targetRefs no waypoint reads it; name a Service or a Gateway", &policy.faults);
    Condition { kind: condition::WAYPOINT_ACCEPTED, status: false, reason: "Invalid", message }
}

fn waypoints(key: &Key, binding: &Result<Option<Binding>, Refusal>) -> Verdict {
    match binding {
        Ok(Some(binding)) => {
            (true, "ResolvedWaypoints", format!("waypoint {}/{}", binding.gateway.namespace, binding.gateway.name))
        }
        Ok(None) => {
            let message = format!("{key} has no waypoint, so the route has no effect; label it istio.io/use-waypoint");
            (false, "MissingUseWaypointLabel", message)
        }
        Err(refusal) => (false, refusal.reason, refusal.message.clone()),
    }
}
