//! The story of a connection that a pod of ours opens:
//! accept → identify → resolve → connect or reuse → relay → report.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use directory::{Query, Route, Unresolved};
use hbone::{Baggage, Bond, Head, Headers, Opened, PoolKey};
use mesh::{Direction, Identity, OriginalDst, Outcome, PeerAddr, Service, Workload};
use net::socket::{self, ConnectOptions};
use proxy::Alive;
use proxy::dial::{self, CONNECT};
use telemetry::{Phase, Record};
use tokio::net::TcpStream;

use crate::budget::Share;
use crate::carry::{Far, Right, carry};
use crate::config::{SameNode, UnknownPod};
use crate::dns;
use crate::egress::{self, Goal, Leaving};
use crate::here::Here;
use crate::same_node::{self, Near, Wanted};
use crate::world::OfPod as _;

/// Carries one captured connection to its end.
pub(crate) fn outbound(here: Rc<Here>, app: TcpStream, alive: Alive) -> impl Future<Output = ()> {
    // Boxed: a connection does not carry along what it took to set it up, which is several times what it needs from then on.
    let begun = Box::pin(begin(here.clone(), app));
    async move {
        let Some(Begun { app, peer, original, mut record, joined, share }) = begun.await else { return };
        let FarJoined { actual, far, bond, leaving } = match joined {
            Joined::Far(joined) => joined,
            Joined::Near(near) => {
                let (actual, protocol) = (near.app_addr().to_string(), "TCP");
                let _entry = here.pod.enter(Direction::Outbound, peer.0, original.to_string(), actual, protocol);
                // Boxed: larger than the other way, which would have its size.
                return Box::pin(same_node::carry(&here, app, *near, record)).await;
            }
        };
        let (actual, protocol) = (actual.to_string(), far.protocol());
        let _entry = here.pod.enter(Direction::Outbound, peer.0, original.to_string(), actual, protocol);
        let outcome = carry(&here, app, far, &mut record, Right::Out(leaving)).await;
        let revoked = outcome == Outcome::TunnelLost && bond.is_some_and(|bond| bond.is_broken());
        if revoked {
            record.error("a certificate of the tunnel was revoked");
        }
        record.finish(if revoked { Outcome::CertRevoked } else { outcome });
        drop((share, alive));
    }
}

/// A captured connection that has somewhere to go.
struct Begun {
    app: TcpStream,
    peer: PeerAddr,
    original: OriginalDst,
    record: Record,
    joined: Joined,
    /// Of the pod's budget.
    share: Share,
}

/// Identifies, and connects to the other side; `None` when there is nothing to carry, which is on record then.
async fn begin(here: Rc<Here>, mut app: TcpStream) -> Option<Begun> {
    let (Ok(peer), Ok(original)) = (socket::peer(&app), here.original_dst(&app)) else {
        tracing::debug!(pod = %here.pod.uid(), "the application left before its connection was looked at");
        return None;
    };
    let mut record = here.record(Direction::Outbound, peer, original.0);
    let Some(share) = here.pod.budget().connection() else {
        socket::abort(app);
        record.finish(Outcome::BudgetExhausted);
        return None;
    };
    if dns::is_query(&here, original) && dns::answer_tcp(&here, &mut app).await {
        record.finish(Outcome::Closed);
        return None;
    }
    match join(&here, peer, original, &mut record).await {
        Ok(joined) => Some(Begun { app, peer, original, record, joined, share }),
        // The application's connect() has already succeeded: a reset is the only honest way to say no.
        Err(outcome) => {
            socket::abort(app);
            record.finish(outcome);
            None
        }
    }
}

/// A connection whose other side is up.
enum Joined {
    /// Somewhere else.
    Far(FarJoined),
    /// The application itself, in a pod of this node.
    Near(Box<Near>),
}

/// A connection to another node, or to whoever is not in the mesh.
struct FarJoined {
    actual: SocketAddr,
    far: Far,
    /// What the tunnel rests on; none without one.
    bond: Option<Rc<dyn Bond>>,
    /// The pod may dial it.
    leaving: Leaving,
}

/// Everything between accept and relay.
async fn join(here: &Here, peer: PeerAddr, original: OriginalDst, record: &mut Record) -> Result<Joined, Outcome> {
    record.enter(Phase::Resolve);
    let source = here.shared.world.local(&here.pod).await.ok_or(Outcome::UnknownSource)?;
    record.source(source.clone());
    let route = resolve(here, &source, original).await.map_err(|unresolved| refuse(&unresolved, record))?;
    describe(&route, record);
    let Some(goal) = Goal::of(&route) else { return Err(Outcome::NoHealthyUpstream) };
    let leaving = egress::leave(here, &source, goal, record).await?;
    match route {
        Route::Passthrough { to, .. } | Route::Direct { to, .. } => plain(here, to, leaving, record).await,
        Route::Tunnel { authority, workload, service, same_node: true, .. }
            if here.shared.config.same_node == SameNode::Direct && here.shared.pods.of(&workload).is_some() =>
        {
            let wanted = Wanted { peer, authority, workload, service, leaving };
            same_node::join(here, &source, wanted, record).await.map(|near| Joined::Near(Box::new(near)))
        }
        Route::Tunnel { tunnel, authority, workload, service, expected, .. } => {
            let hop = Hop { tunnel, authority, uid: workload.uid.clone(), expected, service, leaving };
            through(here, &source, peer, hop, record).await
        }
        Route::Waypoint { tunnel, authority, waypoint, service, expected, .. } => {
            let hop = Hop { tunnel, authority, uid: waypoint.uid.clone(), expected, service, leaving };
            through(here, &source, peer, hop, record).await
        }
        Route::Gateway { .. } | Route::Named(_) => Err(Outcome::NoHealthyUpstream),
    }
}

/// Where to go; a pod address that nobody knows yet is held until discovery names it.
async fn resolve(here: &Here, source: &Workload, original: OriginalDst) -> Result<Route, Unresolved> {
    let shared = &here.shared;
    let random = rand::random();
    let ask = || {
        let directory = shared.world.directory();
        let query = Query { source, destination: original, pod_cidrs: &shared.world.pod_networks(), random };
        directory.resolve(&query)
    };
    match ask() {
        Err(Unresolved::UnknownPod { .. }) => {
            let known = || Some(ask()).filter(|r| !matches!(r, Err(Unresolved::UnknownPod { .. })));
            match shared.world.held(known).await {
                Some(answer) => answer,
                None if shared.config.unknown_pod_destination == UnknownPod::Plaintext => {
                    let query = Query { source, destination: original, pod_cidrs: &[], random };
                    shared.world.directory().resolve(&query)
                }
                None => ask(),
            }
        }
        answer => answer,
    }
}

fn refuse(unresolved: &Unresolved, record: &mut Record) -> Outcome {
    record.error(unresolved.to_string());
    unresolved.outcome()
}

/// What the record says of a route, whether or not it is gone.
fn describe(route: &Route, record: &mut Record) {
    let (workload, service) = match route {
        Route::Passthrough { .. } => return,
        Route::Direct { workload, service, .. } | Route::Tunnel { workload, service, .. } => (workload, service),
        Route::Waypoint { waypoint, service, .. } => {
            record.via_waypoint();
            (waypoint, service)
        }
        Route::Gateway { .. } => {
            return record.error("the destination is on another network, and this version does not cross networks");
        }
        Route::Named(named) => {
            return record.error(format!(
                "the endpoint has only the name {:?}, and this version does not look names up",
                named.hostname()
            ));
        }
    };
    record.destination(workload.clone());
    if let Some(service) = service.clone() {
        record.service(service);
    }
}

/// Plain TCP, from inside the pod.
async fn plain(here: &Here, to: SocketAddr, leaving: Leaving, record: &mut Record) -> Result<Joined, Outcome> {
    record.enter(Phase::Connect);
    record.next_hop(to);
    // Nobody is told of it, but the connection has a span as any other.
    record.trace_context();
    let options = ConnectOptions { to, source: None, mark: here.shared.egress_mark(), timeout: CONNECT };
    let stream = socket::connect(Some(here.pod.netns()), &options).await.map_err(|e| dial::outcome(&e, record))?;
    Ok(Joined::Far(FarJoined { actual: to, far: Far::Plain(stream), bond: None, leaving }))
}

/// The next hop of a tunnelled connection.
struct Hop {
    tunnel: mesh::TunnelAddr,
    authority: SocketAddr,
    uid: Arc<str>,
    expected: Vec<Identity>,
    /// What was asked for.
    service: Option<Arc<Service>>,
    leaving: Leaving,
}

/// HBONE: a stream on a tunnel to the next hop.
async fn through(
    here: &Here,
    source: &Workload,
    peer: PeerAddr,
    hop: Hop,
    record: &mut Record,
) -> Result<Joined, Outcome> {
    let identity = source.identity().map_err(|e| {
        record.error(e.to_string());
        Outcome::IdentityUnavailable
    })?;
    record.next_hop(hop.tunnel.0);
    record.authority(hop.authority);
    record.source_identity(identity.clone());
    record.enter(Phase::Pick);
    let key = PoolKey {
        destination: hop.uid,
        source: identity,
        tunnel: hop.tunnel,
        expected: hop.expected.into(),
        source_ip: Some(peer.ip()),
    };
    let headers = Headers {
        baggage: Baggage::from(source),
        forwarded_for: Some(peer.0),
        forwarded_host: hop.service.map(|s| s.hostname.to_string()),
        traceparent: Some(record.trace_context()),
        network: None,
    };
    let head = Head { authority: hop.authority.to_string(), headers };
    // From here on the pool measures by itself.
    record.leave();
    let began = Instant::now();
    let opened = here.pool.open(&key, &head).await.map_err(|e| dial::open_outcome(&e, record))?;
    phases(&opened, began, record);
    record.mutual_tls();
    record.destination_identity(opened.bond.peer().clone());
    let far = Far::Tunnel(opened.stream);
    Ok(Joined::Far(FarJoined { actual: hop.tunnel.0, far, bond: Some(opened.bond), leaving: hop.leaving }))
}

/// Writes what the pool measured into the record.
fn phases(opened: &Opened, began: Instant, record: &mut Record) {
    let timings = &opened.timings;
    match timings.dial {
        Some(dial) => {
            let connect = timings.waited.saturating_sub(dial.tls);
            record.measured(Phase::Connect, began, connect);
            record.measured(Phase::Handshake, began + connect, dial.tls + timings.response);
        }
        None => record.measured(Phase::Reuse, began, timings.waited + timings.response),
    }
}
