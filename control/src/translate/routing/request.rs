//! RequestPolicies: where what they say stands, and what their owners are told.
//!
//! Policies add up and never replace each other, so that nobody takes off a bound that somebody else has set. In the order in
//! which they apply: those of the waypoint, those of the Service, those of the route, those of its rule, and the rule's own
//! filters, one of which may name a policy; at one place the oldest first, then by name. In a policy: bounds, the fault,
//! processors.

use std::collections::BTreeSet;

use proto::routing as wire;
use wire::filter::Kind as Made;

use super::backend::{Origin, Wrong};
use super::report::{said, wrongs};
use crate::object::route::{Route, Rule};
use crate::object::{Key, Kind, RequestPolicy, condition};
use crate::world::{Condition, Name, State};

impl State {
    /// Policies that are attached to something, in their order, and the rule that each is for where it says one.
    fn requests_at(&self, target: &Key) -> Vec<(&RequestPolicy, Vec<Option<&str>>)> {
        let all = self.layer7.policies.of(target).iter().filter(|k| k.kind == Kind::RequestPolicy);
        let found = all.filter_map(|k| self.request_policies.get(&k.namespace, &k.name));
        let mut found: Vec<_> = found
            .map(|policy| {
                let here = policy.targets.iter().filter(|(key, _)| key == target);
                (&**policy, here.map(|(_, rule)| rule.as_deref()).collect())
            })
            .collect();
        found.sort_by(|(a, _), (b, _)| (a.meta.created, &a.meta.name).cmp(&(b.meta.created, &b.meta.name)));
        found
    }

    /// What is done to every request that passes these waypoints, and to every one to a Service or a ServiceEntry.
    pub(super) fn requests_for(
        &self,
        key: Option<&Key>,
        gateways: &[&Name],
        follows: &mut BTreeSet<String>,
    ) -> (Vec<wire::RateLimit>, Vec<wire::Filter>) {
        let gateways = gateways.iter().map(|g| Key::new(Kind::Gateway, g.namespace.clone(), g.name.clone()));
        let targets: Vec<Key> = gateways.chain(key.cloned()).collect();
        let mut taken = BTreeSet::new();
        let (mut limits, mut filters) = (Vec::new(), Vec::new());
        for (policy, _) in targets.iter().flat_map(|target| self.requests_at(target)) {
            // One that is attached twice is followed once.
            if !taken.insert((&policy.meta.namespace, &policy.meta.name)) {
                continue;
            }
            limits.extend(policy.limits.iter().enumerate().map(|(i, limit)| {
                let (rate, invalid) = match limit {
                    Ok(rate) => (Some(rate.clone()), None),
                    Err(reason) => (None, Some(wire::Invalid { reason: reason.clone() })),
                };
                let (namespace, name) = (policy.meta.namespace.to_string(), format!("{}[{i}]", policy.meta.name));
                wire::RateLimit { namespace, name, rate, invalid }
            }));
            let origin = origin(policy);
            let at = key.unwrap_or(&origin.key);
            filters.extend(policy.filters.iter().map(|f| self.filter(&origin, f, at, follows)));
        }
        (limits, filters)
    }

    /// What is done to the requests of a rule.
    pub(super) fn requests_of(
        &self,
        route: &Route,
        rule: &Rule,
        parent: &Key,
        follows: &mut BTreeSet<String>,
    ) -> Vec<wire::Filter> {
        let key = route.key();
        let all = self.requests_at(&key);
        let mut made = Vec::new();
        for of_rule in [false, true] {
            for (policy, places) in &all {
                let place = places.iter().find(|name| match name {
                    None => !of_rule,
                    Some(name) => of_rule && rule.is_named(name),
                });
                let Some(place) = place else { continue };
                let place = place.map_or_else(|| key.to_string(), |rule| format!("{key} {rule}"));
                made.extend(self.steps(policy, &place, parent, follows));
            }
        }
        made
    }

    /// What a filter of a route stands for that names a policy.
    pub(super) fn extension(
        &self,
        route: &Route,
        name: &str,
        field: &str,
        parent: &Key,
        follows: &mut BTreeSet<String>,
    ) -> Vec<wire::Filter> {
        match self.request_policies.get(&route.meta.namespace, name) {
            Some(policy) => self.steps(policy, &format!("{} {field}", route.key()), parent, follows),
            None => vec![invalid(missing(route, name, field).message)],
        }
    }

    /// All that a policy says, for one place. Its bounds count together wherever they have the same name.
    fn steps(
        &self,
        policy: &RequestPolicy,
        place: &str,
        parent: &Key,
        follows: &mut BTreeSet<String>,
    ) -> Vec<wire::Filter> {
        let limits = policy.limits.iter().enumerate().map(|(i, limit)| match limit {
            Ok(rate) => {
                let name = format!("{}/{}[{i}] {place}", policy.meta.namespace, policy.meta.name);
                wire::Filter { kind: Some(Made::LocalRate(wire::LocalRate { name, ..rate.clone() })) }
            }
            Err(reason) => invalid(reason.clone()),
        });
        let mut made: Vec<_> = limits.collect();
        let origin = origin(policy);
        made.extend(policy.filters.iter().map(|f| self.filter(&origin, f, parent, follows)));
        made
    }

    /// Policies that filters of a route name, and that are not there.
    pub(super) fn missing_extensions(&self, route: &Route) -> impl Iterator<Item = Wrong> {
        let there = |name: &str| self.request_policies.get(&route.meta.namespace, name).is_some();
        route.extensions().filter(move |(name, _)| !there(name)).map(|(name, field)| missing(route, name, field))
    }

    /// What is said of a policy.
    pub(in crate::translate) fn request_conditions(&self, policy: &RequestPolicy) -> Vec<Condition> {
        let accepted = self.request_verdict(policy);
        let origin = origin(policy);
        let wrong = policy.references().filter_map(|to| self.find(&origin, to, &origin.key).err());
        let resolved = wrongs(wrong.collect(), "every backend is there");
        vec![said(condition::TAKEN, accepted), said(condition::RESOLVED, resolved)]
    }

    fn request_verdict(&self, policy: &RequestPolicy) -> (bool, &'static str, String) {
        let faults = &policy.faults;
        if policy.invalid().is_some() || (policy.limits.is_empty() && policy.filters.is_empty()) {
            return (false, "Invalid", faults.to_string());
        }
        let name = Name::new(&policy.meta.namespace, &policy.meta.name);
        let named = !self.layer7.by_extension.of(&name).is_empty();
        if policy.targets.is_empty() {
            return match (named, faults.is_empty()) {
                (true, true) => (true, "Accepted", "routes that name it follow it".to_owned()),
                (true, false) => (true, "PartiallyInvalid", faults.to_string()),
                (false, false) => (false, "TargetNotFound", faults.to_string()),
                (false, true) => {
                    let what =
                        "nobody names it; write targetRefs, or name it in the filters of a route by extensionRef";
                    (false, "TargetNotFound", what.to_owned())
                }
            };
        }
        let targets: Vec<Key> = policy.targets.iter().map(|(key, _)| key.clone()).collect();
        let key = policy.meta.key(Kind::RequestPolicy);
        let mut standing = self.standing(&key, &targets);
        for (target, rule) in &policy.targets {
            let Some((rule, route)) = rule.as_ref().zip(self.layer7.routes.get(target)) else { continue };
            if !route.has_rule(rule) {
                standing.missing.push(format!("{target} has no rule {}", crate::object::shown(rule)));
            }
        }
        standing.verdict(targets.len(), "", faults, "waypoints follow it")
    }
}

fn origin(policy: &RequestPolicy) -> Origin {
    Origin { key: policy.meta.key(Kind::RequestPolicy), http: true }
}

fn invalid(reason: String) -> wire::Filter {
    wire::Filter { kind: Some(Made::Invalid(wire::Invalid { reason })) }
}

fn missing(route: &Route, name: &str, field: &str) -> Wrong {
    let what =
        format!("there is no RequestPolicy {}/{name}; requests of the rule are answered 500", route.meta.namespace);
    Wrong { reason: "ExtensionRefNotFound", message: format!("{field}: {what}") }
}
