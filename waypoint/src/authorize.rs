//! Asks `policy` whether a request or a connection may pass, and says why not in the record.

use std::sync::Arc;

use policy::Effect;
use policy::request::{Denial, Pending, Reason, Request, RequestPermit, RequestPolicies, Verdict};

/// What the records of requests and of connections are told alike.
pub(crate) trait Told {
    fn allowed(&mut self, rule: Arc<str>);
    fn denied(&mut self, denial: telemetry::Denial);
    fn dry_run(&mut self, policy: Arc<str>, denies: bool);
}

impl Told for telemetry::Record {
    fn allowed(&mut self, rule: Arc<str>) {
        self.allowed(rule);
    }

    fn denied(&mut self, denial: telemetry::Denial) {
        self.denied(denial);
    }

    fn dry_run(&mut self, policy: Arc<str>, denies: bool) {
        self.dry_run(policy, denies);
    }
}

impl Told for telemetry::RequestRecord {
    fn allowed(&mut self, rule: Arc<str>) {
        self.allowed(rule);
    }

    fn denied(&mut self, denial: telemetry::Denial) {
        self.denied(denial);
    }

    fn dry_run(&mut self, policy: Arc<str>, denies: bool) {
        self.dry_run(policy, denies);
    }
}

/// Whether it may pass. `pending`: the external checks that were due, of which all must have been made.
pub(crate) fn judge(
    policies: &RequestPolicies,
    request: &Request<'_>,
    pending: Pending,
    record: &mut impl Told,
) -> Result<RequestPermit, Denial> {
    let checked = match pending.finish() {
        Ok(checked) => checked,
        // Whoever could not make a check has refused already; one that is left over was forgotten, and refuses.
        Err(left) => {
            let policy = left.next().map_or_else(|| "".into(), |due| due.policy.clone());
            let denial = Denial::external(policy, "its external service was not asked".to_owned());
            tell(&denial, record);
            return Err(denial);
        }
    };
    let judgement = policies.judge(request, checked);
    for dry in &judgement.dry_run {
        if dry.effect != Effect::None {
            record.dry_run(dry.policy.clone(), dry.effect == Effect::WouldDeny);
        }
    }
    for audited in &judgement.audited {
        tracing::info!(target: "rbac", policy = &*audited.policy, rule = audited.rule, src.addr = %request.source_ip, "audited");
    }
    match judgement.verdict {
        Verdict::Permitted(permit) => {
            if let Reason::Rule { policy, .. } = permit.reason() {
                record.allowed(policy.clone());
            }
            Ok(permit)
        }
        Verdict::Denied(denial) => {
            tell(&denial, record);
            Err(denial)
        }
    }
}

/// Writes a denial into the record.
pub(crate) fn tell(denial: &Denial, record: &mut impl Told) {
    record.denied(telemetry::Denial {
        policy: denial.policy_name().map(Into::into),
        explanation: denial.to_string(),
        nearest_miss: denial.nearest.as_ref().map(ToString::to_string),
    });
}
