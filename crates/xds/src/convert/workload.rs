//! `istio.workload.Workload` (discovery.md 3).

use std::sync::Arc;

use mesh::Workload;
use mesh::workload::{
    AppTunnelProtocol, ApplicationTunnel, DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT, DEFAULT_TRUST_DOMAIN, Health,
    Locality, NetworkMode, TunnelProtocol, WorkloadType,
};
use proto::workload as wire;

use super::Reason;
use super::common::{extensions_to_wire, gateway, gateway_to_wire, ip, ip_bytes, known, port, ports, strings};
use super::texts::Texts;
use super::{egress, node};

/// Reads a workload. Empty trust domain, service account and cluster become their defaults.
///
/// # Errors
/// When the uid is missing, an address or port is malformed, a gateway has no destination, an enum value is unknown, or
/// the tunnel protocol is the legacy one.
pub fn workload_from_wire(w: wire::Workload) -> Result<Workload, Reason> {
    read(&mut Texts::default(), w)
}

/// Reads one of several workloads, which share the texts that are the same.
pub(super) fn read(texts: &mut Texts, w: wire::Workload) -> Result<Workload, Reason> {
    if w.uid.is_empty() {
        return Err(Reason::Missing { field: "uid".into() });
    }
    let service = |(key, list): (&String, &wire::PortList)| {
        Ok((texts.shared(key), ports(&format!("services[{key}]"), &list.ports)?))
    };
    let services = w.services.iter().map(service).collect::<Result<_, Reason>>()?;
    Ok(Workload {
        addresses: w.addresses.iter().map(|a| ip("addresses", a)).collect::<Result<_, _>>()?,
        tunnel: tunnel(w.tunnel_protocol)?,
        waypoint: w.waypoint.map(|g| gateway("waypoint", g)).transpose()?,
        network_gateway: w.network_gateway.map(|g| gateway("network_gateway", g)).transpose()?,
        workload_type: workload_type(w.workload_type)?,
        application_tunnel: w.application_tunnel.map(application_tunnel).transpose()?,
        services,
        health: match known("status", w.status)? {
            wire::WorkloadStatus::Healthy => Health::Healthy,
            wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
        },
        network_mode: match known("network_mode", w.network_mode)? {
            wire::NetworkMode::Standard => NetworkMode::Standard,
            wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
        },
        // Its own, and mostly nobody else's.
        uid: w.uid.into(),
        name: w.name.into(),
        namespace: texts.shared(&w.namespace),
        hostname: texts.shared(&w.hostname),
        network: texts.shared(&w.network),
        trust_domain: texts.shared(or(&w.trust_domain, DEFAULT_TRUST_DOMAIN)),
        service_account: texts.shared(or(&w.service_account, DEFAULT_SERVICE_ACCOUNT)),
        node: texts.shared(&w.node),
        canonical_name: texts.shared(&w.canonical_name),
        canonical_revision: texts.shared(&w.canonical_revision),
        workload_name: texts.shared(&w.workload_name),
        native_tunnel: w.native_tunnel,
        authorization_policies: w.authorization_policies.iter().map(|name| texts.shared(name)).collect(),
        cluster_id: texts.shared(or(&w.cluster_id, DEFAULT_CLUSTER)),
        locality: w.locality.map_or_else(Locality::default, |l| Locality {
            region: texts.shared(&l.region),
            zone: texts.shared(&l.zone),
            subzone: texts.shared(&l.subzone),
        }),
        capacity: w.capacity.unwrap_or(1),
        egress: egress::read(texts, &w.extensions)?,
        node_addresses: node::read(&w.extensions)?,
        extensions: names(texts, &w.extensions),
    })
}

/// Names of the entries that nobody here reads.
fn names(texts: &mut Texts, extensions: &[wire::Extension]) -> Vec<Arc<str>> {
    extensions.iter().filter(|e| !egress::is(e) && !node::is(e)).map(|e| texts.shared(&e.name)).collect()
}

/// Writes a workload. The default trust domain is left out, as istiod does.
pub fn workload_to_wire(w: &Workload) -> wire::Workload {
    let trust_domain = if &*w.trust_domain == DEFAULT_TRUST_DOMAIN { "" } else { &*w.trust_domain };
    wire::Workload {
        uid: w.uid.to_string(),
        name: w.name.to_string(),
        namespace: w.namespace.to_string(),
        addresses: w.addresses.iter().map(|a| ip_bytes(*a)).collect(),
        hostname: w.hostname.to_string(),
        network: w.network.to_string(),
        tunnel_protocol: match w.tunnel {
            TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
            TunnelProtocol::None => wire::TunnelProtocol::None,
        } as i32,
        trust_domain: trust_domain.to_owned(),
        service_account: w.service_account.to_string(),
        waypoint: w.waypoint.as_ref().map(gateway_to_wire),
        network_gateway: w.network_gateway.as_ref().map(gateway_to_wire),
        node: w.node.to_string(),
        canonical_name: w.canonical_name.to_string(),
        canonical_revision: w.canonical_revision.to_string(),
        workload_type: workload_type_to_wire(w.workload_type) as i32,
        workload_name: w.workload_name.to_string(),
        native_tunnel: w.native_tunnel,
        application_tunnel: w.application_tunnel.map(application_tunnel_to_wire),
        services: w.services.iter().map(|(key, map)| (key.to_string(), port_list(map))).collect(),
        authorization_policies: strings(&w.authorization_policies),
        status: match w.health {
            Health::Healthy => wire::WorkloadStatus::Healthy,
            Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
        } as i32,
        cluster_id: w.cluster_id.to_string(),
        locality: locality_to_wire(&w.locality),
        network_mode: match w.network_mode {
            NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
            NetworkMode::Standard => wire::NetworkMode::Standard,
        } as i32,
        extensions: egress::write(w.egress.as_deref())
            .chain(node::write(w.node_addresses.as_deref()))
            .chain(extensions_to_wire(&w.extensions))
            .collect(),
        // Unset stands for 1.
        capacity: (w.capacity != 1).then_some(w.capacity),
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn tunnel(value: i32) -> Result<TunnelProtocol, Reason> {
    match known("tunnel_protocol", value)? {
        wire::TunnelProtocol::None => Ok(TunnelProtocol::None),
        wire::TunnelProtocol::Hbone => Ok(TunnelProtocol::Hbone),
        wire::TunnelProtocol::LegacyIstioMtls => Err(Reason::Unsupported {
            field: "tunnel_protocol".into(),
            what: "LEGACY_ISTIO_MTLS is not spoken in ambient mode",
        }),
    }
}

fn workload_type(value: i32) -> Result<WorkloadType, Reason> {
    Ok(match known("workload_type", value)? {
        wire::WorkloadType::Cronjob => WorkloadType::CronJob,
        wire::WorkloadType::Deployment => WorkloadType::Deployment,
        wire::WorkloadType::Job => WorkloadType::Job,
        wire::WorkloadType::Pod => WorkloadType::Pod,
    })
}

fn workload_type_to_wire(kind: WorkloadType) -> wire::WorkloadType {
    match kind {
        WorkloadType::CronJob => wire::WorkloadType::Cronjob,
        WorkloadType::Deployment => wire::WorkloadType::Deployment,
        WorkloadType::Job => wire::WorkloadType::Job,
        WorkloadType::Pod => wire::WorkloadType::Pod,
    }
}

fn application_tunnel(t: wire::ApplicationTunnel) -> Result<ApplicationTunnel, Reason> {
    use wire::application_tunnel::Protocol;
    Ok(ApplicationTunnel {
        protocol: match known("application_tunnel.protocol", t.protocol)? {
            Protocol::None => AppTunnelProtocol::None,
            Protocol::Proxy => AppTunnelProtocol::Proxy,
        },
        port: Some(port("application_tunnel.port", t.port)?).filter(|p| *p != 0),
    })
}

fn application_tunnel_to_wire(t: ApplicationTunnel) -> wire::ApplicationTunnel {
    use wire::application_tunnel::Protocol;
    let protocol = match t.protocol {
        AppTunnelProtocol::None => Protocol::None,
        AppTunnelProtocol::Proxy => Protocol::Proxy,
    };
    wire::ApplicationTunnel { protocol: protocol as i32, port: u32::from(t.port.unwrap_or(0)) }
}

fn port_list(map: &mesh::workload::PortMap) -> wire::PortList {
    let port = |(service, target): (&u16, &u16)| wire::Port {
        service_port: u32::from(*service),
        target_port: u32::from(*target),
        app_protocol: wire::AppProtocol::Unknown as i32,
    };
    wire::PortList { ports: map.0.iter().map(port).collect() }
}

fn locality_to_wire(l: &Locality) -> Option<wire::Locality> {
    (*l != Locality::default()).then(|| wire::Locality {
        region: l.region.to_string(),
        zone: l.zone.to_string(),
        subzone: l.subzone.to_string(),
    })
}
