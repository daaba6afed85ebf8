//! May this connection pass? A [`Permit`], or a denial that explains itself.
//!
//! The rules are those of Istio's L4 policy (discovery.md 4, "Evaluation"), with one that is stricter: a workload that
//! names a policy which is not held yet gets [`Verdict::Unknown`] instead of an answer that ignores it (design.md 4.6).
//!
//! There is no runtime, socket or clock here: policies, subject and connection in, verdict out. `PeerAuthentication`
//! needs no code of its own: STRICT arrives as a DENY policy on an absent principal (`not_principals: presence`).
//!
//! [`egress`] judges the other end of a connection: what a workload may dial.
//!
//! [`request`] is the same for the requests that pass a waypoint, with the fields of HTTP.

pub mod egress;
mod judge;
mod matching;
mod miss;
pub mod request;
mod set;
mod verdict;

pub use judge::judge;
pub use miss::{Kind, NearestMiss};
pub use set::PolicySet;
pub use verdict::{Cause, Connection, Denial, DryRun, Effect, Judgement, Permit, Reason, Subject, Verdict};

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod testing;
