//! From the wire to what `routing` and `policy` check (routing.proto).
//!
//! Nothing is left out: what this program does not understand becomes something that refuses in its place. A oneof without a
//! value is one that a newer control plane knows and we do not.

mod policies;
mod recording;
mod routes;

use std::time::Duration;

use proto::routing as wire;
use routing::LocalRate;
use routing::model;

pub(crate) use policies::{authorizations, externals};
pub(crate) use recording::recording;
pub(crate) use routes::{asks_by_path, filters, tables};

/// What somebody's newer control plane sends.
const UNKNOWN: &str =
    "is of a kind that this waypoint does not know; update the waypoint to the version of the control plane";

/// A time; nothing when there is none, or when it is 0, which stands for "not said" or "no limit".
///
/// What cannot be (negative, larger than anybody waits) counts as not said: callers that must not ignore it use
/// [`checked_duration`].
pub(crate) fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    checked_duration(wire).ok().flatten()
}

/// As [`duration`].
///
/// # Errors
/// When it is negative or out of range.
fn checked_duration(wire: Option<&prost_types::Duration>) -> Result<Option<Duration>, String> {
    let Some(wire) = wire else { return Ok(None) };
    match Duration::try_from(*wire) {
        Ok(time) => Ok(Some(time).filter(|t| !t.is_zero())),
        Err(error) => Err(format!("{error}; give a time of 0 or more")),
    }
}

/// A bound of requests.
///
/// # Errors
/// Why it cannot be one, or why control says that it cannot.
pub(crate) fn rate(wire: &wire::RateLimit) -> Result<LocalRate, String> {
    if let Some(invalid) = &wire.invalid {
        return Err(invalid.reason.clone());
    }
    let rate = wire.rate.as_ref().ok_or_else(|| format!("the bound {UNKNOWN}"))?;
    LocalRate::new(&local_rate(rate)?).map_err(str::to_owned)
}

fn local_rate(wire: &wire::LocalRate) -> Result<model::LocalRate, String> {
    let wire::LocalRate { requests, per, burst, per_identity, name } = wire;
    let per = checked_duration(per.as_ref())?.unwrap_or_default();
    let name = (!name.is_empty()).then(|| name.as_str().into());
    Ok(model::LocalRate { requests: *requests, per, burst: *burst, per_identity: *per_identity, name })
}

#[cfg(test)]
#[path = "compile/tests.rs"]
mod tests;
