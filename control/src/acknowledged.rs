//! Waits until every node goes through the waypoints of governed services, and says so to the world, which then lets nobody
//! else in (design.md 5, "Order when enabling").

use std::time::Duration;

use proto::ADDRESS_TYPE;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use xds::server::{Authorise, Server};

use crate::apply::Waiting;
use crate::arrival::Feed;

/// After this time a node that has not acknowledged is not waited for: it may be broken, and a security policy is not kept
/// waiting by one node. What it sends past the waypoint is refused then. Proxies acknowledge in milliseconds; 30 s are twice
/// the longest pause between two attempts of theirs to connect (discovery.md 1).
const LATE: Duration = Duration::from_secs(30);

/// Waits for whoever waits, until nobody says any more who does.
pub async fn run<A: Authorise>(server: Server<A>, mut waiting: watch::Receiver<Waiting>, feed: mpsc::Sender<Feed>) {
    loop {
        let now = waiting.borrow_and_update().clone();
        if !now.services.is_empty() {
            let all = server.acknowledged(ADDRESS_TYPE, now.revision);
            if timeout(LATE, all).await.is_err() {
                tracing::warn!(
                    services = now.services.len(),
                    "not every proxy has acknowledged the waypoints of governed services; see /debug/clients"
                );
            }
            let services = now.services.into_keys().collect();
            if feed.send(Feed::Acknowledged(services)).await.is_err() {
                return;
            }
        }
        if waiting.changed().await.is_err() {
            return;
        }
    }
}
