//! The middle of both stories: bytes flow until close, reset, drain, or until somebody takes the permission away.

use std::future::pending;
use std::sync::Arc;

use hbone::TunnelStream;
use identity::Peer;
use mesh::{Direction, Outcome, Workload};
use net::relay::{Ended, IntoEnd, Progress, Side, TcpEnd, relay};
use net::socket;
use policy::{Permit, Verdict};
use proxy::meter::Way;
use proxy::tunnel_io::TunnelEnd;
use proxy::{World, bond};
use telemetry::Record;
use tokio::net::TcpStream;

use crate::egress::Leaving;
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

/// By what right a connection is there. It is judged again at every change that could matter, and cut when it is not allowed
/// any more.
pub(crate) enum Right {
    /// It was let in.
    In(Permit),
    /// It was let out.
    Out(Leaving),
}

/// Relays between the application and the far side.
pub(crate) async fn carry(here: &Here, app: TcpStream, far: Far, record: &mut Record, right: Right) -> Outcome {
    let (permit, leaving) = match right {
        Right::In(permit) => (Some(permit), None),
        Right::Out(leaving) => (None, Some(leaving)),
    };
    let guard = permit.map(|permit| Guard { permit, pod: here.pod.clone(), certificates: Vec::new() });
    let rights = Rights { guard: guard.as_ref(), leaving: leaving.as_ref() };
    let progress = Arc::new(Progress::new());
    open(record, &progress, record.facts().direction == Direction::Outbound);
    let app = TcpEnd::new(app);
    let app_socket = app.stream().clone();
    let cut = match far {
        Far::Plain(stream) => {
            let far = TcpEnd::new(stream);
            let far_socket = far.stream().clone();
            let ended = run(here, app, far, &progress, rights).await;
            if let Some(health) = socket::tcp_info(&far_socket) {
                record.health(crate::here::health(&health));
            }
            ended
        }
        Far::Tunnel(stream) => run(here, app, TunnelEnd::new(stream), &progress, rights).await,
    };
    drop(app_socket);
    if let Some((_, denial)) = cut.denial {
        judge::denied(denial, record);
    }
    cut.outcome
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

/// What is watched while bytes flow.
#[derive(Clone, Copy)]
pub(crate) struct Rights<'a> {
    /// Of who was let in.
    pub(crate) guard: Option<&'a Guard>,
    /// Of who was let out.
    pub(crate) leaving: Option<&'a Leaving>,
}

/// How a connection ended, and who does not allow it any more.
pub(crate) struct Cut {
    pub(crate) outcome: Outcome,
    /// At which end it is denied, and why.
    pub(crate) denial: Option<(Direction, policy::Denial)>,
}

impl From<Outcome> for Cut {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, denial: None }
    }
}

pub(crate) async fn run<B>(here: &Here, app: TcpEnd, far: B, progress: &Progress, rights: Rights<'_>) -> Cut
where
    B: IntoEnd,
    B::End: Unpin,
{
    // Cut connections end with a reset: the application must not take a part for the whole.
    progress.abort_on_drop(true);
    tokio::select! {
        biased;
        ended = relay(app, far, progress, &here.worker.buffers) => outcome(ended).into(),
        cut = cut(here, rights) => cut,
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
async fn cut(here: &Here, Rights { guard, leaving }: Rights<'_>) -> Cut {
    let withdrawn = async {
        match guard {
            Some(guard) => withdrawn(&here.shared.world, guard).await,
            None => pending().await,
        }
    };
    let forbidden = async {
        match leaving {
            Some(leaving) => leaving.withdrawn(&here.shared.world, &here.pod).await,
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
        () = here.pod.gone() => Outcome::PodGone.into(),
        () = revoked => Outcome::CertRevoked.into(),
        () = other_gone => Outcome::PodGone.into(),
        () = here.shared.drain.forced() => Outcome::Drained.into(),
        denial = withdrawn => {
            Cut { outcome: Outcome::PolicyWithdrawn, denial: Some((Direction::Inbound, denial)) }
        }
        denial = forbidden => {
            Cut { outcome: Outcome::PolicyWithdrawn, denial: Some((Direction::Outbound, denial)) }
        }
    }
}

/// Resolves when policy does not allow the connection any more.
async fn withdrawn(world: &World, guard: &Guard) -> policy::Denial {
    let Guard { permit, pod, .. } = guard;
    let mut changes = world.verdicts();
    loop {
        // A workload that discovery has dropped is judged as it was: its pod is about to go, or discovery is behind.
        let of = |w: &Workload| judge::subject(world, w, permit.connection());
        let now = world.local_now(pod).map_or_else(|| permit.subject().clone(), |w| of(&w));
        match permit.rejudge(&world.policies(), &now).verdict {
            Verdict::Permitted(_) => {}
            Verdict::Denied(denial) => return denial,
            // A policy was named and has not arrived: as long as a new connection would be held for.
            Verdict::Unknown(names) => {
                let decided = || {
                    let now = world.local_now(pod).map(|w| of(&w))?;
                    let verdict = permit.rejudge(&world.policies(), &now).verdict;
                    (!matches!(verdict, Verdict::Unknown(_))).then_some(())
                };
                // Boxed: rare, and every connection's future would have its size.
                if Box::pin(world.held(decided)).await.is_none() {
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
