//! Nodes and namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use mesh::addr::Cidr;
use mesh::workload::Locality;

use super::service::{Distribution, distribution};
use super::{Faults, Meta, annotation, shown, text};

/// A node, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Names and labels.
    pub meta: Meta,
    /// Where it is: labels `topology.kubernetes.io/region` and `zone`, `topology.istio.io/subzone`.
    pub locality: Locality,
    /// Its own addresses: nobody is led there by a user's word.
    pub addresses: Vec<IpAddr>,
    /// Blocks that its pods' addresses come from.
    pub pod_cidrs: Vec<Cidr>,
    /// What is wrong with it.
    pub faults: Faults,
}

impl Node {
    /// Addresses that its own programs show its pods: those of its status, and the first of each block of its pods, which bridge
    /// and host-local plug-ins give the node's end. Other plug-ins may give that one to a pod, anywhere: whoever relies on it has to
    /// look whether a pod has it.
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> {
        let first = |block: &Cidr| match block.addr() {
            IpAddr::V4(ip) if block.prefix_len() < 31 => Some(IpAddr::from(Ipv4Addr::from_bits(ip.to_bits() + 1))),
            IpAddr::V6(ip) if block.prefix_len() < 127 => Some(IpAddr::from(Ipv6Addr::from_bits(ip.to_bits() + 1))),
            _ => None,
        };
        self.addresses.iter().copied().chain(self.pod_cidrs.iter().filter_map(first))
    }
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Self {
        let mut faults = Faults::default();
        let mut meta = Meta::new(&node.metadata);
        let label = |key: &str| text(meta.labels.get(key).map(|v| &**v));
        let locality = Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        };
        // Nothing else selects nodes by label, and their labels are many.
        meta.labels = super::Labels::default();
        let spec = node.spec.as_ref();
        let listed: Vec<&str> =
            spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().map(String::as_str).collect();
        let texts =
            if listed.is_empty() { spec.and_then(|s| s.pod_cidr.as_deref()).into_iter().collect() } else { listed };
        let mut pod_cidrs = Vec::new();
        for (i, text) in texts.into_iter().enumerate().filter(|(_, t)| !t.is_empty()) {
            match text.parse() {
                Ok(block) => pod_cidrs.push(block),
                Err(_) => faults.add(
                    format!("spec.podCIDRs[{i}]"),
                    format!("{} is not a block of addresses, so it does not count as pod network", shown(text)),
                    "write it as 10.244.1.0/24",
                ),
            }
        }
        let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
        // Host names are among them.
        let addresses = addresses.filter_map(|a| a.address.parse().ok().map(mesh::addr::canonical)).collect();
        Self { meta, locality, addresses, pod_cidrs, faults }
    }
}

/// A namespace, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Names and labels. The namespace field is empty.
    pub meta: Meta,
    /// Annotation `networking.istio.io/traffic-distribution`, for its services.
    pub distribution: Option<Distribution>,
    /// Annotation `istio.io/use-waypoint-canary-weight`.
    pub canary_weight: Option<Arc<str>>,
    /// Annotation `culvert.dev/waypoint: always`.
    pub waypoint_always: bool,
    /// What is wrong with it.
    pub faults: Faults,
}

impl From<&v1::Namespace> for Namespace {
    fn from(namespace: &v1::Namespace) -> Self {
        let mut faults = Faults::default();
        let meta = &namespace.metadata;
        Self {
            distribution: distribution(meta, &mut faults),
            canary_weight: super::canary_weight(meta),
            waypoint_always: annotation(meta, super::WAYPOINT_ANNOTATION) == Some("always"),
            meta: Meta::new(meta),
            faults,
        }
    }
}
