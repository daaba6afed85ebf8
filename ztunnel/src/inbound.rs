//! The story of a tunnel that arrives at a pod of ours, and of each stream in it:
//! accept → handshake → (per stream: judge → connect → answer → relay → report).

use std::future::{Future, pending};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use directory::{Authority, InboundTarget};
use hbone::{Baggage, Request, ResponseHeaders, Server, TunnelStream};
use identity::Peer;
use identity::stream;
use mesh::{AppAddr, Direction, Identity, NetworkAddress, Outcome, PeerAddr, Workload};
use net::proxy_header;
use net::socket::{self, ConnectOptions};
use policy::{Connection, Permit};
use proxy::dial::{self, CONNECT};
use proxy::{Alive, bond};
use telemetry::{Phase, Record};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::budget::Share;
use crate::carry::{Far, Right, carry};
use crate::here::{Here, health};
use crate::judge;
use crate::world::OfPod as _;

/// How long a peer may take for TLS: Istio gives the whole connection set-up 10 s (hbone.md 10).
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A tunnel of an authenticated peer, arrived at a pod.
struct Tunnel {
    peer: PeerAddr,
    local_ip: IpAddr,
    client: Identity,
    /// The certificate that proved it.
    shown: Peer,
    /// When the first certificate of the two ends expires.
    expiry: SystemTime,
    /// A second handle of the tunnel's connection, to ask the kernel for its health.
    socket: OwnedFd,
    workload: Arc<Workload>,
}

/// Serves one tunnel connection until the peer closes it, the pod goes, or a drain ends.
pub(crate) async fn inbound(here: Rc<Here>, tcp: TcpStream, _alive: Alive) {
    let (Ok(peer), Ok(local)) = (socket::peer(&tcp), socket::original_dst(&tcp)) else {
        tracing::debug!(pod = %here.pod.uid(), "the peer left before its connection was looked at");
        return;
    };
    match Box::pin(handshake(&here, tcp, peer, local.ip())).await {
        Ok((tunnel, server)) => serve(here, Rc::new(tunnel), server).await,
        Err((outcome, error)) => {
            let mut record = here.record(Direction::Inbound, peer, local.0);
            if let Some(workload) = here.shared.world.local_now(&here.pod) {
                record.destination(workload);
            }
            record.error(error);
            record.finish(outcome);
        }
    }
}

/// Proves both ends to each other.
async fn handshake(
    here: &Here,
    tcp: TcpStream,
    peer: PeerAddr,
    local_ip: IpAddr,
) -> Result<(Tunnel, Server), (Outcome, String)> {
    let Some(_share) = here.pod.budget().handshake() else {
        return Err((Outcome::BudgetExhausted, "too many handshakes with this pod at once".to_owned()));
    };
    let unknown = || (Outcome::UnknownSource, "discovery does not know the pod".to_owned());
    let workload = here.shared.world.local(&here.pod).await.ok_or_else(unknown)?;
    let unavailable = |e: String| (Outcome::IdentityUnavailable, e);
    let own = workload.identity().map_err(|e| unavailable(e.to_string()))?;
    let certificate = here.shared.identities.certificate(&own).await.map_err(|e| unavailable(e.to_string()))?;
    let exhausted = |e: std::io::Error| (Outcome::BudgetExhausted, e.to_string());
    let socket = tcp.as_fd().try_clone_to_owned().map_err(exhausted)?;
    let accepted = timeout(HANDSHAKE, stream::accept(tcp, certificate.server_config())).await;
    let (io, shown) = accepted
        .map_err(|_| (Outcome::TlsFailed, "the peer did not finish its TLS handshake in time".to_owned()))?
        .map_err(|e| (Outcome::TlsFailed, e.to_string()))?;
    let (client, expiry) = (shown.identity.clone(), shown.not_after.min(certificate.not_after()));
    Ok((Tunnel { peer, local_ip, client, shown, expiry, socket, workload }, hbone::serve(io, here.server_limits())))
}

async fn serve(here: Rc<Here>, tunnel: Rc<Tunnel>, mut server: Server) {
    let handle = server.handle();
    let close = async {
        tokio::select! {
            () = here.pod.gone() => {}
            () = here.shared.drain.forced() => {}
            () = revoked(&here, &tunnel.shown) => {
                tracing::warn!(client = %tunnel.client, peer = %tunnel.peer, "certificate revoked: tunnel closed");
            }
        }
        handle.close();
    };
    let retire = async {
        tokio::select! {
            () = here.shared.superseded() => {}
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
                    tokio::task::spawn_local(one(here.clone(), tunnel.clone(), request));
                }
                Err(error) => tracing::debug!(peer = %tunnel.peer, client = %tunnel.client, %error, "tunnel ended"),
            }
        }
    };
    // After a drain has begun the peer's last requests are still answered: only the end of the tunnel ends this.
    let mut requests = pin!(requests);
    tokio::select! {
        () = &mut requests => {}
        () = ended => requests.await,
    }
}

/// One stream: one connection of a client's application to ours.
fn one(here: Rc<Here>, tunnel: Rc<Tunnel>, request: Request) -> impl Future<Output = ()> {
    // Boxed: a connection does not carry along what it took to set it up.
    let begun = Box::pin(begin(here.clone(), tunnel.clone(), request));
    async move {
        let Some(Begun { mut record, joined, far, share }) = begun.await else { return };
        let to = joined.app_addr.to_string();
        let _entry = here.pod.enter(Direction::Inbound, tunnel.peer.0, to.clone(), to, "HBONE");
        let outcome = carry(&here, joined.app, Far::Tunnel(far), &mut record, Right::In(joined.permit)).await;
        if let Some(found) = socket::tcp_info(&tunnel.socket) {
            record.health(health(&found));
        }
        record.finish(outcome);
        drop(share);
    }
}

/// A stream that has been answered.
struct Begun {
    record: Record,
    joined: Joined,
    far: TunnelStream,
    /// Of the pod's budget.
    share: Share,
}

/// Judges, connects and answers; `None` when the stream was refused, which is on record then.
async fn begin(here: Rc<Here>, tunnel: Rc<Tunnel>, mut request: Request) -> Option<Begun> {
    let target = SocketAddr::new(tunnel.local_ip, 0);
    let mut record = here.record(Direction::Inbound, tunnel.peer, target);
    describe(&here, &tunnel, &request, &mut record);
    let Some(share) = here.pod.budget().connection() else {
        request.refuse(Outcome::BudgetExhausted.report().status);
        record.finish(Outcome::BudgetExhausted);
        return None;
    };
    // A client that gives up while we hold or connect is not waited for.
    let target = target_of(&here, &tunnel, &request, &mut record);
    let joined = match target {
        Ok(target) => tokio::select! {
            joined = join(&here, &tunnel, &target, &mut record) => joined,
            () = request.cancelled() => Err(Outcome::Reset),
        },
        Err(outcome) => Err(outcome),
    };
    let joined = match joined {
        Ok(joined) => joined,
        Err(outcome) => {
            let status = status(&request, outcome);
            request.refuse(status);
            record.finish(outcome);
            return None;
        }
    };
    let answer = ResponseHeaders { baggage: Baggage::from(&*tunnel.workload) };
    let Ok(far) = request.accept(&answer) else {
        socket::abort(joined.app);
        record.finish(Outcome::TunnelLost);
        return None;
    };
    Some(Begun { record, joined, far, share })
}

/// A request that was not understood has its own status; everything else has the outcome's.
fn status(request: &Request, outcome: Outcome) -> u16 {
    request.authority.as_ref().err().map_or(outcome.report().status, |bad| bad.status())
}

/// A stream whose application is connected.
struct Joined {
    app: TcpStream,
    app_addr: AppAddr,
    permit: Permit,
}

async fn join(here: &Here, tunnel: &Tunnel, target: &InboundTarget, record: &mut Record) -> Result<Joined, Outcome> {
    let app_addr = AppAddr(SocketAddr::new(tunnel.local_ip, target.port));
    record.next_hop(app_addr.0);
    record.enter(Phase::Policy);
    let connection = Connection {
        source: Some(tunnel.client.clone()),
        source_ip: tunnel.peer.ip(),
        destination_ip: tunnel.local_ip,
        destination_port: target.port,
    };
    let permit = judge::permit(&here.shared.world, &here.pod, connection, record).await?;
    record.enter(Phase::Connect);
    let app = connect(here, &permit, tunnel, app_addr, target, record).await?;
    Ok(Joined { app, app_addr, permit })
}

/// Which port of the pod the CONNECT is for (hbone.md 8).
fn target_of(here: &Here, tunnel: &Tunnel, request: &Request, record: &mut Record) -> Result<InboundTarget, Outcome> {
    record.enter(Phase::Resolve);
    let authority = match &request.authority {
        Ok(hbone::Authority::Ip(addr)) => Authority::Ip(*addr),
        Ok(hbone::Authority::Host(host, port)) => Authority::Host(host.to_string(), *port),
        Err(bad) => {
            record.error(bad.to_string());
            return Err(Outcome::BadRequest);
        }
    };
    let found = here.shared.world.directory().inbound(&tunnel.workload, tunnel.local_ip, &authority);
    found.map_err(|refusal| {
        record.error(refusal.to_string());
        refusal.outcome()
    })
}

/// Connects to the application from the client's own address. Takes the permit, so that no path can skip it.
async fn connect(
    here: &Here,
    permit: &Permit,
    tunnel: &Tunnel,
    app: AppAddr,
    target: &InboundTarget,
    record: &mut Record,
) -> Result<TcpStream, Outcome> {
    debug_assert_eq!(permit.connection().destination_port, app.port());
    let options = ConnectOptions {
        to: app.0,
        // A pod that calls itself through its service would otherwise claim its own address twice (hbone.md 6).
        source: Some(tunnel.peer.ip()).filter(|ip| *ip != app.ip()),
        mark: Some(here.shared.return_mark()),
        timeout: CONNECT,
    };
    let mut stream = socket::connect(Some(here.pod.netns()), &options).await.map_err(|e| dial::outcome(&e, record))?;
    if target.proxy_header {
        let header = proxy_header::v2(tunnel.peer.0, app.0, Some(&tunnel.client));
        stream.write_all(&header).await.map_err(|_| Outcome::Reset)?;
    }
    Ok(stream)
}

/// What the record says of a stream before anything was decided.
fn describe(here: &Here, tunnel: &Tunnel, request: &Request, record: &mut Record) {
    record.mutual_tls();
    record.source_identity(tunnel.client.clone());
    record.destination(tunnel.workload.clone());
    if let Ok(identity) = tunnel.workload.identity() {
        record.destination_identity(identity);
    }
    if let Some(parent) = request.headers.traceparent {
        record.continue_trace(parent);
    }
    let directory = here.shared.world.directory();
    let address = NetworkAddress::new(tunnel.workload.network.clone(), tunnel.peer.ip());
    if let Some(source) = directory.workload_by_address(&address) {
        record.source(source);
    }
    match &request.authority {
        Ok(hbone::Authority::Ip(addr)) => record.authority(*addr),
        Ok(host) => record.authority_name(host.to_string()),
        Err(_) => {}
    }
    let wanted = request.headers.forwarded_host.as_deref();
    let mut of_workload = tunnel.workload.services.keys();
    let named = of_workload.find(|key| key.split_once('/').map(|(_, host)| host) == wanted);
    if let Some(service) = named.and_then(|key| directory.service(key)) {
        record.service(service);
    }
}

/// Resolves when the client's certificate is revoked.
async fn revoked(here: &Here, shown: &Peer) {
    bond::until_revoked(here.shared.identities.revocations(), vec![shown.clone()]).await;
}

/// Resolves at this time of day.
async fn expired(at: SystemTime) {
    // Time of day may be set back meanwhile; then there is more to wait for.
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
}

/// Bytes of the future of one stream.
#[cfg(test)]
pub(crate) fn size_of_a_stream() -> usize {
    fn size<F>(_: impl Fn(Rc<Here>, Rc<Tunnel>, Request) -> F) -> usize {
        size_of::<F>()
    }
    size(one)
}
