//! What an object's coming, change and going touches: the resources that have to be translated anew.
//!
//! A mark too many costs a translation whose result is the same as before; a mark too few is a wrong answer. The property
//! test compares with the translation of everything.

mod cluster;

use std::sync::Arc;

use super::World;
use super::index::{Name, Table};
use super::pod_network::own_addresses;
use super::state::{self, State};
use crate::object::{
    BackendTlsPolicy, ConfigMap, DestinationRule, EndpointSlice, Gateway, GatewayClass, Key, Kind, Labels, Namespace,
    Node, Pod, ReferenceGrant, RequestAuthentication, RequestPolicy, Service, ServiceEntry, Telemetry, WorkloadEntry,
};
use crate::policies::{Effects, Policies, Workloads};

/// What is translated as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// All services that answer to a host name.
    Host(Arc<str>),
    /// The policy of this name, `namespace/name`.
    Policy(Arc<str>),
    /// What waypoints know of the services of a host name.
    Routing(Arc<str>),
    /// What a waypoint knows of itself: what applies to all that passes it.
    Passing(Name),
    /// What is to be said on an object.
    Status(Key),
    /// The workloads of an object.
    Workloads(Key),
}

/// An object as it is kept.
pub(super) trait Object: PartialEq + Sized {
    const KIND: Kind;

    fn table(state: &mut State) -> &mut Table<Self>;
    fn index(&self, state: &mut State, present: bool) {
        _ = (state, present);
    }
}

macro_rules! object {
    ($($kind:ident in $table:ident $(by $index:ident)?;)+) => {$(
        impl Object for $kind {
            const KIND: Kind = Kind::$kind;

            fn table(state: &mut State) -> &mut Table<Self> {
                &mut state.$table
            }

            $(fn index(&self, state: &mut State, present: bool) {
                state.$index(self, present);
            })?
        }
    )+};
}

object! {
    BackendTlsPolicy in backend_tls by index_tls;
    ConfigMap in config_maps;
    DestinationRule in destinations by index_destination;
    ReferenceGrant in grants;
    RequestAuthentication in requests by index_request;
    RequestPolicy in request_policies by index_request_policy;
    Telemetry in telemetries by index_telemetry;
    EndpointSlice in slices by index_slice;
    Gateway in gateways;
    GatewayClass in classes;
    Namespace in namespaces;
    Node in nodes by index_node;
    Pod in pods by index_pod;
    Service in services by index_service;
    ServiceEntry in entries by index_entry;
    WorkloadEntry in workload_entries by index_workload_entry;
}

/// Before and after; not both absent.
pub(super) type Step<T> = (Option<Arc<T>>, Option<Arc<T>>);

impl World {
    /// Replaces an object, or takes it out, and touches what depends on it.
    pub(super) fn replace<T: Object>(&mut self, namespace: &Arc<str>, name: &Arc<str>, new: Option<T>)
    where
        Self: Touch<T>,
    {
        let new = new.map(Arc::new);
        let table = T::table(&mut self.state);
        let old = match &new {
            Some(value) => table.put(namespace, name, value.clone()),
            None => table.take(namespace, name),
        };
        if old == new {
            return;
        }
        let key = Key { kind: T::KIND, namespace: namespace.clone(), name: name.clone() };
        if let Some(old) = &old {
            old.index(&mut self.state, false);
        }
        if let Some(new) = &new {
            new.index(&mut self.state, true);
        }
        self.touch(&key, &(old, new));
    }

    /// Changes policies, and touches what they say is concerned.
    pub(super) fn policy(&mut self, key: &Key, change: impl FnOnce(&mut Policies) -> Effects, present: bool) {
        let has_targets = key.kind == Kind::AuthorizationPolicy;
        if has_targets {
            self.attach_policy(key, false);
        }
        let effects = change(&mut self.state.policies);
        if has_targets {
            self.attach_policy(key, true);
        }
        match present {
            true => _ = self.state.policy_keys.insert(key.clone()),
            false => _ = self.state.policy_keys.remove(key),
        }
        self.mark(Unit::Status(key.clone()));
        self.mark_effects(effects);
    }

    fn mark_effects(&mut self, effects: Effects) {
        effects.resources.into_iter().for_each(|name| self.mark(Unit::Policy(name)));
        let Workloads { all, namespaces, pods } = effects.workloads;
        let kinds = [Kind::Pod, Kind::ServiceEntry, Kind::WorkloadEntry];
        if all {
            let keys: Vec<Key> = self.state.keys().filter(|k| kinds.contains(&k.kind)).collect();
            keys.into_iter().for_each(|k| self.mark(Unit::Workloads(k)));
            return;
        }
        for namespace in namespaces {
            let pods = self.state.pods.within(&namespace).map(|p| p.meta.key(Kind::Pod));
            let entries = self.state.entries.within(&namespace).map(|e| e.meta.key(Kind::ServiceEntry));
            let others = self.state.workload_entries.within(&namespace).map(|e| e.meta.key(Kind::WorkloadEntry));
            let keys: Vec<Key> = pods.chain(entries).chain(others).collect();
            keys.into_iter().for_each(|k| self.mark(Unit::Workloads(k)));
        }
        for (namespace, name) in pods {
            self.mark(Unit::Workloads(Key { kind: Kind::Pod, namespace, name }));
        }
    }

    pub(super) fn mark(&mut self, unit: Unit) {
        if let Unit::Host(host) = &unit {
            // Whatever decides on a service decides on what its waypoint knows of it.
            self.dirty.insert(Unit::Routing(host.clone()));
            // A rule for endpoints counts or not by whose host name it is.
            let rules = self.state.layer7.destinations.of(host).iter();
            let keys = rules.map(|n| Key::new(Kind::DestinationRule, n.namespace.clone(), n.name.clone()));
            self.dirty.extend(keys.map(Unit::Status));
            self.mark_answered(host);
        }
        self.dirty.insert(unit);
    }

    /// The workloads of an object, and what is said on it.
    fn mark_object(&mut self, key: Key) {
        self.mark(Unit::Workloads(key.clone()));
        self.mark(Unit::Status(key));
    }

    fn mark_pods(&mut self, namespace: &str, selects: impl Fn(&Labels) -> bool) {
        let names: Vec<Arc<str>> = self.state.pods_selected(namespace, selects).cloned().collect();
        for name in names {
            self.mark_object(Key::new(Kind::Pod, namespace, name));
        }
    }

    /// Pods and workload entries of a namespace that a selector matches.
    fn mark_members(&mut self, namespace: &Arc<str>, selector: Option<&Labels>) {
        let Some(selector) = selector else { return };
        self.mark_pods(namespace, |labels| selector.subset_of(labels));
        let entries = self.state.workload_entries.within(namespace);
        let keys: Vec<Key> =
            entries.filter(|e| selector.subset_of(&e.meta.labels)).map(|e| e.meta.key(Kind::WorkloadEntry)).collect();
        keys.into_iter().for_each(|k| self.mark_object(k));
    }

    /// A ServiceEntry in all its parts: an address or a host name of it is contested.
    fn mark_entry(&mut self, key: &Key) {
        let Some(entry) = self.state.entries.get(&key.namespace, &key.name).cloned() else { return };
        for host in &entry.hosts {
            self.mark(Unit::Host(host.clone()));
        }
        self.mark_members(&key.namespace, entry.selector.as_ref());
        self.mark_object(key.clone());
    }

    /// Everything that a binding to a waypoint decides on, of one object.
    pub(super) fn mark_bound(&mut self, key: &Key) {
        match key.kind {
            Kind::Service => {
                self.mark_service(key);
                self.mark_endpoints(key);
            }
            Kind::ServiceEntry => self.mark_entry(key),
            _ => self.mark_object(key.clone()),
        }
        self.mark_attached(key);
    }

    /// Workloads behind a service: the companion rule of its waypoint is theirs.
    fn mark_endpoints(&mut self, key: &Key) {
        let Some(service) = self.state.services.get(&key.namespace, &key.name).cloned() else { return };
        self.mark_members(&key.namespace, service.selector.as_ref());
        let slices = self.state.slices_by_service.of(&Name::new(&key.namespace, &key.name)).to_vec();
        for slice in slices {
            let Some(slice) = self.state.slices.get(&key.namespace, &slice).cloned() else { continue };
            for pod in state::pods_of(&slice) {
                self.mark_object(Key { kind: Kind::Pod, namespace: pod.namespace, name: pod.name });
            }
        }
    }

    /// Everything in a namespace.
    fn mark_namespace(&mut self, namespace: &Arc<str>) {
        self.mark_pods(namespace, |_| true);
        let services = self.state.services.within(namespace).map(|s| s.meta.key(Kind::Service));
        let entries = self.state.entries.within(namespace).map(|e| e.meta.key(Kind::ServiceEntry));
        let workloads = self.state.workload_entries.within(namespace).map(|e| e.meta.key(Kind::WorkloadEntry));
        let keys: Vec<Key> = services.chain(entries).chain(workloads).collect();
        keys.iter().for_each(|k| self.mark_bound(k));
    }

    /// Everybody whose binding leads to a Gateway, and the Gateway's own pods.
    pub(super) fn mark_gateway(&mut self, gateway: &Name) {
        self.mark(Unit::Passing(gateway.clone()));
        self.mark_attached(&Key::new(Kind::Gateway, gateway.namespace.clone(), gateway.name.clone()));
        if let Some(found) = self.state.gateways.get(&gateway.namespace, &gateway.name) {
            self.mark_attached(&Key::new(Kind::GatewayClass, "", found.class.clone()));
        }
        let users = self.state.waypoint_users.of(gateway).to_vec();
        users.iter().for_each(|k| self.mark_bound(k));
        let namespaces = self.state.bound_namespaces(gateway);
        namespaces.iter().for_each(|n| self.mark_namespace(n));
    }

    /// Who else claims the addresses, and to whom they were proposed.
    fn mark_claims(&mut self, addresses: impl IntoIterator<Item = std::net::IpAddr>, own: &Key) {
        for ip in addresses {
            let others: Vec<Key> = self.state.vips.of(&ip).iter().filter(|k| *k != own).cloned().collect();
            for other in others {
                match other.kind {
                    Kind::ServiceEntry => self.mark_entry(&other),
                    _ => self.mark_service(&other),
                }
            }
            if let Some(name) = self.state.allocator.pending(ip) {
                let key = Key { kind: Kind::ServiceEntry, namespace: name.namespace.clone(), name: name.name.clone() };
                self.mark(Unit::Status(key));
            }
        }
    }

    /// Others of the namespace that define one of these host names.
    fn mark_rivals<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Arc<str>>, own: &Key) {
        for host in hosts {
            let all = self.state.hosts.of(host);
            let rivals: Vec<Key> = all.iter().filter(|k| k.namespace == own.namespace && *k != own).cloned().collect();
            rivals.iter().filter(|k| k.kind == Kind::ServiceEntry).for_each(|k| self.mark_entry(k));
        }
    }
}

/// What a kind of object touches.
pub(super) trait Touch<T> {
    fn touch(&mut self, key: &Key, step: &Step<T>);
}

/// The states of a step.
pub(super) fn both<T>(step: &Step<T>) -> impl Iterator<Item = &Arc<T>> {
    step.0.iter().chain(&step.1)
}

/// Whether something about an object is different; coming and going always is.
fn differs<T, U: PartialEq>(step: &Step<T>, of: impl Fn(&T) -> U) -> bool {
    match step {
        (Some(old), Some(new)) => of(old) != of(new),
        _ => true,
    }
}

impl Touch<Pod> for World {
    fn touch(&mut self, key: &Key, step: &Step<Pod>) {
        self.mark_object(key.clone());
        let addresses = |p: &Pod| own_addresses(p).to_vec();
        if differs(step, addresses) {
            self.mark_claims(both(step).flat_map(|p| addresses(p)), key);
        }
        let policies = &mut self.state.policies;
        let effects = match &step.1 {
            Some(pod) => policies.set_pod(pod),
            None => policies.remove_pod(&key.namespace, &key.name),
        };
        self.mark_effects(effects);
    }
}

impl Touch<WorkloadEntry> for World {
    fn touch(&mut self, key: &Key, _: &Step<WorkloadEntry>) {
        self.mark_object(key.clone());
    }
}

impl Touch<Service> for World {
    fn touch(&mut self, key: &Key, step: &Step<Service>) {
        let host = self.state.hostname(&key.namespace, &key.name);
        self.mark_rivals([&host], key);
        self.mark_service(key);
        self.mark_attached(key);
        self.mark_backend(key);
        if differs(step, |s| (s.meta.labels.clone(), s.enforced)) {
            self.mark_endpoints(key);
        }
        let addresses = |s: &Service| [&*s.vips, &*s.balanced].concat();
        if differs(step, |s| (s.external_name, addresses(s))) {
            self.mark_claims(both(step).flat_map(|s| addresses(s)), key);
        }
        if !differs(step, |s| (s.external_name, s.selector.clone(), s.ports.clone())) {
            return;
        }
        for service in both(step) {
            self.mark_members(&key.namespace, service.selector.as_ref());
        }
        let slices = self.state.slices_by_service.of(&Name::new(&key.namespace, &key.name)).to_vec();
        for slice in slices {
            let Some(slice) = self.state.slices.get(&key.namespace, &slice).cloned() else { continue };
            self.mark(Unit::Workloads(slice.meta.key(Kind::EndpointSlice)));
            for pod in state::pods_of(&slice) {
                self.mark_object(Key { kind: Kind::Pod, namespace: pod.namespace, name: pod.name });
            }
        }
    }
}

impl Touch<EndpointSlice> for World {
    fn touch(&mut self, key: &Key, step: &Step<EndpointSlice>) {
        self.mark_object(key.clone());
        // Every pod that becomes ready rewrites its slices: only who comes or goes is concerned, unless it is another
        // service or port.
        let whole = differs(step, |s| (s.service.clone(), s.ports.clone()));
        let refs = |s: &Option<Arc<EndpointSlice>>| s.iter().flat_map(|s| pod_refs(s)).collect::<Vec<_>>();
        let (old, new) = (refs(&step.0), refs(&step.1));
        let stays = |p, other: &[_]| !whole && other.binary_search(p).is_ok();
        let gone = old.iter().filter(|p| !stays(*p, &new));
        let come = new.iter().filter(|p| !stays(*p, &old));
        let pods: Vec<Name> = gone.chain(come).map(|(name, _)| name.clone()).collect();
        for pod in pods {
            self.mark_object(Key { kind: Kind::Pod, namespace: pod.namespace, name: pod.name });
        }
    }
}

/// Pods that a slice names, with uid, in order.
fn pod_refs(slice: &EndpointSlice) -> Vec<(Name, Arc<str>)> {
    use crate::object::slice::Endpoint;
    let pods = slice.endpoints.iter().filter_map(|e| match e {
        Endpoint::Pod { namespace, name, uid } => Some((Name::new(namespace, name), uid.clone())),
        Endpoint::Address { .. } => None,
    });
    let mut pods: Vec<_> = pods.collect();
    pods.sort();
    pods
}

impl Touch<ServiceEntry> for World {
    fn touch(&mut self, key: &Key, step: &Step<ServiceEntry>) {
        let hosts: Vec<Arc<str>> = both(step).flat_map(|e| e.hosts.clone()).collect();
        self.mark_rivals(&hosts, key);
        self.mark_attached(key);
        self.mark_backend(key);
        for host in hosts {
            self.mark_host(&host);
            self.mark(Unit::Host(host));
        }
        let claims: Vec<_> = both(step).flat_map(|e| state::claimed(e)).collect();
        self.mark_claims(claims, key);
        for entry in both(step) {
            self.mark_members(&key.namespace, entry.selector.as_ref());
        }
        self.mark_object(key.clone());
    }
}
