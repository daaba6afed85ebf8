//! The services that are bound to this waypoint, compiled from what control sends (routing.proto).

mod settings;

use std::sync::Arc;
use std::time::Instant;

use policy::request::RequestPolicies;
use proto::routing as wire;
use proxy::News;
use routing::model::{ExternalAuth, Protocol};
use routing::{LocalRate, Router, Services};
use xds::{Change, Routing};

use crate::answer::Own;
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
    /// Bounds of requests, all of which hold.
    rates: Vec<Rate>,
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

/// A bound of requests to a service.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Of the policy.
    pub(crate) name: Arc<str>,
    /// The bound, or why there is none: then nothing passes.
    pub(crate) bound: Result<Arc<LocalRate>, Arc<str>>,
}

impl Bound {
    /// Compiles what control sent. It always can: what is not understood refuses in its place. Bounds of requests that were
    /// the same before go on counting.
    pub(crate) fn new(Routing { key, service }: Routing, before: Option<&Self>) -> Self {
        let mut mistakes = Vec::new();
        let nothing = Router::default();
        let router = before.map_or(&nothing, |before| &before.router);
        let common = crate::compile::filters(&service.filters);
        let (router, found) = Router::after(router, &crate::compile::tables(&service.tables), &common);
        mistakes.extend(found.iter().map(ToString::to_string));
        let (policies, found) = RequestPolicies::compile(crate::compile::authorizations(&service.authorizations));
        mistakes.extend(found.iter().map(ToString::to_string));
        let (externals, found) = crate::compile::externals(&service.authorizations);
        mistakes.extend(found);
        let (authentications, found) = Authentications::compile(&service.authentications);
        mistakes.extend(found);
        let known = before.map(|before| &before.rates[..]).unwrap_or_default();
        let rates: Vec<Rate> = service.rate_limits.iter().map(|limit| Rate::new(limit, known)).collect();
        let unclear = rates.iter().filter_map(|rate| Some((&rate.name, rate.bound.as_ref().err()?)));
        mistakes
            .extend(unclear.map(|(name, why)| format!("rate limit {name}: {why}; nothing passes until it is mended")));
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

    /// Takes a request of this caller, if every bound has room for it.
    ///
    /// # Errors
    /// The answer when one has not.
    pub(crate) fn limit(&self, caller: &str) -> Result<(), Box<Own>> {
        if self.rates.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.rates.iter().try_for_each(|rate| rate.take(now, caller))
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

impl Rate {
    fn new(limit: &wire::RateLimit, known: &[Self]) -> Self {
        let name: Arc<str> = format!("{}/{}", limit.namespace, limit.name).into();
        let bound = crate::compile::rate(limit).map_err(Arc::from).map(|made| {
            let mut before = known.iter().filter(|rate| rate.name == name).filter_map(|rate| rate.bound.as_ref().ok());
            before.find(|bound| bound.bounds_as(&made)).cloned().unwrap_or_else(|| Arc::new(made))
        });
        Self { name, bound }
    }

    /// Takes a request of this caller.
    ///
    /// # Errors
    /// The answer when it is above the bound, or when nobody knows what the bound is.
    fn take(&self, now: Instant, caller: &str) -> Result<(), Box<Own>> {
        let Self { name, bound } = self;
        match bound {
            Ok(rate) => rate
                .take(now, Some(caller))
                .map_err(|wait| Own::rate_limited(wait).with_reason(format!("rate limit {name}"))),
            Err(why) => {
                Err(Own::unsupported("rate_limit_cannot_be_followed").with_reason(format!("rate limit {name}: {why}")))
            }
        }
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
        let bound = Bound::new(routing, tables.get(&key).map(|before| &**before));
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
