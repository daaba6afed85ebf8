//! What nodes, namespaces, Gateways and their classes touch.

use super::{Step, Touch, Unit, both, differs};
use crate::object::{Gateway, GatewayClass, Key, Kind, Namespace, Node};
use crate::world::World;
use crate::world::index::Name;

impl Touch<Node> for World {
    fn touch(&mut self, key: &Key, step: &Step<Node>) {
        self.mark(Unit::Status(key.clone()));
        if differs(step, |n| n.pod_cidrs.clone()) {
            self.pod_cidrs_dirty = true;
            let blocks = both(step).flat_map(|n| n.pod_cidrs.iter().copied()).collect();
            self.state.entries_in(&blocks).iter().for_each(|k| self.mark_entry(k));
        }
        if differs(step, |n| n.addresses.clone()) {
            self.mark_claims(both(step).flat_map(|n| n.addresses.clone()), key);
        }
        if differs(step, |n| (n.locality.clone(), n.addresses.clone(), n.pod_cidrs.clone())) {
            let pods = self.state.pods_by_node.of(&key.name).to_vec();
            for pod in pods {
                self.mark(Unit::Workloads(Key { kind: Kind::Pod, namespace: pod.namespace, name: pod.name }));
            }
        }
    }
}

impl Touch<Namespace> for World {
    fn touch(&mut self, key: &Key, step: &Step<Namespace>) {
        self.mark(Unit::Status(key.clone()));
        let facts = |n: &Namespace| (n.meta.labels.clone(), n.distribution, n.canary_weight.clone(), n.waypoint_always);
        if differs(step, facts) {
            self.mark_namespace(&key.name);
        }
        let policies = &mut self.state.policies;
        let effects = match &step.1 {
            Some(namespace) => policies.set_namespace(&key.name, &namespace.meta.labels),
            None => policies.remove_namespace(&key.name),
        };
        self.mark_effects(effects);
    }
}

impl Touch<Gateway> for World {
    fn touch(&mut self, key: &Key, _: &Step<Gateway>) {
        self.mark(Unit::Status(key.clone()));
        self.mark_gateway(&Name::new(&key.namespace, &key.name));
    }
}

impl Touch<GatewayClass> for World {
    fn touch(&mut self, key: &Key, _: &Step<GatewayClass>) {
        self.mark(Unit::Status(key.clone()));
        self.mark_attached(key);
        let of_class = self.state.gateways.iter().filter(|g| g.class == key.name);
        let gateways: Vec<Name> = of_class.map(|g| Name::new(&g.meta.namespace, &g.meta.name)).collect();
        gateways.iter().for_each(|g| self.mark_gateway(g));
    }
}
