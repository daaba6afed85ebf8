//! PeerAuthentication: whether a workload takes connections in clear (discovery.md 4, "How istiod lowers Kubernetes policy").
//!
//! On the wire that is a DENY for whoever has no identity. Most workloads share one policy, `istio_converted_static_strict`
//! of the root namespace; a policy with own modes for ports becomes one of its own, `converted_peer_authentication_<name>`.
//! Such names hold `_`, so that no object of Kubernetes can have them.
//!
//! Precedence is mesh < namespace < workload; of several at one level the oldest counts, then the first by name. UNSET is
//! what the next wider level says, at the end PERMISSIVE. DISABLE counts as PERMISSIVE. A selector in the root namespace
//! selects there only, and modes of ports count only beside a selector outside the root namespace (waypoint-api.md 4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kubernetes::object::security as api;
use kubernetes::object::security::MutualTlsMode;
use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};

use super::{Effects, authorization, key};
use crate::object::{Faults, Labels, Meta, condition, shown};
use crate::world::Condition;

/// Name of the policy for everything STRICT, in the root namespace.
pub const STATIC_STRICT: &str = "istio_converted_static_strict";
/// What the name of a policy with modes for ports begins with.
pub const CONVERTED: &str = "converted_peer_authentication_";

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Names, age, generation.
    pub meta: Meta,
    /// What is wrong with it.
    pub faults: Faults,
    selector: Labels,
    /// `None`: as the next wider level says.
    mode: Option<Mode>,
    ports: BTreeMap<u16, Option<Mode>>,
}

/// Whether connections in clear are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Permissive,
    Strict,
}

impl From<&api::PeerAuthentication> for PeerAuthentication {
    fn from(policy: &api::PeerAuthentication) -> Self {
        let mut faults = Faults::default();
        let spec = &policy.spec;
        let selector = authorization::selector(spec.selector.as_ref(), &mut faults);
        let mut ports = BTreeMap::new();
        for (port, mtls) in &spec.port_level_mtls {
            let field = format!("spec.portLevelMtls[{}]", shown(port));
            match port.parse().ok().filter(|p| *p != 0) {
                Some(port) => _ = ports.insert(port, mode(Some(mtls), &field, &mut faults)),
                None => faults.add(field, "is not a port, so it is left out", "write a number from 1 to 65535"),
            }
        }
        if selector.is_empty() && !ports.is_empty() {
            faults.add(
                "spec.portLevelMtls",
                "there is no selector, so the modes of ports are left out",
                "add a selector with labels",
            );
            ports.clear();
        }
        let mode = mode(spec.mtls.as_ref(), "spec.mtls", &mut faults);
        Self { meta: Meta::new(&policy.metadata), faults, selector, mode, ports }
    }
}

fn mode(mtls: Option<&api::MutualTls>, field: &str, faults: &mut Faults) -> Option<Mode> {
    match mtls?.mode.as_ref()? {
        MutualTlsMode::Disable | MutualTlsMode::Permissive => Some(Mode::Permissive),
        MutualTlsMode::Other(text) => {
            let what = format!("{} is not a mode, so STRICT is taken", shown(text));
            faults.add(format!("{field}.mode"), what, "use STRICT, PERMISSIVE, DISABLE or UNSET");
            Some(Mode::Strict)
        }
        MutualTlsMode::Strict => Some(Mode::Strict),
        MutualTlsMode::Unset => None,
    }
}

impl PeerAuthentication {
    /// What is to be said on it; `None` while nothing is wrong.
    pub fn condition(&self) -> Option<Condition> {
        let faulty = !self.faults.is_empty();
        faulty.then(|| Condition {
            kind: condition::ACCEPTED,
            status: false,
            reason: "UnsupportedValue",
            message: self.faults.to_string(),
        })
    }

    /// Who is first of two at one level.
    fn age(&self) -> (i64, &str) {
        (self.meta.created, &self.meta.name)
    }
}

/// What one policy comes to.
#[derive(Debug, PartialEq)]
enum Lowered {
    Converted(Vec<Rule>),
    Nothing,
    Static,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers {
    root: Arc<str>,
    /// By namespace and name.
    all: BTreeMap<Arc<str>, BTreeMap<Arc<str>, PeerAuthentication>>,
}

impl Peers {
    pub(super) fn new(root: Arc<str>) -> Self {
        Self { root, all: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, policy: PeerAuthentication) -> Effects {
        let (namespace, name) = (policy.meta.namespace.clone(), policy.meta.name.clone());
        let selects = !policy.selector.is_empty();
        self.change(&namespace, selects, |all| {
            all.entry(namespace.clone()).or_default().insert(name, policy.clone()).is_none_or(|old| old != policy)
        })
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Effects {
        let Some(old) = self.get(namespace, name) else { return Effects::default() };
        let (namespace, selects) = (old.meta.namespace.clone(), !old.selector.is_empty());
        self.change(&namespace, selects, |all| {
            if let Some(here) = all.get_mut(&namespace) {
                here.remove(name);
                if here.is_empty() {
                    all.remove(&namespace);
                }
            }
            true
        })
    }

    /// These policies are few, and a change of one may change what others come to: all that can be are compared.
    fn change(
        &mut self,
        namespace: &Arc<str>,
        selects: bool,
        edit: impl FnOnce(&mut BTreeMap<Arc<str>, BTreeMap<Arc<str>, PeerAuthentication>>) -> bool,
    ) -> Effects {
        let mut effects = Effects::default();
        let before = self.resources();
        let wide_before = self.wide(namespace).map(|p| (p.meta.name.clone(), p.mode));
        if !edit(&mut self.all) {
            return effects;
        }
        let after = self.resources();
        let differ = |a: &[Authorization], b: &[Authorization]| -> BTreeSet<Arc<str>> {
            a.iter().filter(|p| !b.contains(p)).map(|p| key(&p.namespace, &p.name)).collect()
        };
        effects.resources = differ(&before, &after);
        effects.resources.extend(differ(&after, &before));
        let wide = self.wide(namespace).map(|p| (p.meta.name.clone(), p.mode)) != wide_before;
        if selects && !wide {
            // A selector in the root namespace selects there only.
            effects.workloads.namespaces.insert(namespace.clone());
        } else {
            effects.select(&self.root, namespace);
        }
        effects
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&PeerAuthentication> {
        self.all.get(namespace)?.get(name)
    }

    /// The policy that is for all workloads of a namespace.
    fn wide(&self, namespace: &str) -> Option<&PeerAuthentication> {
        let here = self.all.get(namespace)?.values().filter(|p| p.selector.is_empty());
        here.min_by_key(|p| p.age())
    }

    /// What is wider than a workload, put together.
    fn base(&self, namespace: &str) -> Mode {
        let mode = |ns: &str| self.wide(ns).and_then(|p| p.mode);
        mode(namespace).or_else(|| mode(&self.root)).unwrap_or(Mode::Permissive)
    }

    /// Names of the policies that apply to a workload: one or none.
    pub(super) fn names(&self, namespace: &str, labels: &Labels) -> Option<Arc<str>> {
        let here = self.all.get(namespace).into_iter().flat_map(BTreeMap::values);
        let own = here.filter(|p| !p.selector.is_empty() && p.selector.subset_of(labels)).min_by_key(|p| p.age());
        let strict = || key(&self.root, STATIC_STRICT);
        match own {
            None => (self.base(namespace) == Mode::Strict).then(strict),
            Some(own) => match self.lowered(own) {
                Lowered::Converted(_) => Some(key(namespace, &format!("{CONVERTED}{}", own.meta.name))),
                Lowered::Nothing => None,
                Lowered::Static => Some(strict()),
            },
        }
    }

    fn lowered(&self, policy: &PeerAuthentication) -> Lowered {
        let mode = policy.mode.unwrap_or_else(|| self.base(&policy.meta.namespace));
        let in_root = policy.meta.namespace == self.root;
        let other = policy.ports.iter().filter(|(_, m)| !in_root && m.unwrap_or(mode) != mode).map(|(port, _)| *port);
        let other: Vec<u16> = other.collect();
        match mode {
            Mode::Permissive if other.is_empty() => Lowered::Nothing,
            Mode::Permissive => Lowered::Converted(
                other.iter().map(|p| rule(Some(Match { destination_ports: vec![*p], ..Match::default() }))).collect(),
            ),
            Mode::Strict if other.is_empty() => Lowered::Static,
            Mode::Strict => {
                Lowered::Converted(vec![rule(Some(Match { not_destination_ports: other, ..Match::default() }))])
            }
        }
    }

    pub(super) fn resource(&self, namespace: &str, name: &str) -> Option<Authorization> {
        if *namespace == *self.root && name == STATIC_STRICT {
            return (!self.all.is_empty()).then(|| self.authorization(&self.root, STATIC_STRICT, vec![rule(None)]));
        }
        self.converted(self.get(namespace, name.strip_prefix(CONVERTED)?)?)
    }

    fn converted(&self, policy: &PeerAuthentication) -> Option<Authorization> {
        let Lowered::Converted(rules) = self.lowered(policy) else { return None };
        let name = format!("{CONVERTED}{}", policy.meta.name);
        (!policy.selector.is_empty()).then(|| self.authorization(&policy.meta.namespace, &name, rules))
    }

    pub(super) fn resources(&self) -> Vec<Authorization> {
        let converted = self.all.values().flat_map(BTreeMap::values).filter_map(|p| self.converted(p));
        self.resource(&self.root, STATIC_STRICT).into_iter().chain(converted).collect()
    }

    fn authorization(&self, namespace: &Arc<str>, name: &str, rules: Vec<Rule>) -> Authorization {
        Authorization {
            name: name.into(),
            namespace: namespace.clone(),
            scope: Scope::WorkloadSelector,
            action: Action::Deny,
            rules,
            dry_run: false,
        }
    }
}

/// Who has no identity, where `also` holds.
fn rule(also: Option<Match>) -> Rule {
    let anonymous = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    Rule { clauses: [Some(anonymous), also].into_iter().flatten().map(|m| Clause { matches: vec![m] }).collect() }
}
