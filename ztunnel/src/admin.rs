//! The admin server's own routes, beside those that every program has.

use std::sync::Arc;
use std::time::Duration;

use chassis::Drain;
use chassis::admin::{Reply, Router, admin_routes};
use telemetry::LogHandle;

use crate::config_dump::Dump;
use crate::here::Shared;
use crate::pods::Pods;

/// Flows handed out at once at most: a page of some 500 KiB.
const FLOWS: usize = 1_000;

/// All routes of port 15000.
pub(crate) fn routes(
    shared: &Arc<Shared>,
    pods: &Arc<Pods>,
    log: &LogHandle,
    drain: &Drain,
    deadline: Duration,
) -> Router {
    let (dump_shared, dump_pods) = (shared.clone(), pods.clone());
    let telemetry = shared.telemetry.clone();
    admin_routes(log, drain, deadline)
        .get(
            "/config_dump",
            "workloads, services, policies, certificates and connections, as istioctl reads them",
            move |_| {
                let dump = Dump::now(&dump_shared, &dump_pods);
                async move { Reply::json(&dump) }
            },
        )
        .get("/flows", "ended connections, oldest first; ?since=<next of the last page>", move |request| {
            let telemetry = telemetry.clone();
            async move {
                let since = request.query.get("since").and_then(|s| s.parse().ok()).unwrap_or(0);
                Reply::json(&telemetry.flows().since(since, FLOWS))
            }
        })
}
