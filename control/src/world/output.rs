//! What a step of the world gives: changes of discovery, and words for the owners of objects.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::Cidr;

use crate::object::Key;

/// Everything that changed since the last step, and only that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Changes of resources, for the xDS store. `synced` is never set: the world does not know when its watches are.
    pub change: xds::Change,
    /// What is to be said on objects. For the replica that writes statuses; the others forget them.
    pub statuses: Vec<Status>,
    /// What waypoints know of services, new or different.
    pub routing: Vec<Routed>,
    /// Names of what waypoints need not know any more.
    pub routing_gone: Vec<Arc<str>>,
    /// The pod network, if it changed: blocks of nodes and of the settings, sorted.
    pub pod_cidrs: Option<Vec<Cidr>>,
}

impl Output {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a waypoint knows of a service, and which waypoints may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// Its name on the wire, `namespace/hostname`.
    pub name: Arc<str>,
    /// Gateways, namespace and name: their pods see it.
    pub gateways: Vec<(Arc<str>, Arc<str>)>,
    /// The resource.
    pub message: proto::routing::Service,
}

/// What is said of one parent of a route, or of one ancestor of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// The parent as the object writes it.
    pub reference: kubernetes::object::route::ParentReference,
    /// Conditions, sorted by type.
    pub conditions: Vec<Condition>,
}

/// All that control says on one object. It replaces what control said before: a condition of ours that is not in the list
/// is to be taken off the object (one server-side apply with the whole list does that).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The object.
    pub object: Key,
    /// Its uid: a later object of the same name must not get this status.
    pub uid: Arc<str>,
    /// Generation that this was made from (`observedGeneration`).
    pub generation: i64,
    /// Conditions, sorted by type. Always empty for kinds whose status is not ours to write (pods, nodes, namespaces,
    /// slices, Gateways and their classes).
    pub conditions: Vec<Condition>,
    /// Warnings to record as Events of the object; for the kinds that get no conditions.
    pub events: Vec<Event>,
    /// For routes: what is said of each parent. For a BackendTLSPolicy: of each ancestor. Empty takes ours off.
    pub parents: Vec<ParentStatus>,
    /// For a ServiceEntry whose `status.addresses` are to be written: all of them, in the order of its hosts. An empty
    /// list takes them off.
    pub addresses: Option<Vec<(Arc<str>, IpAddr)>>,
}

impl Status {
    /// Whether it says nothing.
    pub(crate) fn is_silent(&self) -> bool {
        self.conditions.is_empty() && self.events.is_empty() && self.parents.is_empty() && self.addresses.is_none()
    }
}

/// A condition (`metav1.Condition`); the time of transition is the writer's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Type.
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: bool,
    /// Reason, one word.
    pub reason: &'static str,
    /// Message, for people; at most 32 KiB.
    pub message: String,
}

/// A warning Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Reason, one word.
    pub reason: &'static str,
    /// Message, for people. Event notes hold 1 kB (`events.k8s.io/v1`), so the writer cuts.
    pub message: String,
}
