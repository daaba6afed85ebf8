//! The story of a tunnel that arrives, and of each stream in it:
//! accept → identify → (per stream: resolve → answer → detect → carry).

use std::cell::RefCell;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hbone::{Baggage, Request, ResponseHeaders, Server, ServerLimits};
use http::HeaderValue;
use identity::{Peer, stream};
use mesh::{Direction, Identity, NetworkAddress, Outcome, PeerAddr, Workload};
use net::socket;
use proxy::bond;
use telemetry::Record;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::connection::{self, Connection};
use crate::heads;
use crate::here::Worker;
use crate::target;

/// How long a peer may take for TLS: Istio gives the whole connection set-up 10 s (hbone.md 10).
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A tunnel of an authenticated caller.
pub(crate) struct Tunnel {
    pub(crate) peer: PeerAddr,
    /// Who calls, by its certificate.
    pub(crate) caller: Identity,
    /// The same as text, for policies, limits and headers.
    pub(crate) caller_text: Arc<str>,
    /// What applications are told of it (`x-forwarded-client-cert`).
    pub(crate) certificates: HeaderValue,
    /// The certificate that proved it.
    shown: Peer,
    /// When the first certificate of the two ends expires.
    expiry: SystemTime,
    /// The caller's workload, as it was in one view of the world.
    source: RefCell<Option<(u64, Option<Arc<Workload>>)>>,
}

impl Tunnel {
    /// Who calls, as discovery knows it; asked for, but not waited for.
    pub(crate) fn source(&self, worker: &Worker) -> Option<Arc<Workload>> {
        if let Some((turn, source)) = &*self.source.borrow()
            && *turn == worker.turn()
        {
            return source.clone();
        }
        let network = &worker.shared.config.network;
        let address = NetworkAddress::new(network.as_str(), self.peer.ip());
        let known = worker.directory().workload_by_address(&address);
        if known.is_none() {
            worker.shared.addresses.hint(&address.to_string());
        }
        self.source.replace(Some((worker.turn(), known.clone())));
        known
    }
}

/// Serves one tunnel connection until the caller closes it or a drain ends.
pub(crate) async fn serve(worker: Rc<Worker>, tcp: TcpStream) {
    let Ok(peer) = socket::peer(&tcp) else {
        tracing::debug!("the peer left before its connection was looked at");
        return;
    };
    match handshake(&worker, tcp, peer).await {
        Ok((tunnel, server)) => streams(worker, Rc::new(tunnel), server).await,
        Err((outcome, error)) => {
            let mut record = record(&worker, peer);
            record.error(error);
            record.finish(outcome);
        }
    }
}

/// The record of something that failed before it had a destination.
fn record(worker: &Worker, peer: PeerAddr) -> Record {
    let own = SocketAddr::new(worker.shared.config.address(), worker.shared.config.listen.port());
    Record::new(&worker.shared.telemetry, Direction::Inbound, peer, own)
}

/// Proves both ends to each other.
async fn handshake(worker: &Worker, tcp: TcpStream, peer: PeerAddr) -> Result<(Tunnel, Server), (Outcome, String)> {
    let shared = &worker.shared;
    let Some(_place) = shared.handshakes.take() else {
        return Err((Outcome::BudgetExhausted, "too many handshakes at once".to_owned()));
    };
    let certificate = shared.identities.certificate(&shared.own).await;
    let certificate = certificate.map_err(|e| (Outcome::IdentityUnavailable, e.to_string()))?;
    let accepted = timeout(HANDSHAKE, stream::accept(tcp, certificate.server_config())).await;
    let (io, shown) = accepted
        .map_err(|_| (Outcome::TlsFailed, "the peer did not finish its TLS handshake in time".to_owned()))?
        .map_err(|e| (Outcome::TlsFailed, e.to_string()))?;
    let caller_text = shown.identity.to_string();
    let tunnel = Tunnel {
        peer,
        certificates: heads::client_certificates(&shared.own.to_string(), &caller_text),
        caller: shown.identity.clone(),
        caller_text: caller_text.into(),
        expiry: shown.not_after.min(certificate.not_after()),
        shown,
        source: RefCell::default(),
    };
    Ok((tunnel, hbone::serve(io, ServerLimits::default())))
}

async fn streams(worker: Rc<Worker>, tunnel: Rc<Tunnel>, mut server: Server) {
    let handle = server.handle();
    let close = async {
        let lists = worker.shared.identities.revocations();
        tokio::select! {
            () = worker.shared.drain.forced() => {}
            () = bond::until_revoked(lists, vec![tunnel.shown.clone()]) => {
                tracing::warn!(caller = %tunnel.caller, peer = %tunnel.peer, "certificate revoked: tunnel closed");
            }
        }
        handle.close();
    };
    let retire = async {
        tokio::select! {
            () = worker.leaving() => {}
            () = expired(tunnel.expiry) => tracing::debug!(peer = %tunnel.peer, "certificate expired: no new streams"),
        }
        handle.graceful_shutdown();
        pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            () = close => {}
            () = retire => {}
        }
    };
    let requests = async {
        while let Some(request) = server.accept().await {
            match request {
                Ok(request) => {
                    let (worker, tunnel, alive) = (worker.clone(), tunnel.clone(), worker.live.enter());
                    tokio::task::spawn_local(async move {
                        one(worker, tunnel, request).await;
                        drop(alive);
                    });
                }
                Err(error) => tracing::debug!(peer = %tunnel.peer, caller = %tunnel.caller, %error, "tunnel ended"),
            }
        }
    };
    // After a drain has begun the caller's last streams are still answered: only the end of the tunnel ends this.
    let mut requests = pin!(requests);
    tokio::select! {
        () = &mut requests => {}
        () = ended => requests.await,
    }
}

/// One stream: one connection of a caller's application.
async fn one(worker: Rc<Worker>, tunnel: Rc<Tunnel>, mut request: Request) {
    let Some(_place) = worker.shared.connections.take() else {
        return refuse(&worker, &tunnel, request, Outcome::BudgetExhausted, "too many connections at once".to_owned());
    };
    let authority = request.authority.clone();
    let found = tokio::select! {
        found = target::of(&worker, &tunnel, &authority) => found,
        // A caller that gives up while discovery is asked is not waited for.
        () = request.cancelled() => return,
    };
    let target = match found {
        Ok(target) => target,
        Err(refusal) => {
            let outcome = refusal.outcome();
            return refuse(&worker, &tunnel, request, outcome, refusal.to_string());
        }
    };
    let trace = request.headers.traceparent;
    // The answer says who we are: the caller's proxy reports the waypoint as the destination (telemetry.md 1).
    let answer = ResponseHeaders { baggage: Baggage::from(&*worker.own()) };
    let Ok(stream) = request.accept(&answer) else { return };
    connection::carry(Rc::new(Connection::new(worker, tunnel, target, trace)), stream).await;
}

fn refuse(worker: &Worker, tunnel: &Tunnel, request: Request, outcome: Outcome, error: String) {
    let mut record = record(worker, tunnel.peer);
    record.mutual_tls();
    record.source_identity(tunnel.caller.clone());
    if let Some(source) = tunnel.source(worker) {
        record.source(source);
    }
    match &request.authority {
        Ok(hbone::Authority::Ip(address)) => record.authority(*address),
        Ok(name) => record.authority_name(name.to_string()),
        Err(_) => {}
    }
    record.destination(worker.own());
    record.error(error);
    let status = request.authority.as_ref().err().map_or(outcome.report().status, |bad| bad.status());
    request.refuse(status);
    record.finish(outcome);
}

/// Resolves at this time of day.
async fn expired(at: SystemTime) {
    // Time of day may be set back meanwhile; then there is more to wait for.
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        sleep(left).await;
    }
}
