//! The one task that owns the [`World`]: takes what happened, in small batches, and publishes what follows.
//!
//! ```text
//! sources ──Feed──► gather (10 ms or 1000 events) ──► World::take ──► node index ──► xDS store ──► words for the owners
//! ```
//! Nothing is published before every kind was listed once: a proxy that got half a world would take the other half for
//! gone.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chassis::readiness::Condition;
use mesh::addr::Cidr;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use xds::server::Store;

use crate::arrival::Feed;
use crate::metrics::Numbers;
use crate::object::{Key, Kind};
use crate::proxies::Proxies;
use crate::world::{Output, Status, World};

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
}

/// The store serves neither type; it is made wrongly.
#[derive(Debug, thiserror::Error)]
#[error("the store of resources cannot take changes: {0}")]
pub struct Broken(#[from] xds::server::UnknownType);

impl Apply {
    /// Nothing happens before [`Apply::run`].
    pub fn new(world: World, sinks: Sinks, pace: Pace) -> Self {
        Self { world, sinks, pace, awaited: Kind::ALL.into_iter().collect() }
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
        }
    }

    fn take_in(&mut self, event: Feed) {
        let Self { world, sinks, .. } = self;
        sinks.numbers.took(&event);
        match event {
            Feed::Begin(kind) => {
                if kind == Kind::Pod {
                    sinks.proxies.begin();
                }
                world.begin(kind);
            }
            Feed::Upsert(input) => {
                sinks.proxies.upsert(&input);
                world.upsert(*input);
            }
            Feed::Remove(key) => {
                sinks.proxies.remove(&key);
                world.remove(&key);
            }
            Feed::Finish(kind) => {
                if kind == Kind::Pod {
                    sinks.proxies.finish();
                }
                world.finish(kind);
                if self.awaited.remove(&kind) && !self.awaited.is_empty() {
                    tracing::debug!(%kind, left = ?self.awaited, "listed");
                }
            }
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
        let Output { change, statuses, pod_cidrs } = self.world.take();
        let Sinks { store, proxies, words, numbers, .. } = &self.sinks;
        if !change.is_empty() {
            // Before the store: a stream that wakes up finds the node of what it sees.
            proxies.apply(&change);
            store.apply_change(&change)?;
            numbers.published(&change, came.elapsed());
        }
        if let Some(cidrs) = pod_cidrs {
            tracing::info!(?cidrs, "pod network");
            self.sinks.pod_cidrs.send_replace(cidrs);
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
