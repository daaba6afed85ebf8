//! The services that are bound to this waypoint, compiled from what control sends (routing.proto).

mod settings;

use std::sync::Arc;

use policy::request::RequestPolicies;
use proxy::News;
use routing::model::{ExternalAuth, Protocol};
use routing::{LocalRate, Router, Services};
use xds::{Change, Routing};

use crate::here::Shared;
use crate::jwt::Authentications;

pub(crate) use settings::{HashBy, Ports, Reporting, Traffic};

/// All of them, by key.
pub(crate) type Tables = Services<Bound>;

/// One service that is bound to this waypoint.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    pub(crate) key: Arc<str>,
    ports: Ports,
    pub(crate) router: Router,
    pub(crate) policies: RequestPolicies,
    /// A route asks an external service about some of its paths.
    guarded: bool,
    /// Whom CUSTOM policies ask, by the place of the policy in the list that was compiled.
    pub(crate) externals: Vec<Option<ExternalAuth>>,
    /// How tokens are checked.
    pub(crate) authentications: Authentications,
    /// Bounds of requests.
    pub(crate) rates: Vec<(Arc<str>, LocalRate)>,
    /// How its own endpoints are treated.
    traffic: Traffic,
    /// How those of other services are treated, by key.
    backends: Vec<(Arc<str>, Traffic)>,
    pub(crate) reporting: Reporting,
    /// Whatever could not be understood: for people.
    pub(crate) mistakes: Vec<String>,
    /// Every service that is followed for it, itself included.
    pub(crate) follows: Vec<Arc<str>>,
}

impl Bound {
    /// Compiles what control sent. It always can: what is not understood refuses in its place.
    pub(crate) fn new(Routing { key, service }: Routing) -> Self {
        let mut mistakes = Vec::new();
        let (router, found) = Router::new(&crate::compile::tables(&service.tables));
        mistakes.extend(found.iter().map(ToString::to_string));
        let (policies, found) = RequestPolicies::compile(crate::compile::authorizations(&service.authorizations));
        mistakes.extend(found.iter().map(ToString::to_string));
        let (externals, found) = crate::compile::externals(&service.authorizations);
        mistakes.extend(found);
        let (authentications, found) = Authentications::compile(&service.authentications);
        mistakes.extend(found);
        let mut rates = Vec::new();
        for limit in &service.rate_limits {
            let name: Arc<str> = format!("{}/{}", limit.namespace, limit.name).into();
            match crate::compile::rate(limit.rate.as_ref()) {
                Ok(rate) => rates.push((name, rate)),
                Err(error) => mistakes.push(format!("rate limit {name}: {error}; it is not applied")),
            }
        }
        let backends = &service.backend_traffic;
        let mut follows: Vec<Arc<str>> = service.follows.iter().map(|name| name.as_str().into()).collect();
        follows.push(key.clone());
        follows.sort_unstable();
        follows.dedup();
        Self {
            ports: Ports::new(&service.ports),
            router,
            policies,
            guarded: crate::compile::asks_by_path(&service.tables),
            externals,
            authentications,
            rates,
            traffic: Traffic::new(service.traffic.as_ref()),
            backends: backends
                .iter()
                .map(|(key, traffic)| (key.as_str().into(), Traffic::new(Some(traffic))))
                .collect(),
            reporting: Reporting::new(service.telemetry.as_ref()),
            mistakes,
            follows,
            key,
        }
    }

    /// Whether anything that protects the service looks at paths: then paths that hide something are refused.
    pub(crate) fn names_paths(&self) -> bool {
        self.guarded || self.policies.names_paths()
    }

    /// How a port is spoken.
    pub(crate) fn protocol(&self, port: u16) -> Protocol {
        self.ports.protocol(port)
    }

    /// How the endpoints of a service are treated when requests of this one go there.
    pub(crate) fn traffic(&self, service: &str) -> &Traffic {
        if *service == *self.key {
            return &self.traffic;
        }
        let found = self.backends.iter().find(|(key, _)| **key == *service);
        found.map_or(Traffic::usual(), |(_, traffic)| traffic)
    }
}

/// Takes over what control says of services: tables first, then what they need of discovery.
pub(crate) fn apply(shared: &Shared, news: News) {
    if !news.routing.is_empty() || !news.removed_routing.is_empty() {
        tables(shared, news.routing, &news.removed_routing);
    }
    shared.addresses.answered(&news.answered);
    if news.synced {
        shared.addresses.named();
    }
}

fn tables(shared: &Shared, changed: Vec<Routing>, removed: &[Arc<str>]) {
    let mut tables = Tables::clone(&shared.tables.load());
    for key in removed {
        if let Some(before) = tables.remove(key) {
            tracing::info!(service = %key, "service is no longer bound to this waypoint");
            shared.addresses.follow(&before.follows, &[]);
        }
    }
    for routing in changed {
        let key = routing.key.clone();
        let bound = Bound::new(routing);
        for mistake in &bound.mistakes {
            tracing::warn!(service = %key, mistake, "a part of the service's routing cannot be used");
        }
        let follows = bound.follows.clone();
        let before = tables.insert(key, bound);
        shared.addresses.follow(before.as_ref().map_or(&[][..], |b| &b.follows), &follows);
    }
    shared.tables.store(Arc::new(tables));
    // Wakes the workers, whose view holds both.
    shared.world.apply(forgotten(shared, removed));
}

/// What nobody follows any more is forgotten: without news of it, it would grow stale.
fn forgotten(shared: &Shared, unbound: &[Arc<str>]) -> Change {
    let directory = shared.world.directory();
    let mut removed = Vec::new();
    for key in unbound.iter().filter(|key| !shared.addresses.is_followed(key)) {
        removed.push(key.clone());
        let only_here =
            directory.endpoints(key).filter(|w| !w.services.keys().any(|k| shared.addresses.is_followed(k)));
        removed.extend(only_here.map(|w| w.uid.clone()));
    }
    Change { removed, ..Change::default() }
}
