//! From marks to changes: what was touched is translated, and what is the same as last time is left out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh::authz::Authorization;
use mesh::{Service, Workload};

use super::World;
use super::mark::{Mark, Marker};
use super::output::{Output, Routed, Status};
use super::touch::Unit;
use crate::object::Kind;
use crate::translate;
use crate::world::Name;

/// Workloads of one unit, by uid.
type Marks = Box<[(Arc<str>, Mark)]>;

/// What was given out.
#[derive(Debug, Default)]
pub(super) struct Published {
    marker: Marker,
    policies: HashMap<Unit, Authorization>,
    routing: HashMap<Unit, Vec<Routed>>,
    services: HashMap<Unit, Vec<Service>>,
    statuses: HashMap<Unit, Status>,
    workloads: HashMap<Unit, Marks>,
    /// Companion rules that the workloads of a unit name, and how many units name each.
    guarded: HashMap<Unit, BTreeSet<Arc<str>>>,
    companions: HashMap<Arc<str>, usize>,
}

impl Published {
    /// What is said on objects.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.statuses.values()
    }
}

impl World {
    /// Everything that changed since the last call, and only that: the cost is that of what was touched.
    pub fn take(&mut self) -> Output {
        let mut output = Output::default();
        let mut companions = BTreeSet::new();
        self.mark_neighbours();
        for unit in std::mem::take(&mut self.dirty) {
            match unit {
                Unit::Host(_) => self.take_services(unit, &mut output),
                Unit::Passing(_) | Unit::Routing(_) => self.take_routing(unit, &mut output),
                Unit::Policy(_) => self.take_policy(unit, &mut output),
                Unit::Status(_) => self.take_status(unit, &mut output),
                Unit::Workloads(_) => self.take_workloads(unit, &mut output, &mut companions),
            }
        }
        self.take_companions(companions, &mut output);
        if std::mem::take(&mut self.pod_cidrs_dirty) {
            let now = self.pod_cidrs();
            if now != self.pod_cidrs {
                self.pod_cidrs.clone_from(&now);
                output.pod_cidrs = Some(now);
            }
        }
        self.sweep_keys();
        self.pool.sweep();
        output
    }

    fn take_services(&mut self, unit: Unit, output: &mut Output) {
        let Unit::Host(host) = &unit else { return };
        let now = translate::services(&self.state, host);
        let before = self.published.services.remove(&unit).unwrap_or_default();
        let gone = before.iter().filter(|s| !now.iter().any(|n| n.namespace == s.namespace));
        output.change.removed.extend(gone.map(|s| Arc::from(s.key().to_string())));
        output.change.services.extend(now.iter().filter(|s| !before.contains(s)).cloned());
        if !now.is_empty() {
            self.published.services.insert(unit, now);
        }
    }

    fn take_routing(&mut self, unit: Unit, output: &mut Output) {
        let now = match &unit {
            Unit::Routing(host) => translate::routing(&self.state, host),
            Unit::Passing(gateway) => translate::passing(&self.state, gateway).into_iter().collect(),
            _ => return,
        };
        let before = self.published.routing.remove(&unit).unwrap_or_default();
        let gone = before.iter().filter(|r| !now.iter().any(|n| n.name == r.name));
        output.routing_gone.extend(gone.map(|r| r.name.clone()));
        output.routing.extend(now.iter().filter(|r| !before.contains(r)).cloned());
        if !now.is_empty() {
            self.published.routing.insert(unit, now);
        }
    }

    fn take_workloads(&mut self, unit: Unit, output: &mut Output, companions: &mut BTreeSet<(Arc<str>, bool)>) {
        let Unit::Workloads(key) = &unit else { return };
        let now = translate::workloads(&self.state, key);
        let before = self.published.workloads.remove(&unit).unwrap_or_default();
        self.count_companions(&unit, &now, companions);
        let gone = before.iter().filter(|(uid, _)| !now.iter().any(|w| w.uid == *uid));
        output.change.removed.extend(gone.map(|(uid, _)| uid.clone()));
        let mut kept = Vec::with_capacity(now.len());
        for workload in now {
            let entry = (workload.uid.clone(), self.published.marker.mark(&workload));
            if !before.contains(&entry) {
                output.change.workloads.push(workload);
            }
            kept.push(entry);
        }
        if !kept.is_empty() {
            self.published.workloads.insert(unit, kept.into());
        }
    }

    /// Counts who names which companion rule; `changed` gets those that were or were not named before.
    fn count_companions(&mut self, unit: &Unit, now: &[Workload], changed: &mut BTreeSet<(Arc<str>, bool)>) {
        let settings = &self.state.settings;
        let named = now.iter().flat_map(|w| &w.authorization_policies);
        let now: BTreeSet<Arc<str>> = named.filter(|n| translate::companion(settings, n).is_some()).cloned().collect();
        let Published { guarded, companions, .. } = &mut self.published;
        let before = guarded.remove(unit).unwrap_or_default();
        for name in now.difference(&before) {
            let count = companions.entry(name.clone()).or_default();
            if *count == 0 && !changed.remove(&(name.clone(), false)) {
                changed.insert((name.clone(), true));
            }
            *count += 1;
        }
        for name in before.difference(&now) {
            let Some(count) = companions.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                companions.remove(name);
                if !changed.remove(&(name.clone(), true)) {
                    changed.insert((name.clone(), false));
                }
            }
        }
        if !now.is_empty() {
            guarded.insert(unit.clone(), now);
        }
    }

    fn take_companions(&mut self, changed: BTreeSet<(Arc<str>, bool)>, output: &mut Output) {
        for (name, named) in changed {
            if named {
                output.change.policies.extend(translate::companion(&self.state.settings, &name));
            } else {
                output.change.removed_policies.push(name);
            }
        }
    }

    fn take_policy(&mut self, unit: Unit, output: &mut Output) {
        let Unit::Policy(name) = &unit else { return };
        let now = self.state.policies.resource(name);
        let before = self.published.policies.remove(&unit);
        let Some(now) = now else {
            output.change.removed_policies.extend(before.map(|_| name.clone()));
            return;
        };
        if before.as_ref() != Some(&now) {
            output.change.policies.push(now.clone());
        }
        self.published.policies.insert(unit, now);
    }

    fn take_status(&mut self, unit: Unit, output: &mut Output) {
        let Unit::Status(key) = &unit else { return };
        if key.kind == Kind::ServiceEntry {
            self.state.allocate(&Name::new(&key.namespace, &key.name));
        }
        if matches!(key.kind, Kind::Service | Kind::ServiceEntry) {
            self.note_guard(key.clone());
        }
        let Unit::Status(key) = &unit else { return };
        let before = self.published.statuses.remove(&unit);
        let Some(now) = translate::status(&self.state, key) else {
            // The object is there and there was something to say: take it back. One that is gone took its status along.
            if let Some(meta) = before.filter(|b| !b.is_silent() && self.state.holds(key)) {
                output.statuses.push(Status {
                    conditions: Vec::new(),
                    events: Vec::new(),
                    parents: Vec::new(),
                    addresses: None,
                    ..meta
                });
            }
            return;
        };
        if before.as_ref() != Some(&now) {
            output.statuses.push(now.clone());
        }
        self.published.statuses.insert(unit, now);
    }
}
