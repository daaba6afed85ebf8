//! Policies with targets: whom they govern, what waypoints get of them, and who may pass by a waypoint (design.md 5).

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use mesh::workload::{GatewayAddress, GatewayDestination, NamespacedHostname, PortMap};
use proto::routing as wire;

use crate::object::request::KeySource;
use crate::object::{Key, Kind, Labels, RequestAuthentication};
use crate::policies::authorization::ForWaypoint;
use crate::translate::members::Members;
use crate::translate::waypoint::MANAGED;
use crate::world::{Name, Settings, State, USE_WAYPOINT, named_waypoint};

/// What the name of a companion rule begins with. No object of Kubernetes has a `_` in its name.
const COMPANION: &str = "culvert_waypoint_";

/// A waypoint that there cannot be: its namespace has a dot, which no namespace of Kubernetes has. Node proxies that are
/// told to go there, ours and others, refuse the connection.
pub(crate) fn nowhere() -> GatewayAddress {
    let hostname = NamespacedHostname { namespace: "culvert.dev".into(), hostname: "no-waypoint.culvert.dev".into() };
    GatewayAddress { destination: GatewayDestination::Hostname(hostname), hbone_port: 15008 }
}

/// Who may reach a service's endpoints past its waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Everybody: no security policy needs the waypoint.
    Open,
    /// Everybody still: not every node goes through the waypoint yet.
    Waiting,
    /// Service accounts of the waypoint, namespace and name; nobody when there is none.
    Shut(BTreeSet<(Arc<str>, Arc<str>)>),
}

impl State {
    /// Whether a security policy governs a Service or a ServiceEntry: through itself, its waypoint, or that one's class.
    pub(crate) fn governed(&self, key: &Key) -> bool {
        if self.layer7.policies.is_empty() {
            return false;
        }
        let Some(labels) = self.labels_of(key) else { return false };
        if labels.get(MANAGED.0).is_some_and(|m| MANAGED.1.contains(&&**m)) {
            return false;
        }
        let secures = |target: &Key| self.layer7.policies.of(target).iter().any(|p| self.secures(p, target));
        secures(key) || self.wanted_gateway(key, labels).is_some_and(|g| self.gateway_targets(&g).iter().any(secures))
    }

    /// Whether a security policy governs what passes a waypoint.
    pub(crate) fn gateway_governed(&self, gateway: &Name) -> bool {
        let secures = |target: &Key| self.layer7.policies.of(target).iter().any(|p| self.secures(p, target));
        self.gateway_targets(gateway).iter().any(secures)
    }

    /// Whether something of L7 is attached to an object or to its waypoint.
    pub(crate) fn attached(&self, key: &Key, gateway: &Name) -> bool {
        let layer7 = &self.layer7;
        let spoken = |host: &Arc<str>| self.destination_of(&key.namespace, host).is_some_and(|d| d.speaks());
        !layer7.by_parent.of(key).is_empty()
            || !layer7.policies.of(key).is_empty()
            || !layer7.tls.of(key).is_empty()
            || self.gateway_targets(gateway).iter().any(|t| layer7.policies.of(t).iter().any(|p| self.counts(p, t)))
            || (matches!(key.kind, Kind::Service | Kind::ServiceEntry)
                && !layer7.destinations.is_empty()
                && self.hosts_of(key).iter().any(spoken))
    }

    fn labels_of(&self, key: &Key) -> Option<&Labels> {
        match key.kind {
            Kind::Service => {
                self.services.get(&key.namespace, &key.name).filter(|s| !s.external_name).map(|s| &s.meta.labels)
            }
            Kind::ServiceEntry => self.entries.get(&key.namespace, &key.name).map(|e| &e.meta.labels),
            _ => None,
        }
    }

    /// The waypoint that an object or its namespace asks for, whether it is there or not.
    pub(super) fn wanted_gateway(&self, key: &Key, labels: &Labels) -> Option<Name> {
        let namespace = self.namespaces.get("", &key.namespace).map(|n| &n.meta.labels);
        let own = labels.get(USE_WAYPOINT.0).is_some();
        named_waypoint(if own { labels } else { namespace? }, USE_WAYPOINT, &key.namespace)
    }

    /// What policies for a waypoint can be attached to.
    pub(super) fn gateway_targets(&self, gateway: &Name) -> Vec<Key> {
        let own = Key::new(Kind::Gateway, gateway.namespace.clone(), gateway.name.clone());
        let class = self.gateways.get(&gateway.namespace, &gateway.name).map(|g| g.class.clone());
        std::iter::once(own).chain(class.map(|c| Key::new(Kind::GatewayClass, "", c))).collect()
    }

    /// A policy for a class counts in the root namespace alone.
    pub(super) fn counts(&self, policy: &Key, target: &Key) -> bool {
        target.kind != Kind::GatewayClass || policy.namespace == self.settings.root_namespace
    }

    /// Whether a policy can refuse anything, so that who passes it by gets more than was meant.
    pub(super) fn secures(&self, policy: &Key, target: &Key) -> bool {
        self.counts(policy, target)
            && match policy.kind {
                Kind::AuthorizationPolicy => self
                    .for_waypoint(policy)
                    .is_some_and(|p| !p.ready.dry_run && p.ready.action() != wire::AuthorizationAction::Audit),
                Kind::RequestPolicy | Kind::Telemetry => false,
                _ => true,
            }
    }

    pub(super) fn for_waypoint(&self, key: &Key) -> Option<&ForWaypoint> {
        self.policies.authorization_policy(&key.namespace, &key.name)?.for_waypoint()
    }

    /// Who may pass by the waypoint of a Service or a ServiceEntry.
    pub(crate) fn guard(&self, key: &Key) -> Guard {
        if !self.governed(key) {
            return Guard::Open;
        }
        let account = |g: &Name| {
            let found = self.gateways.get(&g.namespace, &g.name);
            found.map(|found| (g.namespace.clone(), found.account.clone()))
        };
        match self.binding_of(key) {
            Ok(Some(binding)) => {
                let enforced = match key.kind {
                    Kind::Service => self.services.get(&key.namespace, &key.name).is_some_and(|s| s.enforced),
                    _ => self.entries.get(&key.namespace, &key.name).is_some_and(|e| e.enforced),
                };
                let canary = binding.canary.as_ref().map(|c| &c.gateway);
                match enforced || self.layer7.acknowledged.contains(key) {
                    true => Guard::Shut(std::iter::once(&binding.gateway).chain(canary).filter_map(account).collect()),
                    false => Guard::Waiting,
                }
            }
            Ok(None) | Err(_) => {
                let wanted = self.labels_of(key).and_then(|l| self.wanted_gateway(key, l));
                Guard::Shut(wanted.iter().filter_map(account).collect())
            }
        }
    }

    /// Names of the companion rules of a workload: on each port of it that is behind governed services alone, nobody but
    /// their waypoints. On a port that an ungoverned service shares, nobody is refused; that is reported.
    pub(in crate::translate) fn companions(&self, members: &Members) -> Vec<Arc<str>> {
        if self.layer7.policies.is_empty() {
            return Vec::new();
        }
        let mut ports = std::collections::BTreeMap::new();
        for (name, PortMap(map)) in members {
            let key = name.split_once('/').and_then(|(ns, host)| self.winner(ns, host));
            let guard = key.map_or(Guard::Open, |key| self.guard(key));
            for port in map.values().copied().filter(|p| *p != 0) {
                let entry = ports.entry(port).or_insert_with(|| Some(BTreeSet::new()));
                match (&guard, &mut *entry) {
                    (Guard::Shut(accounts), Some(all)) => all.extend(accounts.iter().cloned()),
                    (Guard::Shut(_), None) => {}
                    (Guard::Open | Guard::Waiting, _) => *entry = None,
                }
            }
        }
        let root = &self.settings.root_namespace;
        let named = ports.into_iter().filter_map(|(port, accounts)| {
            let accounts: String = accounts?.iter().map(|(ns, name)| format!("_{ns}_{name}")).collect();
            Some(format!("{root}/{COMPANION}{port}{accounts}").into())
        });
        named.collect()
    }

    /// What waypoints get of the policies of a Service or a ServiceEntry.
    pub(super) fn policies_for(
        &self,
        key: &Key,
        gateways: &[&Name],
        follows: &mut BTreeSet<String>,
    ) -> (Vec<wire::Authorization>, Vec<wire::Authentication>) {
        let targets = std::iter::once(key.clone()).chain(gateways.iter().flat_map(|g| self.gateway_targets(g)));
        self.policies_of(targets.collect(), follows)
    }

    /// What a waypoint gets of its own policies.
    pub(super) fn policies_at(
        &self,
        gateways: &[&Name],
        follows: &mut BTreeSet<String>,
    ) -> (Vec<wire::Authorization>, Vec<wire::Authentication>) {
        self.policies_of(gateways.iter().flat_map(|g| self.gateway_targets(g)).collect(), follows)
    }

    fn policies_of(
        &self,
        targets: Vec<Key>,
        follows: &mut BTreeSet<String>,
    ) -> (Vec<wire::Authorization>, Vec<wire::Authentication>) {
        let policies = targets.iter().flat_map(|t| self.layer7.policies.of(t).iter().filter(|p| self.counts(p, t)));
        let policies: BTreeSet<&Key> = policies.collect();
        let (mut authorizations, mut authentications) = (Vec::new(), Vec::new());
        for policy in policies {
            match policy.kind {
                Kind::AuthorizationPolicy => {
                    authorizations.extend(self.for_waypoint(policy).map(|p| self.authorization(p, follows)));
                }
                Kind::RequestAuthentication => {
                    let request = self.requests.get(&policy.namespace, &policy.name);
                    authentications.extend(request.map(|r| self.authentication(r)));
                }
                // They are none of security.
                _ => {}
            }
        }
        (authorizations, authentications)
    }

    fn authorization(&self, policy: &ForWaypoint, follows: &mut BTreeSet<String>) -> wire::Authorization {
        let mut made = policy.ready.clone();
        let Some(name) = &policy.provider else { return made };
        match self.provider(name) {
            Ok((backend, ask)) => {
                follows.insert(backend.service.clone());
                made.external = Some(wire::ExternalAuth { backend: Some(backend), ..ask });
            }
            Err(reason) => _ = made.invalid.get_or_insert(wire::Invalid { reason }),
        }
        made
    }

    /// An authorizer by its name in the mesh's configuration.
    pub(super) fn provider(&self, name: &str) -> Result<(wire::Backend, wire::ExternalAuth), String> {
        let Some(provider) = self.settings.providers.get(name) else {
            return Err(format!("the mesh has no extension provider {}", crate::object::shown(name)));
        };
        let found = match &provider.namespace {
            Some(namespace) => self.winner(namespace, &provider.host),
            None => self.canonical_of(&provider.host),
        };
        let Some(key) = found else {
            return Err(format!("no service has the host name {} of extension provider {name}", provider.host));
        };
        if !self.ports_of(key).iter().any(|p| p.number == provider.port) {
            return Err(format!("{key} of extension provider {name} has no port {}", provider.port));
        }
        let backend = wire::Backend {
            weight: 1,
            service: format!("{}/{}", key.namespace, provider.host),
            port: provider.port.into(),
            ..wire::Backend::default()
        };
        Ok((backend, provider.ask.clone()))
    }

    fn authentication(&self, policy: &RequestAuthentication) -> wire::Authentication {
        let mut made = policy.ready.clone();
        for (rule, source) in made.rules.iter_mut().zip(&policy.keys) {
            match self.keys_of(source) {
                Ok(keys) => rule.jwks = keys.to_string(),
                Err(reason) => rule.keys_missing = Some(wire::Invalid { reason }),
            }
        }
        made
    }

    /// Keys of an issuer, or why there are none.
    pub(super) fn keys_of(&self, source: &KeySource) -> Result<Arc<str>, String> {
        match source {
            KeySource::Inline(keys) => Ok(keys.clone()),
            KeySource::Nowhere(reason) => Err(reason.to_string()),
            KeySource::Discovery(_) | KeySource::Uri(_) => match self.layer7.keys.get(source) {
                None => Err("the keys were not fetched yet".to_owned()),
                Some(Ok(keys)) => Ok(keys.clone()),
                Some(Err(reason)) => Err(reason.to_string()),
            },
        }
    }
}

/// The companion rule of a name, `namespace/name`; `None` for other names. The name says it all: port and accounts.
pub(crate) fn companion(settings: &Settings, name: &str) -> Option<Authorization> {
    let short = name.strip_prefix(&*settings.root_namespace)?.strip_prefix('/')?;
    let mut words = short.strip_prefix(COMPANION)?.split('_');
    let port = words.next()?.parse().ok()?;
    let mut principals = Vec::new();
    while let (Some(namespace), Some(account)) = (words.next(), words.next()) {
        let principal = format!("{}/ns/{namespace}/sa/{account}", settings.trust_domain);
        principals.push(StringMatch::Exact(principal.into()));
    }
    let on = Match { destination_ports: vec![port], ..Match::default() };
    let who = Match { not_principals: principals, ..Match::default() };
    let all = [on, who].into_iter().filter(|m| *m != Match::default());
    Some(Authorization {
        name: short.into(),
        namespace: settings.root_namespace.clone(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: all.map(|m| Clause { matches: vec![m] }).collect() }],
        dry_run: false,
    })
}
