//! The routes of one Service, compiled, and those of all.

mod http;
mod pattern;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

pub use self::http::{Decision, HttpRouter};

use crate::layer4::{TcpRouter, TlsRouter};
use crate::mistake::{Mistake, Rates, Workbench};
use crate::model::{Filter, Kind, RouteName, Rule, Table};
use crate::request::RequestView;
use crate::route::Route;

/// The routes of one Service, compiled. Immutable; a change makes a new one.
#[derive(Debug, Default)]
pub struct Router {
    ports: BTreeMap<u16, Port>,
    /// What is done before a route is chosen; `None` = nothing.
    common: Option<Arc<Route>>,
    rates: Rates,
}

#[derive(Debug, Default)]
struct Port {
    producer: Option<Routes>,
    /// By namespace of the caller.
    consumers: HashMap<Arc<str>, Routes>,
}

/// The routes that apply to one caller on one port.
#[derive(Debug)]
pub enum Routes {
    /// HTTPRoutes or GRPCRoutes.
    Http(HttpRouter),
    /// Not usable, and why: requests get 500, connections are refused.
    Invalid(Arc<str>),
    /// A TCPRoute.
    Tcp(TcpRouter),
    /// TLSRoutes.
    Tls(TlsRouter),
}

impl Router {
    /// Compiles the tables of one Service. It always can: whatever is not usable answers 500 in its place, and is reported.
    pub fn new(tables: &[Table]) -> (Self, Vec<Mistake>) {
        Self::after(&Self::default(), tables, &[])
    }

    /// As [`Router::new`], in place of a router that is there: bounds of requests that are the same go on counting where they
    /// are. `common` is done to every request before a route is chosen; filters that need a match are not for there.
    pub fn after(before: &Self, tables: &[Table], common: &[Filter]) -> (Self, Vec<Mistake>) {
        let mut made = Self::default();
        let mut bench = Workbench::after(&before.rates);
        let mut mistakes = Vec::new();
        if !common.is_empty() {
            let name = RouteName { kind: "Service".into(), ..RouteName::default() };
            let rule = Rule { route: name, filters: common.to_vec(), ..Rule::default() };
            let (route, found) = Route::new(&mut bench, &rule, false);
            mistakes.extend(found);
            made.common = Some(Arc::new(route));
        }
        for table in tables {
            let routes = Routes::new(&table.kind, &mut bench, &mut mistakes);
            let port = made.ports.entry(table.port).or_default();
            let taken = match &table.consumer_namespace {
                None => port.producer.replace(routes).is_some(),
                Some(namespace) => port.consumers.insert(namespace.clone(), routes).is_some(),
            };
            if taken {
                port.spoil(table, &mut mistakes);
            }
        }
        made.rates = bench.into_rates();
        (made, mistakes)
    }

    /// What is done to every request before a route is chosen: its filters are to be followed to their end, and the passage is
    /// done with then. `None`: nothing.
    pub fn common(&self, request: &RequestView<'_>) -> Option<Decision> {
        self.common.as_ref().map(|route| route.decide(None, request))
    }

    /// The routes for a caller of this namespace (`None`: unknown, or outside of the mesh) on a Service port. `None`: there
    /// are none, and traffic goes to the Service as without any routes (gateway-api.md 2).
    ///
    /// Routes of the caller's own namespace stand in place of the producer's and are never merged with them.
    pub fn routes(&self, port: u16, namespace: Option<&str>) -> Option<&Routes> {
        let port = self.ports.get(&port)?;
        namespace.and_then(|n| port.consumers.get(n)).or(port.producer.as_ref())
    }

    /// Whether no port has routes.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

impl Port {
    /// Two tables for the same callers: which one was meant cannot be told.
    fn spoil(&mut self, table: &Table, mistakes: &mut Vec<Mistake>) {
        let reason: Arc<str> =
            format!("there is more than one table for the same callers of port {}", table.port).into();
        let route = RouteName { kind: "table".into(), ..RouteName::default() };
        mistakes.push(Mistake { route: Arc::new(route), problem: reason.to_string() });
        let routes = Routes::Invalid(reason);
        match &table.consumer_namespace {
            None => self.producer = Some(routes),
            Some(namespace) => {
                self.consumers.insert(namespace.clone(), routes);
            }
        }
    }
}

impl Routes {
    fn new(kind: &Kind, bench: &mut Workbench, mistakes: &mut Vec<Mistake>) -> Self {
        match kind {
            Kind::Http(table) => Self::Http(HttpRouter::new(table, bench, mistakes)),
            Kind::Invalid(invalid) => Self::Invalid(invalid.reason.clone()),
            Kind::Tcp(table) => Self::Tcp(TcpRouter::new(table, bench, mistakes)),
            Kind::Tls(table) => Self::Tls(TlsRouter::new(table, bench, mistakes)),
        }
    }
}

/// Something for each Service, by key `namespace/hostname`. A clone is cheap and is a snapshot; replacing one of many costs
/// a few nodes of a tree.
#[derive(Debug)]
pub struct Services<T = Router> {
    all: OrdMap<Arc<str>, Arc<T>>,
}

// Not derived, which would ask for `T: Clone`.
impl<T> Clone for Services<T> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone() }
    }
}

impl<T> Default for Services<T> {
    fn default() -> Self {
        Self { all: OrdMap::new() }
    }
}

impl<T> Services<T> {
    /// Takes a Service; one of the same key is replaced and comes back.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, service: T) -> Option<Arc<T>> {
        self.all.insert(key.into(), Arc::new(service))
    }

    /// Removes the Service of this key.
    pub fn remove(&mut self, key: &str) -> Option<Arc<T>> {
        self.all.remove(key)
    }

    /// The Service of this key.
    pub fn get(&self, key: &str) -> Option<&Arc<T>> {
        self.all.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        self.all.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}
