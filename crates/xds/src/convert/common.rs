//! Pieces that several resources share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh::NetworkAddress;
use mesh::addr::{Cidr, canonical};
use mesh::workload::{GatewayAddress, GatewayDestination, NamespacedHostname, PortMap};
use proto::workload as wire;

use super::Reason;

pub(super) fn ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Reason> {
    let wrong = || Reason::AddressLength { field: field.to_owned(), len: bytes.len() };
    match bytes.len() {
        4 => Ok(IpAddr::from(<[u8; 4]>::try_from(bytes).map_err(|_| wrong())?)),
        16 => Ok(canonical(IpAddr::from(<[u8; 16]>::try_from(bytes).map_err(|_| wrong())?))),
        _ => Err(wrong()),
    }
}

pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn cidr(field: &str, bytes: &[u8], len: u32) -> Result<Cidr, Reason> {
    let addr = ip(field, bytes)?;
    let wrong = || Reason::Prefix { field: field.to_owned(), addr, len };
    // A v4-mapped block is the IPv4 block inside it: the first 96 bits are the mapping itself (RFC 4291 2.5.5.2).
    let mapped = bytes.len() == 16 && addr.is_ipv4();
    let bits = if mapped { len.checked_sub(96).ok_or_else(wrong)? } else { len };
    Cidr::new(addr, u8::try_from(bits).map_err(|_| wrong())?).map_err(|_| wrong())
}

pub(super) fn port(field: &str, value: u32) -> Result<u16, Reason> {
    u16::try_from(value).map_err(|_| Reason::Port { field: field.to_owned(), value })
}

pub(super) fn network_address(field: &str, w: &wire::NetworkAddress) -> Result<NetworkAddress, Reason> {
    Ok(NetworkAddress::new(w.network.as_str(), ip(field, &w.address)?))
}

pub(super) fn network_address_to_wire(a: &NetworkAddress) -> wire::NetworkAddress {
    wire::NetworkAddress { network: a.network.to_string(), address: ip_bytes(a.ip), length: None }
}

/// Reads a gateway. One without destination leads nowhere, so the resource is rejected (discovery.md 3).
pub(super) fn gateway(field: &str, w: wire::GatewayAddress) -> Result<GatewayAddress, Reason> {
    use wire::gateway_address::Destination;
    let destination = match w.destination {
        Some(Destination::Address(a)) => GatewayDestination::Address(network_address(field, &a)?),
        Some(Destination::Hostname(h)) => GatewayDestination::Hostname(NamespacedHostname {
            namespace: h.namespace.into(),
            hostname: h.hostname.into(),
        }),
        None => return Err(Reason::Missing { field: format!("{field}.destination") }),
    };
    Ok(GatewayAddress { destination, hbone_port: port(&format!("{field}.hbone_mtls_port"), w.hbone_mtls_port)? })
}

pub(super) fn gateway_to_wire(g: &GatewayAddress) -> wire::GatewayAddress {
    use wire::gateway_address::Destination;
    let destination = match &g.destination {
        GatewayDestination::Address(a) => Destination::Address(network_address_to_wire(a)),
        GatewayDestination::Hostname(h) => Destination::Hostname(wire::NamespacedHostname {
            namespace: h.namespace.to_string(),
            hostname: h.hostname.to_string(),
        }),
    };
    wire::GatewayAddress { destination: Some(destination), hbone_mtls_port: u32::from(g.hbone_port) }
}

pub(super) fn ports(field: &str, list: &[wire::Port]) -> Result<PortMap, Reason> {
    let mut map = BTreeMap::new();
    for p in list {
        let target = port(&format!("{field}.target_port"), p.target_port)?;
        map.insert(port(&format!("{field}.service_port"), p.service_port)?, target);
    }
    Ok(PortMap(map))
}

pub(super) fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, Reason> {
    E::try_from(value).map_err(|_| Reason::Enum { field: field.to_owned(), value })
}

pub(super) fn texts(list: Vec<String>) -> Vec<Arc<str>> {
    list.into_iter().map(Arc::from).collect()
}

pub(super) fn strings(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(|t| t.to_string()).collect()
}

pub(super) fn extensions(list: Vec<wire::Extension>) -> Vec<Arc<str>> {
    list.into_iter().map(|e| e.name.into()).collect()
}

pub(super) fn extensions_to_wire(list: &[Arc<str>]) -> Vec<wire::Extension> {
    list.iter().map(|name| wire::Extension { name: name.to_string(), config: None }).collect()
}
