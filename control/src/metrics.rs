//! What control counts, under `culvert_control_`.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kubernetes::review::Cached;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_TYPE, ROUTING_TYPE};
use telemetry::Histogram;
use telemetry::metrics::{Counter, CounterFamily, Metrics};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use xds::server::{Authorise, Server, Store};

use crate::apply::Published;
use crate::arrival::Feed;
use crate::object::{Key, Kind};

/// Seconds: from a tenth of a millisecond (one change) to ten seconds (sick), around the goal of 100 ms.
const SECONDS: &[f64] = &[0.000_1, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Resources in one change: from one to a whole large mesh.
const RESOURCES: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// After this time a client that has not acknowledged is not waited for: six times the highest bound above.
const LATE: Duration = Duration::from_secs(60);

/// The numbers of the task that applies.
#[derive(Clone, Debug)]
pub struct Numbers {
    objects: Arc<Mutex<Objects>>,
    events: CounterFamily,
    changes: Counter,
    size: Histogram,
    time: Histogram,
}

/// Which objects there are, by kind: names as hashes, because the world has the names already.
#[derive(Debug, Default)]
struct Objects {
    there: BTreeMap<Kind, HashSet<u64>>,
    listed: BTreeMap<Kind, HashSet<u64>>,
}

impl Objects {
    fn took(&mut self, event: &Feed) {
        match event {
            Feed::Begin(kind) => drop(self.listed.insert(*kind, HashSet::new())),
            Feed::Upsert(input) => {
                let key = input.key();
                let hash = hash(&key);
                self.there.entry(key.kind).or_default().insert(hash);
                if let Some(listed) = self.listed.get_mut(&key.kind) {
                    listed.insert(hash);
                }
            }
            Feed::Remove(key) | Feed::Unreadable { key, .. } => {
                if let Some(there) = self.there.get_mut(&key.kind) {
                    there.remove(&hash(key));
                }
            }
            Feed::Finish(kind) => {
                if let Some(listed) = self.listed.remove(kind) {
                    self.there.insert(*kind, listed);
                }
            }
            Feed::Keys { .. } | Feed::Acknowledged(_) => {}
        }
    }
}

fn hash(key: &Key) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Numbers {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let objects = Arc::<Mutex<Objects>>::default();
        let counted = objects.clone();
        metrics.gauges_fn(
            "culvert_control_objects",
            "Objects of Kubernetes that are held, by kind",
            "kind",
            move || {
                let objects = counted.lock().unwrap_or_else(PoisonError::into_inner);
                Kind::ALL.iter().map(|k| (k.as_str(), objects.there.get(k).map_or(0, HashSet::len) as f64)).collect()
            },
        );
        Self {
            objects,
            events: metrics.counters("culvert_control_events", "Events of objects, by what happened", &["event"]),
            changes: metrics.counter("culvert_control_changes", "Changes that were published"),
            size: metrics.histogram(
                "culvert_control_change_resources",
                "Resources that are new, different or gone in one published change",
                RESOURCES,
            ),
            time: metrics.histogram(
                "culvert_control_apply_seconds",
                "From the first event of a change to its publication",
                SECONDS,
            ),
        }
    }

    /// An event was taken in.
    pub(crate) fn took(&self, event: &Feed) {
        let name = match event {
            Feed::Begin(_) => "list",
            Feed::Upsert(_) => "upsert",
            Feed::Remove(_) => "remove",
            Feed::Finish(_) => "listed",
            Feed::Unreadable { .. } => "unreadable",
            Feed::Keys { .. } => "keys",
            Feed::Acknowledged(_) => "acknowledged",
        };
        self.events.with(&[name]).inc();
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).took(event);
    }

    /// A change was published.
    pub(crate) fn published(&self, change: &xds::Change, after: Duration) {
        let new = change.policies.len() + change.services.len() + change.workloads.len();
        let gone = change.removed.len() + change.removed_policies.len();
        self.changes.inc();
        self.size.observe((new + gone) as f64);
        self.time.observe(after.as_secs_f64());
    }
}

/// Registers what is asked for at each scrape.
pub fn register<A: Authorise>(
    metrics: &Metrics,
    store: &Store,
    server: &Server<A>,
    feed: &mpsc::Sender<Feed>,
    reviews: Option<Cached>,
) {
    let held = store.clone();
    let types = [
        ("authorization", AUTHORIZATION_TYPE),
        ("routing", ROUTING_TYPE),
        ("address", ADDRESS_TYPE),
        ("pod_networks", POD_NETWORKS_TYPE),
    ];
    metrics.gauges_fn("culvert_control_resources", "Resources that are served, by type", "type", move || {
        types.iter().map(|(name, url)| (*name, held.len(url).unwrap_or(0) as f64)).collect()
    });
    let clients = server.clone();
    metrics.gauge_fn("culvert_control_clients", "Streams that are open", move || clients.clients().len() as f64);
    let waiting = feed.clone();
    metrics.gauge_fn("culvert_control_queue", "Events of objects that are waiting to be taken in", move || {
        (waiting.max_capacity() - waiting.capacity()) as f64
    });
    let sums = |pick: fn(&xds::server::Totals) -> u64| {
        let server = server.clone();
        move || pick(&server.totals())
    };
    for (name, help, pick) in [
        ("culvert_control_pushes", "Responses sent", sums(|t| t.responses)),
        ("culvert_control_pushed_resources", "Resources sent", sums(|t| t.resources)),
        ("culvert_control_pushed_removals", "Names of gone resources sent", sums(|t| t.removals)),
        ("culvert_control_pushed_bytes", "Bytes of resources sent", sums(|t| t.bytes)),
        ("culvert_control_nacks", "Responses that clients refused, in whole or in part", sums(|t| t.nacks)),
    ] {
        metrics.counter_fn(name, help, pick);
    }
    if let Some(reviews) = reviews {
        for (name, help, pick) in [
            ("culvert_control_reviews_remembered", "Tokens judged from memory", 0),
            ("culvert_control_reviews_accepted", "Tokens that the API server accepted", 1),
            ("culvert_control_reviews_refused", "Tokens that the API server refused", 2),
            ("culvert_control_reviews_unavailable", "Tokens that nobody could judge", 3),
        ] {
            let reviews = reviews.clone();
            metrics.counter_fn(name, help, move || {
                let c = reviews.counts();
                [c.remembered, c.accepted, c.refused, c.unavailable][pick]
            });
        }
    }
}

/// Measures, for ever, how long it takes until every client has acknowledged what was published. While one is measured,
/// later ones are passed over.
pub async fn convergence<A: Authorise>(
    metrics: Arc<Metrics>,
    server: Server<A>,
    mut published: watch::Receiver<Option<Published>>,
) -> Infallible {
    let help = "From the first event of a change until all clients have acknowledged it";
    let time = metrics.histogram("culvert_control_converge_seconds", help, SECONDS);
    loop {
        let latest = *published.borrow_and_update();
        if let Some(Published { came, policies, addresses }) = latest.filter(|_| !server.clients().is_empty()) {
            let all = async {
                server.acknowledged(AUTHORIZATION_TYPE, policies).await;
                server.acknowledged(ADDRESS_TYPE, addresses).await;
            };
            // A client that refuses a resource never acknowledges; it counts as late, once.
            timeout(LATE, all).await.ok();
            time.observe(came.elapsed().as_secs_f64());
        }
        if published.changed().await.is_err() {
            // The task that publishes has ended; the program follows.
            std::future::pending::<()>().await;
        }
    }
}
