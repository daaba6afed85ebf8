//! What changed in the world.

use std::sync::Arc;

use mesh::addr::Cidr;
use mesh::authz::Authorization;
use mesh::{Service, Workload};
use proto::routing;

/// One step from an older world to a newer one, from a control plane or from a file.
///
/// Apply the removals first (a successor may hold the same address), then services, then workloads, then policies, and
/// publish the result at once. Between types there is no order on the wire: a workload may come before its service or
/// its policy, so a reader has to bear names that it does not know yet (discovery.md 1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Workloads by uid and services by `namespace/hostname` that are gone. May hold names that never were there, such as
    /// an address that was asked for and does not exist.
    pub removed: Vec<Arc<str>>,
    /// Services that are new or different.
    pub services: Vec<Service>,
    /// Workloads that are new or different.
    pub workloads: Vec<Workload>,
    /// Policies by `namespace/name` that are gone.
    pub removed_policies: Vec<Arc<str>>,
    /// Policies that are new or different.
    pub policies: Vec<Authorization>,
    /// Policies that are new or different and could not be understood. They were refused, so an older version of the same
    /// key still holds; where there is none, the stand-in takes the place.
    pub stand_ins: Vec<StandIn>,
    /// Routing by service key that is gone.
    pub removed_routing: Vec<Arc<str>>,
    /// Routing of services that is new or different.
    pub routing: Vec<Routing>,
    /// Which addresses are pods', if that is different: all blocks.
    pub pod_networks: Option<Vec<Cidr>>,
    /// Names asked for on demand that this change answers; a name whose resource is not there after the change does not
    /// exist.
    pub answered: Vec<Arc<str>>,
    /// With this change the first picture is complete: everything that the source knows has been handed out once.
    pub synced: bool,
}

/// Routing of one service, still in the words of the wire: whoever compiles it is the only one who reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Routing {
    /// Key of the service, `namespace/hostname`.
    pub key: Arc<str>,
    /// The routing.
    pub service: routing::Service,
}

/// What holds in place of a policy that could not be understood: a policy of the same key that permits less than any
/// that it may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The policy to enforce.
    pub policy: Authorization,
    /// Why the real one could not be understood.
    pub reason: Arc<str>,
}

impl Change {
    /// Whether there is nothing in it to apply or to learn.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
