//! Whether the node proxies can tell the address of a pod that they do not know from a stranger's.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::Line;
use super::facts::Facts;
use super::judge::{ok, warn};

/// At most so many nodes are named: a line stays one.
const NAMED: usize = 3;

/// Where the pod network is from, or that there is none.
pub(super) fn line(facts: &Facts) -> Line {
    let id = "mesh.podcidrs";
    let config = facts.proxy_config.as_deref().unwrap_or_default();
    let says = |wanted: &str| config.lines().any(|line| line.trim() == wanted);
    let refused = "an address of a pod that discovery does not know is refused";
    if !config.is_empty() && !says("podCIDRs: []") {
        return ok(id, refused);
    }
    let remedy = "culvert install --set mesh.podCIDRs={10.244.0.0/16}, with your cluster's pod network";
    if !says("podCIDRsFromControl: true") {
        let what = "mesh.podCIDRs is empty and mesh.podCIDRsFromNodes is off: an address of a pod that discovery does not know is \
                    reached in clear";
        return warn(id, what, remedy);
    }
    let without: Vec<String> = facts.nodes.iter().filter(|n| !has_block(n)).map(ResourceExt::name_any).collect();
    if without.is_empty() {
        return ok(id, refused);
    }
    let named = without.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = without.len().checked_sub(NAMED).filter(|n| *n > 0).map(|n| format!(" and {n} more"));
    let what = format!(
        "mesh.podCIDRs is empty, and {named}{} have no spec.podCIDRs: an address of a pod there that discovery does not know is \
         reached in clear",
        more.unwrap_or_default()
    );
    warn(id, what, remedy)
}

fn has_block(node: &Node) -> bool {
    let Some(spec) = &node.spec else { return false };
    spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).any(|block| !block.is_empty())
}
