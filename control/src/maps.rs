//! ConfigMaps that policies name, one watch for each: all of a cluster's are many and large, and none of our business.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client};
use telemetry::metrics::CounterFamily;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::apply::Names;
use crate::arrival::Feed;
use crate::object::{ConfigMap, Input, Key, Kind};

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// Watches what is wanted until nobody wants anything any more.
pub async fn run(client: Client, mut wanted: watch::Receiver<Names>, feed: mpsc::Sender<Feed>, errors: CounterFamily) {
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<Name, AbortHandle> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let gone: Vec<Name> = followed.keys().filter(|name| !now.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(task) = followed.remove(&name) {
                task.abort();
            }
            if feed.send(Feed::Remove(key(&name))).await.is_err() {
                return;
            }
        }
        for name in now {
            followed.entry(name).or_insert_with_key(|name| {
                tasks.spawn(follow(client.clone(), name.clone(), feed.clone(), errors.clone()))
            });
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            // They end with the program, or because they were not wanted any more.
            Some(_ended) = tasks.join_next() => {}
        }
    }
}

fn key(name: &Name) -> Key {
    Key { kind: Kind::ConfigMap, namespace: name.0.clone(), name: name.1.clone() }
}

async fn follow(client: Client, name: Name, feed: mpsc::Sender<Feed>, errors: CounterFamily) {
    let config = Config::default().fields(&format!("metadata.name={}", name.1));
    let api = Api::<v1::ConfigMap>::namespaced(client, &name.0);
    let mut events = pin!(watcher::watcher(api, config).default_backoff());
    let mut listed = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(Event::Init) => {
                listed = false;
                continue;
            }
            Ok(Event::Apply(map) | Event::InitApply(map)) => {
                listed = true;
                Feed::Upsert(Box::new(Input::ConfigMap(ConfigMap::from(&map))))
            }
            Ok(Event::InitDone) if listed => continue,
            Ok(Event::InitDone | Event::Delete(_)) => Feed::Remove(key(&name)),
            Err(error) => {
                errors.with(&["ConfigMap"]).inc();
                tracing::debug!(namespace = &*name.0, name = &*name.1, %error, "watch of a ConfigMap failed; tried again");
                continue;
            }
        };
        if feed.send(event).await.is_err() {
            return;
        }
    }
}
