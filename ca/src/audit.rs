//! One line per decision.

use std::net::SocketAddr;
use std::time::SystemTime;

use mesh::Identity;

use crate::caller::Caller;
use crate::refusal::Refusal;

/// A decision, issued or refused.
#[derive(Clone, Debug)]
pub struct Decision {
    /// From where the request came, if it came by a socket.
    pub remote: Option<SocketAddr>,
    /// Who asked, once recognised.
    pub caller: Option<Caller>,
    /// Which identity was asked for, once read.
    pub identity: Option<Identity>,
    /// How it ended.
    pub outcome: Result<Grant, Refusal>,
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Serial number in hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: SystemTime,
}

/// Receives every decision, in the order in which they fall.
pub trait Audit: Send + Sync + 'static {
    /// Writes it down. Must not block for long.
    fn record(&self, decision: &Decision);
}

/// Writes decisions to the log, target `audit`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Audit for Log {
    fn record(&self, decision: &Decision) {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let remote = text(decision.remote.map(|r| r.to_string()));
        let caller = text(decision.caller.as_ref().map(ToString::to_string));
        let identity = text(decision.identity.as_ref().map(ToString::to_string));
        match &decision.outcome {
            Ok(grant) => {
                let not_after = grant.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
                tracing::info!(
                    target: "audit", %remote, %caller, %identity, serial = %grant.serial, not_after, "certificate issued"
                );
            }
            Err(refusal) => tracing::warn!(
                target: "audit", %remote, %caller, %identity, reason = refusal.name(), "certificate refused: {refusal}"
            ),
        }
    }
}
