//! The node agent's files.

use std::path::Path;

use serde_json::{Value, json};

use super::write;
use crate::error::LabError;
use crate::lab::netns_of_pod;
use crate::paths::Paths;
use crate::plan::{NodePlan, Plan};
use crate::programs::AGENT_ADMIN;

/// The configuration of a node's agent.
pub(crate) fn config(paths: &Paths, cgroup: &Path, plan: &Plan, node: &NodePlan) -> Result<(), LabError> {
    let value = json!({
        "node": node.name,
        "cgroupRoot": cgroup,
        "bpffs": paths.bpffs().join(&node.name),
        "zdsSockets": paths.zds_sockets(&node.name),
        "podsFile": paths.pods_file(&node.name),
        "admin": AGENT_ADMIN,
        "logLevel": plan.spec.log,
    });
    write(&paths.agent_config(&node.name), &value)
}

/// The pods of a node that are in the mesh.
pub(crate) fn pods(paths: &Paths, plan: &Plan, node: &NodePlan) -> Result<(), LabError> {
    let here = plan.pods.iter().filter(|p| p.pod.mesh && p.pod.node == node.name);
    let pods: Vec<Value> = here
        .map(|p| {
            json!({
                "uid": p.uid,
                "name": p.pod.name,
                "namespace": p.pod.namespace,
                "serviceAccount": p.pod.account(),
                "netns": paths.netns(&netns_of_pod(&p.pod.name)),
                "addresses": p.addresses,
                "hostInterface": p.host_interface,
                "dns": p.pod.dns,
            })
        })
        .collect();
    write(&paths.pods_file(&node.name), &json!({ "pods": pods }))
}
