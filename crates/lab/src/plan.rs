//! From a document to names and addresses. Pure: the same document always makes the same plan.
//!
//! | What | IPv4 | IPv6 |
//! |---|---|---|
//! | the wire: bridge, infra, node n | 10.99.0.1, .2, .(10 + n) | fd00:99::1, ::2, ::(10 + n) |
//! | pods of node n | 10.244.n.0/24 | fd00:244:n::/64 |
//! | in it: gateway, pods, ztunnel generations | .1, .10 up, .200 up | ::1, ::a up, ::c8 up |
//! | services | 10.96.0.0/16 | fd00:96::/112 |
//!
//! n begins at 1. The blocks exist inside the lab's namespaces only, so labs do not meet, nor does the machine's own net.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh::addr::Cidr;
use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::spec::{Node, Pod, Service, Spec, Waypoint};

/// Longest name of an interface: IFNAMSIZ less its final zero.
const MAX_INTERFACE: usize = 15;
const FIRST_POD: u8 = 10;
const FIRST_ZTUNNEL: u8 = 200;

/// A lab with all names and addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The document.
    pub spec: Spec,
    /// Its nodes.
    pub nodes: Vec<NodePlan>,
    /// Its pods.
    pub pods: Vec<PodPlan>,
    /// Its services.
    pub services: Vec<ServicePlan>,
}

/// A node's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodePlan {
    /// Name.
    pub name: String,
    /// From 1.
    pub index: u8,
    /// Its addresses on the wire.
    pub addresses: Vec<IpAddr>,
    /// Its gateway addresses, which its pods see.
    pub gateways: Vec<IpAddr>,
}

impl NodePlan {
    /// Blocks that the addresses of its pods come from.
    pub fn pod_cidrs(&self) -> Vec<Cidr> {
        let len = |ip: &IpAddr| if ip.is_ipv4() { 24 } else { 64 };
        self.gateways.iter().filter_map(|ip| Cidr::new(*ip, len(ip)).ok()).collect()
    }
}

/// A pod's place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodPlan {
    /// As the document says.
    pub pod: Pod,
    /// Key in discovery: `Kubernetes//Pod/<namespace>/<name>`.
    pub uid: String,
    /// IPv4, then IPv6.
    pub addresses: Vec<IpAddr>,
    /// Name of the node's end of its veth pair.
    pub host_interface: String,
    /// Place within the node's block.
    pub slot: u8,
}

/// A service's virtual addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServicePlan {
    /// As the document says.
    pub service: Service,
    /// IPv4, then IPv6; empty when headless.
    pub vips: Vec<IpAddr>,
}

impl Plan {
    /// Hands out names and addresses.
    pub fn new(spec: Spec) -> Result<Self, LabError> {
        let mut plan = Self { nodes: Vec::new(), pods: Vec::new(), services: Vec::new(), spec };
        for (at, node) in plan.spec.nodes.clone().iter().enumerate() {
            let made = plan.place_node(node, at)?;
            plan.nodes.push(made);
        }
        let waypoints = plan.spec.waypoints.clone();
        for pod in plan.spec.pods.clone().into_iter().chain(waypoints.iter().map(Waypoint::pod)) {
            let placed = plan.place_pod(pod)?;
            plan.pods.push(placed);
        }
        let services = plan.spec.services.clone().into_iter().chain(waypoints.iter().map(Waypoint::service));
        for (at, service) in services.enumerate() {
            let made = plan.place_service(service, at)?;
            plan.services.push(made);
        }
        Ok(plan)
    }

    /// Whether any pod is in the mesh, and our programs are needed.
    pub fn meshed(&self) -> bool {
        self.pods.iter().any(|p| p.pod.mesh)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&NodePlan, LabError> {
        let known = || self.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|n| n.name == name);
        found.ok_or_else(|| LabError::Unknown { kind: "node", name: name.to_owned(), known: known() })
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<&PodPlan, LabError> {
        let known = || self.pods.iter().map(|p| p.pod.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.pods.iter().find(|p| p.pod.name == name);
        found.ok_or_else(|| LabError::Unknown { kind: "pod", name: name.to_owned(), known: known() })
    }

    /// Addresses of the infra namespace on the wire.
    pub fn infra(&self) -> Vec<IpAddr> {
        self.wire(2)
    }

    /// Addresses of the bridge.
    pub(crate) fn bridge(&self) -> Vec<IpAddr> {
        self.wire(1)
    }

    /// Addresses of a ztunnel generation (from 1).
    pub(crate) fn ztunnel(&self, node: &NodePlan, generation: u32) -> Result<Vec<IpAddr>, LabError> {
        let slot = u8::try_from(generation - 1).ok().and_then(|g| FIRST_ZTUNNEL.checked_add(g));
        let slot = slot.filter(|s| *s < 255).ok_or_else(|| {
            LabError::Unfit(format!(
                "node {} had more generations of ztunnel than there are addresses; raise a new lab",
                node.name
            ))
        })?;
        Ok(self.in_node(node.index, slot))
    }

    /// Finds a place for a pod among those that are there.
    pub(crate) fn place_pod(&self, pod: Pod) -> Result<PodPlan, LabError> {
        let node = self.node(&pod.node)?;
        let taken = |slot: u8| self.pods.iter().any(|p| p.pod.node == pod.node && p.slot == slot);
        let slot = (FIRST_POD..FIRST_ZTUNNEL).find(|s| !taken(*s));
        let slot = slot.ok_or_else(|| LabError::Unfit(format!("node {} is full; use another node", node.name)))?;
        let mut host_interface = format!("p{slot}-{}", pod.name);
        host_interface.truncate(MAX_INTERFACE);
        let uid = format!("{}//Pod/{}/{}", mesh::workload::DEFAULT_CLUSTER, pod.namespace, pod.name);
        Ok(PodPlan { uid, addresses: self.in_node(node.index, slot), host_interface, slot, pod })
    }

    fn place_node(&self, node: &Node, at: usize) -> Result<NodePlan, LabError> {
        let index = u8::try_from(at + 1).ok().filter(|i| *i < 245);
        let index = index.ok_or_else(|| LabError::Unfit("more nodes than there are addresses".to_owned()))?;
        Ok(NodePlan {
            name: node.name.clone(),
            index,
            addresses: self.wire(10 + index),
            gateways: self.in_node(index, 1),
        })
    }

    fn place_service(&self, service: Service, at: usize) -> Result<ServicePlan, LabError> {
        // The first ten stay free, as a cluster's own services have them.
        let number = u16::try_from(at + 10).map_err(|_| LabError::Unfit("more services than addresses".to_owned()))?;
        let [high, low] = number.to_be_bytes();
        let v4 = IpAddr::V4(Ipv4Addr::new(10, 96, high, low));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number));
        let vips = if service.headless { Vec::new() } else { self.families(v4, v6) };
        Ok(ServicePlan { service, vips })
    }

    fn wire(&self, host: u8) -> Vec<IpAddr> {
        let v6 = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(host));
        self.families(IpAddr::V4(Ipv4Addr::new(10, 99, 0, host)), IpAddr::V6(v6))
    }

    fn in_node(&self, node: u8, slot: u8) -> Vec<IpAddr> {
        // The decimal digits of the node's number are written as they are, so that both families look alike.
        let hextet = u16::from(node / 100) * 0x100 + u16::from(node / 10 % 10) * 0x10 + u16::from(node % 10);
        let v6 = Ipv6Addr::new(0xfd00, 0x244, hextet, 0, 0, 0, 0, u16::from(slot));
        self.families(IpAddr::V4(Ipv4Addr::new(10, 244, node, slot)), IpAddr::V6(v6))
    }

    fn families(&self, v4: IpAddr, v6: IpAddr) -> Vec<IpAddr> {
        if self.spec.ipv6 { vec![v4, v6] } else { vec![v4] }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
