//! Addresses and names. All of them are inside namespaces of the cluster, so they need not be free on the machine.

use std::net::Ipv4Addr;

/// The hub's address on the bridge: API server, DNS, and the nodes' default gateway.
pub(crate) const HUB: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Length of the prefix of the bridge's network.
pub(crate) const BRIDGE_BITS: u8 = 24;
pub(crate) const API_PORT: u16 = 6443;
pub(crate) const POD_NETWORK: &str = "10.244.0.0/16";
/// Length of the prefix of [`POD_NETWORK`].
pub(crate) const POD_NETWORK_BITS: u8 = 16;
pub(crate) const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The Service `kubernetes`: the first of [`SERVICE_NETWORK`].
pub(crate) const API_SERVICE: &str = "10.96.0.1";
/// The Service `kube-dns`, as everybody numbers it.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";
pub(crate) const DOMAIN: &str = "cluster.local";
pub(crate) const NODES: [&str; 2] = ["node1", "node2"];

/// The control group of the control plane.
pub(crate) const HUB_GROUP: &str = "culvert-cluster-hub";

/// Below the control groups of the hub and of each node: commands that tests run there.
pub(crate) const EXEC_GROUP: &str = "exec";

/// Address of a node on the bridge, by its place in [`NODES`].
pub(crate) fn node_address(place: usize) -> Ipv4Addr {
    let [a, b, c, _] = HUB.octets();
    // Beside the hub, which is 1.
    Ipv4Addr::new(a, b, c, u8::try_from(place).unwrap_or(u8::MAX).saturating_add(11))
}

/// Where the API server is.
pub(crate) fn api_url() -> String {
    format!("https://{HUB}:{API_PORT}")
}
