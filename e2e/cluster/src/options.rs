//! How a cluster is raised.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// A pair of interfaces for each pod, routes on the node: what most cloud networks do.
    #[default]
    Ptp,
    /// All pods of a node on one bridge, with hairpin: what kind and flannel do.
    Bridge,
}

/// What kube-proxy writes its rules for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// Still the default of Kubernetes.
    #[default]
    Iptables,
    /// Its successor.
    Nftables,
}

/// How a cluster is raised.
#[derive(Clone)]
pub struct Options {
    /// Its name, and that of its folder. Only one cluster can be up at a time: nodes own control groups by name.
    pub name: String,
    /// How pods are joined to their node.
    pub cni: Cni,
    /// What kube-proxy writes its rules for.
    pub proxy_mode: ProxyMode,
    /// Whether a pod's packets carry its node's address once they leave that node.
    pub masquerade: bool,
    /// Length of the prefix of each node's pod network, out of 10.244.0.0/16.
    pub pod_cidr_bits: u8,
    /// Leave it up when the handle is dropped.
    pub keep: bool,
    /// Told of each step.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
    /// Set from outside to call the raising off.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "culvert".to_owned(),
            cni: Cni::default(),
            proxy_mode: ProxyMode::default(),
            masquerade: false,
            pod_cidr_bits: 24,
            keep: false,
            progress: Arc::new(|step| tracing::info!("{step}")),
            cancel: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("cni", &self.cni)
            .field("proxy_mode", &self.proxy_mode)
            .field("masquerade", &self.masquerade)
            .field("pod_cidr_bits", &self.pod_cidr_bits)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}
