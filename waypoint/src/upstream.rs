//! HTTP connections to endpoints: kept for the next request, each on a stream of a tunnel (or on plain TCP where the
//! workload has none).

mod open;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::Outcome;
use tokio::time::timeout;

use crate::body::RequestBody;
use crate::endpoints::Endpoint;
use crate::here::Worker;
use crate::io::UpstreamIo;
use crate::local::LocalExecutor;
use crate::originate::Originate;

pub(crate) use open::{Stream, open};

/// For how long a connection is kept without a request. Most servers close theirs after 60 s or more (Node.js after 5 s, which
/// shows as a closed connection and costs a new one).
const IDLE: Duration = Duration::from_secs(55);

/// Requests on one HTTP/2 connection, before another is opened beside it: what servers allow at least (RFC 9113 6.5.2).
const STREAMS: u32 = 100;

/// Receive windows of HTTP/2 connections to applications, bytes: one stream fills 2 Gbit/s at the 4 ms that two proxies and a
/// busy application may take, and 64 stalled answers do not stall the others.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// The library's own bound of fields, for which it needs no memory of its own.
pub(crate) const USUAL_FIELDS: usize = 100;

/// How long a connection may take from the end of an answer to being ready for the next request: a server that has answered
/// early may still be taking the last one's body.
const SETTLE: Duration = Duration::from_secs(5);

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// TLS of the application's own.
    pub(crate) tls: Option<Arc<Originate>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) head_bytes: u32,
    pub(crate) head_fields: usize,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// For the record.
    pub(crate) outcome: Outcome,
    /// For people.
    pub(crate) text: Arc<str>,
}

/// The connections to one endpoint: in clear within the tunnel, or under the application's own TLS, one shelf for each way
/// to check it.
#[derive(Default)]
pub(crate) struct Kept {
    clear: Rc<Shelf>,
    secured: RefCell<Vec<(Arc<Originate>, Rc<Shelf>)>>,
}

/// Connections that may stand for each other.
#[derive(Default)]
struct Shelf {
    http1: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Rc<Multi>>>,
    /// The HTTP/2 connection that is being made.
    coming: RefCell<Option<Coming>>,
}

type Coming = Shared<LocalBoxFuture<'static, Result<Rc<Multi>, Fault>>>;

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// One HTTP/2 connection.
struct Multi {
    sender: http2::SendRequest<RequestBody>,
    active: Cell<u32>,
    used: Cell<Instant>,
}

/// A connection, or a part of one, for one request. Dropped before [`Lease::done`], an HTTP/1 connection is closed: what
/// comes next on it would be the rest of an old answer.
pub(crate) struct Lease {
    shelf: Rc<Shelf>,
    kind: Kind,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
}

enum Kind {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Active),
}

/// A request on an HTTP/2 connection.
struct Active(Rc<Multi>);

impl Fault {
    pub(crate) fn new(outcome: Outcome, text: impl Into<Arc<str>>) -> Self {
        Self { outcome, text: text.into() }
    }
}

/// A connection for one request: one that is there, or a new one.
pub(crate) async fn lease(
    worker: &Rc<Worker>,
    endpoint: &Rc<Endpoint>,
    host: &Arc<str>,
    http2: bool,
    settings: &Settings,
) -> Result<Lease, Fault> {
    if http2 {
        let (multi, reused) = multi(worker, endpoint, host, settings).await?;
        let shelf = endpoint.kept.shelf(settings.tls.as_ref());
        return Ok(Lease { shelf, kind: Kind::Http2(Active::new(multi)), reused });
    }
    let shelf = endpoint.kept.shelf(settings.tls.as_ref());
    if let Some(sender) = shelf.idle() {
        return Ok(Lease { shelf, kind: Kind::Http1(sender), reused: true });
    }
    // Boxed: large, and most requests find a connection.
    Box::pin(fresh(worker, endpoint, host, settings)).await
}

/// A new HTTP/1 connection.
pub(crate) async fn fresh(
    worker: &Rc<Worker>,
    endpoint: &Rc<Endpoint>,
    host: &Arc<str>,
    settings: &Settings,
) -> Result<Lease, Fault> {
    let io = secured(worker, endpoint, host, false, settings).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(usize::try_from(settings.head_bytes).unwrap_or(usize::MAX));
    if settings.head_fields != USUAL_FIELDS {
        builder.max_headers(settings.head_fields);
    }
    let (sender, connection) = builder.handshake(io).await.map_err(|e| broken(&e))?;
    drive(connection.with_upgrades());
    Ok(Lease { shelf: endpoint.kept.shelf(settings.tls.as_ref()), kind: Kind::Http1(sender), reused: false })
}

/// Carries a connection's bytes until it ends.
fn drive(connection: impl Future<Output = hyper::Result<()>> + 'static) {
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            // Whoever waits for an answer on it hears of it as well.
            tracing::trace!(%error, "connection to an endpoint ended");
        }
    });
}

async fn multi(
    worker: &Rc<Worker>,
    endpoint: &Rc<Endpoint>,
    host: &Arc<str>,
    settings: &Settings,
) -> Result<(Rc<Multi>, bool), Fault> {
    let shelf = endpoint.kept.shelf(settings.tls.as_ref());
    if let Some(found) = shelf.with_room() {
        return Ok((found, true));
    }
    let waiting = shelf.coming.borrow().clone();
    let coming = waiting.unwrap_or_else(|| {
        let made = dial(worker.clone(), endpoint.clone(), host.clone(), settings.clone()).boxed_local().shared();
        shelf.coming.replace(Some(made.clone()));
        made
    });
    let result = coming.clone().await;
    // The first one to hear of it clears the way for the next.
    if shelf.coming.borrow().as_ref().is_some_and(|c| c.ptr_eq(&coming)) {
        shelf.coming.replace(None);
    }
    result.map(|multi| (multi, false))
}

async fn dial(
    worker: Rc<Worker>,
    endpoint: Rc<Endpoint>,
    host: Arc<str>,
    settings: Settings,
) -> Result<Rc<Multi>, Fault> {
    let io = secured(&worker, &endpoint, &host, true, &settings).await?;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(settings.head_bytes);
    let (sender, connection) = builder.handshake(io).await.map_err(|e| broken(&e))?;
    drive(connection);
    let multi = Rc::new(Multi { sender, active: Cell::new(0), used: Cell::new(Instant::now()) });
    endpoint.kept.shelf(settings.tls.as_ref()).http2.borrow_mut().push(multi.clone());
    Ok(multi)
}

/// A new connection, under the application's own TLS where that is wanted.
async fn secured(
    worker: &Worker,
    endpoint: &Endpoint,
    host: &Arc<str>,
    http2: bool,
    settings: &Settings,
) -> Result<UpstreamIo, Fault> {
    let io =
        open(worker, endpoint, Some(host), settings.connect_timeout).await?.into_io(http2 && settings.tls.is_none());
    let Some(tls) = &settings.tls else { return Ok(io) };
    let failed = |why: String| Fault::new(Outcome::TlsFailed, format!("TLS to the application: {why}"));
    match timeout(settings.connect_timeout, tls.connect(io, http2)).await {
        Ok(Ok(stream)) => Ok(UpstreamIo::Secured(Box::new(TokioIo::new(stream)))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("no handshake in time".to_owned())),
    }
}

fn broken(error: &hyper::Error) -> Fault {
    Fault::new(Outcome::TunnelLost, error.to_string())
}

impl Kept {
    fn shelf(&self, tls: Option<&Arc<Originate>>) -> Rc<Shelf> {
        let Some(tls) = tls else { return self.clear.clone() };
        let mut all = self.secured.borrow_mut();
        if let Some((_, shelf)) = all.iter().find(|(way, _)| Arc::ptr_eq(way, tls)) {
            return shelf.clone();
        }
        let shelf = Rc::<Shelf>::default();
        all.push((tls.clone(), shelf.clone()));
        shelf
    }

    /// Closes what nobody has used for long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.clear.sweep(now);
        self.secured.borrow_mut().retain(|(_, shelf)| {
            shelf.sweep(now);
            !shelf.is_empty()
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.clear.is_empty() && self.secured.borrow().is_empty()
    }
}

impl Shelf {
    /// The HTTP/1 connection that was used last, and still is one.
    fn idle(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut all = self.http1.borrow_mut();
        loop {
            let sender = all.pop()?.sender;
            // One that the server has closed is ready for nothing.
            if sender.is_ready() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: http1::SendRequest<RequestBody>) {
        self.http1.borrow_mut().push(Idle { sender, since: Instant::now() });
    }

    /// The HTTP/2 connection with the most room.
    fn with_room(&self) -> Option<Rc<Multi>> {
        let mut all = self.http2.borrow_mut();
        all.retain(|multi| !multi.sender.is_closed());
        all.iter().filter(|multi| multi.active.get() < STREAMS).min_by_key(|multi| multi.active.get()).cloned()
    }

    fn sweep(&self, now: Instant) {
        let recent = |since: Instant| now.saturating_duration_since(since) < IDLE;
        self.http1.borrow_mut().retain(|idle| recent(idle.since) && !idle.sender.is_closed());
        let kept =
            |multi: &Rc<Multi>| !multi.sender.is_closed() && (multi.active.get() > 0 || recent(multi.used.get()));
        self.http2.borrow_mut().retain(kept);
    }

    fn is_empty(&self) -> bool {
        self.http1.borrow().is_empty() && self.http2.borrow().is_empty()
    }
}

impl Lease {
    /// Sends a request. On failure the request comes back when nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.kind {
            Kind::Http1(sender) => sender.try_send_request(request).await,
            Kind::Http2(active) => {
                let mut sender = active.0.sender.clone();
                sender.try_send_request(request).await
            }
        }
    }

    /// The answer was read to its end: the connection is kept.
    pub(crate) fn done(self) {
        let Kind::Http1(mut sender) = self.kind else { return };
        if sender.is_ready() {
            self.shelf.keep(sender);
        } else if !sender.is_closed() {
            let shelf = self.shelf;
            tokio::task::spawn_local(async move {
                if let Ok(Ok(())) = timeout(SETTLE, sender.ready()).await {
                    shelf.keep(sender);
                }
            });
        }
    }
}

impl Active {
    fn new(multi: Rc<Multi>) -> Self {
        multi.active.set(multi.active.get() + 1);
        Self(multi)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.used.set(Instant::now());
    }
}
