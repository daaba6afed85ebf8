//! Which addresses are pods' (network.proto).

use mesh::addr::Cidr;
use proto::discovery::Resource;
use proto::network as wire;
use proto::{POD_NETWORKS_NAME, POD_NETWORKS_TYPE};

use super::common::{cidr, ip_bytes};
use super::{Reason, named, unpack};

/// Reads the discovery resource of the type [`POD_NETWORKS_TYPE`].
///
/// # Errors
/// When it is of another type or name, or one of its blocks cannot be read: a network without one of its blocks would have
/// addresses of pods reached in clear.
pub fn pod_networks_from_resource(resource: &Resource) -> Result<Vec<Cidr>, Reason> {
    let wire: wire::PodNetworks = unpack(resource, POD_NETWORKS_TYPE)?;
    named(resource, POD_NETWORKS_NAME)?;
    let block = |(i, b): (usize, &wire::Block)| cidr(&format!("blocks[{i}]"), &b.address, b.length);
    wire.blocks.iter().enumerate().map(block).collect()
}

/// Writes it.
pub fn pod_networks_to_wire(blocks: &[Cidr]) -> wire::PodNetworks {
    let block = |b: &Cidr| wire::Block { address: ip_bytes(b.addr()), length: u32::from(b.prefix_len()) };
    wire::PodNetworks { blocks: blocks.iter().map(block).collect() }
}
