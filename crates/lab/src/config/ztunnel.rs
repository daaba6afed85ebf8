//! The node proxy's configuration.

use serde_json::json;

use super::{otlp, write};
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::{NodePlan, Plan};
use crate::programs::{CA_NAME, CA_PORT};
use crate::spec::SameNode;

/// The configuration of a generation of a node's ztunnel.
pub(crate) fn config(paths: &Paths, plan: &Plan, node: &NodePlan, generation: u32) -> Result<(), LabError> {
    let ca = plan.infra().first().map(|ip| format!("https://{ip}:{CA_PORT}"));
    let pod_cidrs: Vec<String> = plan.nodes.iter().flat_map(NodePlan::pod_cidrs).map(|c| c.to_string()).collect();
    let mut value = json!({
        "node": node.name,
        "localFile": paths.discovery(),
        "ca": {
            "address": ca,
            "rootFile": paths.roots(),
            "tokenFile": paths.token(&node.name),
            "altName": CA_NAME,
            "certificateLifetime": plan.spec.certificate_lifetime,
        },
        "zdsSocket": paths.zds_socket(&node.name, generation),
        "workers": plan.spec.workers,
        "podCIDRs": pod_cidrs,
        "ipv6": plan.spec.ipv6,
        "log": { "level": plan.spec.log },
    });
    if let Some(otlp) = otlp(plan) {
        value["otlp"] = otlp;
    }
    if plan.spec.crl {
        value["crlFile"] = json!(paths.crl());
    }
    if plan.spec.same_node == SameNode::Direct {
        value["sameNode"] = json!("direct");
    }
    write(&paths.ztunnel_config(&node.name, generation), &value)
}
