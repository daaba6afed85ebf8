//! Where the things of a cluster are.

use std::path::{Path, PathBuf};

/// The folder of all clusters.
pub(crate) const CLUSTERS: &str = "/run/culvert/cluster";
/// The folder of what is too big for memory, where `/run` is: images and containers.
pub(crate) const DATA: &str = "/var/lib/culvert/cluster";
/// Held while a cluster is raised or removed. Beside the folders, since it outlives them.
pub(crate) const LOCK: &str = "/run/culvert/cluster/.lock";

/// Paths of one cluster. All but those that say so are of the machine: a node has a `/run` of its own.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    name: String,
}

impl Paths {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn root(&self) -> PathBuf {
        Path::new(CLUSTERS).join(&self.name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        Path::new(DATA).join(&self.name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root().join("state.json")
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root().join("kubeconfig")
    }

    /// A file of keys, certificates and tokens.
    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        self.root().join("pki").join(file)
    }

    /// Folder of the control plane's files.
    pub(crate) fn hub(&self) -> PathBuf {
        self.root().join("hub")
    }

    /// Names that DNS knows beside the cluster's.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.hub().join("hosts")
    }

    /// Folder of what a node has of its own: `run`, and the upper layers of `etc`, `opt`, `var`.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root().join("node").join(node)
    }

    /// Folder of a node's images, containers and volumes.
    pub(crate) fn node_data(&self, node: &str) -> PathBuf {
        self.data().join(node)
    }

    /// Log of a process (`hub/etcd`, `node1/kubelet`).
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.root().join("log").join(format!("{}.log", process.replace('/', "-")))
    }
}

/// Where things are within every node, as on a machine that an installer set up.
pub(crate) mod within {
    pub(crate) const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
    pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
    pub(crate) const CNI_CONFIG: &str = "/etc/cni/net.d/10-culvert-pods.conflist";
    pub(crate) const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.yaml";
    pub(crate) const KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
    pub(crate) const PROXY_CONFIG: &str = "/etc/kubernetes/kube-proxy.yaml";
    pub(crate) const PROXY_KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";
    pub(crate) const CLIENT_CA: &str = "/etc/kubernetes/ca.pem";
    pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
}
