//! A waypoint's configuration.

use serde_json::json;

use super::{otlp, write};
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan};
use crate::programs::{CA_NAME, CA_PORT, CONTROL_NAME, CONTROL_PORT};

/// The configuration of the waypoint in a pod.
pub(crate) fn config(paths: &Paths, plan: &Plan, pod: &PodPlan) -> Result<(), LabError> {
    let infra = plan.infra();
    let at = |port: u16| infra.first().map(|ip| format!("https://{ip}:{port}"));
    let name = &pod.pod.name;
    let token = paths.waypoint(name).join("token");
    let mut value = json!({
        "ownPod": { "name": name, "namespace": pod.pod.namespace, "address": pod.addresses.first() },
        "serviceAccount": pod.pod.account(),
        "trustDomain": plan.spec.trust_domain,
        "gateway": name,
        "node": pod.pod.node,
        "xds": { "address": at(CONTROL_PORT), "rootFile": paths.roots(), "tokenFile": token, "altName": CONTROL_NAME },
        "ca": {
            "address": at(CA_PORT),
            "rootFile": paths.roots(),
            "tokenFile": token,
            "altName": CA_NAME,
            "certificateLifetime": plan.spec.certificate_lifetime,
        },
        "workers": plan.spec.workers,
        "log": { "level": plan.spec.log },
    });
    if let Some(otlp) = otlp(plan) {
        value["otlp"] = otlp;
    }
    write(&paths.waypoint(name).join("waypoint.yaml"), &value)
}
