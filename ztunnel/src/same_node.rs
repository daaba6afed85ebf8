//! Two pods of one node, with `sameNode: direct`: everything is checked as for a tunnel (certificates and policies of both
//! ends), but the bytes go from one application's socket to the other's without leaving the kernel.
//!
//! There is no handshake to prove an identity with, and none is needed: both pods were handed to this proxy by the node
//! agent, and which one a connection comes from is the network namespace that it was accepted in.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use identity::Peer;
use mesh::{AppAddr, Direction, Outcome, PeerAddr, Service, Workload};
use net::relay::{Progress, TcpEnd};
use net::socket::{self, ConnectOptions};
use policy::Connection;
use proxy::dial::{self, CONNECT};
use telemetry::{Phase, Record};
use tokio::net::TcpStream;

use crate::carry::{self, Guard, Rights};
use crate::egress::Leaving;
use crate::here::Here;
use crate::judge;
use crate::pod::Entry;

/// What discovery found.
pub(crate) struct Wanted {
    pub(crate) peer: PeerAddr,
    pub(crate) authority: SocketAddr,
    pub(crate) workload: Arc<Workload>,
    pub(crate) service: Option<Arc<Service>>,
    /// The source may dial it.
    pub(crate) leaving: Leaving,
}

/// A connection to a pod of this node whose application has accepted.
pub(crate) struct Near {
    app: TcpStream,
    app_addr: AppAddr,
    guard: Guard,
    leaving: Leaving,
    /// The destination's own record: it reports as if the connection had come from another node.
    record: Record,
    _entry: Entry,
}

impl Near {
    /// Where the application listens.
    pub(crate) fn app_addr(&self) -> AppAddr {
        self.app_addr
    }
}

/// Checks both ends and connects to the application. Both records say the same of a refusal.
pub(crate) async fn join(here: &Here, source: &Workload, wanted: Wanted, record: &mut Record) -> Result<Near, Outcome> {
    let mut theirs = here.record(Direction::Inbound, wanted.peer, wanted.authority);
    theirs.continue_trace(record.trace_context());
    theirs.source(Arc::new(source.clone()));
    theirs.destination(wanted.workload.clone());
    if let Some(service) = wanted.service.clone() {
        theirs.service(service);
    }
    record.next_hop(wanted.authority);
    match checked(here, source, &wanted, record, &mut theirs).await {
        Ok((app, app_addr, guard)) => {
            let to = app_addr.to_string();
            let entry = guard.pod.enter(Direction::Inbound, wanted.peer.0, to.clone(), to, "TCP");
            Ok(Near { app, app_addr, guard, leaving: wanted.leaving, record: theirs, _entry: entry })
        }
        Err(outcome) => {
            theirs.finish(outcome);
            Err(outcome)
        }
    }
}

async fn checked(
    here: &Here,
    source: &Workload,
    wanted: &Wanted,
    ours: &mut Record,
    theirs: &mut Record,
) -> Result<(TcpStream, AppAddr, Guard), Outcome> {
    let pod = here.shared.pods.of(&wanted.workload).ok_or(Outcome::PodGone)?;
    ours.enter(Phase::Pick);
    let client = valid(here, source, ours).await?;
    let server = valid(here, &wanted.workload, ours).await?;
    for record in [&mut *ours, &mut *theirs] {
        record.source_identity(client.identity.clone());
        record.destination_identity(server.identity.clone());
    }
    theirs.enter(Phase::Policy);
    // The pod's own address: what its application has bound its socket to proves nothing.
    let source_ip = own_address(source, wanted).unwrap_or(wanted.peer.ip());
    let connection = Connection {
        source: Some(client.identity.clone()),
        source_ip,
        destination_ip: wanted.authority.ip(),
        destination_port: wanted.authority.port(),
    };
    let permit = judge::permit(&here.shared.world, &pod, connection, theirs).await?;
    ours.enter(Phase::Connect);
    let app_addr = AppAddr::new(wanted.authority);
    let options = ConnectOptions {
        to: app_addr.0,
        source: Some(source_ip).filter(|ip| *ip != app_addr.ip()),
        mark: Some(here.shared.return_mark()),
        timeout: CONNECT,
    };
    let app = socket::connect(Some(pod.netns()), &options).await.map_err(|e| dial::outcome(&e, ours))?;
    Ok((app, app_addr, Guard { permit, pod, certificates: vec![client, server] }))
}

/// The certificate of one end, if it is valid and not revoked.
async fn valid(here: &Here, workload: &Workload, record: &mut Record) -> Result<Peer, Outcome> {
    let mut fail = |outcome: Outcome, why: String| {
        record.error(why);
        outcome
    };
    let unavailable = Outcome::IdentityUnavailable;
    let identity = workload.identity().map_err(|e| fail(unavailable, e.to_string()))?;
    let held = here.shared.identities.certificate(&identity).await.map_err(|e| fail(unavailable, e.to_string()))?;
    let certificate = held.peer().map_err(|e| fail(unavailable, e.to_string()))?;
    let revoked = here.shared.identities.revocations().borrow().revokes(&certificate);
    if revoked {
        return Err(fail(Outcome::CertRevoked, format!("the certificate of {identity} is revoked")));
    }
    Ok(certificate)
}

fn own_address(source: &Workload, wanted: &Wanted) -> Option<IpAddr> {
    source.addresses.iter().copied().find(|ip| ip.is_ipv4() == wanted.authority.is_ipv4())
}

/// Relays to the end. Two plain sockets: the relay splices them once the flow is worth it.
pub(crate) async fn carry(here: &Here, app: TcpStream, near: Near, mut record: Record) {
    let Near { app: server, guard, leaving, record: mut theirs, .. } = near;
    let progress = Arc::new(Progress::new());
    carry::open(&mut record, &progress, true);
    carry::open(&mut theirs, &progress, true);
    let rights = Rights { guard: Some(&guard), leaving: Some(&leaving) };
    let cut = carry::run(here, TcpEnd::new(app), TcpEnd::new(server), &progress, rights).await;
    match cut.denial {
        Some((Direction::Inbound, denial)) => judge::denied(denial, &mut theirs),
        Some((Direction::Outbound, denial)) => judge::denied(denial, &mut record),
        None => {}
    }
    theirs.finish(cut.outcome);
    record.finish(cut.outcome);
}
