//! Types of the conditions that control writes on objects of its own and of others' kinds.

/// A fault in the object, in words. Absent while there is none.
pub(crate) const ACCEPTED: &str = "culvert.dev/Accepted";
/// What became of the waypoint that was asked for (waypoint-api.md 3).
pub(crate) const BOUND: &str = "istio.io/WaypointBound";
/// A waypoint is needed and there is none (waypoint-api.md 3).
pub(crate) const MISSING: &str = "istio.io/WaypointMissing";
/// Who may see a ServiceEntry (waypoint-api.md 3).
pub(crate) const VISIBILITY: &str = "istio.io/VisibilityApplied";
/// Node proxies refuse whoever passes by the waypoint that a security policy needs (design.md 5). It outlives a restart
/// of control, which reads it back: a rule that was enforced once is not lifted until every node has asked again.
pub(crate) const ENFORCED: &str = "culvert.dev/WaypointEnforced";
/// Whether every backend of a policy of our own is there.
pub(crate) const RESOLVED: &str = "ResolvedRefs";
/// What became of a policy of our own.
pub(crate) const TAKEN: &str = "Accepted";
/// What became of a policy with targets (waypoint-api.md 3).
pub(crate) const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
/// All that are written on objects of others' kinds.
pub(crate) const ALL: [&str; 6] = [ACCEPTED, BOUND, ENFORCED, MISSING, VISIBILITY, WAYPOINT_ACCEPTED];

/// Whether one of these conditions is ours to keep or to take away.
pub(crate) fn reported<'a>(mut types: impl Iterator<Item = &'a str>) -> bool {
    types.any(|t| ALL.contains(&t))
}

/// Whether a condition says that nobody passes by the waypoint.
pub(crate) fn enforces(kind: &str, status: &str) -> bool {
    kind == ENFORCED && status == "True"
}
