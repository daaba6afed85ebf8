//! Waits until every node goes through the waypoints of governed services, and says so to the world, which then lets nobody
//! else in (design.md 5, "Order when enabling"). Nodes are served by several replicas: each hears of its own, and they tell
//! each other.

mod replicas;

use std::time::Duration;

use proto::ADDRESS_TYPE;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use xds::server::{Authorise, Server};

use crate::apply::Waiting;
use crate::arrival::Feed;
pub use replicas::Replicas;

/// After this time a node that has not acknowledged is not waited for: it may be broken, and a security policy is not kept
/// waiting by one node. What it sends past the waypoint is refused then. Proxies acknowledge in milliseconds; 30 s are twice
/// the longest pause between two attempts of theirs to connect (discovery.md 1).
const LATE: Duration = Duration::from_secs(30);

/// Waits for whoever waits, until nobody says any more who does. Without `replicas` there is one, we.
pub async fn run<A: Authorise>(
    server: Server<A>,
    mut waiting: watch::Receiver<Waiting>,
    feed: mpsc::Sender<Feed>,
    mut replicas: Option<Replicas>,
) {
    let mut since = Instant::now();
    loop {
        let now = waiting.borrow_and_update().clone();
        if now.services.is_empty() {
            if let Some(replicas) = &mut replicas {
                replicas.rest().await;
            }
            if waiting.changed().await.is_err() {
                return;
            }
            since = Instant::now();
            continue;
        }
        let all = async {
            server.acknowledged(ADDRESS_TYPE, now.revision).await;
            if let Some(replicas) = &mut replicas {
                replicas.agree(&now.services).await;
            }
        };
        let ended = tokio::select! {
            ended = timeout_at(since + LATE, all) => ended,
            changed = waiting.changed() => match changed {
                // Others wait as well now, or nobody does: the condition of a service, written by the leader, has come.
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        if ended.is_err() {
            tracing::warn!(
                services = now.services.len(),
                "not every proxy has acknowledged the waypoints of governed services; see /debug/clients of each replica"
            );
        }
        let services = now.services.into_keys().collect();
        if feed.send(Feed::Acknowledged(services)).await.is_err() {
            return;
        }
        // They wait no more when the world has heard it.
        if waiting.changed().await.is_err() {
            return;
        }
        since = Instant::now();
    }
}
