//! Telemetries: which of them hold for a Service, and what their owners are told.
//!
//! Of each setting the word of the narrowest one counts: that of the Service, of its waypoint, of its namespace, of the
//! waypoint's class, of the mesh; of several at one place the oldest one's, then the first one's by name.

use std::sync::Arc;

use proto::routing as wire;

use super::report::{joined, said};
use crate::object::telemetry::{Reach, Says};
use crate::object::{Key, Kind, Telemetry, condition};
use crate::world::{Condition, Name, State};

impl State {
    /// What is recorded of requests to a Service or a ServiceEntry; without one, of those to workloads behind a waypoint.
    pub(super) fn recorded(&self, key: Option<&Key>, gateways: &[&Name]) -> Option<wire::Telemetry> {
        // Most meshes have none.
        if self.telemetries.is_empty() {
            return None;
        }
        let root = &self.settings.root_namespace;
        let targets: Vec<Key> = gateways.iter().flat_map(|g| self.gateway_targets(g)).collect();
        let (classes, own): (Vec<&Key>, Vec<&Key>) = targets.iter().partition(|t| t.kind == Kind::GatewayClass);
        let namespace = key.map(|k| &k.namespace).or_else(|| gateways.first().map(|g| &g.namespace));
        let mut says = Says::default();
        let mut inherit = |mut level: Vec<&Arc<Telemetry>>| {
            level.sort_by(|a, b| (a.meta.created, &a.meta.name).cmp(&(b.meta.created, &b.meta.name)));
            level.iter().for_each(|telemetry| says.inherit(&telemetry.says));
        };
        key.into_iter().for_each(|key| inherit(self.attached_telemetries(key)));
        own.into_iter().for_each(|gateway| inherit(self.attached_telemetries(gateway)));
        namespace.filter(|ns| *ns != root).into_iter().for_each(|ns| inherit(self.wide_telemetries(ns)));
        classes.into_iter().for_each(|class| inherit(self.attached_telemetries(class)));
        inherit(self.wide_telemetries(root));
        says.message()
    }

    fn attached_telemetries(&self, target: &Key) -> Vec<&Arc<Telemetry>> {
        let all =
            self.layer7.policies.of(target).iter().filter(|k| k.kind == Kind::Telemetry && self.counts(k, target));
        all.filter_map(|k| self.telemetries.get(&k.namespace, &k.name)).collect()
    }

    fn wide_telemetries(&self, namespace: &str) -> Vec<&Arc<Telemetry>> {
        self.telemetries.within(namespace).filter(|t| t.reach == Reach::Wide).collect()
    }

    /// What is said of a Telemetry.
    pub(in crate::translate) fn telemetry_condition(&self, telemetry: &Telemetry) -> Condition {
        let faults = &telemetry.faults;
        let verdict = match telemetry.reach {
            Reach::Nobody => {
                let what = "it selects workloads, which have no proxy of their own, so it has no effect; name a Service or a \
                            Gateway by targetRefs, or remove the selector";
                (false, "Invalid", joined(what, faults))
            }
            Reach::Targets => {
                let standing = self.standing(&telemetry.meta.key(Kind::Telemetry), &telemetry.targets);
                standing.verdict(telemetry.targets.len(), "", faults, "waypoints follow it")
            }
            Reach::Wide if !faults.is_empty() => (true, "PartiallyInvalid", faults.to_string()),
            Reach::Wide if telemetry.meta.namespace == self.settings.root_namespace => {
                (true, "Accepted", "waypoints follow it, for all services".to_owned())
            }
            Reach::Wide => (
                true,
                "Accepted",
                format!("waypoints follow it, for services of namespace {}", telemetry.meta.namespace),
            ),
        };
        said(condition::WAYPOINT_ACCEPTED, verdict)
    }
}
