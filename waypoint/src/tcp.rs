//! The story of a connection that is not HTTP: authorize → pick → connect → relay → record.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hbone::{RecvHalf, SendHalf};
use mesh::{Direction, Outcome};
use net::relay::{Ended, IntoEnd, Progress, Side, TcpEnd, relay};
use policy::request::{Denial, Request, RequestPermit, RequestPolicies};
use proxy::dial::CONNECT;
use proxy::meter::Way;
use proxy::tunnel_io::TunnelEnd;
use routing::{Refusal, Routes};
use telemetry::{Phase, Record};
use tokio::net::TcpStream;

use crate::authorize;
use crate::bound::{Bound, Traffic};
use crate::connection::{Client, Connection, dispatch};
use crate::detect::{self, Spoken};
use crate::endpoints::{Chosen, Endpoint, View, Wish};
use crate::external::{self, Here};
use crate::here::{Place, Worker};
use crate::target::Kind;
use crate::upstream::{self, Stream};

/// The far end, and what was read of it already.
enum Far {
    Tunnel { recv: RecvHalf, send: SendHalf, first: Bytes },
    Plain(TcpStream),
}

/// Carries a connection to its end.
pub(crate) async fn carry(connection: &Rc<Connection>, client: Client, server_name: Option<String>) {
    let mut record = begin(connection);
    let joined = match permitted(connection, server_name.as_deref(), &mut record).await {
        Ok(permit) => join(connection, server_name.as_deref(), &mut record, permit).await,
        Err(outcome) => Err(outcome),
    };
    match joined {
        Ok((far, _place)) => between(connection, client, far, server_name.as_deref(), record).await,
        Err(outcome) => refuse(client, record, outcome),
    }
}

/// A client that says nothing: the server may be the one that speaks first. It is connected, and whoever speaks first decides
/// what the connection is. Until then nothing is held, because there is nothing.
pub(crate) async fn greet(connection: Rc<Connection>, mut client: Client) {
    let mut record = begin(&connection);
    // What is not HTTP is not allowed: then only a request can follow.
    let permitted = permitted(&connection, None, &mut record).await;
    let greeting = async {
        let Ok(permit) = permitted else { return std::future::pending().await };
        let (mut far, place) = join(&connection, None, &mut record, permit).await?;
        far.spoke().await;
        Ok((far, place))
    };
    let spoken = tokio::select! {
        more = client.more() => more.map_err(|_| Outcome::Reset),
        far = greeting => match far {
            Ok((far, _place)) => return between(&connection, client, far, None, record).await,
            Err(outcome) => return refuse(client, record, outcome),
        },
    };
    match spoken {
        Ok(true) => {}
        // It ended without a word, or left.
        Ok(false) => return record.finish(Outcome::Closed),
        Err(outcome) => return record.finish(outcome),
    }
    drop(record);
    let patience = connection.worker.shared.config.detection.0;
    match detect::spoke(&mut client, patience).await {
        Ok(Spoken::Silent) | Err(_) => {}
        Ok(spoken) => dispatch(connection, client, spoken).await,
    }
}

/// The record, with what is known at the beginning.
fn begin(connection: &Connection) -> Record {
    let Connection { worker, tunnel, target, trace } = connection;
    let mut record = Record::new(&worker.shared.telemetry, Direction::Inbound, tunnel.peer, target.named);
    record.at_waypoint();
    record.mutual_tls();
    record.source_identity(tunnel.caller.clone());
    if let Some(source) = tunnel.source(worker) {
        record.source(source);
    }
    if let Some(parent) = trace {
        record.continue_trace(*parent);
    }
    record.authority(target.named);
    if let Some(service) = target.key().and_then(|key| worker.directory().service(key)) {
        record.service(service);
    }
    record
}

/// Whether policy allows the connection, as far as it knows connections.
async fn permitted(
    connection: &Rc<Connection>,
    server_name: Option<&str>,
    record: &mut Record,
) -> Result<RequestPermit, Outcome> {
    record.enter(Phase::Policy);
    let request = request(connection, server_name);
    let Some(bound) = connection.bound() else {
        still_ours(connection)?;
        let none = RequestPolicies::default();
        return authorize::judge(&none, &request, none.checks(&request), record).map_err(|_| Outcome::PolicyDenied);
    };
    let here = Here { connection, bound: Some(&bound) };
    let mut pending = bound.policies.checks(&request);
    while let Some(due) = pending.next() {
        let checked = match bound.externals.get(due.index).and_then(Option::as_ref) {
            Some(settings) => Box::pin(external::check_connection(here, settings, server_name)).await,
            None => Err("the policy names no external service".to_owned()),
        };
        if let Err(reason) = checked {
            authorize::tell(&Denial::external(due.policy.clone(), reason), record);
            return Err(Outcome::PolicyDenied);
        }
        pending = pending.passed();
    }
    authorize::judge(&bound.policies, &request, pending, record).map_err(|_| Outcome::PolicyDenied)
}

/// Without a bound service only a workload of ours is carried.
fn still_ours(connection: &Connection) -> Result<(), Outcome> {
    match &connection.target.kind {
        Kind::Workload { governed: None, .. } => Ok(()),
        Kind::Workload { .. } | Kind::Service(_) => Err(Outcome::UnknownDestination),
    }
}

fn request<'a>(connection: &'a Connection, server_name: Option<&'a str>) -> Request<'a> {
    let peer = connection.tunnel.peer.ip();
    Request {
        source: Some(&connection.tunnel.caller),
        source_ip: peer,
        remote_ip: peer,
        destination_ip: connection.target.named.ip(),
        destination_port: connection.target.port(),
        server_name,
        http: None,
    }
}

/// Chooses an endpoint and connects to it. Takes the permit, so that nobody comes here without one.
async fn join(
    connection: &Connection,
    server_name: Option<&str>,
    record: &mut Record,
    _permit: RequestPermit,
) -> Result<(Far, Option<Place>), Outcome> {
    record.enter(Phase::Pick);
    let worker = &connection.worker;
    let bound = connection.bound();
    let (endpoint, host, key, port) = pick(connection, bound.as_deref(), server_name, record)?;
    let traffic = bound.as_deref().map_or(Traffic::usual(), |bound| bound.traffic(&key));
    if traffic.tls(port).is_some() {
        record.error("TLS to the backend is configured, and connections that are not HTTP cannot have it");
        return Err(Outcome::NoHealthyUpstream);
    }
    let place = match &traffic.requests {
        Some(room) => Some(room.take().ok_or(Outcome::BudgetExhausted)?),
        None => None,
    };
    record.destination(endpoint.workload.clone());
    record.next_hop(endpoint.tunnel.as_ref().map_or(endpoint.at, |key| key.tunnel.0));
    record.enter(Phase::Connect);
    let opened = upstream::open(worker, &endpoint, host.as_deref(), traffic.connect_timeout.unwrap_or(CONNECT)).await;
    let far = opened.map_err(|fault| {
        record.error(&*fault.text);
        fault.outcome
    })?;
    Ok((far.into(), place))
}

/// An endpoint, and name, key and port of its service.
type Picked = (Rc<Endpoint>, Option<Arc<str>>, Arc<str>, u16);

fn pick(
    connection: &Connection,
    bound: Option<&Bound>,
    server_name: Option<&str>,
    record: &mut Record,
) -> Result<Picked, Outcome> {
    let worker = &connection.worker;
    let (key, port) = match (&connection.target.kind, bound) {
        (Kind::Workload { workload, .. }, _) => {
            let endpoint = on(worker, |view, all| all.single(view, workload, connection.target.named));
            return Ok((endpoint, None, "".into(), connection.target.port()));
        }
        (Kind::Service(key), Some(bound)) => {
            let mut refused = |refusal: Refusal| {
                record.error(match refusal {
                    Refusal::BackendInvalid(reason) => format!("the chosen backend cannot be used: {reason}"),
                    Refusal::NoBackend => "the route has no backend with a weight".to_owned(),
                    Refusal::NoRoute => "no route takes this server name".to_owned(),
                });
                Outcome::NoHealthyUpstream
            };
            let port = connection.target.port();
            let chosen = match bound.router.routes(port, Some(connection.tunnel.caller.namespace())) {
                Some(Routes::Tcp(router)) => Some(router.pick().map_err(&mut refused)?),
                Some(Routes::Tls(router)) => Some(router.pick(server_name).map_err(&mut refused)?),
                Some(Routes::Invalid(reason)) => return Err(refused(Refusal::BackendInvalid(reason.clone()))),
                // HTTP routes say nothing of what is not HTTP (gateway-api.md 11, 5).
                Some(Routes::Http(_)) | None => None,
            };
            chosen.map_or_else(|| (key.clone(), port), |backend| (backend.service.clone(), backend.port))
        }
        (Kind::Service(_), None) => return Err(Outcome::UnknownDestination),
    };
    let set = on(worker, |view, all| all.of(view, &key, port)).ok_or_else(|| {
        record.error(format!("discovery does not know service {key}"));
        Outcome::NoHealthyUpstream
    })?;
    let balance = bound.map_or(Traffic::usual(), |bound| bound.traffic(&key)).balance;
    let endpoint = set.pick(Wish { balance, ..Wish::default() }, &Chosen::default()).ok_or_else(|| {
        record.error(format!("service {key} has no usable endpoint for port {port}"));
        Outcome::NoHealthyUpstream
    })?;
    Ok((endpoint, Some(set.service.hostname.clone()), key, port))
}

/// Looks at the worker's endpoints, with its view of the world.
pub(crate) fn on<T>(worker: &Worker, look: impl FnOnce(&View<'_>, &mut crate::endpoints::Endpoints) -> T) -> T {
    let (directory, own) = (worker.directory(), worker.own());
    let view = View { directory: &directory, own: &own, identity: &worker.shared.own, turn: worker.turn() };
    look(&view, &mut worker.endpoints.borrow_mut())
}

/// Relays until an end closes, or something takes the permission away.
async fn between(connection: &Connection, client: Client, far: Far, server_name: Option<&str>, mut record: Record) {
    let progress = Arc::new(Progress::new());
    record.meter(Arc::new(Way { first_is_source: true, progress: progress.clone() }));
    record.opened();
    let near = TunnelEnd::resumed(client.recv, client.send, client.held);
    let outcome = match far {
        Far::Tunnel { recv, send, first } => {
            run(connection, near, TunnelEnd::resumed(recv, send, first), &progress, server_name, &mut record).await
        }
        Far::Plain(stream) => run(connection, near, TcpEnd::new(stream), &progress, server_name, &mut record).await,
    };
    record.finish(outcome);
}

async fn run<B>(
    connection: &Connection,
    near: TunnelEnd,
    far: B,
    progress: &Progress,
    server_name: Option<&str>,
    record: &mut Record,
) -> Outcome
where
    B: IntoEnd,
    B::End: Unpin,
{
    // Cut connections end with a reset: the application must not take a part for the whole.
    progress.abort_on_drop(true);
    tokio::select! {
        biased;
        ended = relay(near, far, progress, &connection.worker.buffers) => match ended {
            Ended::Both => Outcome::Closed,
            Ended::ResetBy(_) => Outcome::Reset,
            Ended::LostBy(Side::A | Side::B) => Outcome::TunnelLost,
        },
        () = connection.worker.shared.drain.forced() => Outcome::Drained,
        () = withdrawn(connection, server_name, record) => Outcome::PolicyWithdrawn,
    }
}

/// Resolves when policy does not allow the connection any more.
async fn withdrawn(connection: &Connection, server_name: Option<&str>, record: &mut Record) {
    let mut changes = connection.worker.shared.world.version();
    let mut judged = connection.bound();
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        // The tables themselves, not the worker's view of them, which may be one change behind.
        let now = connection.target.bound(&connection.worker.shared.tables.load());
        let same = match (&judged, &now) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if same {
            continue;
        }
        let allowed = match &now {
            Some(bound) => {
                let request = request(connection, server_name);
                let pending = bound.policies.checks(&request);
                authorize::judge(&bound.policies, &request, pending, record).is_ok()
            }
            None => still_ours(connection).is_ok(),
        };
        if !allowed {
            return;
        }
        judged = now;
    }
}

fn refuse(mut client: Client, record: Record, outcome: Outcome) {
    // The caller's connect() has succeeded: a reset is the only honest way to say no.
    client.send.reset(hbone::ResetReason::App);
    record.finish(outcome);
}

impl Far {
    /// Waits until the server has said something, or ended.
    async fn spoke(&mut self) {
        match self {
            Self::Tunnel { recv, first, .. } => {
                // An end or a break shows again in the relay.
                if let Ok(Some(bytes)) = recv.data().await {
                    *first = bytes;
                }
            }
            Self::Plain(stream) => {
                if let Err(error) = stream.readable().await {
                    tracing::debug!(%error, "a connection to a workload broke before it was used");
                }
            }
        }
    }
}

impl From<Stream> for Far {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Tunnel(stream) => {
                let (recv, send) = stream.split();
                Self::Tunnel { recv, send, first: Bytes::new() }
            }
            Stream::Plain(stream) => Self::Plain(stream),
        }
    }
}
