//! Waypoints that come by themselves: a namespace with the label `culvert.dev/auto-waypoint: enabled` uses the waypoint
//! `waypoint` of its own unless it names another, and one that is not there is wanted as soon as a Service of the namespace has
//! something of L7 attached.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::World;
use super::index::Name;
use super::state::{State, USE_WAYPOINT, named_waypoint};
use crate::object::{Key, Kind, Labels, Namespace};

/// The label; any other value than `enabled` takes a namespace out where all are in by configuration.
const LABEL: &str = "culvert.dev/auto-waypoint";
const ENABLED: &str = "enabled";
/// Name of a waypoint that comes by itself: what tools call one by default (waypoint-api.md 1).
const NAME: &str = "waypoint";

/// A namespace that has the labels which follow from its automatic waypoint, so that binding knows nothing of it.
/// `everywhere`: namespaces without the label are treated as if they had it.
pub(super) fn labelled(mut namespace: Namespace, everywhere: bool) -> Namespace {
    let labels = &namespace.meta.labels;
    let automatic = labels.get(LABEL).map_or(everywhere, |value| &**value == ENABLED);
    if automatic {
        let defaults = [(LABEL, ENABLED), (USE_WAYPOINT.0, NAME)];
        let own = labels.iter().map(|(key, value)| (&**key, &**value));
        // Of two with the same key the later one counts: the user's.
        namespace.meta.labels = Labels::new(defaults.into_iter().chain(own));
    }
    namespace
}

impl State {
    /// Whether the waypoint of a namespace comes by itself.
    pub(crate) fn is_automatic(&self, namespace: &str) -> bool {
        let found = self.namespaces.get("", namespace);
        found.is_some_and(|n| n.meta.labels.get(LABEL).is_some_and(|value| &**value == ENABLED))
    }

    /// Whether an automatic waypoint is not there and nothing that is attached to an object asks for it.
    pub(crate) fn is_unneeded(&self, key: &Key, named: &Name) -> bool {
        let there = self.gateways.get(&named.namespace, &named.name).is_some();
        self.is_automatic(&key.namespace) && !there && !self.attached(key, named)
    }

    /// The waypoint that an object of an automatic namespace would use and that is not there.
    fn missing(&self, key: &Key) -> Option<Name> {
        let own = match key.kind {
            Kind::Service => &self.services.get(&key.namespace, &key.name)?.meta.labels,
            Kind::ServiceEntry => &self.entries.get(&key.namespace, &key.name)?.meta.labels,
            _ => return None,
        };
        if !self.is_automatic(&key.namespace) || own.get(USE_WAYPOINT.0).is_some() {
            return None;
        }
        let namespace = self.namespaces.get("", &key.namespace)?;
        let named = named_waypoint(&namespace.meta.labels, USE_WAYPOINT, &key.namespace)?;
        let there = self.gateways.get(&named.namespace, &named.name).is_some();
        // Only in the namespace itself: what is in others is not for its label to decide.
        (!there && named.namespace == key.namespace).then_some(named)
    }
}

impl World {
    /// Namespace and name of each Gateway that is to be made.
    pub fn waypoints_wanted(&self) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let layer7 = &self.state.layer7;
        let attached = layer7.by_parent.iter().chain(layer7.policies.iter()).map(|(key, _)| key);
        attached.filter_map(|key| self.state.missing(key)).map(|name| (name.namespace, name.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1;
    use serde_json::json;

    use super::*;

    fn uses(labels: serde_json::Value, everywhere: bool) -> Option<String> {
        let object: v1::Namespace =
            serde_json::from_value(json!({"metadata": {"name": "shop", "labels": labels}})).unwrap();
        let namespace = labelled(Namespace::from(&object), everywhere);
        namespace.meta.labels.get(USE_WAYPOINT.0).map(|name| name.to_string())
    }

    #[test]
    fn an_automatic_namespace_uses_the_waypoint_of_its_own_unless_it_says_otherwise() {
        let waypoint = || Some("waypoint".to_owned());
        assert_eq!(uses(json!({}), false), None);
        assert_eq!(uses(json!({}), true), waypoint());
        assert_eq!(uses(json!({LABEL: "enabled"}), false), waypoint());
        assert_eq!(uses(json!({LABEL: "disabled"}), true), None);
        assert_eq!(uses(json!({LABEL: "enabled", USE_WAYPOINT.0: "other"}), false), Some("other".to_owned()));
        assert_eq!(uses(json!({LABEL: "enabled", USE_WAYPOINT.0: "none"}), false), Some("none".to_owned()));
    }
}
