//! The order in which policies decide (Istio, "Implicit enablement": CUSTOM, DENY, ALLOW).

use std::sync::Arc;

use super::compile::{Policy, RequestPolicies};
use super::matching::{Facts, Reading, Request};
use super::miss::nearest;
use super::model::Action;
use super::verdict::{Audited, Cause, Denial, DryRun, Judgement, Reason, RequestPermit, Verdict};
use crate::Effect;

impl RequestPolicies {
    /// The first step: which external services must be asked about this request.
    pub fn checks(&self, request: &Request<'_>) -> Pending {
        let mut customs = self.enforced(Action::Custom).peekable();
        // A policy that cannot be understood refuses in the second step: nobody needs to be asked for that.
        if customs.peek().is_none() || self.misunderstood().is_some() {
            return Pending { due: Vec::new() };
        }
        let facts = Facts::new(request);
        let matching = customs.filter(|p| p.matching_rule(&facts).is_some());
        // The last one is asked first by `pop`, so the order is turned.
        let mut due: Vec<Due> = matching.map(|p| Due { policy: p.key.clone(), index: p.index }).collect();
        due.reverse();
        Pending { due }
    }

    /// The second step: DENY and ALLOW, for a request that every due check has let pass.
    ///
    /// 1. An enforced ALLOW, CUSTOM or DENY policy that cannot be understood refuses.
    /// 2. An enforced DENY rule that matches refuses.
    /// 3. Without an enforced ALLOW policy it may pass.
    /// 4. It may pass when an ALLOW rule matches; otherwise it may not, and the nearest miss is named.
    pub fn judge(&self, request: &Request<'_>, checked: Checked) -> Judgement {
        let Checked(()) = checked;
        if self.is_empty() {
            return Judgement::of(Verdict::Permitted(RequestPermit::new(Reason::NoAllowApplies)));
        }
        let facts = Facts::new(request);
        let verdict = self.decide(&facts);
        let dry_run = self.all.iter().filter(|p| p.dry_run).map(|p| self.dry_run(&facts, p, &verdict)).collect();
        let audits = self.enforced(Action::Audit);
        let audited = audits.filter_map(|p| Some(Audited { policy: p.key.clone(), rule: p.matching_rule(&facts)? }));
        Judgement { verdict, audited: audited.collect(), dry_run }
    }

    fn decide(&self, facts: &Facts<'_>) -> Verdict {
        if let Some((policy, reason)) = self.misunderstood() {
            return Verdict::Denied(Denial::new(Cause::Invalid { policy, reason }));
        }
        if let Some((policy, rule)) = first_match(facts, self.enforced(Action::Deny)) {
            return Verdict::Denied(Denial::new(Cause::DenyRule { policy, rule }));
        }
        if self.enforced(Action::Allow).next().is_none() {
            return Verdict::Permitted(RequestPermit::new(Reason::NoAllowApplies));
        }
        if let Some((policy, rule)) = first_match(facts, self.enforced(Action::Allow)) {
            return Verdict::Permitted(RequestPermit::new(Reason::Rule { policy, rule }));
        }
        let nearest = nearest(facts, self.enforced(Action::Allow)).map(Box::new);
        Verdict::Denied(Denial { nearest, ..Denial::new(Cause::NoAllowMatched) })
    }

    fn misunderstood(&self) -> Option<(Arc<str>, Arc<str>)> {
        let enforced = self.all.iter().filter(|p| !p.dry_run && p.action != Action::Audit);
        enforced.into_iter().find_map(|p| Some((p.key.clone(), p.rules.as_ref().err()?.clone())))
    }

    fn enforced(&self, action: Action) -> impl Iterator<Item = &Policy> {
        self.all.iter().filter(move |p| !p.dry_run && p.action == action)
    }

    /// What enforcing this one policy beside the enforced ones would change.
    fn dry_run(&self, facts: &Facts<'_>, policy: &Policy, verdict: &Verdict) -> DryRun {
        let rule = policy.matching_rule(facts);
        let open = |p: &RequestPermit| *p.reason() == Reason::NoAllowApplies;
        let effect = match (policy.action, rule, verdict) {
            (Action::Allow | Action::Custom | Action::Deny, _, Verdict::Permitted(_)) if policy.rules.is_err() => {
                Effect::WouldDeny
            }
            (Action::Deny, Some(_), Verdict::Permitted(_)) => Effect::WouldDeny,
            (Action::Allow, None, Verdict::Permitted(p)) if open(p) => Effect::WouldDeny,
            (Action::Allow, Some(_), Verdict::Denied(d)) if d.cause == Cause::NoAllowMatched => Effect::WouldPermit,
            _ => Effect::None,
        };
        let invalid = policy.rules.as_ref().err().cloned();
        DryRun { policy: policy.key.clone(), action: policy.action, rule, effect, invalid }
    }
}

impl Policy {
    fn reading(&self) -> Reading {
        if self.action == Action::Allow { Reading::Narrow } else { Reading::Wide }
    }

    /// Index of the first rule that matches.
    fn matching_rule(&self, facts: &Facts<'_>) -> Option<usize> {
        let rules = self.rules.as_ref().ok()?;
        rules.iter().position(|r| r.matches(facts, self.reading()))
    }
}

fn first_match<'a>(facts: &Facts<'_>, mut policies: impl Iterator<Item = &'a Policy>) -> Option<(Arc<str>, usize)> {
    policies.find_map(|p| Some((p.key.clone(), p.matching_rule(facts)?)))
}

/// The checks by external services that a request still needs, in the order of the policies' names.
#[derive(Debug)]
#[must_use = "a request whose checks were not made cannot be judged"]
pub struct Pending {
    /// The next one last.
    due: Vec<Due>,
}

/// One check that a CUSTOM policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// Where the policy stood in the list that was compiled: there is the service to ask.
    pub index: usize,
}

impl Pending {
    /// The check to make next.
    pub fn next(&self) -> Option<&Due> {
        self.due.last()
    }

    /// The check to make next has let the request pass.
    pub fn passed(mut self) -> Self {
        self.due.pop();
        self
    }

    /// Ends the first step.
    ///
    /// # Errors
    /// Gives itself back while checks are still due.
    pub fn finish(self) -> Result<Checked, Self> {
        if self.due.is_empty() { Ok(Checked(())) } else { Err(self) }
    }
}

/// Proof that every check that was due has let the request pass. Only [`Pending::finish`] makes one.
///
/// ```compile_fail,E0423
/// let forged = policy::request::Checked(());
/// ```
#[derive(Debug)]
#[must_use = "the request is not judged yet"]
pub struct Checked(());
