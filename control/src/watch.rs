//! Watches the API server, one stream a kind.
//!
//! ```text
//!             served?            list complete            kind gone (CRD removed)
//! Absent ────────────► Listing ───────────────► Watching ─────────────────────────► Absent
//!   │ every 10 s          ▲   stream broken for good (410 Gone)  │
//!   └─ counts as empty    └─────────────────────────────────────-┘
//! ```
//! Breaks of the connection are resumed by `kube::runtime::watcher` at the last resourceVersion; only what it cannot resume
//! is listed again, between [`Feed::Begin`] and [`Feed::Finish`], so that what vanished meanwhile goes.

#[cfg(test)]
mod tests;

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::{core::v1, discovery, networking};
use kube::core::DeserializeGuard;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Config, Error, Event};
use kube::{Api, Client, ResourceExt};
use kubernetes::client::{CallError, call};
use kubernetes::object as api;
use telemetry::metrics::{Counter, CounterFamily};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::arrival::{Arriving, Feed};
use crate::object::{Key, Kind};

/// How often a kind that is not defined is looked for. Asking discovery needs no right beyond that of every service
/// account, unlike watching CustomResourceDefinitions; who installs definitions waits this long at most.
const LOOK: Duration = Duration::from_secs(10);

/// Length of one watch call, in seconds. The API server ends it then and it is resumed, which costs one request a kind; a
/// connection that died without a word (a middle box, a dead API server behind a virtual address) is noticed 5 s later.
const WATCH_SECONDS: u32 = 60;

/// First and longest pause after an error. kube's own goes to 30 s and falls back only after two quiet minutes; after a
/// restart of the API server that left us blind for most of a minute. Twenty kinds at 5 s are four requests a second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Nobody takes what is watched any more: the program is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Closed;

/// What every stream needs.
#[derive(Clone)]
struct Watch {
    client: Client,
    feed: mpsc::Sender<Feed>,
    errors: CounterFamily,
    look: Duration,
}

/// Watches everything until nobody takes it any more. Must be called on a runtime.
pub async fn run(client: Client, feed: mpsc::Sender<Feed>, errors: CounterFamily) {
    // Only those that somebody names are read, one by one (`maps`).
    for event in [Feed::Begin(Kind::ConfigMap), Feed::Finish(Kind::ConfigMap)] {
        if feed.send(event).await.is_err() {
            return;
        }
    }
    let watch = Watch { client, feed, errors, look: LOOK };
    let mut all = JoinSet::new();
    all.spawn(watch.clone().follow::<discovery::v1::EndpointSlice>());
    all.spawn(watch.clone().follow::<v1::Namespace>());
    all.spawn(watch.clone().follow::<networking::v1::NetworkPolicy>());
    all.spawn(watch.clone().follow::<v1::Node>());
    all.spawn(watch.clone().follow::<v1::Pod>());
    all.spawn(watch.clone().follow::<v1::Service>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::AuthorizationPolicy>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::BackendTlsPolicy>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::DestinationRule>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::Gateway>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::GatewayClass>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::GrpcRoute>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::HttpRoute>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::PeerAuthentication>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::ReferenceGrant>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::RequestAuthentication>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::RequestPolicy>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::ServiceEntry>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::TcpRoute>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::Telemetry>>());
    all.spawn(watch.clone().follow::<DeserializeGuard<api::TlsRoute>>());
    all.spawn(watch.follow::<DeserializeGuard<api::WorkloadEntry>>());
    while let Some(ended) = all.join_next().await {
        if let Err(error) = ended {
            // A stream that panicked would leave its kind as it was, for ever: better to end and be started afresh.
            tracing::error!(%error, "a watch ended");
            return;
        }
    }
}

/// What to do after an error of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The stream goes on by itself, after a pause.
    GoOn,
    /// This API server does not stream lists: list in pages.
    Pages,
    /// The kind may not be there any more.
    Look,
}

impl Watch {
    async fn follow<K: Arriving>(self) {
        // The only end is that of the program.
        let Err(Closed) = self.for_ever::<K>().await;
    }

    async fn for_ever<K: Arriving>(&self) -> Result<std::convert::Infallible, Closed> {
        // A streamed list comes out of the API server's memory object by object; neither side ever holds all of it.
        let mut stream_list = true;
        loop {
            if K::CUSTOM {
                self.until_served::<K>().await?;
            }
            match self.watch::<K>(stream_list).await? {
                Next::Pages => {
                    tracing::info!(kind = %K::KIND, "the API server does not stream lists; listing in pages");
                    stream_list = false;
                }
                Next::GoOn | Next::Look => {}
            }
        }
    }

    /// Follows one stream until something else has to be done.
    async fn watch<K: Arriving>(&self, stream_list: bool) -> Result<Next, Closed> {
        let config = Config::default().timeout(WATCH_SECONDS);
        let config = if stream_list { config.streaming_lists() } else { config };
        let errors = self.errors.with(&[K::KIND.as_str()]);
        let mut trouble = Trouble::new(K::KIND, errors);
        let mut listing = true;
        let mut events = pin!(watch(Api::<K>::all(self.client.clone()), config));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let event = fed(event);
                    // A list that begins proves nothing yet; it may fail at once, and again.
                    listing = matches!(event, Feed::Begin(_)) || (listing && !matches!(event, Feed::Finish(_)));
                    if !listing {
                        trouble.over();
                    }
                    self.send(event).await?;
                }
                Err(error) => match next(&error, K::CUSTOM, stream_list && listing) {
                    Next::Look if !self.served::<K>().await.unwrap_or(true) => return Ok(Next::Look),
                    Next::Pages => return Ok(Next::Pages),
                    Next::GoOn | Next::Look => self.pause(trouble.note(&error)).await?,
                },
            }
        }
        Ok(Next::GoOn)
    }

    /// Waits until the API server serves a custom kind; until then there is none of it.
    async fn until_served<K: Arriving>(&self) -> Result<(), Closed> {
        let (mut told, mut troubled) = (false, false);
        loop {
            match self.served::<K>().await {
                Ok(true) => return Ok(()),
                Ok(false) if !told => {
                    told = true;
                    tracing::info!(kind = %K::KIND, "not defined in this cluster; looked for every 10 s");
                    self.send(Feed::Begin(K::KIND)).await?;
                    self.send(Feed::Finish(K::KIND)).await?;
                }
                Ok(false) => {}
                Err(error) if !troubled => {
                    troubled = true;
                    tracing::warn!(kind = %K::KIND, %error, "cannot tell whether this kind is defined");
                }
                Err(_) => {}
            }
            self.pause(self.look).await?;
        }
    }

    async fn pause(&self, time: Duration) -> Result<(), Closed> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.feed.closed() => Err(Closed),
        }
    }

    async fn served<K: Arriving>(&self) -> Result<bool, CallError> {
        let version = K::api_version(&());
        let what = format!("discover {version}");
        match call(&what, self.client.list_api_group_resources(&version)).await {
            Ok(list) => Ok(list.resources.iter().any(|r| r.kind == K::kind(&()))),
            Err(CallError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, feed: Feed) -> Result<(), Closed> {
        self.feed.send(feed).await.map_err(|_| Closed)
    }
}

/// What an event of the watcher means.
fn fed<K: Arriving>(event: Event<K>) -> Feed {
    match event {
        Event::Init => Feed::Begin(K::KIND),
        Event::InitDone => Feed::Finish(K::KIND),
        Event::Delete(object) => Feed::Remove(key(&object)),
        Event::Apply(object) | Event::InitApply(object) => match object.trim() {
            Ok(input) => Feed::Upsert(Box::new(input)),
            Err(why) => Feed::Unreadable { key: key(&object), uid: object.uid().unwrap_or_default(), why },
        },
    }
}

fn key<K: Arriving>(object: &K) -> Key {
    Key::new(K::KIND, object.namespace().unwrap_or_default(), object.name_any())
}

/// What to do after an error. `streams`: a list is being streamed.
fn next(error: &Error, custom: bool, streams: bool) -> Next {
    let code = match error {
        Error::WatchStartFailed(kube::Error::Api(status)) | Error::InitialListFailed(kube::Error::Api(status)) => {
            status.code
        }
        // Within a streamed list, it is the list that failed.
        Error::WatchError(status) if streams => status.code,
        _ => return Next::GoOn,
    };
    let start = !matches!(error, Error::InitialListFailed(_));
    match code {
        404 if custom => Next::Look,
        // `sendInitialEvents` is forbidden where the feature gate WatchList is off (422, apimachinery's validation of
        // ListOptions), and an internal error where etcd is too old to tell its progress (before 3.4.31 and 3.5.13). An
        // API server that is merely in trouble lists in pages as well later, and that works everywhere.
        400 | 422 | 500 if start && streams => Next::Pages,
        _ => Next::GoOn,
    }
}

/// Says once that a watch has trouble, and once that it is over.
struct Trouble {
    kind: Kind,
    errors: Counter,
    since: Option<std::time::Instant>,
    pause: Duration,
}

impl Trouble {
    fn new(kind: Kind, errors: Counter) -> Self {
        Self { kind, errors, since: None, pause: PAUSE.0 }
    }

    /// Says how long to wait before the next attempt.
    fn note(&mut self, error: &watcher::Error) -> Duration {
        self.errors.inc();
        // Give or take a fifth, so that kinds and replicas do not come back all at once.
        let pause = self.pause.mul_f64(rand::random_range(0.8..1.2));
        self.pause = (self.pause * 2).min(PAUSE.1);
        // The API server ends old watches; that one is no news.
        let expired = matches!(error, Error::WatchError(status) if status.code == 410);
        if self.since.is_some() || expired {
            tracing::debug!(kind = %self.kind, %error, "watch failed again");
            return pause;
        }
        self.since = Some(std::time::Instant::now());
        let forbidden = error.to_string().contains("forbidden");
        let remedy =
            if forbidden { "give get, list and watch to our service account" } else { "tried again until it works" };
        tracing::warn!(kind = %self.kind, %error, remedy, "watch failed; what is known stays in use");
        pause
    }

    fn over(&mut self) {
        self.pause = PAUSE.0;
        if let Some(since) = self.since.take() {
            tracing::info!(kind = %self.kind, seconds = since.elapsed().as_secs(), "watch works again");
        }
    }
}
