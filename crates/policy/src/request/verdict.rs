//! What came out, and why.

use std::fmt;
use std::sync::Arc;

use super::miss::Miss;
use super::model::Action;
use crate::Effect;

/// The answer, and what policies that only report say.
#[derive(Debug)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// AUDIT policies of which a rule matched.
    pub audited: Vec<Audited>,
    /// Every dry-run policy; none of them took part in the verdict.
    pub dry_run: Vec<DryRun>,
}

impl Judgement {
    pub(crate) fn of(verdict: Verdict) -> Self {
        Self { verdict, audited: Vec::new(), dry_run: Vec::new() }
    }
}

/// May it pass?
#[derive(Debug)]
pub enum Verdict {
    /// No.
    Denied(Denial),
    /// Yes.
    Permitted(RequestPermit),
}

/// Proof that policy allows a request. Only [`super::RequestPolicies::judge`] makes one.
///
/// ```compile_fail,E0451
/// fn forge(reason: policy::Reason) -> policy::request::RequestPermit {
///     policy::request::RequestPermit { reason }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that nobody uses opened nothing"]
pub struct RequestPermit {
    reason: Reason,
}

impl RequestPermit {
    pub(crate) fn new(reason: Reason) -> Self {
        Self { reason }
    }

    /// Why it was granted.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

pub use crate::verdict::Reason;

/// An explained no. Prints one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What decided.
    pub cause: Cause,
    /// The ALLOW rule that came closest, when no ALLOW rule matched.
    pub nearest: Option<Box<Miss>>,
}

/// What decided a denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A rule of a DENY policy matched.
    DenyRule {
        /// Key of the policy, `namespace/name`.
        policy: Arc<str>,
        /// Index of the rule.
        rule: usize,
    },
    /// The external service of a CUSTOM policy refused, or did not answer.
    External {
        /// Key of the policy, `namespace/name`.
        policy: Arc<str>,
        /// What it said, for people.
        reason: String,
    },
    /// A policy cannot be understood, and refuses everything until it can.
    Invalid {
        /// Key of the policy, `namespace/name`.
        policy: Arc<str>,
        /// Which field, and the remedy.
        reason: Arc<str>,
    },
    /// ALLOW policies apply, and no rule of theirs matched.
    NoAllowMatched,
}

impl Denial {
    pub(crate) fn new(cause: Cause) -> Self {
        Self { cause, nearest: None }
    }

    /// The denial of an external service.
    pub fn external(policy: Arc<str>, reason: String) -> Self {
        Self::new(Cause::External { policy, reason })
    }

    /// Key (`namespace/name`) of the policy that decided, when a single one did.
    pub fn policy_name(&self) -> Option<&str> {
        match &self.cause {
            Cause::DenyRule { policy, .. } | Cause::External { policy, .. } | Cause::Invalid { policy, .. } => {
                Some(policy)
            }
            Cause::NoAllowMatched => None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::DenyRule { policy, rule } => write!(f, "denied by {policy} rule {rule}")?,
            Cause::External { policy, reason } => write!(f, "denied by {policy}: {reason}")?,
            Cause::Invalid { policy, reason } => {
                write!(f, "{policy} cannot be understood and refuses everything: {reason}")?;
            }
            Cause::NoAllowMatched => f.write_str("no ALLOW rule matched")?,
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; nearest is {nearest}"),
            None => Ok(()),
        }
    }
}

/// An AUDIT policy that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// Index of the rule.
    pub rule: usize,
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audited by {} rule {}", self.policy, self.rule)
    }
}

/// What a dry-run policy made of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// What a match of it would mean.
    pub action: Action,
    /// The rule that matched.
    pub rule: Option<usize>,
    /// What enforcing this one policy would change.
    pub effect: Effect,
    /// Why it cannot be understood, when it cannot.
    pub invalid: Option<Arc<str>>,
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::None => "changes nothing",
            Effect::WouldDeny => "would deny",
            Effect::WouldPermit => "would permit",
        };
        match self.rule {
            Some(rule) => write!(f, "dry run of {} rule {rule} {effect}", self.policy)?,
            None => write!(f, "dry run of {} {effect}", self.policy)?,
        }
        match &self.invalid {
            Some(reason) => write!(f, ": it cannot be understood: {reason}"),
            None => Ok(()),
        }
    }
}
