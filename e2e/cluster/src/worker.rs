//! What runs on a node: containerd, the kubelet, kube-proxy.

use std::path::Path;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::config;
use crate::error::ClusterError;
use crate::node::Node;
use crate::parts::Parts;
use crate::paths::within;
use crate::pki::{self, Identities};
use crate::process::{Inside, Launch, Process};

const RUNTIME_WITHIN: Duration = Duration::from_secs(30);

/// Writes what a node's programs are configured by, and starts its container runtime.
pub(crate) fn start_runtime(
    cluster: &Cluster,
    node: &Node,
    identities: &Identities,
    ca: &str,
) -> Result<Process, ClusterError> {
    let kubeconfig = |user: &str| identities.kubeconfig(user, Path::new(within::CLIENT_CA));
    let files = [
        (within::CONTAINERD_CONFIG, config::containerd()),
        (within::KUBELET_CONFIG, config::kubelet(node)),
        (within::KUBELET_KUBECONFIG, kubeconfig(&format!("system:node:{}", node.name))?),
        (within::PROXY_CONFIG, config::proxy(node, cluster.options.proxy_mode)),
        (within::PROXY_KUBECONFIG, kubeconfig("system:kube-proxy")?),
        (within::CLIENT_CA, ca.to_owned()),
    ];
    for (path, text) in &files {
        pki::write(&node.path(path), text)?;
    }
    start(cluster, node, "containerd", &["/usr/bin/containerd", "--config", within::CONTAINERD_CONFIG])
}

/// Waits until the container runtime takes calls.
pub(crate) fn until_runtime(cluster: &Cluster, node: &Node, mut runtime: Process) -> Result<(), ClusterError> {
    // It listens last, when all its parts are loaded.
    let ready = || Ok(node.path(within::CONTAINERD_SOCKET).exists());
    let waited = runtime.until_ready(&cluster.paths, RUNTIME_WITHIN, &cluster.options.cancel, ready);
    cluster.adopt(runtime)?;
    waited
}

/// Says how pods are joined to the node, and starts the kubelet and kube-proxy.
pub(crate) fn start_kubelet(cluster: &Cluster, node: &Node, parts: &Parts) -> Result<(), ClusterError> {
    let cidr = node.pod_cidr.as_deref().unwrap_or_default();
    let cni = config::cni(cidr, cluster.options.cni, cluster.options.masquerade);
    pki::write(&node.path(within::CNI_CONFIG), &cni)?;
    let (kubelet, proxy) = (parts.program("kubelet"), parts.program("kube-proxy"));
    let name = format!("--hostname-override={}", node.name);
    let address = format!("--node-ip={}", node.address);
    let config = format!("--config={}", within::KUBELET_CONFIG);
    let kubeconfig = format!("--kubeconfig={}", within::KUBELET_KUBECONFIG);
    cluster.adopt(start(cluster, node, "kubelet", &[&kubelet, &config, &kubeconfig, &name, &address])?)?;
    cluster.adopt(start(cluster, node, "kube-proxy", &[&proxy, &format!("--config={}", within::PROXY_CONFIG)])?)
}

fn start(cluster: &Cluster, node: &Node, program: &str, argv: &[&str]) -> Result<Process, ClusterError> {
    // Each in a group of its own: an agent tells the kubelet's probes from others by it.
    let group = cluster.groups.create_below(&format!("{}/{program}", node.name))?;
    let name = format!("{}/{program}", node.name);
    let argv = argv.iter().map(|w| (*w).to_owned()).collect();
    Launch { name: &name, group: &group, inside: Inside::All(node.holder), argv }.start(&cluster.paths)
}
