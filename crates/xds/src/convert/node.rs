//! The node that a workload runs on: an entry of `Workload.extensions` of our own (node.proto).

use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use prost_types::Any;
use proto::workload::Extension;
use proto::{NODE_EXTENSION, NODE_TYPE};

use super::Reason;
use super::common::{ip, ip_bytes};

/// Whether this is the entry.
pub(super) fn is(extension: &Extension) -> bool {
    extension.name == NODE_EXTENSION
}

/// Reads the entry, if there is one.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(extensions: &[Extension]) -> Result<Option<Arc<[IpAddr]>>, Reason> {
    let Some(extension) = extensions.iter().find(|e| is(e)) else { return Ok(None) };
    let field = || format!("extensions[{NODE_EXTENSION}].config");
    let any = extension.config.as_ref().ok_or_else(|| Reason::Missing { field: field() })?;
    if any.type_url != NODE_TYPE {
        return Err(Reason::Type(any.type_url.clone()));
    }
    let wire = proto::node::Node::decode(&*any.value).map_err(|e| Reason::Bytes(e.to_string()))?;
    wire.addresses.iter().map(|a| ip("extensions.node.addresses", a)).collect::<Result<_, _>>().map(Some)
}

/// Writes the entry.
pub(super) fn write(addresses: Option<&[IpAddr]>) -> impl Iterator<Item = Extension> {
    let config = addresses.map(|addresses| {
        let wire = proto::node::Node { addresses: addresses.iter().map(|a| ip_bytes(*a)).collect() };
        Any { type_url: NODE_TYPE.to_owned(), value: wire.encode_to_vec() }
    });
    config.into_iter().map(|config| Extension { name: NODE_EXTENSION.to_owned(), config: Some(config) })
}
