//! Questions and answers: who wants what of whom, and what came out.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::authz::Action;
use mesh::{Identity, Workload};

use crate::egress::Target;
use crate::judge::judge;
use crate::miss::NearestMiss;
use crate::set::PolicySet;

/// A connection as policy sees it (hbone.md 8, "Authorization context").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who dialled, proven by its certificate; `None` for a connection in clear.
    pub source: Option<Identity>,
    /// TCP peer.
    pub source_ip: IpAddr,
    /// The pod.
    pub destination_ip: IpAddr,
    /// Port of the application, never the tunnel's 15008.
    pub destination_port: u16,
}

/// The workload that the connection is for, as far as policy cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Keys (`namespace/name`) of the selector policies that apply to it.
    pub policies: Vec<Arc<str>>,
    /// Addresses of its own node, if NetworkPolicies are about it.
    pub node: Option<Arc<[IpAddr]>>,
}

impl From<&Workload> for Subject {
    fn from(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            policies: workload.authorization_policies.clone(),
            node: workload.node_addresses.clone(),
        }
    }
}

/// The answer, and what dry-run policies would have made of it.
#[derive(Debug)]
pub struct Judgement {
    /// The answer.
    pub verdict: Verdict,
    /// Every dry-run policy that applies to the subject; none of them took part in the verdict.
    pub dry_run: Vec<DryRun>,
}

/// May it pass?
#[derive(Debug)]
pub enum Verdict {
    /// No.
    Denied(Denial),
    /// Yes.
    Permitted(Permit),
    /// Cannot be told yet: the subject names these policies (`namespace/name`), which the set does not hold. Hold the
    /// connection for a while, then deny it ([`Denial::not_held`]).
    Unknown(Vec<Arc<str>>),
}

/// Proof that policy allows a connection. Only [`judge`] makes one.
///
/// ```compile_fail,E0451
/// fn forge(connection: policy::Connection, subject: policy::Subject, reason: policy::Reason) -> policy::Permit {
///     policy::Permit { connection, subject, reason }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that nobody uses opened nothing"]
pub struct Permit {
    connection: Connection,
    subject: Subject,
    reason: Reason,
}

impl Permit {
    pub(crate) fn new(connection: Connection, subject: Subject, reason: Reason) -> Self {
        Self { connection, subject, reason }
    }

    /// What it is a permit for.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The workload that it was granted for, as it was then.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Why it was granted.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Judges the same connection again, after policies or the subject changed.
    pub fn rejudge(&self, set: &PolicySet, subject: &Subject) -> Judgement {
        judge(set, subject, &self.connection)
    }
}

/// Why a connection may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no enforced ALLOW policy for the subject, and no DENY policy matched.
    NoAllowApplies,
    /// A rule of an ALLOW policy matched.
    Rule {
        /// Key of the policy, `namespace/name`.
        policy: Arc<str>,
        /// Index of the rule.
        rule: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAllowApplies => f.write_str("no ALLOW policy applies"),
            Self::Rule { policy, rule } => write!(f, "{policy} rule {rule}"),
        }
    }
}

/// An explained no. Prints one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What decided.
    pub cause: Cause,
    /// The ALLOW rule that came closest, when no ALLOW rule matched; of an egress policy, what of it came closest.
    pub nearest: Option<NearestMiss>,
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
    /// A policy for what the source may dial does not let it reach the destination.
    Egress {
        /// Key of the policy, `namespace/name`.
        policy: Arc<str>,
        /// What it does not let it reach.
        target: Target,
    },
    /// ALLOW policies apply, and no rule of theirs matched.
    NoAllowMatched,
    /// The workload names policies that did not arrive in time.
    NotHeld(Vec<Arc<str>>),
}

impl Denial {
    /// The denial that a [`Verdict::Unknown`] becomes when the policies do not arrive.
    pub fn not_held(policies: Vec<Arc<str>>) -> Self {
        Self { cause: Cause::NotHeld(policies), nearest: None }
    }

    /// Key (`namespace/name`) of the policy that decided, when a single one did.
    pub fn policy_name(&self) -> Option<&str> {
        match &self.cause {
            Cause::DenyRule { policy, .. } | Cause::Egress { policy, .. } => Some(policy),
            Cause::NoAllowMatched | Cause::NotHeld(_) => None,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::DenyRule { policy, rule } => write!(f, "denied by {policy} rule {rule}")?,
            Cause::NoAllowMatched => f.write_str("no ALLOW rule matched")?,
            Cause::Egress { policy, target } => write!(f, "egress to {target} is not let out by {policy}")?,
            Cause::NotHeld(names) => {
                write!(f, "the workload names policies that are not known here: {}", names.join(", "))?;
            }
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; nearest is {nearest}"),
            None => Ok(()),
        }
    }
}

/// What a dry-run policy made of a connection.
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
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::None => "changes nothing",
            Effect::WouldDeny => "would deny",
            Effect::WouldPermit => "would permit",
        };
        match self.rule {
            Some(rule) => write!(f, "dry run of {} rule {rule} {effect}", self.policy),
            None => write!(f, "dry run of {} {effect}", self.policy),
        }
    }
}

/// What enforcing a dry-run policy would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that can be told.
    None,
    /// What passes now would not.
    WouldDeny,
    /// What is denied now would pass.
    WouldPermit,
}
