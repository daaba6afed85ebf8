//! Addresses that are pods' or nodes', and who else claims one.
//!
//! A proxy asks for services before it asks for pods (hbone.md 7). So an entry that has a pod's address written would lead
//! whoever dials that pod to its own endpoints, or, without resolution, there in clear.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::Cidr;

use super::index::{Index, Name};
use super::state::{State, change};
use crate::object::{Key, Kind, Node, Pod, ServiceEntry};

/// Who has which address.
#[derive(Debug, Default)]
pub(crate) struct PodNetwork {
    /// Pods with a network of their own.
    pods: Index<IpAddr, Name>,
    /// Nodes' own addresses.
    nodes: Index<IpAddr, Arc<str>>,
    /// Blocks of pods, and of which nodes they are.
    blocks: Index<Cidr, Arc<str>>,
}

impl PodNetwork {
    /// Whether nothing is known.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty() && self.blocks.is_empty()
    }

    pub(super) fn index_pod(&mut self, pod: &Pod, present: bool) {
        let name = Name::new(&pod.meta.namespace, &pod.meta.name);
        for ip in own_addresses(pod) {
            change(&mut self.pods, *ip, name.clone(), present);
        }
    }

    pub(super) fn index_node(&mut self, node: &Node, present: bool) {
        let name = &node.meta.name;
        for ip in &node.addresses {
            change(&mut self.nodes, *ip, name.clone(), present);
        }
        for block in &node.pod_cidrs {
            change(&mut self.blocks, *block, name.clone(), present);
        }
    }
}

/// The addresses that belong to a pod and to nobody else while it is there.
pub(super) fn own_addresses(pod: &Pod) -> &[IpAddr] {
    if pod.host_network || pod.finished { &[] } else { &pod.addresses }
}

/// Whether two blocks have an address in common.
pub(super) fn meet(a: Cidr, b: Cidr) -> bool {
    a.contains(b.addr()) || b.contains(a.addr())
}

impl State {
    /// Why an entry does not have an address, or a block, that is written in it: it is a pod's. In words that go on after it.
    pub(crate) fn of_pods(&self, block: Cidr) -> Option<String> {
        let pods = if block == Cidr::host(block.addr()) { self.pod_network.pods.of(&block.addr()) } else { &[] };
        if let Some(Name { namespace, name }) = pods.first() {
            return Some(format!("is the address of Pod {namespace}/{name}"));
        }
        let wider = (0..=block.prefix_len()).filter_map(|len| Cidr::new(block.addr(), len).ok());
        let network = wider.into_iter().find(|b| self.is_pod_block(*b))?;
        Some(format!("is in the pod network {network}"))
    }

    /// A block of the pod network that lies in this one.
    pub(crate) fn pods_within(&self, block: Cidr) -> Option<Cidr> {
        let settings = &self.settings;
        let nodes = self.pod_network.blocks.iter().map(|(b, _)| *b).filter(|_| settings.pod_cidrs_from_nodes);
        nodes.chain(settings.pod_cidrs.iter().copied()).filter(|b| block.contains(b.addr())).min()
    }

    fn is_pod_block(&self, block: Cidr) -> bool {
        let of_nodes = self.settings.pod_cidrs_from_nodes && !self.pod_network.blocks.of(&block).is_empty();
        of_nodes || self.settings.pod_cidrs.contains(&block)
    }

    /// Whether a service has this address of its load balancer. Some load balancers give out nodes' own addresses, on which
    /// much else listens, and some give one address to several services, each with its ports; the wire has no ports of an
    /// address.
    pub(crate) fn balanced(&self, service: &Key, ip: IpAddr) -> bool {
        let network = &self.pod_network;
        network.nodes.of(&ip).is_empty() && network.pods.of(&ip).is_empty() && self.sharing(service, ip).is_none()
    }

    /// Another service of Kubernetes that has an address too.
    pub(crate) fn sharing(&self, service: &Key, ip: IpAddr) -> Option<&Key> {
        self.vips.of(&ip).iter().find(|k| k.kind == Kind::Service && *k != service)
    }

    /// Entries that have an address in one of these blocks.
    pub(super) fn entries_in(&self, blocks: &BTreeSet<Cidr>) -> Vec<Key> {
        let concerned = |e: &&Arc<ServiceEntry>| {
            let given = e.allocated.iter().map(|(_, ip)| Cidr::host(*ip));
            e.addresses.iter().copied().chain(given).any(|a| blocks.iter().any(|b| meet(a, *b)))
        };
        self.entries.iter().filter(concerned).map(|e| e.meta.key(Kind::ServiceEntry)).collect()
    }
}
