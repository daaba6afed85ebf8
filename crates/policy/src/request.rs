//! May this request pass? L7 `AuthorizationPolicy` as Istio's API defines it, judged for one request or connection at a
//! waypoint.
//!
//! **Order.** CUSTOM policies that match ask an external service first ([`RequestPolicies::checks`]), then DENY, then
//! ALLOW ([`RequestPolicies::judge`]); AUDIT only reports. A policy that cannot be understood refuses everything, with
//! its reason, until it can.
//!
//! **One principle for everything that is uncertain.** An ALLOW rule matches only what certainly fits; a DENY rule (and
//! AUDIT and CUSTOM, which also look closer) matches whatever may fit. From it follows:
//! - a TCP connection has no method, path, host, header or token: an ALLOW rule that asks for one never matches, and a
//!   DENY rule is judged without that field (Istio, "Implicit enablement" of TCP);
//! - of a header that came twice, ALLOW wants every value to match, DENY one;
//! - `/admin;x=1`, `/admin/` and `/admin%20` are `/admin` for a DENY rule and not for an ALLOW rule.
//!
//! An attribute that is known to be absent (no token, no such header, no client certificate) fits nothing, so `not…`
//! fields and `notValues` hold for it, as Istio documents.
//!
//! Paths and hosts are compared in the form of [`canonical`], which is also the form that is sent on.

pub mod canonical;

mod claims;
mod compile;
mod fields;
mod judge;
mod matching;
mod miss;
mod model;
mod pattern;
mod verdict;

pub use claims::Claims;
pub use compile::{Fault, RequestPolicies};
pub use judge::{Checked, Due, Pending};
pub use matching::{Http, Request};
pub use miss::Miss;
pub use model::{Action, Authorization, Condition, Operation, Rule, Source};
pub use verdict::{Audited, Cause, Denial, DryRun, Judgement, Reason, RequestPermit, Verdict};

#[cfg(test)]
mod bypass_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod testing;
