//! RequestPolicy and Telemetry: what a change of one touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::object::telemetry::Reach;
use crate::object::{Key, Kind, RequestPolicy, Telemetry};
use crate::world::World;
use crate::world::index::Name;
use crate::world::state::{State, change};
use crate::world::touch::{Step, Touch, Unit, both};

impl State {
    pub(crate) fn index_request_policy(&mut self, policy: &RequestPolicy, present: bool) {
        let key = policy.meta.key(Kind::RequestPolicy);
        for (target, _) in &policy.targets {
            change(&mut self.layer7.policies, target.clone(), key.clone(), present);
        }
        for backend in policy.references() {
            change(&mut self.layer7.by_backend, backend.target.clone(), key.clone(), present);
        }
    }

    pub(crate) fn index_telemetry(&mut self, telemetry: &Telemetry, present: bool) {
        let key = telemetry.meta.key(Kind::Telemetry);
        for target in &telemetry.targets {
            change(&mut self.layer7.policies, target.clone(), key.clone(), present);
        }
    }
}

impl World {
    /// What is said on policies that are attached to an object.
    pub(super) fn mark_policies_of(&mut self, target: &Key) {
        let policies = self.state.layer7.policies.of(target).to_vec();
        policies.into_iter().for_each(|policy| self.mark(Unit::Status(policy)));
    }

    /// What waypoints get of a RequestPolicy, and what is said on it.
    pub(super) fn mark_request_policy(&mut self, key: &Key) {
        let found = self.state.request_policies.get(&key.namespace, &key.name);
        let targets: Vec<Key> = found.iter().flat_map(|p| p.targets.iter().map(|(target, _)| target.clone())).collect();
        targets.iter().for_each(|target| self.mark_ruled(target));
        self.mark_extended(key);
    }

    /// Routes whose filters name a RequestPolicy.
    fn mark_extended(&mut self, policy: &Key) {
        let routes = self.state.layer7.by_extension.of(&Name::new(&policy.namespace, &policy.name)).to_vec();
        for route in routes {
            self.mark_routed(&route);
            self.mark(Unit::Status(route));
        }
        self.mark(Unit::Status(policy.clone()));
    }

    /// What all waypoints know of the services of a namespace, and of themselves.
    fn mark_recorded(&mut self, namespace: &str) {
        self.mark_all_hosts(namespace);
        let gateways = self.state.gateways.within(namespace);
        let names: Vec<Name> = gateways.map(|g| Name::new(&g.meta.namespace, &g.meta.name)).collect();
        names.into_iter().for_each(|name| self.mark(Unit::Passing(name)));
    }
}

impl Touch<RequestPolicy> for World {
    fn touch(&mut self, key: &Key, step: &Step<RequestPolicy>) {
        let targets: BTreeSet<Key> = both(step).flat_map(|p| p.targets.iter().map(|(t, _)| t.clone())).collect();
        targets.iter().for_each(|target| self.mark_target(target));
        self.mark_extended(key);
    }
}

impl Touch<Telemetry> for World {
    fn touch(&mut self, key: &Key, step: &Step<Telemetry>) {
        self.mark(Unit::Status(key.clone()));
        let targets: BTreeSet<Key> = both(step).flat_map(|t| t.targets.clone()).collect();
        targets.iter().for_each(|target| self.mark_target(target));
        if !both(step).any(|telemetry| telemetry.reach == Reach::Wide) {
            return;
        }
        if key.namespace != self.state.settings.root_namespace {
            self.mark_recorded(&key.namespace);
            return;
        }
        let of_services = self.state.services.iter().map(|s| s.meta.namespace.clone());
        let of_entries = self.state.entries.iter().map(|e| e.meta.namespace.clone());
        let of_gateways = self.state.gateways.iter().map(|g| g.meta.namespace.clone());
        let namespaces: BTreeSet<Arc<str>> = of_services.chain(of_entries).chain(of_gateways).collect();
        namespaces.iter().for_each(|namespace| self.mark_recorded(namespace));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::arrival;
    use crate::world::{Provider, Settings};

    /// Everybody of the namespace is bound to the waypoint, also who is asked by it.
    fn world() -> World {
        let provider = Provider {
            namespace: None,
            host: "asked.shop.svc.cluster.local".into(),
            port: 9000,
            ask: proto::routing::ExternalAuth::default(),
        };
        World::new(Settings { providers: [("asks".into(), provider)].into(), ..Settings::default() })
    }

    fn put(world: &mut World, kind: Kind, value: &Value) {
        world.upsert(arrival::read(kind, value).unwrap().unwrap());
    }

    #[test]
    fn who_is_asked_by_a_waypoint_may_be_bound_to_it() {
        let mut world = world();
        let named = |name: &str| json!({"namespace": "shop", "name": name});
        let target = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "wp"}]);
        let asked = json!({"metadata": named("asked"), "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 9000}]}});
        put(
            &mut world,
            Kind::Namespace,
            &json!({"metadata": {"name": "shop", "labels": {"istio.io/use-waypoint": "wp"}}}),
        );
        put(
            &mut world,
            Kind::Gateway,
            &json!({"metadata": named("wp"), "spec": {"gatewayClassName": "culvert-waypoint"}}),
        );
        put(
            &mut world,
            Kind::RequestPolicy,
            &json!({"metadata": named("processed"), "spec": {"targetRefs": target,
            "externalProcessing": [{"backendRef": {"name": "asked", "port": 9000}}]}}),
        );
        put(
            &mut world,
            Kind::AuthorizationPolicy,
            &json!({"metadata": named("judged"), "spec": {"targetRefs": target,
            "action": "CUSTOM", "provider": {"name": "asks"}, "rules": [{}]}}),
        );
        put(&mut world, Kind::Service, &asked);
        world.take();
        // It comes to an end: a chain of marks that leads back to where it began would overflow the stack.
        put(
            &mut world,
            Kind::Service,
            &json!({"metadata": named("asked"), "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 9000}]}}),
        );
        assert!(!world.take().is_empty());
    }
}
