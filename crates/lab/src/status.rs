//! What a lab looks like now.

use std::net::IpAddr;

use serde::Serialize;

use crate::fault::FaultEntry;
use crate::lab::Lab;
use crate::programs;
use crate::up::pod_process;

/// A lab as it stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name.
    pub name: String,
    /// Whether raising came to its end; if not, only taking it down helps.
    pub raised: bool,
    /// Its nodes, by name.
    pub nodes: Vec<NodeStatus>,
    /// Its pods.
    pub pods: Vec<PodStatus>,
    /// Its services.
    pub services: Vec<ServiceStatus>,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// Faults that are on.
    pub faults: Vec<FaultEntry>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// Addresses on the wire.
    pub addresses: Vec<IpAddr>,
    /// Why its agent did not answer; `None` when it did, or when the lab has no mesh.
    pub agent_error: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Node.
    pub node: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's end of its veth pair.
    pub host_interface: String,
    /// What the node's agent says of it (`captured` and so on), `not in the mesh`, or `unknown`.
    pub capture: String,
    /// Its program: `running`, `ended` or `none`.
    pub program: String,
}

/// A service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Host name.
    pub hostname: String,
    /// Virtual addresses.
    pub vips: Vec<IpAddr>,
    /// Its pods.
    pub pods: Vec<String>,
    /// Ports, as `80->8080`.
    pub ports: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Name.
    pub name: String,
    /// Number.
    pub pid: i32,
    /// Whether it runs.
    pub running: bool,
    /// Times that it was started again.
    pub restarts: u32,
    /// Where it writes to.
    pub log: std::path::PathBuf,
}

impl Lab {
    /// Looks at the lab.
    pub fn status(&self) -> Status {
        let state = self.state().clone();
        let plan = &state.plan;
        let processes: Vec<ProcessStatus> = state
            .processes
            .iter()
            .map(|p| ProcessStatus {
                name: p.launch.name.clone(),
                pid: p.pid,
                running: p.alive(),
                restarts: p.restarts,
                log: p.launch.log.clone(),
            })
            .collect();
        let mut status = Status {
            name: self.name().to_owned(),
            raised: state.raised,
            nodes: Vec::new(),
            pods: Vec::new(),
            services: plan.services.iter().map(service_status).collect(),
            processes,
            faults: state.faults.clone(),
        };
        for node in &plan.nodes {
            let asked = if plan.meshed() { programs::captured_pods(self, &node.name).map(Some) } else { Ok(None) };
            let agent_error = asked.as_ref().err().map(ToString::to_string);
            let captured = asked.ok().flatten();
            status.nodes.push(NodeStatus { name: node.name.clone(), addresses: node.addresses.clone(), agent_error });
            for pod in plan.pods.iter().filter(|p| p.pod.node == node.name) {
                let capture = match &captured {
                    _ if !pod.pod.mesh => "not in the mesh".to_owned(),
                    Some(all) => all.get(&pod.uid).cloned().unwrap_or_else(|| "not captured".to_owned()),
                    None => "unknown".to_owned(),
                };
                let process = status.processes.iter().find(|p| p.name == pod_process(&pod.pod.name));
                let program = process.map_or("none", |p| if p.running { "running" } else { "ended" }).to_owned();
                status.pods.push(PodStatus {
                    name: pod.pod.name.clone(),
                    namespace: pod.pod.namespace.clone(),
                    node: pod.pod.node.clone(),
                    addresses: pod.addresses.clone(),
                    host_interface: pod.host_interface.clone(),
                    capture,
                    program,
                });
            }
        }
        status
    }
}

fn service_status(plan: &crate::plan::ServicePlan) -> ServiceStatus {
    let service = &plan.service;
    ServiceStatus {
        hostname: service.hostname(),
        vips: plan.vips.clone(),
        pods: service.pods.clone(),
        ports: service.ports.iter().map(|(port, target)| format!("{port}->{target}")).collect(),
    }
}
