//! Publishes the roots: a ConfigMap in every namespace, written when it is missing, edited or out of date.
//!
//! Four watches tell [`Board`] what there is (namespaces, the ConfigMaps of our two names, Services called `istiod`), the
//! signers tell what must be there. Nothing else is read: the watches of ConfigMaps and Services select one name, so a
//! role that names these objects is enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::kubernetes::client::call;
use futures_util::stream::{FuturesUnordered, SelectAll};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::time::Instant;

use super::board::{Board, ISTIOS, KEY, Key, Map, OURS};
use super::content::{MANAGED_BY, US};
use super::retry::{Backoff, sleep_until};
use crate::authority::Authority;

/// Writes at a time: a new root reaches a thousand namespaces in some seconds, and the API server hardly notices.
const AT_ONCE: usize = 8;

/// The pause before the same ConfigMap is written again: who edits it in a loop must not make us write in one.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest pause after a write that failed.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts for metrics.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) written: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// News of the cluster.
enum News {
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Map(&'static str, Event<ConfigMap>),
    Istiod(Event<PartialObjectMeta<Service>>),
}

/// Lists that are under way, and which were completed.
#[derive(Default)]
struct Listing {
    namespaces: Option<HashMap<String, bool>>,
    maps: HashMap<&'static str, HashMap<String, Map>>,
    /// Namespaces with an istiod, as known and as listed just now.
    istiods: BTreeSet<String>,
    listed: Option<BTreeSet<String>>,
    complete: BTreeSet<&'static str>,
}

/// Streams whose first list must be there before anything is written.
const STREAMS: usize = 4;

/// Publishes for ever.
pub(crate) async fn publish(
    client: Client,
    mut board: Board,
    mut authority: tokio::sync::watch::Receiver<Arc<Authority>>,
    counts: Arc<Published>,
) -> Infallible {
    let mut news = watches(&client);
    let (mut listing, mut writes) = (Listing::default(), FuturesUnordered::new());
    // Keys that wait for their turn after a write, and how often it failed.
    let mut resting: BTreeMap<Key, (Instant, u32)> = BTreeMap::new();
    let mut due: BTreeSet<Key> = BTreeSet::new();
    loop {
        let now = Instant::now();
        while writes.len() < AT_ONCE && listing.complete.len() == STREAMS {
            let Some(key) = due.iter().find(|key| resting.get(key).is_none_or(|(until, _)| *until <= now)).cloned()
            else {
                break;
            };
            due.remove(&key);
            // Not before the write has ended, and then as that says.
            let failures = resting.get(&key).map_or(0, |(_, failures)| *failures);
            resting.insert(key.clone(), (now + LONGEST, failures));
            writes.push(write(client.clone(), key, board.bundle().to_owned()));
        }
        let next = due.iter().filter_map(|key| resting.get(key)).map(|(until, _)| *until).min();
        tokio::select! {
            Some(event) = news.next() => {
                for key in listing.take(event, &mut board) {
                    due.insert(key);
                }
            }
            Some((key, written)) = writes.next(), if !writes.is_empty() => {
                let failures = resting.get(&key).map_or(0, |(_, failures)| *failures);
                resting.insert(key.clone(), settled(&key, written, failures, &counts));
                due.insert(key);
            }
            Ok(()) = authority.changed() => {
                let roots = authority.borrow_and_update().roots_pem().to_owned();
                board.set_bundle(roots);
                due = board.due();
            }
            () = sleep_until(next), if next.is_some() && writes.len() < AT_ONCE => {}
        }
        due.retain(|key| board.must_write(key));
        let now = Instant::now();
        resting.retain(|key, (until, failures)| *until > now || (*failures > 0 && board.must_write(key)));
    }
}

/// When the key may be written again, and how often it failed in a row.
fn settled(key: &Key, written: Result<(), String>, failures: u32, counts: &Published) -> (Instant, u32) {
    match written {
        Ok(()) => {
            counts.written.fetch_add(1, Ordering::Relaxed);
            (Instant::now() + AGAIN, 0)
        }
        Err(error) => {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(namespace = %key.0, config_map = key.1, %error, "roots not published; trying again");
            (Instant::now() + AGAIN.saturating_mul(1 << failures.min(6)).min(LONGEST), failures + 1)
        }
    }
}

async fn write(client: Client, key: Key, bundle: String) -> (Key, Result<(), String>) {
    let (namespace, name) = &key;
    let own = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some((*name).to_owned()),
            labels: Some([(MANAGED_BY, US), ("app.kubernetes.io/part-of", "culvert")].map(own).into()),
            ..ObjectMeta::default()
        },
        data: Some([(KEY.to_owned(), bundle)].into()),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let what = format!("apply configmap {namespace}/{name}");
    let written = call(&what, api.patch(name, &PatchParams::apply(US).force(), &Patch::Apply(&map))).await;
    (key, written.map(drop).map_err(|error| error.to_string()))
}

type Stories = std::pin::Pin<Box<dyn Stream<Item = News> + Send>>;

fn watches(client: &Client) -> SelectAll<Stories> {
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let map = |name: &'static str| -> Stories {
        let events = watcher(Api::<ConfigMap>::all(client.clone()), named(name));
        Box::pin(steady(name, events).map(move |event| News::Map(name, event)))
    };
    let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default());
    let istiods = watcher(Api::<PartialObjectMeta<Service>>::all(client.clone()), named("istiod"));
    let all: [Stories; STREAMS] = [
        Box::pin(steady("namespaces", namespaces).map(News::Namespace)),
        map(OURS),
        map(ISTIOS),
        Box::pin(steady("istiod", istiods).map(News::Istiod)),
    ];
    futures_util::stream::select_all(all)
}

/// The events of a watch; errors are told and followed by a pause.
fn steady<T>(
    what: &'static str,
    events: impl Stream<Item = watcher::Result<Event<T>>> + Send + 'static,
) -> impl Stream<Item = Event<T>> + Send
where
    T: Send + 'static,
{
    let state = (Box::pin(events), Backoff::default());
    futures_util::stream::unfold(state, move |(mut events, mut backoff)| async move {
        loop {
            match events.next().await? {
                Ok(event) => {
                    backoff.reset();
                    return Some((event, (events, backoff)));
                }
                Err(error) => {
                    tracing::warn!(what, %error, "a watch is broken; trying again");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    })
}

impl Listing {
    /// Tells the board, and which keys are to be looked at.
    fn take(&mut self, news: News, board: &mut Board) -> Vec<Key> {
        match news {
            News::Namespace(event) => self.namespace(event, board),
            News::Map(name, event) => self.map(name, event, board),
            News::Istiod(event) => self.istiod(event, board),
        }
    }

    fn namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>, board: &mut Board) -> Vec<Key> {
        let read = |namespace: PartialObjectMeta<Namespace>| {
            (namespace.metadata.name.unwrap_or_default(), namespace.metadata.deletion_timestamp.is_some())
        };
        match event {
            Event::Init => self.namespaces = Some(HashMap::new()),
            Event::InitApply(namespace) => {
                let (name, terminating) = read(namespace);
                self.namespaces.get_or_insert_default().insert(name, terminating);
            }
            Event::InitDone => {
                board.set_namespaces(self.namespaces.take().unwrap_or_default());
                self.complete.insert("namespaces");
                return board.due().into_iter().collect();
            }
            Event::Apply(namespace) => {
                let (name, terminating) = read(namespace);
                board.namespace(name.clone(), terminating);
                return vec![(name.clone(), OURS), (name, ISTIOS)];
            }
            Event::Delete(namespace) => board.namespace_gone(&read(namespace).0),
        }
        Vec::new()
    }

    fn map(&mut self, name: &'static str, event: Event<ConfigMap>, board: &mut Board) -> Vec<Key> {
        match event {
            Event::Init => drop(self.maps.insert(name, HashMap::new())),
            Event::InitApply(map) => {
                let namespace = map.metadata.namespace.clone().unwrap_or_default();
                self.maps.entry(name).or_default().insert(namespace, seen(map));
            }
            Event::InitDone => {
                board.set_maps(name, self.maps.remove(name).unwrap_or_default());
                self.complete.insert(name);
                return board.due().into_iter().collect();
            }
            Event::Apply(map) => {
                let key = (map.metadata.namespace.clone().unwrap_or_default(), name);
                board.map(key.clone(), Some(seen(map)));
                return vec![key];
            }
            Event::Delete(map) => {
                let key = (map.metadata.namespace.unwrap_or_default(), name);
                board.map(key.clone(), None);
                return vec![key];
            }
        }
        Vec::new()
    }

    fn istiod(&mut self, event: Event<PartialObjectMeta<Service>>, board: &mut Board) -> Vec<Key> {
        let namespace = |service: PartialObjectMeta<Service>| service.metadata.namespace.unwrap_or_default();
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(service) => drop(self.listed.get_or_insert_default().insert(namespace(service))),
            Event::InitDone => {
                self.istiods = self.listed.take().unwrap_or_default();
                self.complete.insert("istiod");
            }
            Event::Apply(service) => drop(self.istiods.insert(namespace(service))),
            Event::Delete(service) => drop(self.istiods.remove(&namespace(service))),
        }
        board.set_istiod(!self.istiods.is_empty());
        if self.complete.contains("istiod") { board.due().into_iter().collect() } else { Vec::new() }
    }
}

fn seen(map: ConfigMap) -> Map {
    let ours = map.metadata.labels.as_ref().and_then(|all| all.get(MANAGED_BY)).is_some_and(|by| by == US);
    Map { roots: map.data.and_then(|mut data| data.remove(KEY)), ours }
}

#[cfg(test)]
#[path = "roots_tests.rs"]
mod tests;
