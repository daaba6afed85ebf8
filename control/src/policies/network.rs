//! NetworkPolicy keeps its meaning in the mesh.
//!
//! Inside a tunnel every connection reaches a pod on port 15008, so that a network plug-in sees only that port. What the
//! policies say of ports and peers is judged by node proxies, for tunnels and for connections in clear alike: what comes
//! in by the proxy of the destination's node, what goes out by that of the source's. The policies that select a pod become
//! one DENY for each direction, "whatever none of them lets through" ([`lower`]). Pods that the same policies select
//! share one such resource ([`store`]).
//!
//! Both have the form of an Istio policy of scope WORKLOAD_SELECTOR. That of ingress is named by the workload's
//! `authorization_policies`, that of egress by an entry of its `extensions` (egress.proto): a proxy that does not know the
//! entry holds the policy without effect.
//!
//! Meaning: Kubernetes' own (concept page "Network Policies", `networking.k8s.io/v1`). What is not decided here:
//! - Traffic from a pod's own node is always let in: the kubelet's probes by the node agent, others in clear by the node's
//!   addresses, which go along with the workload (node.proto). Traffic to it is always let out: its addresses go along with the
//!   name of the policy.
//! - What is not TCP is not in the mesh; the network plug-in judges it.
//! - Pods of the host's network have their node's address. No selector selects them, `ipBlock` does.

mod group;
mod lower;
mod peers;
mod read;
mod store;

use std::sync::Arc;

use kubernetes::selector::{Answer, Selector};
use mesh::addr::Cidr;

pub(super) use store::Networks;

use crate::object::{Faults, Labels, Meta};

/// What the names of the resources begin with. Proxies know them by it: what a pod says to itself is exempt.
pub const PREFIX: &str = mesh::authz::NETWORK_POLICY;

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPolicy {
    /// Names, generation.
    pub meta: Meta,
    /// What is wrong with it.
    pub faults: Faults,
    selector: Selector,
    /// What it lets in. `None`: it does not speak of ingress.
    ingress: Option<Arc<[Allowance]>>,
    /// What it lets out. `None`: it does not speak of egress.
    egress: Option<Arc<[Allowance]>>,
}

/// Whose connections rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    /// Those that the selected pods open.
    Egress,
    /// Those that they take.
    Ingress,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// What one rule lets through: to or from these peers on these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allowance {
    peers: Ends,
    ports: Ports,
}

/// The other ends of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ends {
    Any,
    /// Addresses, and pods that are selected.
    These {
        blocks: Vec<Cidr>,
        pods: Vec<Peer>,
    },
}

/// Pods of some namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    namespaces: Where,
    pods: Selector,
}

impl Peer {
    /// All pods that there are.
    fn every() -> Self {
        Self { namespaces: Where::Selected(Selector::default()), pods: Selector::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Where {
    /// This one.
    Own(Arc<str>),
    /// Those with such labels.
    Selected(Selector),
}

/// TCP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ports {
    All,
    /// Ranges, both ends included, and names that each pod which is connected to gives a number.
    Some {
        ranges: Vec<(u16, u16)>,
        named: Vec<Arc<str>>,
    },
}

impl NetworkPolicy {
    /// Whether it is for a pod. A selector that cannot be told selects: less is let through then.
    fn selects(&self, labels: &Labels) -> bool {
        self.selector.answer(|key| labels.get(key).map(|v| &**v)) != Answer::No
    }

    /// What it lets through. `None`: it does not speak of this direction.
    fn rules(&self, direction: Direction) -> Option<&[Allowance]> {
        match direction {
            Direction::Egress => self.egress.as_deref(),
            Direction::Ingress => self.ingress.as_deref(),
        }
    }
}

impl Ports {
    fn named(&self) -> &[Arc<str>] {
        match self {
            Self::All => &[],
            Self::Some { named, .. } => named,
        }
    }
}
