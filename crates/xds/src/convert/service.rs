//! `istio.workload.Service` (discovery.md 3).

use std::collections::BTreeMap;

use mesh::Service;
use mesh::service::{
    AppProtocol, CidrVip, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Visibility,
    WeightedWaypoint,
};
use proto::workload as wire;
use proto::workload::load_balancing as wire_lb;

use super::Reason;
use super::common::{
    cidr, extensions, extensions_to_wire, gateway, gateway_to_wire, ip_bytes, known, network_address,
    network_address_to_wire, ports, strings, texts,
};

/// Reads a service.
///
/// # Errors
/// When the host name is missing, an address, prefix or port is malformed, a gateway has no destination, or an enum value
/// that decides anything is unknown. An unknown visibility counts as public and an unknown application protocol as not
/// said (discovery.md 3).
pub fn service_from_wire(s: wire::Service) -> Result<Service, Reason> {
    if s.hostname.is_empty() {
        return Err(Reason::Missing { field: "hostname".into() });
    }
    let mut vips = Vec::new();
    let mut cidr_vips = Vec::new();
    for a in &s.addresses {
        match a.length {
            None => vips.push(network_address("addresses", a)?),
            Some(len) => cidr_vips
                .push(CidrVip { network: a.network.as_str().into(), cidr: cidr("addresses", &a.address, len)? }),
        }
    }
    let weighted = s.weighted_waypoints.into_iter().map(|w| {
        let destination =
            w.destination.ok_or_else(|| Reason::Missing { field: "weighted_waypoints.destination".into() })?;
        Ok(WeightedWaypoint { destination: gateway("weighted_waypoints.destination", destination)?, weight: w.weight })
    });
    Ok(Service {
        vips,
        cidr_vips,
        ports: ports("ports", &s.ports)?,
        app_protocols: app_protocols(&s.ports)?,
        waypoint: s.waypoint.map(|g| gateway("waypoint", g)).transpose()?,
        weighted_waypoints: weighted.collect::<Result<_, Reason>>()?,
        load_balancing: s.load_balancing.map(load_balancing).transpose()?,
        ip_families: match known("ip_families", s.ip_families)? {
            wire::IpFamilies::Automatic => IpFamilies::Automatic,
            wire::IpFamilies::Dual => IpFamilies::Dual,
            wire::IpFamilies::Ipv4Only => IpFamilies::Ipv4Only,
            wire::IpFamilies::Ipv6Only => IpFamilies::Ipv6Only,
        },
        visibility: match wire::service::Visibility::try_from(s.visibility) {
            Ok(wire::service::Visibility::Namespace) => Visibility::Namespace,
            Ok(wire::service::Visibility::Public) | Err(_) => Visibility::Public,
        },
        name: s.name.into(),
        namespace: s.namespace.into(),
        hostname: s.hostname.into(),
        subject_alt_names: texts(s.subject_alt_names),
        canonical: s.canonical,
        extensions: extensions(s.extensions),
    })
}

/// Writes a service.
pub fn service_to_wire(s: &Service) -> wire::Service {
    let blocks = s.cidr_vips.iter().map(|b| wire::NetworkAddress {
        network: b.network.to_string(),
        address: ip_bytes(b.cidr.addr()),
        length: Some(u32::from(b.cidr.prefix_len())),
    });
    let port = |(service, target): (&u16, &u16)| wire::Port {
        service_port: u32::from(*service),
        target_port: u32::from(*target),
        app_protocol: app_protocol_to_wire(s.app_protocols.get(service).copied().unwrap_or_default()) as i32,
    };
    let weighted = |w: &WeightedWaypoint| wire::WeightedWaypoint {
        destination: Some(gateway_to_wire(&w.destination)),
        weight: w.weight,
    };
    wire::Service {
        name: s.name.to_string(),
        namespace: s.namespace.to_string(),
        hostname: s.hostname.to_string(),
        addresses: s.vips.iter().map(network_address_to_wire).chain(blocks).collect(),
        ports: s.ports.0.iter().map(port).collect(),
        subject_alt_names: strings(&s.subject_alt_names),
        waypoint: s.waypoint.as_ref().map(gateway_to_wire),
        load_balancing: s.load_balancing.as_ref().map(load_balancing_to_wire),
        ip_families: match s.ip_families {
            IpFamilies::Automatic => wire::IpFamilies::Automatic,
            IpFamilies::Dual => wire::IpFamilies::Dual,
            IpFamilies::Ipv4Only => wire::IpFamilies::Ipv4Only,
            IpFamilies::Ipv6Only => wire::IpFamilies::Ipv6Only,
        } as i32,
        extensions: extensions_to_wire(&s.extensions),
        canonical: s.canonical,
        // Speaks to gateways alone; the model does not hold it.
        ingress_use_waypoint: false,
        weighted_waypoints: s.weighted_waypoints.iter().map(weighted).collect(),
        visibility: match s.visibility {
            Visibility::Namespace => wire::service::Visibility::Namespace,
            Visibility::Public => wire::service::Visibility::Public,
        } as i32,
    }
}

fn app_protocols(list: &[wire::Port]) -> Result<BTreeMap<u16, AppProtocol>, Reason> {
    let mut map = BTreeMap::new();
    for p in list {
        let port = super::common::port("ports.service_port", p.service_port)?;
        let protocol = match wire::AppProtocol::try_from(p.app_protocol) {
            Ok(wire::AppProtocol::Grpc) => AppProtocol::Grpc,
            Ok(wire::AppProtocol::Http11) => AppProtocol::Http11,
            Ok(wire::AppProtocol::Http2) => AppProtocol::Http2,
            Ok(wire::AppProtocol::Tcp) => AppProtocol::Tcp,
            Ok(wire::AppProtocol::Tls) => AppProtocol::Tls,
            // Nothing at this layer hangs on it.
            Ok(wire::AppProtocol::Unknown) | Err(_) => continue,
        };
        map.insert(port, protocol);
    }
    Ok(map)
}

fn app_protocol_to_wire(p: AppProtocol) -> wire::AppProtocol {
    match p {
        AppProtocol::Grpc => wire::AppProtocol::Grpc,
        AppProtocol::Http11 => wire::AppProtocol::Http11,
        AppProtocol::Http2 => wire::AppProtocol::Http2,
        AppProtocol::Tcp => wire::AppProtocol::Tcp,
        AppProtocol::Tls => wire::AppProtocol::Tls,
        AppProtocol::Unknown => wire::AppProtocol::Unknown,
    }
}

fn load_balancing(l: wire::LoadBalancing) -> Result<LoadBalancing, Reason> {
    Ok(LoadBalancing {
        preference: l.routing_preference.into_iter().map(scope).collect::<Result<_, _>>()?,
        mode: match known("load_balancing.mode", l.mode)? {
            wire_lb::Mode::Failover => LoadBalancingMode::Failover,
            wire_lb::Mode::Passthrough => LoadBalancingMode::Passthrough,
            wire_lb::Mode::Strict => LoadBalancingMode::Strict,
            wire_lb::Mode::UnspecifiedMode => LoadBalancingMode::Unspecified,
        },
        health: match known("load_balancing.health_policy", l.health_policy)? {
            wire_lb::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
            wire_lb::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
        },
    })
}

fn load_balancing_to_wire(l: &LoadBalancing) -> wire::LoadBalancing {
    wire::LoadBalancing {
        routing_preference: l.preference.iter().map(|s| scope_to_wire(*s) as i32).collect(),
        mode: match l.mode {
            LoadBalancingMode::Failover => wire_lb::Mode::Failover,
            LoadBalancingMode::Passthrough => wire_lb::Mode::Passthrough,
            LoadBalancingMode::Strict => wire_lb::Mode::Strict,
            LoadBalancingMode::Unspecified => wire_lb::Mode::UnspecifiedMode,
        } as i32,
        health_policy: match l.health {
            HealthPolicy::AllowAll => wire_lb::HealthPolicy::AllowAll,
            HealthPolicy::OnlyHealthy => wire_lb::HealthPolicy::OnlyHealthy,
        } as i32,
    }
}

fn scope(value: i32) -> Result<Scope, Reason> {
    let field = "load_balancing.routing_preference";
    Ok(match known(field, value)? {
        wire_lb::Scope::Cluster => Scope::Cluster,
        wire_lb::Scope::Network => Scope::Network,
        wire_lb::Scope::Node => Scope::Node,
        wire_lb::Scope::Region => Scope::Region,
        wire_lb::Scope::Subzone => Scope::Subzone,
        wire_lb::Scope::Zone => Scope::Zone,
        wire_lb::Scope::UnspecifiedScope => {
            return Err(Reason::Unsupported { field: field.into(), what: "a scope that is not specified" });
        }
    })
}

fn scope_to_wire(s: Scope) -> wire_lb::Scope {
    match s {
        Scope::Cluster => wire_lb::Scope::Cluster,
        Scope::Network => wire_lb::Scope::Network,
        Scope::Node => wire_lb::Scope::Node,
        Scope::Region => wire_lb::Scope::Region,
        Scope::Subzone => wire_lb::Scope::Subzone,
        Scope::Zone => wire_lb::Scope::Zone,
    }
}
