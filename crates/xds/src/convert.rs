//! Wire to model and back: `Workload`, `Service`, `Authorization` (fact sheet discovery.md 3, 4). Routing has no model
//! here: waypoints compile the wire form themselves.
//!
//! Reading is strict where a guess could send bytes astray: an enum value that this version does not know, an address of
//! a wrong length or a gateway without destination rejects that one resource and nothing else (discovery.md 6, trap 2).
//! Writing cannot fail.

mod authorization;
mod common;
mod egress;
mod network;
mod node;
mod service;
mod stand_in;
mod texts;
mod workload;

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mesh::authz::Authorization;
use mesh::{Service, Workload};
use prost::Message;
use proto::discovery::Resource;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, ROUTING_TYPE};

use crate::change::Routing;

pub use authorization::{authorization_from_wire, authorization_to_wire};
pub use network::{pod_networks_from_resource, pod_networks_to_wire};
pub use service::{service_from_wire, service_to_wire};
pub use stand_in::stand_in;
pub(crate) use texts::Texts;
pub use workload::{workload_from_wire, workload_to_wire};

/// Why one resource was rejected. The text goes to the control plane inside the NACK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An address that is neither 4 nor 16 bytes long.
    #[error("{field}: an address has 4 or 16 bytes, this one has {len}")]
    AddressLength {
        /// Which field.
        field: String,
        /// How long it was.
        len: usize,
    },
    /// The protobuf cannot be read.
    #[error("not a readable message: {0}")]
    Bytes(String),
    /// A value of an enum that this version does not know.
    #[error("{field}: value {value} is not known here")]
    Enum {
        /// Which field.
        field: String,
        /// The number.
        value: i32,
    },
    /// Something that must be there is not.
    #[error("{field}: missing")]
    Missing {
        /// Which field.
        field: String,
    },
    /// The name of the resource is not the key of what is inside.
    #[error("the resource is called {name:?} but holds {inside:?}")]
    Name {
        /// Name of the resource.
        name: String,
        /// Key of its content.
        inside: String,
    },
    /// A port above 65535.
    #[error("{field}: {value} is not a port")]
    Port {
        /// Which field.
        field: String,
        /// The number.
        value: u32,
    },
    /// A prefix longer than the address.
    #[error("{field}: a prefix of {len} bits does not fit {addr}")]
    Prefix {
        /// Which field.
        field: String,
        /// The address.
        addr: std::net::IpAddr,
        /// The length.
        len: u32,
    },
    /// A type URL other than the expected one.
    #[error("holds a {0:?}")]
    Type(String),
    /// Something that is legal on the wire and refused here.
    #[error("{field}: {what}")]
    Unsupported {
        /// Which field.
        field: String,
        /// What and why.
        what: &'static str,
    },
}

/// What an `Address` resource holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// A service.
    Service(Service),
    /// A workload.
    Workload(Workload),
}

impl Address {
    /// The key: a workload's uid or a service's `namespace/hostname`.
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Service(s) => s.key().to_string().into(),
            Self::Workload(w) => w.uid.clone(),
        }
    }
}

/// Reads an `Address`.
///
/// # Errors
/// When it is empty or its content is rejected.
pub fn address_from_wire(wire: proto::workload::Address) -> Result<Address, Reason> {
    use proto::workload::address::Type;
    match wire.r#type {
        Some(Type::Workload(w)) => workload_from_wire(w).map(Address::Workload),
        Some(Type::Service(s)) => service_from_wire(s).map(Address::Service),
        None => Err(Reason::Missing { field: "address.type".into() }),
    }
}

/// Reads a discovery resource of the type [`ADDRESS_TYPE`] and checks that its name is its content's key.
///
/// # Errors
/// When it is of another type, cannot be read or is rejected.
pub fn address_from_resource(resource: &Resource) -> Result<Address, Reason> {
    address_with(&mut Texts::default(), resource)
}

/// The same for one of several, which share the texts that are the same.
pub(crate) fn address_with(texts: &mut Texts, resource: &Resource) -> Result<Address, Reason> {
    let wire: proto::workload::Address = unpack(resource, ADDRESS_TYPE)?;
    let address = match wire.r#type {
        Some(proto::workload::address::Type::Workload(w)) => workload::read(texts, w).map(Address::Workload)?,
        _ => address_from_wire(wire)?,
    };
    named(resource, address.name().as_ref())?;
    Ok(address)
}

/// Reads a discovery resource of the type [`AUTHORIZATION_TYPE`] and checks that its name is its content's key.
///
/// # Errors
/// When it is of another type, cannot be read or is rejected.
pub fn authorization_from_resource(resource: &Resource) -> Result<Authorization, Reason> {
    let policy = authorization_from_wire(unpack(resource, AUTHORIZATION_TYPE)?)?;
    named(resource, &policy.key())?;
    Ok(policy)
}

/// Reads a discovery resource of the type [`ROUTING_TYPE`] and checks that its name is its content's key.
///
/// # Errors
/// When it is of another type or cannot be read. What is inside is judged by whoever compiles it: the format says how
/// each part that is not understood is to be taken (routing.proto).
pub fn routing_from_resource(resource: &Resource) -> Result<Routing, Reason> {
    let service: proto::routing::Service = unpack(resource, ROUTING_TYPE)?;
    let key = format!("{}/{}", service.namespace, service.hostname);
    named(resource, &key)?;
    Ok(Routing { key: key.into(), service })
}

/// Names under which a workload may be asked for besides its uid: `network/IP` for each address (discovery.md 2).
///
/// A workload in the node's network has no address of its own, hence no alias.
pub fn workload_aliases(workload: &Workload) -> Vec<Arc<str>> {
    if workload.network_mode == mesh::workload::NetworkMode::HostNetwork {
        return Vec::new();
    }
    workload.addresses.iter().map(|ip| format!("{}/{ip}", workload.network).into()).collect()
}

/// Names under which a service may be asked for besides `namespace/hostname`: `network/IP`, or `network/IP/length` for
/// a block (discovery.md 2).
pub fn service_aliases(service: &Service) -> Vec<Arc<str>> {
    let vips = service.vips.iter().map(|vip| vip.to_string().into());
    vips.chain(service.cidr_vips.iter().map(|b| format!("{}/{}", b.network, b.cidr).into())).collect()
}

fn unpack<M: Message + Default>(resource: &Resource, type_url: &str) -> Result<M, Reason> {
    let any = resource.resource.as_ref().ok_or_else(|| Reason::Missing { field: "resource".into() })?;
    if any.type_url != type_url {
        return Err(Reason::Type(any.type_url.clone()));
    }
    M::decode(&*any.value).map_err(|e| Reason::Bytes(e.to_string()))
}

fn named(resource: &Resource, inside: &str) -> Result<(), Reason> {
    if resource.name == inside {
        return Ok(());
    }
    Err(Reason::Name { name: resource.name.clone(), inside: inside.to_owned() })
}
