//! Asks `policy` for a permit, and says why in the record.

use mesh::{NetworkAddress, Outcome, Workload};
use policy::{Connection, Denial, Effect, Judgement, Permit, Reason, Subject, Verdict};
use proxy::World;
use telemetry::Record;

use crate::pod::Pod;
use crate::world::OfPod as _;

/// A permit for a connection to one of our pods. A pod that names a policy which has not arrived yet waits for it.
pub(crate) async fn permit(
    world: &World,
    pod: &Pod,
    connection: Connection,
    record: &mut Record,
) -> Result<Permit, Outcome> {
    let ask = || now(world, pod, &connection);
    let decided = || ask().filter(|j| !matches!(j.verdict, Verdict::Unknown(_)));
    let judgement = match world.held(decided).await {
        Some(judgement) => judgement,
        None => ask().ok_or(Outcome::UnknownSource)?,
    };
    for dry in &judgement.dry_run {
        if dry.effect != Effect::None {
            record.dry_run(dry.policy.clone(), dry.effect == Effect::WouldDeny);
        }
    }
    match judgement.verdict {
        Verdict::Permitted(permit) => {
            if let Reason::Rule { policy, .. } = permit.reason() {
                record.allowed(policy.clone());
            }
            Ok(permit)
        }
        Verdict::Denied(denial) => {
            let why = world.local_now(pod).and_then(|workload| world.not_understood(&workload));
            explained(&denial, why, record);
            Err(Outcome::PolicyDenied)
        }
        Verdict::Unknown(names) => {
            denied(Denial::not_held(names), record);
            Err(Outcome::PolicyDenied)
        }
    }
}

/// Writes a denial into the record.
pub(crate) fn denied(denial: Denial, record: &mut Record) {
    explained(&denial, None, record);
}

/// As [`denied`], with what else may be behind it.
pub(crate) fn explained(denial: &Denial, why: Option<String>, record: &mut Record) {
    record.denied(telemetry::Denial {
        policy: denial.policy_name().map(Into::into),
        explanation: why.map_or_else(|| denial.to_string(), |why| format!("{denial}; {why}")),
        nearest_miss: denial.nearest.as_ref().map(ToString::to_string),
    });
}

/// The judgement by what is known now; `None` when discovery does not know the pod.
fn now(world: &World, pod: &Pod, connection: &Connection) -> Option<Judgement> {
    let workload = world.local_now(pod)?;
    let subject = subject(world, &workload, connection);
    Some(policy::judge(&world.policies(), &subject, connection))
}

/// The subject that a workload is for a connection. An address that a pod has is no node's: some network plug-ins give pods the one
/// that others give the node's end of its pod network.
pub(crate) fn subject(world: &World, workload: &Workload, connection: &Connection) -> Subject {
    let mut subject = Subject::from(workload);
    if subject.node.is_some() {
        let source = NetworkAddress::new(workload.network.clone(), connection.source_ip);
        subject.node = subject.node.filter(|_| world.directory().workload_by_address(&source).is_none());
    }
    subject
}
