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
