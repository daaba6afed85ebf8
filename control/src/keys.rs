//! Keys of issuers of JSON Web Tokens, fetched for all waypoints, which never fetch any themselves.
//!
//! ```text
//! World ──wanted──► run ──► each source: look up ──► vet addresses ──► GET over TLS ──► Feed::Keys ──► World
//!                            ▲                                             │
//!                            └── again after REFRESH, or after a pause ────┘
//! ```
//! A user's policy names the server, and we stand inside of the cluster: addresses are vetted after their look-up and dialled
//! as they were vetted, redirects are not followed, time and size are bounded (design.md 5). What was fetched once stays in use
//! while the issuer is away.

mod fetch;
mod vet;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use telemetry::metrics::CounterFamily;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::arrival::Feed;
use crate::object::request::KeySource;
pub use fetch::Fetcher;
pub use vet::Vet;

/// How long keys are good: an issuer that changes its keys publishes the next one at least this long before. Istio's default is
/// 20 minutes; five cost a request and close the door on a withdrawn key sooner.
const REFRESH: Duration = Duration::from_secs(300);

/// First and longest pause after a failure. The longest is that after a success.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), REFRESH);

/// Sources at most. Each is a task and a connection now and then; who writes more policies than this with own issuers does it
/// on purpose.
const MOST: usize = 1000;

/// Fetches what is wanted until nobody wants anything any more.
pub async fn run(
    fetcher: Fetcher,
    mut wanted: watch::Receiver<BTreeSet<KeySource>>,
    feed: mpsc::Sender<Feed>,
    fetched: CounterFamily,
) {
    let fetcher = Arc::new(fetcher);
    let mut tasks = JoinSet::new();
    let mut followed: BTreeMap<KeySource, AbortHandle> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        followed.retain(|source, task| {
            let stays = now.contains(source);
            if !stays {
                task.abort();
            }
            stays
        });
        for source in now {
            if followed.len() >= MOST || followed.contains_key(&source) {
                continue;
            }
            let one = follow(fetcher.clone(), source.clone(), feed.clone(), fetched.clone());
            followed.insert(source, tasks.spawn(one));
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            // They end with the program, or because they were not wanted any more.
            Some(_ended) = tasks.join_next() => {}
        }
    }
}

/// Fetches from one source again and again.
async fn follow(fetcher: Arc<Fetcher>, source: KeySource, feed: mpsc::Sender<Feed>, fetched: CounterFamily) {
    let mut pause = PAUSE.0;
    let mut good = false;
    loop {
        let result = fetcher.keys(&source).await;
        let wait = match &result {
            Ok(_) => {
                fetched.with(&["fetched"]).inc();
                good = true;
                pause = PAUSE.0;
                REFRESH
            }
            Err(error) => {
                fetched.with(&["failed"]).inc();
                tracing::warn!(?source, %error, kept = good, "keys of an issuer not fetched");
                pause = (pause * 2).min(PAUSE.1);
                pause
            }
        };
        // What was good stays in use while the issuer is away.
        if result.is_ok() || !good {
            let keys = result.map_err(|e| Arc::from(e.to_string()));
            if feed.send(Feed::Keys { source: source.clone(), keys }).await.is_err() {
                return;
            }
        }
        // Give or take a tenth, so that sources and replicas do not come all at once.
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.9..1.1))).await;
    }
}
