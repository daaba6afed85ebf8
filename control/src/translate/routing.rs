//! What waypoints know of services: `culvert.routing.v1.Service` (gateway-api.md 2 to 5, waypoint-api.md 5).
//!
//! One resource for each Service or ServiceEntry host that is bound to a waypoint, and one for each waypoint itself, named
//! `namespace/gateway:name`, with what applies to all that passes it. Tables are made per port and kind of caller; which
//! kind of route has a port is decided here, which rule has a request is the waypoint's.

mod backend;
mod policy;
mod report;
mod request;
mod telemetry;
mod tls;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::service::AppProtocol;
use proto::routing as wire;

pub(crate) use policy::{Guard, companion, nowhere};

use super::waypoint::{Binding, Refusal};
use crate::object::route::{Backend, Filter, Parent, Route, RouteKind, Rule};
use crate::object::{Key, Kind};
use crate::world::{Name, Routed, State};
use backend::{Found, Origin};

/// A port of a Service or of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) name: Arc<str>,
    pub(super) protocol: AppProtocol,
}

/// Whose routes have a port: the strongest kind of each kind of caller.
type Held = BTreeMap<(u16, Arc<str>), RouteKind>;

impl State {
    /// What waypoints know of the services of a host name.
    pub(super) fn routing(&self, host: &str) -> Vec<Routed> {
        let namespaces: BTreeSet<&Arc<str>> = self.hosts.of(host).iter().map(|k| &k.namespace).collect();
        namespaces.into_iter().filter_map(|ns| self.routed(self.winner(ns, host)?, host)).collect()
    }

    fn routed(&self, key: &Key, host: &str) -> Option<Routed> {
        let binding = self.binding_of(key).ok().flatten()?;
        let gateways = std::iter::once(&binding.gateway).chain(binding.canary.as_ref().map(|c| &c.gateway));
        let gateways: Vec<&Name> = gateways.collect();
        let name: Arc<str> = format!("{}/{host}", key.namespace).into();
        let mut follows = BTreeSet::new();
        let mut treated = BTreeMap::new();
        let tables = self.tables(key, &mut follows);
        let (authorizations, authentications) = self.policies_for(key, &gateways, &mut follows);
        let (rate_limits, filters) = self.requests_for(Some(key), &gateways, &mut follows);
        follows.remove(&*name);
        for followed in &follows {
            if let Some(traffic) = self.traffic_of_name(followed) {
                treated.insert(followed.clone(), traffic);
            }
        }
        let ports = self.ports_of(key).into_iter().map(|p| wire::Port {
            number: p.number.into(),
            name: p.name.to_string(),
            protocol: protocol(p.protocol).into(),
        });
        let message = wire::Service {
            namespace: key.namespace.to_string(),
            hostname: host.to_owned(),
            ports: ports.collect(),
            tables,
            authorizations,
            authentications,
            traffic: self.traffic(key, host),
            follows: follows.into_iter().collect(),
            backend_traffic: treated,
            telemetry: self.recorded(Some(key), &gateways),
            rate_limits,
            filters,
        };
        let gateways = gateways.into_iter().map(|g| (g.namespace.clone(), g.name.clone())).collect();
        Some(Routed { name, gateways, message })
    }

    /// What a waypoint knows of itself.
    pub(super) fn passing(&self, gateway: &Name) -> Option<Routed> {
        let found = self.gateways.get(&gateway.namespace, &gateway.name)?;
        if !self.is_waypoint(found) {
            return None;
        }
        let mut follows = BTreeSet::new();
        let (authorizations, authentications) = self.policies_at(&[gateway], &mut follows);
        let (rate_limits, filters) = self.requests_for(None, &[gateway], &mut follows);
        let hostname = format!("gateway:{}", gateway.name);
        let message = wire::Service {
            namespace: gateway.namespace.to_string(),
            hostname: hostname.clone(),
            authorizations,
            authentications,
            follows: follows.into_iter().collect(),
            telemetry: self.recorded(None, &[gateway]),
            rate_limits,
            filters,
            ..wire::Service::default()
        };
        let gateways = vec![(gateway.namespace.clone(), gateway.name.clone())];
        Some(Routed { name: format!("{}/{hostname}", gateway.namespace).into(), gateways, message })
    }

    /// The waypoint of a Service or a ServiceEntry.
    pub(crate) fn binding_of(&self, key: &Key) -> Result<Option<Binding>, Refusal> {
        match key.kind {
            Kind::Service => match self.services.get(&key.namespace, &key.name) {
                Some(service) if !service.external_name => self.service_binding(service),
                _ => Ok(None),
            },
            _ => match self.entries.get(&key.namespace, &key.name) {
                Some(entry) => self.entry_binding(entry),
                None => Ok(None),
            },
        }
    }

    /// Ports of a Service or a ServiceEntry; none if it is not there.
    pub(super) fn ports_of(&self, key: &Key) -> Vec<Port> {
        match key.kind {
            Kind::Service => {
                let ports = self.services.get(&key.namespace, &key.name).into_iter().flat_map(|s| &s.ports);
                ports.map(|p| Port { number: p.port, name: p.name.clone(), protocol: p.protocol }).collect()
            }
            _ => {
                let ports = self.entries.get(&key.namespace, &key.name).into_iter().flat_map(|e| &e.ports);
                ports.map(|p| Port { number: p.port, name: p.name.clone(), protocol: p.protocol }).collect()
            }
        }
    }

    /// Which kind of route has each port, by kind of caller.
    fn held(&self, parent: &Key, ports: &[Port]) -> Held {
        let mut held = Held::new();
        for route in self.layer7.routes_of(parent) {
            let caller = caller(route, parent);
            for port in attached_ports(route, parent, ports) {
                let kind = held.entry((port, caller.clone())).or_insert(route.kind);
                *kind = (*kind).min(route.kind);
            }
        }
        held
    }

    fn tables(&self, parent: &Key, follows: &mut BTreeSet<String>) -> Vec<wire::Table> {
        let ports = self.ports_of(parent);
        let held = self.held(parent, &ports);
        let mut routes: Vec<&Arc<Route>> = self.layer7.routes_of(parent).collect();
        routes.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut tables = Vec::with_capacity(held.len());
        for ((port, namespace), kind) in held {
            let here = routes.iter().filter(|r| {
                r.kind == kind
                    && caller(r, parent) == namespace
                    && attached_ports(r, parent, &ports).any(|attached| attached == port)
            });
            let here: Vec<&Route> = here.map(|r| &***r).collect();
            if here.iter().all(|r| r.rules.iter().all(|rule| rule.dropped) && !r.rules.is_empty()) {
                // Nothing of them can be read: they are not accepted, and the port is as if they were not there.
                continue;
            }
            tables.push(wire::Table {
                port: port.into(),
                consumer_namespace: namespace.to_string(),
                kind: Some(self.table(kind, &here, parent, follows)),
            });
        }
        tables
    }

    fn table(
        &self,
        kind: RouteKind,
        routes: &[&Route],
        parent: &Key,
        follows: &mut BTreeSet<String>,
    ) -> wire::table::Kind {
        use wire::table::Kind;
        let mut each = |make: &mut dyn FnMut(&Route, &Rule, wire::Rule)| {
            for route in routes {
                for rule in route.rules.iter().filter(|r| !r.dropped) {
                    make(route, rule, self.rule(route, rule, parent, follows));
                }
            }
        };
        match kind {
            RouteKind::Grpc | RouteKind::Http => {
                let mut rules = Vec::new();
                each(&mut |_, _, made| rules.push(made));
                Kind::Http(wire::HttpTable { grpc: kind == RouteKind::Grpc, rules })
            }
            RouteKind::Tcp => {
                // The first route has the connections; there is nothing by which another one could be chosen.
                let mut table = None;
                each(&mut |_, _, made| {
                    table.get_or_insert(wire::TcpTable { route: made.route.clone(), backends: stream_backends(made) });
                });
                Kind::Tcp(table.unwrap_or_default())
            }
            RouteKind::Tls => {
                let mut rules = Vec::new();
                each(&mut |route, _, made| {
                    let server_names = route.server_names.clone();
                    rules.push(wire::TlsRule {
                        route: made.route.clone(),
                        server_names,
                        backends: stream_backends(made),
                    });
                });
                Kind::Tls(wire::TlsTable { rules })
            }
        }
    }

    fn rule(&self, route: &Route, rule: &Rule, parent: &Key, follows: &mut BTreeSet<String>) -> wire::Rule {
        // What policies say comes before what the rule itself says.
        let mut filters = self.requests_of(route, rule, parent, follows);
        filters.extend(self.filters(route, &rule.filters, parent, follows));
        let backends = rule.backends.iter().map(|b| self.backend(route, b, parent, follows)).collect();
        wire::Rule { filters, backends, ..rule.ready.clone() }
    }

    fn backend(&self, route: &Route, of: &Backend, parent: &Key, follows: &mut BTreeSet<String>) -> wire::Backend {
        let filters = self.filters(route, &of.filters, parent, follows);
        wire::Backend { weight: of.weight, filters, ..self.led(&route.into(), &of.to, parent, follows) }
    }

    fn led(
        &self,
        origin: &Origin,
        to: &crate::object::route::BackendReference,
        parent: &Key,
        follows: &mut BTreeSet<String>,
    ) -> wire::Backend {
        match self.find(origin, to, parent) {
            Ok(Found { name, port, protocol: spoken, .. }) => {
                follows.insert(name.clone());
                let protocol = protocol(spoken).into();
                wire::Backend { weight: 1, service: name, port: port.into(), protocol, ..wire::Backend::default() }
            }
            Err(wrong) => {
                let invalid = Some(wire::Invalid { reason: wrong.message });
                wire::Backend { weight: 1, invalid, ..wire::Backend::default() }
            }
        }
    }

    /// Filters of a route. One that names a RequestPolicy stands for all that the policy says.
    fn filters(&self, route: &Route, of: &[Filter], parent: &Key, follows: &mut BTreeSet<String>) -> Vec<wire::Filter> {
        let origin = Origin::from(route);
        let mut made = Vec::with_capacity(of.len());
        for filter in of {
            match filter {
                Filter::Extension(name, field) => made.extend(self.extension(route, name, field, parent, follows)),
                other => made.push(self.filter(&origin, other, parent, follows)),
            }
        }
        made
    }

    fn filter(&self, origin: &Origin, of: &Filter, parent: &Key, follows: &mut BTreeSet<String>) -> wire::Filter {
        use wire::filter::Kind;
        let mut led = |to| Some(self.led(origin, to, parent, follows));
        let kind = match of {
            Filter::Ready(filter) => return filter.clone(),
            Filter::Mirror(to, mirror) => Kind::Mirror(wire::Mirror { backend: led(to), ..*mirror }),
            Filter::Auth(to, ask) => Kind::ExternalAuth(wire::ExternalAuth { backend: led(to), ..ask.clone() }),
            Filter::Process(to, show) => {
                Kind::ExternalProcessing(wire::ExternalProcessing { backend: led(to), ..*show })
            }
            // Policies name none, and those of routes were dealt with.
            Filter::Extension(_, field) => {
                Kind::Invalid(wire::Invalid { reason: format!("{field} cannot stand here") })
            }
        };
        wire::Filter { kind: Some(kind) }
    }
}

/// Backends of a rule for connections; a rule that cannot be followed refuses all of them.
fn stream_backends(rule: wire::Rule) -> Vec<wire::Backend> {
    match rule.invalid {
        Some(invalid) => vec![wire::Backend { weight: 1, invalid: Some(invalid), ..wire::Backend::default() }],
        None => rule.backends,
    }
}

/// For whom a route is: for callers of its own namespace if that is not the parent's, else for everybody, which is said by
/// the empty text (gateway-api.md 2, "Producer and consumer routes").
pub(super) fn caller(route: &Route, parent: &Key) -> Arc<str> {
    if route.meta.namespace == parent.namespace { "".into() } else { route.meta.namespace.clone() }
}

/// Ports of a parent that a route is attached to.
pub(super) fn attached_ports(route: &Route, parent: &Key, ports: &[Port]) -> impl Iterator<Item = u16> {
    let mut found: BTreeSet<u16> = BTreeSet::new();
    for reference in route.parents.iter().filter(|p| p.target.as_ref() == Ok(parent)) {
        found.extend(ports.iter().filter(|p| selects(reference, p) && fits(route.kind, p.protocol)).map(|p| p.number));
    }
    found.into_iter()
}

/// Whether a reference means a port.
pub(super) fn selects(reference: &Parent, port: &Port) -> bool {
    reference.port.is_none_or(|number| number == port.number)
        && reference.section.as_ref().is_none_or(|name| *name == port.name)
}

/// Whether a kind of route can have a port that speaks this. A route without port is for all ports of its parent, of which
/// some may speak something else; these stay as they are (gateway-api.md 11.5).
pub(super) fn fits(kind: RouteKind, protocol: AppProtocol) -> bool {
    match kind {
        RouteKind::Grpc | RouteKind::Http => !matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls),
        RouteKind::Tls => matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Unknown),
        RouteKind::Tcp => true,
    }
}

/// The wire's word.
fn protocol(of: AppProtocol) -> wire::Protocol {
    match of {
        AppProtocol::Grpc => wire::Protocol::Grpc,
        AppProtocol::Http11 => wire::Protocol::Http,
        AppProtocol::Http2 => wire::Protocol::Http2,
        AppProtocol::Tcp => wire::Protocol::Tcp,
        AppProtocol::Tls => wire::Protocol::Tls,
        AppProtocol::Unknown => wire::Protocol::Detect,
    }
}
