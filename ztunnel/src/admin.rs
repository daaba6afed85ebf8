//! The admin server's own routes, beside those that every program has.

use std::sync::Arc;
use std::time::Duration;

use chassis::Drain;
use chassis::admin::{Reply, Router, admin_routes, flow_routes};
use telemetry::LogHandle;

use crate::config_dump::Dump;
use crate::here::Shared;
use crate::pods::Pods;

/// All routes of port 15000.
pub(crate) fn routes(
    shared: &Arc<Shared>,
    pods: &Arc<Pods>,
    log: &LogHandle,
    drain: &Drain,
    deadline: Duration,
) -> Router {
    let (dump_shared, dump_pods) = (shared.clone(), pods.clone());
    admin_routes(log, drain, deadline)
        .get(
            "/config_dump",
            "workloads, services, policies, certificates and connections, as istioctl reads them",
            move |_| {
                let dump = Dump::now(&dump_shared, &dump_pods);
                async move { Reply::json(&dump) }
            },
        )
        .merge(flow_routes(&shared.telemetry))
}
