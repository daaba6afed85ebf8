//! What a pod of ours may dial (egress NetworkPolicies), judged at the source: before anything leaves, and again while it is
//! connected.
//!
//! What is judged is address and port where the connection ends, as Kubernetes has it: those of the pod behind a Service, else
//! those that were dialled. Behind a waypoint, which chooses the endpoint itself, every endpoint of the service has to be
//! allowed.
//!
//! **An address that has another owner.** Policies name pods by address, so an old version of a policy must not let through to
//! who has the address next. Control takes an address out of a policy, or never puts it in, in the same step in which it
//! tells of the new owner (`control`, `policies/network/peers.rs`), and sends policies first; here [`World`] stores policies
//! before workloads, and who is where is read before the policies are. What is left is the moment in which both are on their
//! way to us: the new owner may be known and the policy not yet, for at most one round trip (discovery asks for an answer to
//! each message of a type before the next one). A connection of that moment is judged again when the policy comes, and
//! cut. A new owner that is not known at all is dialled as the old one, whose identity it cannot show.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use directory::{Route, Snapshot};
use mesh::authz::Authorization;
use mesh::workload::Egress;
use mesh::{Outcome, Service, Workload};
use policy::Denial;
use policy::egress::{self, Leave, Target, Verdict};
use proxy::World;
use telemetry::{Phase, Record};
use tokio::sync::watch;

use crate::here::Here;
use crate::judge;
use crate::pod::Pod;
use crate::world::OfPod as _;

/// Time between two judgements of a connection through a waypoint, while the mesh changes: each may look at all endpoints of a
/// service, and a rollout changes the mesh some ten times a second.
const GATHER: Duration = Duration::from_millis(100);

/// Where a connection goes, as far as policies for what leaves are concerned.
#[derive(Debug)]
pub(crate) enum Goal {
    /// To this address and port.
    At(SocketAddr),
    /// To a service, by way of a waypoint that chooses the endpoint.
    Chosen {
        /// The service.
        service: Arc<Service>,
        /// Its address and port, as they were dialled.
        dialled: SocketAddr,
    },
}

impl Goal {
    /// Of a route; `None` for those that this version does not follow.
    pub(crate) fn of(route: &Route) -> Option<Self> {
        match route {
            Route::Passthrough { to, .. } | Route::Direct { to, .. } => Some(Self::At(*to)),
            Route::Tunnel { authority, .. } => Some(Self::At(*authority)),
            Route::Waypoint { authority, service, .. } => Some(match service {
                Some(service) => Self::Chosen { service: service.clone(), dialled: *authority },
                None => Self::At(*authority),
            }),
            Route::Gateway { .. } | Route::Named(_) => None,
        }
    }

    /// Where it may end. A service without endpoints has none that could be asked about, and a waypoint may lead on from it
    /// to others: its own address stands for them.
    fn targets(&self, directory: &Snapshot, source: &Workload) -> Vec<Target> {
        let (service, dialled) = match self {
            Self::At(to) => return vec![(*to).into()],
            Self::Chosen { service, dialled } => (service, *dialled),
        };
        let now = directory.service(&service.key().to_string());
        let service = now.as_ref().unwrap_or(service);
        let ends = directory.ends(source, service, dialled.port(), dialled.ip());
        if ends.is_empty() {
            return vec![dialled.into()];
        }
        ends.into_iter().map(|(ip, port)| Target { ip, port }).collect()
    }
}

/// A connection that may leave, and where it goes. No connection is made without.
#[derive(Debug)]
pub(crate) struct Leaving {
    goal: Goal,
    _leave: Leave,
}

/// Asks whether a pod may connect. One that names a policy which has not arrived yet waits for it.
pub(crate) async fn leave(here: &Here, source: &Workload, goal: Goal, record: &mut Record) -> Result<Leaving, Outcome> {
    if let Some(leave) = Leave::unrestricted(source) {
        return Ok(Leaving { goal, _leave: leave });
    }
    // Boxed: few pods have such policies.
    Box::pin(judged(&here.shared.world, &here.pod, goal, record)).await
}

async fn judged(world: &World, pod: &Pod, goal: Goal, record: &mut Record) -> Result<Leaving, Outcome> {
    record.enter(Phase::Policy);
    let ask = || now(world, pod, &goal);
    let verdict = match world.held(|| decided(ask())).await {
        Some(verdict) => verdict,
        None => ask().ok_or(Outcome::UnknownSource)?,
    };
    let denial = match verdict {
        Verdict::Permitted(leave) => return Ok(Leaving { goal, _leave: leave }),
        Verdict::Denied(denial) => denial,
        Verdict::Unknown(names) => Denial::not_held(names),
    };
    let why = denial.policy_name().and_then(|key| world.stands_in(key));
    let why = why.map(|why| format!("the policy could not be understood and permits nothing: {why}"));
    judge::explained(&denial, why, record);
    Err(Outcome::PolicyDenied)
}

fn decided(verdict: Option<Verdict>) -> Option<Verdict> {
    verdict.filter(|v| !matches!(v, Verdict::Unknown(_)))
}

/// The judgement by what is known now; `None` when discovery does not know the pod. Who is where is read before the policies:
/// see the top of this file.
fn now(world: &World, pod: &Pod, goal: &Goal) -> Option<Verdict> {
    let source = world.local_now(pod)?;
    let targets = goal.targets(&world.directory(), &source);
    Some(egress::judge(&world.policies(), &source, targets))
}

impl Leaving {
    /// Resolves when the pod may not dial there any more.
    pub(crate) async fn withdrawn(&self, world: &World, pod: &Pod) -> Denial {
        // Nearly every connection is one of a pod that nothing restricts, and only this wakes it.
        let mut restricted = world.restricted();
        while world.local_now(pod).is_none_or(|workload| workload.egress.is_none()) {
            if restricted.changed().await.is_err() {
                pending::<()>().await;
            }
        }
        Box::pin(self.judged_again(world, pod)).await
    }

    async fn judged_again(&self, world: &World, pod: &Pod) -> Denial {
        let mut changes = match &self.goal {
            Goal::At(_) => world.verdicts(),
            // An endpoint that comes is enough.
            Goal::Chosen { .. } => world.version(),
        };
        loop {
            // Before the judgement: what comes in between is judged again.
            let basis = Basis::now(world, pod);
            match now(world, pod, &self.goal) {
                None | Some(Verdict::Permitted(_)) => {}
                Some(Verdict::Denied(denial)) => return denial,
                // A policy was named and has not arrived: as long as a new connection would be held for.
                Some(Verdict::Unknown(names)) => {
                    if world.held(|| decided(now(world, pod, &self.goal))).await.is_none() {
                        return Denial::not_held(names);
                    }
                    continue;
                }
            }
            self.different(&mut changes, &basis, world, pod).await;
        }
    }

    /// Waits until another judgement may come to something else.
    async fn different(&self, changes: &mut watch::Receiver<u64>, basis: &Basis, world: &World, pod: &Pod) {
        loop {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
            match self.goal {
                // Policies of others change all the time, and an address is what it is.
                Goal::At(_) if basis.same(&Basis::now(world, pod)) => {}
                Goal::At(_) => return,
                Goal::Chosen { .. } => return tokio::time::sleep(GATHER).await,
            }
        }
    }
}

/// What a judgement of an address rests on.
struct Basis {
    egress: Option<Arc<Egress>>,
    policies: Vec<Option<Arc<Authorization>>>,
}

impl Basis {
    fn now(world: &World, pod: &Pod) -> Self {
        let egress = world.local_now(pod).and_then(|workload| workload.egress.clone());
        let set = world.policies();
        let policies = egress.iter().flat_map(|e| &e.policies).map(|key| set.get(key)).collect();
        Self { egress, policies }
    }

    /// Whether nothing of it was replaced. A change takes over what it leaves as it is.
    fn same(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Option<Arc<Authorization>>, &Option<Arc<Authorization>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        self.egress == other.egress && self.policies.iter().zip(&other.policies).all(alike)
    }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
