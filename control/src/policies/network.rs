//! NetworkPolicy keeps its meaning in the mesh.
//!
//! Inside a tunnel every connection reaches a pod on port 15008, so that a network plug-in sees only that port. What the
//! policies say of the pod's own ports is judged by its node proxy, for tunnels and for connections in clear alike: the
//! ingress policies that select a pod become one DENY, "whatever none of them lets in" ([`lower`]). Pods that the same
//! policies select share one such resource ([`store`]).
//!
//! Meaning: Kubernetes' own (concept page "Network Policies", `networking.k8s.io/v1`). What is not decided here:
//! - Traffic from a pod's own node is always let in; that is the exemption of kubelet's probes, in the node agent.
//! - Egress of pods in the mesh is enforced by the network plug-in, on the outer connection; an Event says so.
//! - Pods of the host's network have their node's address. No selector selects them, `ipBlock` does.

mod lower;
mod peers;
mod read;
mod store;

use std::sync::Arc;

use kubernetes::selector::Selector;
use mesh::addr::Cidr;

pub(super) use store::Networks;

use crate::object::{Faults, Meta};

/// What the names of the resources begin with. Proxies know them by it: what a pod says to itself is exempt.
pub const PREFIX: &str = mesh::authz::NETWORK_POLICY;

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPolicy {
    /// Names, generation.
    pub meta: Meta,
    /// What is wrong with it.
    pub faults: Faults,
    /// It says what the selected pods may connect to.
    pub egress: bool,
    selector: Selector,
    /// What it lets in. `None`: it does not speak of ingress.
    ingress: Option<Arc<[Allowance]>>,
}

/// What one rule lets in: these peers on these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Allowance {
    from: From,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum From {
    Anyone,
    /// Addresses, and pods that are selected.
    Peers {
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
    /// Ranges, both ends included, and names that each selected pod gives a number.
    Some {
        ranges: Vec<(u16, u16)>,
        named: Vec<Arc<str>>,
    },
}
