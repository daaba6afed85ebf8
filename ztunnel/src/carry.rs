//! The middle of both stories: bytes flow until close, reset, drain, or until somebody takes the permission away.

use std::future::pending;
use std::sync::Arc;

use hbone::TunnelStream;
use identity::Peer;
use mesh::{Direction, Outcome};
use net::relay::{Ended, IntoEnd, Progress, Side, TcpEnd, relay};
use net::socket;
use policy::{Permit, Subject, Verdict};
use proxy::meter::Way;
use proxy::tunnel_io::TunnelEnd;
use proxy::{World, bond};
use telemetry::Record;
use tokio::net::TcpStream;

use crate::here::Here;
use crate::judge;
use crate::pod::Pod;
use crate::world::OfPod as _;

/// The side of a connection that is not the application's.
pub(crate) enum Far {
    /// Plain TCP.
    Plain(TcpStream),
    /// A stream in a tunnel.
    Tunnel(TunnelStream),
}

impl Far {
    /// The word of `config_dump`.
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::Plain(_) => "TCP",
            Self::Tunnel(_) => "HBONE",
        }
    }
}

/// Relays between the application and the far side. With a permit, the connection is judged again at every change that
/// could matter, and cut when it is not allowed any more.
pub(crate) async fn carry(
    here: &Here,
    app: TcpStream,
    far: Far,
    record: &mut Record,
    permit: Option<Permit>,
) -> Outcome {
    let guard = permit.map(|permit| Guard { permit, pod: here.pod.clone(), certificates: Vec::new() });
    let progress = Arc::new(Progress::new());
    open(record, &progress, record.facts().direction == Direction::Outbound);
    let app = TcpEnd::new(app);
    let app_socket = app.stream().clone();
    let (outcome, withdrawn) = match far {
        Far::Plain(stream) => {
            let far = TcpEnd::new(stream);
            let far_socket = far.stream().clone();
            let ended = run(here, app, far, &progress, guard.as_ref()).await;
            if let Some(health) = socket::tcp_info(&far_socket) {
                record.health(crate::here::health(&health));
            }
            ended
        }
        Far::Tunnel(stream) => run(here, app, TunnelEnd::new(stream), &progress, guard.as_ref()).await,
    };
    drop(app_socket);
    if let Some(denial) = withdrawn {
        judge::denied(denial, record);
    }
    outcome
}

/// Counts a connection as open, with the relay's own counters; the first end of the relay is the source, or the
/// destination.
pub(crate) fn open(record: &mut Record, progress: &Arc<Progress>, first_is_source: bool) {
    record.meter(Arc::new(Way { first_is_source, progress: progress.clone() }));
    record.opened();
}

/// A permit that is judged again whenever policy changes, and the pod that it was given for.
pub(crate) struct Guard {
    pub(crate) permit: Permit,
    pub(crate) pod: Arc<Pod>,
    /// Certificates that the connection rests on, where no tunnel of its own ends when one is revoked.
    pub(crate) certificates: Vec<Peer>,
}

/// Why a connection is ended from outside.
pub(crate) type Cut = (Outcome, Option<policy::Denial>);

pub(crate) async fn run<B>(here: &Here, app: TcpEnd, far: B, progress: &Progress, guard: Option<&Guard>) -> Cut
where
    B: IntoEnd,
    B::End: Unpin,
{
    // Cut connections end with a reset: the application must not take a part for the whole.
    progress.abort_on_drop(true);
    tokio::select! {
        biased;
        ended = relay(app, far, progress, &here.worker.buffers) => (outcome(ended), None),
        cut = cut(here, guard) => cut,
    }
}

fn outcome(ended: Ended) -> Outcome {
    match ended {
        Ended::Both => Outcome::Closed,
        Ended::ResetBy(_) => Outcome::Reset,
        Ended::LostBy(Side::A) => Outcome::Reset,
        Ended::LostBy(Side::B) => Outcome::TunnelLost,
    }
}

/// Resolves when the connection has to end although both of its ends would go on.
async fn cut(here: &Here, guard: Option<&Guard>) -> Cut {
    let withdrawn = async {
        match guard {
            Some(guard) => withdrawn(&here.shared.world, guard).await,
            None => pending().await,
        }
    };
    let other_gone = async {
        match guard.filter(|guard| !Arc::ptr_eq(&guard.pod, &here.pod)) {
            Some(guard) => guard.pod.gone().await,
            None => pending().await,
        }
    };
    let revoked = async {
        match guard.filter(|guard| !guard.certificates.is_empty()) {
            // Boxed: only connections within a node have it.
            Some(guard) => {
                let lists = here.shared.identities.revocations();
                Box::pin(bond::until_revoked(lists, guard.certificates.clone())).await;
            }
            None => pending().await,
        }
    };
    tokio::select! {
        () = here.pod.gone() => (Outcome::PodGone, None),
        () = revoked => (Outcome::CertRevoked, None),
        () = other_gone => (Outcome::PodGone, None),
        () = here.shared.drain.forced() => (Outcome::Drained, None),
        denial = withdrawn => (Outcome::PolicyWithdrawn, Some(denial)),
    }
}

/// Resolves when policy does not allow the connection any more.
async fn withdrawn(world: &World, guard: &Guard) -> policy::Denial {
    let Guard { permit, pod, .. } = guard;
    let mut changes = world.verdicts();
    loop {
        // A workload that discovery has dropped is judged as it was: its pod is about to go, or discovery is behind.
        let subject = world.local_now(pod).map_or_else(|| permit.subject().clone(), |w| Subject::from(&*w));
        match permit.rejudge(&world.policies(), &subject).verdict {
            Verdict::Permitted(_) => {}
            Verdict::Denied(denial) => return denial,
            // A policy was named and has not arrived: as long as a new connection would be held for.
            Verdict::Unknown(names) => {
                let decided = || {
                    let subject = world.local_now(pod).map(|w| Subject::from(&*w))?;
                    let verdict = permit.rejudge(&world.policies(), &subject).verdict;
                    (!matches!(verdict, Verdict::Unknown(_))).then_some(())
                };
                if world.held(decided).await.is_none() {
                    return policy::Denial::not_held(names);
                }
                continue;
            }
        }
        if changes.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}
