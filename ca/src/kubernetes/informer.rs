//! Keeps [`Pods`] as the API server has them, and answers once they are known.
//!
//! ```text
//! Unknown --list complete--> Known --error for longer than DOUBT--> Doubtful --list complete--> Known
//! ```
//! Nobody gets a certificate by what is unknown or doubtful: the caller is told to try again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use kube::api::ApiResource;
use kube::core::Object;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use mesh::Identity;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pods::{Pod, Pods, TokenPod};
use super::retry::{Backoff, sleep_until};
use crate::caller::{Judged, NodePods};
use crate::refusal::Refusal;

/// How long a watch may be broken until what was known is in doubt. A restarted API server is back within some ten
/// seconds; a token is remembered for thirty, so nobody gains from a longer one.
const DOUBT: Duration = Duration::from_secs(30);

/// Seconds after which a quiet watch is begun again, from where it was. It bounds how long a connection that died without
/// a word goes unnoticed; kube's default of 290 would leave a deleted pod its rights that long.
const WATCH: u32 = 60;

/// How long a refusal waits for news. The node's proxy learns of a pod from its node, often before the API server's watch
/// brings the pod here; some hundred milliseconds are usual, and without a wait the proxy would come back only after its
/// own pause (ca.md 4: 0.5 s and more).
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Pods as the API server has them. Clones share them.
#[derive(Clone)]
pub(crate) struct PodInformer {
    state: Arc<watch::Sender<State>>,
    patience: Duration,
}

#[derive(Default)]
struct State {
    pods: Pods,
    known: bool,
    broken: Option<Instant>,
}

/// What is read of a pod's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: Option<String>,
    node_name: Option<String>,
}

/// What is read of a pod's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
}

type Trimmed = Object<Spec, Status>;

impl PodInformer {
    /// Knows nothing yet. Refusals wait up to `patience` for news.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())), patience }
    }

    /// Why nothing can be told, if so.
    pub(crate) fn ready(&self) -> Result<(), Refusal> {
        self.state.borrow().ready()
    }

    /// Waits until pods are known or in doubt, the other of what `ready` was. For the readiness of the program.
    pub(crate) async fn until(&self, ready: bool) {
        let mut changes = self.state.subscribe();
        loop {
            // The state is marked as seen before it is looked at, so no change is missed.
            let (now, doubt_at) = {
                let state = changes.borrow_and_update();
                (state.ready().is_ok(), state.broken.map(|since| since + DOUBT))
            };
            if now == ready {
                return;
            }
            tokio::select! {
                // Cannot close: the sender lives in `self`.
                _ = changes.changed() => {}
                () = sleep_until(doubt_at), if now => {}
            }
        }
    }

    /// How many pods are known.
    pub(crate) fn len(&self) -> usize {
        self.state.borrow().pods.len()
    }

    /// The pod that shows a token.
    pub(crate) async fn caller(&self, token: &TokenPod<'_>) -> Result<Pod, Refusal> {
        self.settle(|pods| pods.caller(token).cloned()).await
    }

    /// Judges, and judges again at every change while the verdict is a refusal and patience lasts.
    async fn settle<T>(&self, judge: impl Fn(&Pods) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut changes = self.state.subscribe();
        let end = Instant::now() + self.patience;
        loop {
            let refusal = {
                let state = changes.borrow_and_update();
                state.ready()?;
                match judge(&state.pods) {
                    Ok(passed) => return Ok(passed),
                    Err(refusal) => refusal,
                }
            };
            // The channel cannot close: the sender lives in `self`.
            if tokio::time::timeout_at(end, changes.changed()).await.is_err() {
                return Err(refusal);
            }
        }
    }

    /// Follows the API server for ever.
    pub(crate) async fn follow(&self, client: Client) -> std::convert::Infallible {
        let api: Api<Trimmed> = Api::all_with(client, &ApiResource::erase::<ApiPod>(&()));
        let mut backoff = Backoff::default();
        loop {
            let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default().timeout(WATCH)));
            let mut listing = Pods::default();
            // A new watcher lists again after an error, so that `Known` is always told by a complete list.
            let error = loop {
                match events.next().await {
                    Some(Ok(event)) => self.take(event, &mut listing, &mut backoff),
                    Some(Err(error)) => break error.to_string(),
                    None => break "the watch ended".to_owned(),
                }
            };
            self.state.send_if_modified(|state| {
                let first = state.broken.is_none();
                state.broken.get_or_insert_with(Instant::now);
                first
            });
            tracing::warn!(%error, "the watch of pods is broken; trying again");
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn take(&self, event: Event<Trimmed>, listing: &mut Pods, backoff: &mut Backoff) {
        match event {
            Event::Init => *listing = Pods::default(),
            Event::InitApply(pod) => listing.apply(trim(pod)),
            Event::InitDone => {
                backoff.reset();
                let pods = std::mem::take(listing);
                self.state.send_modify(|state| *state = State { pods, known: true, broken: None });
            }
            Event::Apply(pod) => self.state.send_modify(|state| state.pods.apply(trim(pod))),
            Event::Delete(pod) => {
                let pod = trim(pod);
                self.state.send_modify(|state| state.pods.remove(&pod.namespace, &pod.name));
            }
        }
    }
}

impl State {
    fn ready(&self) -> Result<(), Refusal> {
        let why = match (self.known, self.broken) {
            (false, _) => "the pods of the cluster are not listed yet",
            (true, Some(since)) if since.elapsed() >= DOUBT => "the watch of pods is broken",
            (true, _) => return Ok(()),
        };
        Err(Refusal::PodsUnknown(why.to_owned()))
    }
}

impl NodePods for PodInformer {
    fn runs<'a>(&'a self, wanted: &'a Identity, node: &'a str) -> Judged<'a, ()> {
        Box::pin(self.settle(move |pods| pods.runs(wanted, node)))
    }
}

fn trim(pod: Trimmed) -> Pod {
    let meta = pod.metadata;
    let text = |value: Option<String>| value.unwrap_or_default();
    let ids = (text(meta.namespace), text(meta.name), text(meta.uid));
    let phase = pod.status.and_then(|status| status.phase);
    Pod::new(ids, pod.spec.service_account_name, pod.spec.node_name, phase.as_deref(), meta.labels.as_ref())
}
