//! What control shows: who is connected and how they stand, and what the mesh should be.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use chassis::admin::{Reply, Router};
use http::StatusCode;
use mesh::addr::Cidr;
use proto::discovery::Resource;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_TYPE, ROUTING_TYPE};
use serde::Serialize;
use telemetry::metrics::Metrics;
use tokio::sync::{mpsc, oneshot, watch};
use xds::client::{Update, to_change};
use xds::local;
use xds::server::{Authorise, ClientReport, Entry, Server, Store, TypeReport};

use crate::apply::Ask;
use crate::world::Status;

/// How a client stands with one type.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TypeState {
    wildcard: bool,
    held: usize,
    acked: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    refused: usize,
    nacks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_nack: Option<String>,
    /// Everything up to now is acknowledged.
    synced: bool,
}

/// A client.
#[derive(Debug, Serialize)]
struct ClientState {
    stream: u64,
    node: String,
    types: BTreeMap<String, TypeState>,
}

/// A client in the shape of istiod's `/debug/syncz`: its names for what every proxy has, and for our types the same
/// pattern, `<type>_sent` and `<type>_acked`, which are equal when nothing is under way.
#[derive(Debug, Serialize)]
struct SyncStatus {
    cluster_id: String,
    proxy: String,
    proxy_type: String,
    istio_version: &'static str,
    #[serde(flatten)]
    types: BTreeMap<String, String>,
}

/// What the mesh should be, in the shape of a node proxy's `/config_dump`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct World {
    workloads: Vec<local::Workload>,
    services: Vec<local::Service>,
    policies: Vec<local::Policy>,
    pod_cidrs: Vec<String>,
}

/// Port 15014: `/metrics` and `/debug/syncz`.
pub fn metrics_routes<A: Authorise>(metrics: Arc<Metrics>, server: &Server<A>, cluster_id: &str) -> Router {
    let page = move |_| {
        let text = metrics.render();
        async move { Reply::with(StatusCode::OK, telemetry::metrics::CONTENT_TYPE, text) }
    };
    Router::new().get("/metrics", "OpenMetrics text", page).merge(syncz(server, cluster_id))
}

fn syncz<A: Authorise>(server: &Server<A>, cluster_id: &str) -> Router {
    let (server, cluster_id) = (server.clone(), cluster_id.to_owned());
    Router::new().get("/debug/syncz", "proxies and what they have acknowledged, as istiod shows it", move |_| {
        let all: Vec<_> = server.clients().values().map(|c| sync_status(c, &cluster_id)).collect();
        async move { Reply::json(&all) }
    })
}

/// The admin port: `/debug/syncz`, `/debug/clients`, `/debug/world`, `/debug/statuses`.
pub fn admin_routes<A: Authorise>(
    server: &Server<A>,
    store: &Store,
    pod_cidrs: watch::Receiver<Vec<Cidr>>,
    asks: mpsc::Sender<Ask>,
    cluster_id: &str,
) -> Router {
    let (store, revisions) = (store.clone(), store.clone());
    let clients = server.clone();
    syncz(server, cluster_id)
        .get("/debug/clients", "proxies and how they stand, type by type", move |_| {
            let revision = |url: &str| revisions.revision(url).unwrap_or(0);
            let all: Vec<_> = clients.clients().iter().map(|(id, c)| client_state(*id, c, &revision)).collect();
            async move { Reply::json(&all) }
        })
        .get("/debug/world", "what every proxy should have, as its /config_dump", move |_| {
            let (store, cidrs) = (store.clone(), pod_cidrs.borrow().clone());
            // 70 000 workloads are some 100 MB of text: not on the thread that answers the kubelet.
            let written = tokio::task::spawn_blocking(move || Reply::json(&world(&store, &cidrs)));
            async move {
                written.await.unwrap_or_else(|e| Reply::error(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
            }
        })
        .get("/debug/statuses", "what is said on objects", move |_| {
            let asks = asks.clone();
            async move {
                let (to, answer) = oneshot::channel();
                let asked = asks.send(Ask::Statuses(to)).await.is_ok();
                match answer.await {
                    Ok(statuses) if asked => Reply::json(&statuses.iter().map(said).collect::<Vec<_>>()),
                    _ => Reply::error(StatusCode::SERVICE_UNAVAILABLE, "the program is ending"),
                }
            }
        })
}

fn said(status: &Status) -> serde_json::Value {
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|c| serde_json::json!({"type": c.kind, "status": c.status, "reason": c.reason, "message": c.message}))
        .collect();
    let events: Vec<_> =
        status.events.iter().map(|e| serde_json::json!({"reason": e.reason, "message": e.message})).collect();
    let parents: Vec<_> = status
        .parents
        .iter()
        .map(|p| {
            let conditions: Vec<_> = p
                .conditions
                .iter()
                .map(|c| serde_json::json!({"type": c.kind, "status": c.status, "reason": c.reason, "message": c.message}))
                .collect();
            serde_json::json!({"parentRef": p.reference, "conditions": conditions})
        })
        .collect();
    let object = status.object.to_string();
    serde_json::json!({"object": object, "conditions": conditions, "events": events, "parents": parents})
}

fn client_state(stream: u64, report: &ClientReport, revision: &impl Fn(&str) -> u64) -> ClientState {
    let one = |(url, t): (&String, &TypeReport)| {
        let state = TypeState {
            wildcard: t.wildcard,
            held: t.held,
            acked: t.acked,
            sent: t.sent,
            refused: t.refused,
            nacks: t.nacks,
            last_nack: t.last_nack.clone(),
            synced: t.acked >= revision(url),
        };
        (url.clone(), state)
    };
    ClientState { stream, node: report.node.clone(), types: report.types.iter().map(one).collect() }
}

fn sync_status(report: &ClientReport, cluster_id: &str) -> SyncStatus {
    let mut parts = report.node.split('~');
    let (role, _ip, proxy) = (parts.next(), parts.next(), parts.next());
    let mut types = BTreeMap::new();
    for (url, t) in &report.types {
        let name = match url.as_str() {
            AUTHORIZATION_TYPE => "authorization",
            POD_NETWORKS_TYPE => "pod_networks",
            ROUTING_TYPE => "routing",
            _ => "address",
        };
        types.insert(format!("{name}_sent"), t.sent.unwrap_or(t.acked).to_string());
        types.insert(format!("{name}_acked"), t.acked.to_string());
    }
    SyncStatus {
        cluster_id: cluster_id.to_owned(),
        proxy: proxy.unwrap_or(&report.node).to_owned(),
        proxy_type: role.unwrap_or_default().to_owned(),
        istio_version: concat!("culvert-", env!("CARGO_PKG_VERSION")),
        types,
    }
}

/// Reads the store as a client would: what is shown is what is sent.
fn world(store: &Store, pod_cidrs: &[Cidr]) -> World {
    let change = |type_url: &'static str| {
        let entries = store.entries(type_url).unwrap_or_default();
        let upserts = entries.iter().map(|entry| resource(type_url, entry)).collect();
        let update = Update { type_url, upserts, removals: vec![], answered: vec![], synced: false };
        // What we made we can read; what cannot be read would be refused by every client, and shows as a NACK.
        to_change(update).0
    };
    let (addresses, policies) = (change(ADDRESS_TYPE), change(AUTHORIZATION_TYPE));
    World {
        workloads: addresses.workloads.iter().map(local::Workload::from).collect(),
        services: addresses.services.iter().map(local::Service::from).collect(),
        policies: policies.policies.iter().map(local::Policy::from).collect(),
        pod_cidrs: pod_cidrs.iter().map(ToString::to_string).collect(),
    }
}

fn resource(type_url: &str, entry: &Entry) -> Resource {
    Resource {
        name: entry.name.to_string(),
        aliases: entry.aliases.iter().map(ToString::to_string).collect(),
        resource: Some(prost_types::Any { type_url: type_url.to_owned(), value: entry.body.to_vec() }),
        ..Resource::default()
    }
}
