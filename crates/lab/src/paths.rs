//! Where the things of a lab are.

use std::path::{Path, PathBuf};

/// The folder of all labs.
pub(crate) const LABS: &str = "/run/culvert/lab";

/// Paths of one lab.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    name: String,
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), root: Path::new(LABS).join(name) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The lab's folder, a mount of its own.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Held while the lab is raised, changed or taken down. Beside the folder, since it outlives it.
    pub(crate) fn lock(&self) -> PathBuf {
        Path::new(LABS).join(format!(".{}.lock", self.name))
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// Handle of a network namespace.
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        self.root.join("netns").join(name)
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.root.join("log").join(format!("{}.log", process.replace('/', "-")))
    }

    /// The bpffs of all nodes, with a folder for each.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// Folder of a pod: `srv`, `tmp`, `hosts`, `resolv.conf`.
    pub(crate) fn pod(&self, pod: &str) -> PathBuf {
        self.root.join("pod").join(pod)
    }

    /// Folder of a node's configurations and sockets.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("node").join(node)
    }

    pub(crate) fn agent_config(&self, node: &str) -> PathBuf {
        self.node(node).join("node.yaml")
    }

    pub(crate) fn pods_file(&self, node: &str) -> PathBuf {
        self.node(node).join("pods.yaml")
    }

    pub(crate) fn zds_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("zds.sock")
    }

    pub(crate) fn ztunnel_config(&self, node: &str, generation: u32) -> PathBuf {
        self.node(node).join(format!("ztunnel-{generation}.yaml"))
    }

    /// The token that a node's ztunnel shows to the certificate authority.
    pub(crate) fn token(&self, node: &str) -> PathBuf {
        self.node(node).join("token")
    }

    /// Workloads, services and policies, for every ztunnel.
    pub(crate) fn discovery(&self) -> PathBuf {
        self.root.join("discovery.yaml")
    }

    /// Folder of the certificate authority.
    pub(crate) fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// The roots that it publishes, for those who call it.
    pub(crate) fn roots(&self) -> PathBuf {
        self.ca().join("root-cert.pem")
    }

    pub(crate) fn captures(&self) -> PathBuf {
        self.root.join("capture")
    }
}
