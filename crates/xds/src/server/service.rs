//! The gRPC service: one task per stream.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use proto::discovery::DeltaDiscoveryRequest;
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::codegen::http;
use tonic::codegen::{Service, StdError};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::body::{Replies, Said};
use super::response::Response;
use super::session::{Session, TooFarBehind};
use super::{Authorise, Caller, ClientReport, Store};

/// Name of the service, as in its `.proto`.
const SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
/// Path of its one method that is served: the delta form. The older one is not.
const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

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
    sums: Sums,
}

#[derive(Debug, Default)]
struct Sums {
    responses: AtomicU64,
    resources: AtomicU64,
    removals: AtomicU64,
    bytes: AtomicU64,
    nacks: AtomicU64,
}

/// What all streams together have carried since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Responses handed to the transport.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Names of removed resources in them.
    pub removals: u64,
    /// Bytes of the resources' bodies.
    pub bytes: u64,
    /// Responses that clients refused, in whole or in part.
    pub nacks: u64,
}

impl Sums {
    fn sent(&self, response: &Response) {
        for (sum, add) in [
            (&self.responses, 1),
            (&self.resources, response.resources.len()),
            (&self.removals, response.removed.len()),
            (&self.bytes, response.body_len()),
        ] {
            sum.fetch_add(add as u64, Ordering::Relaxed);
        }
    }
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
        Self { shared: Arc::new(Shared { store, authorise, next: AtomicU64::new(1), reports, sums: Sums::default() }) }
    }

    /// The service in the form that a gRPC listener takes. Needs a tokio runtime; streams are tasks on it.
    pub fn into_service(self) -> Discovery<A> {
        Discovery(self)
    }

    /// How the connected clients stand, by a number that grows with each stream.
    pub fn clients(&self) -> BTreeMap<u64, ClientReport> {
        self.shared.reports.read()
    }

    /// What all streams together have carried since the start.
    pub fn totals(&self) -> Totals {
        let sums = &self.shared.sums;
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Totals {
            responses: read(&sums.responses),
            resources: read(&sums.resources),
            removals: read(&sums.removals),
            bytes: read(&sums.bytes),
            nacks: read(&sums.nacks),
        }
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

/// The service as a gRPC listener takes it. It is not the generated one because that one encodes a response as a whole,
/// and the first picture of a large mesh is the same some 30 MB for each of many nodes.
#[derive(Debug)]
pub struct Discovery<A>(Server<A>);

impl<A> Clone for Discovery<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> NamedService for Discovery<A> {
    const NAME: &'static str = SERVICE;
}

impl<A, B> Service<http::Request<B>> for Discovery<A>
where
    A: Authorise,
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != METHOD {
            return ready(Ok(Status::unimplemented("").into_http()));
        }
        let (head, body) = request.into_parts();
        let decoder = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryRequest>::default().decoder();
        let incoming = Streaming::new_request(decoder, body, None, Some(MAX_REQUEST));
        let request = Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, incoming);
        let mut response = http::Response::new(Body::new(self.0.open(request)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        ready(Ok(response))
    }
}

impl<A: Authorise> Server<A> {
    /// Starts the task of a stream.
    fn open(&self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Replies {
        // One: what the transport has not begun yet is the only response that can be stale.
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
        Replies::new(receiver)
    }
}

impl<A: Authorise> Shared<A> {
    async fn serve(
        &self,
        id: u64,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
        sender: &mpsc::Sender<Said>,
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
        let mut session = Session::new(grant.clone(), node.id);
        let mut ended = grant.ended();
        let mut bell = self.store.listen();
        session.request(&self.store, first)?;
        let mut response = None;
        loop {
            // Seen before the store is looked at, so that no change falls in between.
            bell.borrow_and_update();
            if response.is_none() {
                response = match session.next(&self.store) {
                    Ok(next) => next,
                    Err(TooFarBehind) => {
                        // An ordinary end: the client comes again at once and says what it holds.
                        tracing::info!(id, "a client is so far behind that it has to begin anew");
                        return Ok(());
                    }
                };
            }
            self.reports.set(id, session.report());
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(request) => {
                        self.sums.nacks.fetch_add(u64::from(request.error_detail.is_some()), Ordering::Relaxed);
                        session.request(&self.store, request)?;
                    }
                    None => return Ok(()),
                },
                // Reading goes on while the client takes its time with a response.
                permit = sender.reserve(), if response.is_some() => match (permit, response.take()) {
                    (Ok(permit), Some(response)) => {
                        self.sums.sent(&response);
                        permit.send(Ok(response));
                    }
                    _ => return Ok(()),
                },
                changed = bell.changed(), if response.is_none() => if changed.is_err() { return Ok(()) },
                // Withdrawn rights end the stream also while the client is slow.
                end = &mut ended => return end.map_or(Ok(()), Err),
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
