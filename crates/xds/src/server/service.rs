//! The gRPC service: one task per stream.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session::Session;
use super::{Authorise, Caller, ClientReport, Store};

/// Longest request, in bytes. A reconnecting client names everything that it holds: 10^5 names of 150 bytes with versions
/// of 32 are some 20 MB.
const MAX_REQUEST: usize = 32 << 20;

/// The service over a store. Clones are the same service.
#[derive(Debug)]
pub struct Server<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
struct Shared<A> {
    store: Store,
    authorise: A,
    next: AtomicU64,
    reports: Reports,
}

/// The clients and the bell that rings when one of them stands differently.
#[derive(Clone, Debug)]
struct Reports {
    clients: Arc<Mutex<BTreeMap<u64, ClientReport>>>,
    bell: watch::Sender<()>,
}

impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<A: Authorise> Server<A> {
    /// A service that serves a store to those whom `authorise` lets in.
    pub fn new(store: Store, authorise: A) -> Self {
        let reports = Reports { clients: Arc::default(), bell: watch::Sender::new(()) };
        Self { shared: Arc::new(Shared { store, authorise, next: AtomicU64::new(1), reports }) }
    }

    /// The service in the form that a gRPC listener takes. Needs a tokio runtime; streams are tasks on it.
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// How the connected clients stand, by a number that grows with each stream.
    pub fn clients(&self) -> BTreeMap<u64, ClientReport> {
        self.shared.reports.read()
    }

    /// Waits until every connected client that asked for a type has acknowledged it up to a revision. A client that refused
    /// a resource holds it up until it takes that resource in another form; [`Server::clients`] tells which one.
    pub async fn acknowledged(&self, type_url: &str, revision: u64) {
        let mut bell = self.shared.reports.bell.subscribe();
        loop {
            bell.borrow_and_update();
            let clients = self.shared.reports.read();
            if clients.values().filter_map(|c| c.types.get(type_url)).all(|t| t.acked >= revision) {
                return;
            }
            if bell.changed().await.is_err() {
                return;
            }
        }
    }

    /// Rings whenever a client comes, goes, acknowledges or refuses.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.shared.reports.bell.subscribe()
    }
}

#[tonic::async_trait]
impl<A: Authorise> AggregatedDiscoveryService for Server<A> {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // One: what the transport has not taken yet is the only response that can be stale.
        let (sender, receiver) = mpsc::channel(1);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let id = shared.next.fetch_add(1, Ordering::Relaxed);
            let end = shared.serve(id, request, &sender).await;
            shared.reports.remove(id);
            if let Err(status) = end {
                tracing::debug!(id, code = ?status.code(), message = status.message(), "discovery stream ended");
                // The client may be gone, and then it does not matter.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl<A: Authorise> Shared<A> {
    async fn serve(
        &self,
        id: u64,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
        sender: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        let (metadata, extensions, mut incoming) = request.into_parts();
        let first = tokio::select! {
            first = incoming.message() => first?,
            () = sender.closed() => return Ok(()),
        };
        let Some(first) = first else { return Ok(()) };
        let node = first.node.clone().ok_or_else(|| Status::invalid_argument("the first request has no node"))?;
        let caller = Caller { metadata: &metadata, extensions: &extensions, node: &node };
        let grant = self.authorise.authorise(&caller).await?;
        let mut session = Session::new(grant, node.id);
        let mut bell = self.store.listen();
        session.request(&self.store, first)?;
        let mut response = None;
        loop {
            // Seen before the store is looked at, so that no change falls in between.
            bell.borrow_and_update();
            response = response.or_else(|| session.next(&self.store));
            self.reports.set(id, session.report());
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(request) => session.request(&self.store, request)?,
                    None => return Ok(()),
                },
                // Reading goes on while the client takes its time with a response.
                permit = sender.reserve(), if response.is_some() => match (permit, response.take()) {
                    (Ok(permit), Some(response)) => permit.send(Ok(response)),
                    _ => return Ok(()),
                },
                changed = bell.changed(), if response.is_none() => if changed.is_err() { return Ok(()) },
                () = sender.closed() => return Ok(()),
            }
        }
    }
}

impl Reports {
    fn read(&self) -> BTreeMap<u64, ClientReport> {
        self.lock().clone()
    }

    fn set(&self, id: u64, report: ClientReport) {
        let before = self.lock().insert(id, report.clone());
        if before.as_ref() != Some(&report) {
            self.bell.send_replace(());
        }
    }

    fn remove(&self, id: u64) {
        self.lock().remove(&id);
        self.bell.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, ClientReport>> {
        // Nothing panics while it is held, and the map would still be whole.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
