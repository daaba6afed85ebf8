//! Where the things of a lab are.

use std::path::{Path, PathBuf};

/// The folder of all labs.
pub(crate) const LABS: &str = "/run/culvert/lab";

/// Hand-over sockets of a node, as many as its agent opens when it starts. Two generations of ztunnel are usual, while one
/// takes over from the other; more live at a time only while several drain.
const ZDS_SOCKETS: u32 = 4;

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

    /// All sockets on which a node's agent hands pods over.
    pub(crate) fn zds_sockets(&self, node: &str) -> Vec<PathBuf> {
        (1..=ZDS_SOCKETS).map(|generation| self.zds_socket(node, generation)).collect()
    }

    /// The socket of a generation (from 1). A later one has it again, see [`Self::shares_socket`].
    pub(crate) fn zds_socket(&self, node: &str, generation: u32) -> PathBuf {
        self.node(node).join(format!("zds-{}.sock", socket_number(generation)))
    }

    /// Whether two generations of a node have one socket, so that they cannot live at the same time.
    pub(crate) fn shares_socket(one: u32, other: u32) -> bool {
        socket_number(one) == socket_number(other)
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

    /// Revoked certificates, which every ztunnel follows when the lab has `crl`.
    pub(crate) fn crl(&self) -> PathBuf {
        self.ca().join("crl.pem")
    }

    /// Where the authority keeps its certificate and its key.
    pub(crate) fn authority(&self) -> PathBuf {
        self.ca().join("state")
    }

    /// Folder of the control plane.
    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// The manifests that it follows.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.control().join("manifests")
    }

    /// Folder of a waypoint's configuration and token.
    pub(crate) fn waypoint(&self, name: &str) -> PathBuf {
        self.root.join("waypoint").join(name)
    }

    pub(crate) fn captures(&self) -> PathBuf {
        self.root.join("capture")
    }
}

fn socket_number(generation: u32) -> u32 {
    generation.saturating_sub(1) % ZDS_SOCKETS + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_that_follow_each_other_have_sockets_of_their_own() {
        let paths = Paths::new("t");
        let all = paths.zds_sockets("n");
        let mut of_generations: Vec<_> = (1..=ZDS_SOCKETS).map(|g| paths.zds_socket("n", g)).collect();
        assert_eq!(of_generations, all);
        of_generations.dedup();
        assert_eq!(of_generations.len(), all.len());
        assert!(!Paths::shares_socket(1, 2) && Paths::shares_socket(1, 1 + ZDS_SOCKETS));
        assert_eq!(paths.zds_socket("n", 1 + ZDS_SOCKETS), paths.zds_socket("n", 1));
    }
}
