//! What the agent shows of itself.

use std::net::IpAddr;

use serde::Serialize;

use crate::agent::Phase;

/// `/status`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Name of the node.
    pub(crate) node: String,
    /// The pods.
    pub(crate) pods: Vec<PodStatus>,
    /// The proxies that are connected.
    pub(crate) proxies: Vec<ProxyStatus>,
    /// Kubernetes only: pods of this node that are not captured although something asks for it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<LeftOut>,
    /// Kubernetes only: what stands in the way on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<Host>,
}

/// A pod that asks for the mesh and is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeftOut {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// One word, such as `HostNetwork`.
    pub(crate) reason: &'static str,
    /// A sentence, with the remedy.
    pub(crate) message: String,
}

/// The node, as the agent finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Host {
    /// Where the CNI plug-in stands.
    pub(crate) cni: String,
    /// The network configuration that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cni_file: Option<String>,
    /// The kubelet's process, whose probes are let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet: Option<u32>,
    /// Why its probes are not let through, when they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet_error: Option<String>,
    /// Programs of others that may hide Services' addresses from the proxy, each with its remedy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) foreign_hooks: Vec<String>,
    /// What the last audit found missing and had repaired, by pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) repaired: Vec<String>,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<IpAddr>,
    #[serde(flatten)]
    pub(crate) phase: Phase,
    /// Generation that receives its connections; 0 = none.
    pub(crate) generation: u32,
    /// Connections older than the enrolment, in clear.
    pub(crate) clear_connections: usize,
    /// Names of its interfaces that are not captured: only the primary one has a guard.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) uncaptured_interfaces: Vec<String>,
    /// What the redirector counted, by name.
    pub(crate) counters: std::collections::BTreeMap<&'static str, u64>,
}

/// One proxy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProxyStatus {
    pub(crate) generation: u32,
    pub(crate) pid: Option<u32>,
    /// Whether it has all pods.
    pub(crate) synced: bool,
}
