//! News from the API server: watches of this node's pods and of all namespaces.

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::watcher::{self, Config, Error, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use telemetry::metrics::CounterFamily;
use tokio::sync::mpsc;

use super::facts::{MODE, PodFacts};
use super::mirror::Change;

/// Follows the node's pods for ever.
pub(super) async fn pods(client: Client, node: &str, to: impl Fn(Change<PodFacts>), failures: CounterFamily) {
    let config = Config::default().fields(&format!("spec.nodeName={node}"));
    let stream = watch(Api::<Pod>::all(client), config).default_backoff();
    let key = |pod: &Pod| PodFacts::of(pod).map(|facts| (facts.title(), facts));
    forward("pods", stream, key, to, failures).await;
}

/// Follows the labels of all namespaces for ever.
pub(super) async fn namespaces(client: Client, to: impl Fn(Change<Option<String>>), failures: CounterFamily) {
    let stream = watch(Api::<PartialObjectMeta<Namespace>>::all(client), Config::default()).default_backoff();
    forward("namespaces", stream, label, to, failures).await;
}

/// Name and label of a namespace.
fn label(namespace: &PartialObjectMeta<Namespace>) -> Option<(String, Option<String>)> {
    let meta = &namespace.metadata;
    let label = meta.labels.as_ref().and_then(|l| l.get(MODE)).cloned();
    meta.name.clone().map(|name| (name, label))
}

async fn forward<K, V>(
    what: &'static str,
    stream: impl Stream<Item = Result<Event<K>, Error>>,
    key: impl Fn(&K) -> Option<(String, V)>,
    to: impl Fn(Change<V>),
    failures: CounterFamily,
) {
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(Event::Init) => Some(Change::Restart),
            Ok(Event::InitApply(object)) => key(&object).map(|(key, value)| Change::Listed(key, value)),
            Ok(Event::InitDone) => Some(Change::Done),
            Ok(Event::Apply(object)) => key(&object).map(|(key, value)| Change::Applied(key, value)),
            Ok(Event::Delete(object)) => key(&object).map(|(key, value)| Change::Deleted(key, value)),
            Err(error) => {
                failures.with(&[what]).inc();
                tracing::warn!(what, error = %explain(&error), "watch failed; begun again");
                None
            }
        };
        if let Some(change) = change {
            to(change);
        }
    }
    // The watcher never ends by itself.
    tracing::error!(what, "watch ended");
}

/// The remedy is in the cause: rights, or an API server that is away.
fn explain(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Takes changes to the agent's thread.
pub(super) fn sender<V, I>(inputs: mpsc::UnboundedSender<I>, wrap: impl Fn(Change<V>) -> I) -> impl Fn(Change<V>) {
    move |change| {
        // The agent's thread has ended, and so will we.
        drop(inputs.send(wrap(change)));
    }
}
