//! L7 objects: which of them are attached to what, and what a change of one touches.

mod outside;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::World;
use super::index::{Index, Name};
use super::state::{State, change};
use super::touch::{Step, Touch, Unit, both};
use crate::object::backend_tls::Roots;
use crate::object::request::KeySource;
use crate::object::route::{RouteKind, Target};
use crate::object::{
    BackendTlsPolicy, ConfigMap, DestinationRule, Key, Kind, ReferenceGrant, RequestAuthentication, Route,
};

/// Routes, and indexes over everything of L7.
#[derive(Debug, Default)]
pub(crate) struct Layer7 {
    pub(crate) routes: BTreeMap<Key, Arc<Route>>,
    /// Routes by Service or ServiceEntry that they are attached to.
    pub(crate) by_parent: Index<Key, Key>,
    /// Routes and RequestPolicies by whom they lead to.
    pub(crate) by_backend: Index<Target, Key>,
    /// Routes by the RequestPolicies that their filters name.
    pub(crate) by_extension: Index<Name, Key>,
    /// Policies of any kind by what they are attached to, and Telemetries.
    pub(crate) policies: Index<Key, Key>,
    /// DestinationRules by host name.
    pub(crate) destinations: Index<Arc<str>, Name>,
    /// BackendTLSPolicies by Service.
    pub(crate) tls: Index<Key, Name>,
    /// BackendTLSPolicies by ConfigMap that they name.
    pub(crate) by_map: Index<Name, Name>,
    /// RequestAuthentications by where their keys are.
    pub(crate) by_keys: Index<KeySource, Name>,
    /// AuthorizationPolicies with action CUSTOM by their authorizer.
    pub(crate) by_provider: Index<Arc<str>, Key>,
    /// Keys of issuers as they were fetched.
    pub(crate) keys: BTreeMap<KeySource, Fetched>,
    /// Services and ServiceEntries whose waypoint every node that we serve goes through.
    pub(crate) acknowledged: BTreeSet<Key>,
}

/// Keys of an issuer, or why there are none.
pub(crate) type Fetched = Result<Arc<str>, Arc<str>>;

impl State {
    pub(crate) fn index_route(&mut self, route: &Route, present: bool) {
        let key = route.key();
        let Layer7 { by_parent, by_backend, by_extension, .. } = &mut self.layer7;
        for parent in route.parents.iter().filter_map(|p| p.target.as_ref().ok()) {
            change(by_parent, parent.clone(), key.clone(), present);
        }
        for backend in route.references() {
            change(by_backend, backend.target.clone(), key.clone(), present);
        }
        for (name, _) in route.extensions() {
            change(by_extension, Name::new(&route.meta.namespace, name), key.clone(), present);
        }
    }

    pub(crate) fn index_request(&mut self, policy: &RequestAuthentication, present: bool) {
        let key = policy.meta.key(Kind::RequestAuthentication);
        let name = Name::new(&key.namespace, &key.name);
        for target in &policy.targets {
            change(&mut self.layer7.policies, target.clone(), key.clone(), present);
        }
        for source in &policy.keys {
            change(&mut self.layer7.by_keys, source.clone(), name.clone(), present);
        }
    }

    pub(crate) fn index_destination(&mut self, rule: &DestinationRule, present: bool) {
        let host = self.destination_host(rule);
        let name = Name::new(&rule.meta.namespace, &rule.meta.name);
        change(&mut self.layer7.destinations, host, name, present);
    }

    pub(crate) fn index_tls(&mut self, policy: &BackendTlsPolicy, present: bool) {
        let name = Name::new(&policy.meta.namespace, &policy.meta.name);
        let targets: BTreeSet<&Key> = policy.targets.iter().map(|(key, _)| key).collect();
        for key in targets {
            change(&mut self.layer7.tls, key.clone(), name.clone(), present);
        }
        for map in maps(policy) {
            change(&mut self.layer7.by_map, Name::new(&policy.meta.namespace, &map), name.clone(), present);
        }
    }

    /// The host name that a DestinationRule means: a name without dots is a service of its own namespace.
    pub(crate) fn destination_host(&self, rule: &DestinationRule) -> Arc<str> {
        match rule.host.contains('.') {
            true => rule.host.clone(),
            false => self.hostname(&rule.meta.namespace, &rule.host),
        }
    }

    /// Hosts of a Service or a ServiceEntry.
    pub(crate) fn hosts_of(&self, key: &Key) -> Vec<Arc<str>> {
        match key.kind {
            Kind::Service => vec![self.hostname(&key.namespace, &key.name)],
            _ => self.entries.get(&key.namespace, &key.name).map(|e| e.hosts.clone()).unwrap_or_default(),
        }
    }

    /// What an AuthorizationPolicy for waypoints is attached to.
    fn authorization_targets(&self, key: &Key) -> (Vec<Key>, Option<Arc<str>>) {
        let policy = self.policies.authorization_policy(&key.namespace, &key.name).and_then(|p| p.for_waypoint());
        policy.map(|p| (p.targets.clone(), p.provider.clone())).unwrap_or_default()
    }
}

/// ConfigMaps that a policy names.
fn maps(policy: &BackendTlsPolicy) -> BTreeSet<Arc<str>> {
    match &policy.roots {
        Roots::Maps(maps) => maps.iter().filter_map(|m| m.clone().ok()).collect(),
        Roots::System | Roots::Unclear => BTreeSet::new(),
    }
}

impl World {
    /// Replaces a route, or takes it out, and touches what depends on it.
    pub(super) fn route(&mut self, key: &Key, new: Option<Route>) {
        let new = new.map(Arc::new);
        let routes = &mut self.state.layer7.routes;
        let old = match &new {
            Some(route) => routes.insert(key.clone(), route.clone()),
            None => routes.remove(key),
        };
        if old == new {
            return;
        }
        if let Some(old) = &old {
            self.state.index_route(old, false);
        }
        if let Some(new) = &new {
            self.state.index_route(new, true);
        }
        self.mark(Unit::Status(key.clone()));
        self.mark_policies_of(key);
        let states = [old, new];
        let extensions: BTreeSet<Name> = states
            .iter()
            .flatten()
            .flat_map(|r| r.extensions().map(|(name, _)| Name::new(&r.meta.namespace, name)).collect::<Vec<_>>())
            .collect();
        for name in extensions {
            self.mark(Unit::Status(Key::new(Kind::RequestPolicy, name.namespace, name.name)));
        }
        let parents: BTreeSet<Key> =
            states.iter().flatten().flat_map(|r| &r.parents).filter_map(|p| p.target.clone().ok()).collect();
        for parent in parents {
            self.mark_service(&parent);
            // Whoever is of another kind wins or loses a port with this one.
            let others = self.state.layer7.by_parent.of(&parent).iter().filter(|k| k.kind != key.kind);
            let others: Vec<Key> = others.cloned().collect();
            others.into_iter().for_each(|k| self.mark(Unit::Status(k)));
        }
    }

    /// Changes an AuthorizationPolicy's place among those with targets; called before (`present` false) and after.
    pub(super) fn attach_policy(&mut self, key: &Key, present: bool) {
        let (targets, provider) = self.state.authorization_targets(key);
        for target in targets {
            change(&mut self.state.layer7.policies, target.clone(), key.clone(), present);
            self.mark_target(&target);
        }
        if let Some(provider) = provider {
            change(&mut self.state.layer7.by_provider, provider, key.clone(), present);
        }
    }

    /// Everything that a policy governs through one of its targets.
    fn mark_target(&mut self, target: &Key) {
        match target.kind {
            Kind::Gateway => self.mark_gateway(&Name::new(&target.namespace, &target.name)),
            // Whose Gateway is not there has no class either, and is not governed by it.
            Kind::GatewayClass => self.of_class(target).iter().for_each(|gateway| self.mark_gateway(gateway)),
            Kind::GrpcRoute | Kind::HttpRoute => self.mark_routed(target),
            _ => {
                self.mark_bound(target);
                // Whether others may lead to it depends on whether it is governed.
                self.mark_backend(target);
            }
        }
    }

    /// A Service's or a ServiceEntry's own resources, and what is said on it. A governed service of the namespace is told when
    /// another one has the same endpoints.
    pub(super) fn mark_service(&mut self, key: &Key) {
        if key.kind == Kind::Service && !self.state.layer7.policies.is_empty() {
            self.neighbours.insert(key.namespace.clone());
        }
        for host in self.state.hosts_of(key) {
            self.mark(Unit::Host(host));
        }
        self.mark(Unit::Status(key.clone()));
    }

    /// Marks governed services of the namespaces in which one changed: once for all changes.
    pub(super) fn mark_neighbours(&mut self) {
        for namespace in std::mem::take(&mut self.neighbours) {
            let here = self.state.services.within(&namespace).map(|s| s.meta.key(Kind::Service));
            let governed: Vec<Key> = here.filter(|k| self.state.governed(k)).collect();
            governed.into_iter().for_each(|k| self.mark(Unit::Status(k)));
        }
    }

    /// What is said on routes and policies that are attached to an object.
    pub(super) fn mark_attached(&mut self, key: &Key) {
        let Layer7 { by_parent, policies, tls, .. } = &self.state.layer7;
        let tls = tls.of(key).iter().map(|n| Key::new(Kind::BackendTlsPolicy, n.namespace.clone(), n.name.clone()));
        let routes = by_parent.of(key).iter();
        let of_routes = routes.clone().flat_map(|route| policies.of(route));
        let all: Vec<Key> = routes.chain(policies.of(key)).chain(of_routes).cloned().chain(tls).collect();
        all.into_iter().for_each(|k| self.mark(Unit::Status(k)));
    }

    /// Routes that lead to an object, and those to whom they are attached.
    pub(super) fn mark_backend(&mut self, key: &Key) {
        let hosts = self.state.hosts_of(key);
        self.mark_led_to(&Target::Object(key.clone()));
        for host in hosts {
            self.mark_host(&host);
        }
    }

    /// Whoever leads to a host by its name: routes and authorizers.
    pub(super) fn mark_host(&mut self, host: &Arc<str>) {
        self.mark_led_to(&Target::Host(host.clone()));
        let providers = self.state.settings.providers.iter().filter(|(_, p)| p.host == *host);
        let asked = providers.flat_map(|(name, _)| self.state.layer7.by_provider.of(name));
        let policies: Vec<Key> = asked.cloned().collect();
        for policy in policies {
            let (targets, _) = self.state.authorization_targets(&policy);
            targets.iter().for_each(|t| self.mark_ruled(t));
            self.mark(Unit::Status(policy));
        }
    }

    /// What waypoints know of those that a policy is attached to. It leads no further: what changed is somebody to whom the policy
    /// leads, who may be one of those himself.
    fn mark_ruled(&mut self, target: &Key) {
        match target.kind {
            Kind::Gateway => self.mark_known(&Name::new(&target.namespace, &target.name)),
            Kind::GatewayClass => self.of_class(target).iter().for_each(|gateway| self.mark_known(gateway)),
            Kind::GrpcRoute | Kind::HttpRoute => self.mark_routed(target),
            _ => self.mark_hosts_of(target),
        }
    }

    /// Gateways of a class.
    fn of_class(&self, class: &Key) -> Vec<Name> {
        let of_class = self.state.gateways.iter().filter(|g| g.class == class.name);
        of_class.map(|g| Name::new(&g.meta.namespace, &g.meta.name)).collect()
    }

    /// What a Gateway's waypoint knows: of itself, and of everybody who is bound to it.
    fn mark_known(&mut self, gateway: &Name) {
        self.mark(Unit::Passing(gateway.clone()));
        let users = self.state.waypoint_users.of(gateway).to_vec();
        users.iter().for_each(|key| self.mark_hosts_of(key));
        for namespace in self.state.bound_namespaces(gateway) {
            self.mark_all_hosts(&namespace);
        }
    }

    /// What waypoints know of an object's hosts.
    fn mark_hosts_of(&mut self, key: &Key) {
        for host in self.state.hosts_of(key) {
            self.mark(Unit::Routing(host));
        }
    }

    /// What waypoints know of all hosts of a namespace.
    fn mark_all_hosts(&mut self, namespace: &str) {
        let services = self.state.services.within(namespace).map(|s| s.meta.key(Kind::Service));
        let entries = self.state.entries.within(namespace).map(|e| e.meta.key(Kind::ServiceEntry));
        let keys: Vec<Key> = services.chain(entries).collect();
        keys.iter().for_each(|key| self.mark_hosts_of(key));
    }

    /// Routes that lead to whoever answers to a host name.
    pub(super) fn mark_answered(&mut self, host: &Arc<str>) {
        self.mark_led_to(&Target::Host(host.clone()));
        let keys = self.state.hosts.of(host).to_vec();
        keys.into_iter().for_each(|key| self.mark_led_to(&Target::Object(key)));
    }

    fn mark_led_to(&mut self, target: &Target) {
        let all = self.state.layer7.by_backend.of(target).to_vec();
        for key in all {
            match key.kind {
                Kind::RequestPolicy => self.mark_request_policy(&key),
                _ => {
                    self.mark_routed(&key);
                    self.mark(Unit::Status(key));
                }
            }
        }
    }

    /// What waypoints know of those to whom a route is attached.
    fn mark_routed(&mut self, route: &Key) {
        let Some(route) = self.state.layer7.routes.get(route).cloned() else { return };
        for parent in route.parents.iter().filter_map(|p| p.target.as_ref().ok()) {
            self.mark_hosts_of(parent);
        }
    }

    /// How a host's endpoints are treated has changed: for those who go to it, and for its own waypoint.
    fn mark_treatment(&mut self, host: &Arc<str>) {
        let services = self.state.hosts.of(host).to_vec();
        for key in services {
            self.mark_bound(&key);
            self.mark_backend(&key);
        }
        self.mark_host(host);
        let rules: Vec<Name> = self.state.layer7.destinations.of(host).to_vec();
        for name in rules {
            self.mark(Unit::Status(Key::new(Kind::DestinationRule, name.namespace, name.name)));
        }
    }
}

impl Touch<RequestAuthentication> for World {
    fn touch(&mut self, key: &Key, step: &Step<RequestAuthentication>) {
        self.mark(Unit::Status(key.clone()));
        let targets: BTreeSet<Key> = both(step).flat_map(|p| p.targets.clone()).collect();
        targets.iter().for_each(|t| self.mark_target(t));
    }
}

impl Touch<DestinationRule> for World {
    fn touch(&mut self, key: &Key, step: &Step<DestinationRule>) {
        self.mark(Unit::Status(key.clone()));
        let hosts: BTreeSet<Arc<str>> = both(step).map(|r| self.state.destination_host(r)).collect();
        hosts.iter().for_each(|h| self.mark_treatment(h));
    }
}

impl Touch<BackendTlsPolicy> for World {
    fn touch(&mut self, key: &Key, step: &Step<BackendTlsPolicy>) {
        self.mark(Unit::Status(key.clone()));
        let targets: BTreeSet<Key> = both(step).flat_map(|p| p.targets.iter().map(|(k, _)| k.clone())).collect();
        for target in targets {
            self.mark_bound(&target);
            self.mark_attached(&target);
            self.mark_backend(&target);
        }
    }
}

impl Touch<ConfigMap> for World {
    fn touch(&mut self, key: &Key, _: &Step<ConfigMap>) {
        let policies = self.state.layer7.by_map.of(&Name::new(&key.namespace, &key.name)).to_vec();
        for name in policies {
            let Some(policy) = self.state.backend_tls.get(&name.namespace, &name.name).cloned() else { continue };
            let key = policy.meta.key(Kind::BackendTlsPolicy);
            self.touch(&key, &(Some(policy), None));
        }
    }
}

impl Touch<ReferenceGrant> for World {
    fn touch(&mut self, key: &Key, _: &Step<ReferenceGrant>) {
        // Grants are few and change seldom: every route that leads into their namespace is looked at again.
        let led = self.state.layer7.by_backend.iter().map(|(target, _)| target);
        let here = led.filter(|t| match t {
            Target::Object(object) => object.namespace == key.namespace,
            Target::Host(_) => true,
            Target::Unknown(_) => false,
        });
        let targets: Vec<Target> = here.cloned().collect();
        targets.iter().for_each(|t| self.mark_led_to(t));
    }
}

impl Layer7 {
    /// Routes that are attached to an object.
    pub(crate) fn routes_of<'a>(&'a self, parent: &Key) -> impl Iterator<Item = &'a Arc<Route>> + use<'a> {
        self.by_parent.of(parent).iter().filter_map(|k| self.routes.get(k))
    }

    /// Routes of kinds stronger than one, which are attached to an object.
    pub(crate) fn stronger<'a>(
        &'a self,
        parent: &Key,
        kind: RouteKind,
    ) -> impl Iterator<Item = &'a Arc<Route>> + use<'a> {
        self.routes_of(parent).filter(move |r| r.kind < kind)
    }
}
