//! What routes are attached to, and where they lead.

use std::sync::Arc;

use kubernetes::object::route as api;

use super::arc;
use crate::object::{Key, Kind, shown};

/// The API group of Gateways and routes.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The API group of Istio's ServiceEntry, and of its reference by host name.
pub(crate) const ISTIO_GROUP: &str = "networking.istio.io";

/// A parent of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// As it is written; statuses repeat it (gateway-api.md 6).
    pub written: api::ParentReference,
    /// The Service or ServiceEntry, or why it can be neither.
    pub target: Result<Key, String>,
    /// Only this port.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<Arc<str>>,
}

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReference {
    /// Who.
    pub target: Target,
    /// Which port of it.
    pub port: Option<u16>,
    /// The field, for messages.
    pub field: Arc<str>,
}

/// Somebody that requests can go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Whoever has this host name.
    Host(Arc<str>),
    /// This Service or ServiceEntry.
    Object(Key),
    /// Of a kind that we do not know: group and kind.
    Unknown(Arc<str>),
}

/// Reads a parent; `None` for Gateways and other kinds that are somebody else's.
pub(crate) fn read_parent(written: &api::ParentReference, own: &Arc<str>) -> Option<Parent> {
    let group = written.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = written.kind.as_deref().unwrap_or("Gateway");
    let namespace = written.namespace.as_deref().map_or_else(|| own.clone(), arc);
    let name = arc(&written.name);
    let mut target = match (group, kind) {
        ("", "Service") => Ok(Key { kind: Kind::Service, namespace, name }),
        (ISTIO_GROUP, "ServiceEntry") => Ok(Key { kind: Kind::ServiceEntry, namespace, name }),
        (GATEWAY_GROUP, "Service") => {
            Err("kind Service is of the core group, and an absent group means another one; write group: \"\""
                .to_owned())
        }
        _ => return None,
    };
    let port = written.port.map(super::super::port);
    if port == Some(None) {
        target =
            Err(format!("port {} is not a port; write a number from 1 to 65535", written.port.unwrap_or_default()));
    }
    Some(Parent {
        written: written.clone(),
        target,
        port: port.flatten(),
        section: written.section_name.as_deref().map(arc),
    })
}

/// Reads where a reference leads to.
pub(crate) fn read_target(written: &api::BackendObjectReference, own: &Arc<str>, field: &str) -> BackendReference {
    let group = written.group.as_deref().unwrap_or_default();
    let kind = written.kind.as_deref().unwrap_or("Service");
    let namespace = written.namespace.as_deref().map_or_else(|| own.clone(), arc);
    let name = arc(&written.name);
    let target = match (group, kind) {
        ("", "Service") => Target::Object(Key { kind: Kind::Service, namespace, name }),
        (ISTIO_GROUP, "ServiceEntry") => Target::Object(Key { kind: Kind::ServiceEntry, namespace, name }),
        (ISTIO_GROUP, "Hostname") => Target::Host(written.name.to_ascii_lowercase().into()),
        _ => Target::Unknown(format!("{} of group {}", shown(kind), shown(group)).into()),
    };
    BackendReference { target, port: written.port.and_then(super::super::port), field: field.into() }
}
