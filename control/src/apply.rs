//! The one task that owns the [`World`]: takes what happened, in small batches, and publishes what follows.
//!
//! ```text
//! sources ──Feed──► gather (10 ms or 1000 events) ──► World::take ──► node index ──► xDS store ──► words for the owners
//! ```
//! Nothing is published before every kind was listed once: a proxy that got half a world would take the other half for
//! gone.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::Condition;
use mesh::addr::Cidr;
use prost::Message;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_TYPE, ROUTING_TYPE};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use xds::server::{Batch, Entry, Store};

use crate::arrival::Feed;
use crate::grants::visible_to;
use crate::keys::Vet;
use crate::metrics::Numbers;
use crate::object::request::KeySource;
use crate::object::{Input, Key, Kind};
use crate::proxies::Proxies;
use crate::world::{Output, Routed, Status, World};

/// What is to be said on objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// What the world says.
    Said(Vec<Status>),
    /// An object cannot be read.
    Unreadable {
        /// Which object.
        key: Key,
        /// Its uid.
        uid: String,
        /// What is wrong.
        why: String,
    },
}

/// Questions to the owner of the world.
#[derive(Debug)]
pub enum Ask {
    /// What is to be said on every object now.
    Statuses(oneshot::Sender<Vec<Status>>),
    /// Namespace and name of each Gateway that is to be made ([`World::waypoints_wanted`]).
    Waypoints(oneshot::Sender<BTreeSet<(Arc<str>, Arc<str>)>>),
}

/// What was published last.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// When the first event of it came.
    pub came: Instant,
    /// Revision of the policies.
    pub policies: u64,
    /// Revision of workloads and services.
    pub addresses: u64,
}

/// Where the work goes.
#[derive(Clone)]
pub struct Sinks {
    /// What is served.
    pub store: Store,
    /// What judging streams needs.
    pub proxies: Proxies,
    /// What is said on objects.
    pub words: mpsc::UnboundedSender<Words>,
    /// The pod network.
    pub pod_cidrs: Arc<watch::Sender<Vec<Cidr>>>,
    /// What was published last.
    pub published: Arc<watch::Sender<Option<Published>>>,
    /// What the world needs from outside, and who waits for the nodes.
    pub outside: Outside,
    /// Met when the first picture is published.
    pub ready: Condition,
    /// Metrics.
    pub numbers: Numbers,
}

/// How changes are gathered.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For how long after the first one.
    pub debounce: Duration,
    /// How many at most.
    pub batch: usize,
}

/// The task.
pub struct Apply {
    world: World,
    sinks: Sinks,
    pace: Pace,
    /// Kinds that were never listed to the end.
    awaited: BTreeSet<Kind>,
    nodes_changed: bool,
}

/// The store serves neither type; it is made wrongly.
#[derive(Debug, thiserror::Error)]
#[error("the store of resources cannot take changes: {0}")]
pub struct Broken(#[from] xds::server::UnknownType);

/// Objects of one kind: namespaces and names.
pub type Names = BTreeSet<(Arc<str>, Arc<str>)>;

/// What the world needs from outside, and who waits for the nodes. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Where keys are to be fetched from.
    pub keys: Arc<watch::Sender<BTreeSet<KeySource>>>,
    /// ConfigMaps, namespace and name, whose content is needed.
    pub maps: Arc<watch::Sender<Names>>,
    /// Services past whose waypoints everybody may go still.
    pub waiting: Arc<watch::Sender<Waiting>>,
    /// Where users' words may lead us; it has to know the nodes.
    pub vet: Vet,
}

/// Services that a security policy governs and past whose waypoint everybody may go still: until every client has acknowledged
/// the revision. Their Gateways are not programmed before (design.md 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Revision of the addresses in which they have their waypoint.
    pub revision: u64,
    /// Services and ServiceEntries, and the Gateway of each: namespace and name.
    pub services: BTreeMap<Key, (Arc<str>, Arc<str>)>,
}

impl Outside {
    fn update(&self, world: &World, revision: u64) {
        fn set<T: PartialEq>(to: &watch::Sender<T>, now: T) {
            to.send_if_modified(|before| {
                let changed = *before != now;
                *before = now;
                changed
            });
        }
        set(&self.keys, world.wanted_keys());
        set(&self.maps, world.wanted_maps());
        let services: BTreeMap<_, _> = world.waiting().map(|(key, gateway)| (key.clone(), gateway)).collect();
        self.waiting.send_if_modified(|before| {
            // Whoever waits already waits for the revision of that time.
            let changed = before.services != services;
            if changed {
                *before = Waiting { revision, services };
            }
            changed
        });
    }
}

/// A store for everything that control serves. Pod networks go before addresses: an address that leaves must not look like a
/// stranger's. Policies too: a workload that names one should find it there.
pub fn store() -> Store {
    Store::new([POD_NETWORKS_TYPE, AUTHORIZATION_TYPE, ROUTING_TYPE, ADDRESS_TYPE])
}

/// What a waypoint gets, marked with the Gateways whose pods may see it.
fn entry(of: &Routed) -> Entry {
    Entry {
        name: of.name.clone(),
        aliases: Vec::new(),
        comes_with: of.gateways.iter().map(|(namespace, name)| visible_to(namespace, name)).collect(),
        body: of.message.encode_to_vec().into(),
    }
}

impl Apply {
    /// Nothing happens before [`Apply::run`].
    pub fn new(world: World, sinks: Sinks, pace: Pace) -> Self {
        Self { world, sinks, pace, awaited: Kind::ALL.into_iter().collect(), nodes_changed: true }
    }

    /// Applies what comes until the sources are gone.
    ///
    /// # Errors
    /// When the store was made for other types.
    pub async fn run(mut self, mut feed: mpsc::Receiver<Feed>, mut asks: mpsc::Receiver<Ask>) -> Result<(), Broken> {
        loop {
            let first = tokio::select! {
                first = feed.recv() => first,
                Some(ask) = asks.recv() => {
                    self.answer(ask);
                    continue;
                }
            };
            let Some(first) = first else { return Ok(()) };
            let came = Instant::now();
            let until = came + self.pace.debounce;
            self.take_in(first);
            for _ in 1..self.pace.batch {
                match timeout_at(until, feed.recv()).await {
                    Ok(Some(more)) => self.take_in(more),
                    // The time is over; or the sources are gone, which the next turn sees.
                    Ok(None) | Err(_) => break,
                }
            }
            self.publish(came)?;
        }
    }

    fn answer(&self, ask: Ask) {
        match ask {
            // Who asked may have gone.
            Ask::Statuses(to) => drop(to.send(self.world.statuses())),
            Ask::Waypoints(to) => drop(to.send(self.world.waypoints_wanted())),
        }
    }

    fn take_in(&mut self, event: Feed) {
        let Self { world, sinks, nodes_changed, .. } = self;
        sinks.numbers.took(&event);
        match event {
            Feed::Begin(kind) => {
                sinks.proxies.begin(kind);
                world.begin(kind);
            }
            Feed::Upsert(input) => {
                sinks.proxies.upsert(&input);
                *nodes_changed |= matches!(*input, Input::Node(_));
                world.upsert(*input);
            }
            Feed::Remove(key) => {
                sinks.proxies.remove(&key);
                *nodes_changed |= key.kind == Kind::Node;
                world.remove(&key);
            }
            Feed::Finish(kind) => {
                sinks.proxies.finish(kind);
                world.finish(kind);
                if self.awaited.remove(&kind) && !self.awaited.is_empty() {
                    tracing::debug!(%kind, left = ?self.awaited, "listed");
                }
            }
            Feed::Keys { source, keys } => world.set_keys(&source, keys),
            Feed::Acknowledged(services) => world.acknowledge(services),
            Feed::Unreadable { key, uid, why } => {
                tracing::warn!(object = %key, why, "an object has not the shape of its kind; it counts as gone");
                world.remove(&key);
                // The receiver ends after us.
                sinks.words.send(Words::Unreadable { key, uid, why }).ok();
            }
        }
    }

    fn publish(&mut self, came: Instant) -> Result<(), Broken> {
        if !self.awaited.is_empty() {
            return Ok(());
        }
        let Output { change, statuses, routing, routing_gone, pod_cidrs } = self.world.take();
        let Sinks { store, proxies, words, numbers, .. } = &self.sinks;
        if let Some(cidrs) = pod_cidrs {
            tracing::info!(?cidrs, "pod network");
            store
                .apply(POD_NETWORKS_TYPE, Batch { removals: Vec::new(), upserts: vec![Entry::pod_networks(&cidrs)] })?;
            self.sinks.pod_cidrs.send_replace(cidrs);
        }
        if !routing.is_empty() || !routing_gone.is_empty() {
            // Before the addresses: a waypoint should know what it is for when node proxies begin to use it.
            let upserts = routing.iter().map(entry).collect();
            store.apply(ROUTING_TYPE, Batch { removals: routing_gone, upserts })?;
        }
        if !change.is_empty() {
            // Before the store: a stream that wakes up finds the node of what it sees.
            proxies.apply(&change);
            store.apply_change(&change)?;
            numbers.published(&change, came.elapsed());
        }
        self.sinks.outside.update(&self.world, store.revision(ADDRESS_TYPE)?);
        if std::mem::take(&mut self.nodes_changed) {
            self.sinks.outside.vet.set_nodes(self.world.node_addresses());
        }
        if !statuses.is_empty() {
            // The receiver ends after us.
            words.send(Words::Said(statuses)).ok();
        }
        let first = self.sinks.published.borrow().is_none();
        if first || !change.is_empty() {
            let (policies, addresses) = (store.revision(AUTHORIZATION_TYPE)?, store.revision(ADDRESS_TYPE)?);
            self.sinks.published.send_replace(Some(Published { came, policies, addresses }));
        }
        if first {
            tracing::info!(
                policies = change.policies.len(),
                services = change.services.len(),
                workloads = change.workloads.len(),
                "all objects are known"
            );
            self.sinks.ready.met();
        }
        Ok(())
    }
}
