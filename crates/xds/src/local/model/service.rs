//! Services of the file.

use std::collections::BTreeMap;

use mesh::NetworkAddress;
use mesh::service::{
    CidrVip, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility, WeightedWaypoint,
};
use mesh::workload::{PortMap, Workload};

use super::super::file;
use super::{At, address, cidr, gateway};

pub(super) fn service(s: &file::Service, at: &mut At<'_>) -> Service {
    at.not_empty("namespace", &s.namespace);
    at.not_empty("hostname", &s.hostname);
    if s.ports.contains_key(&0) {
        at.at("ports").at(0).mistake("0 is not a port", "use 1 to 65535; a target port of 0 is left to the workload");
    }
    let mut weighted = Vec::new();
    for (i, w) in s.weighted_waypoints.iter().enumerate() {
        let mut at = at.at("weightedWaypoints");
        let destination = gateway(&w.destination, &mut at.at(i).at("destination"));
        weighted.push(WeightedWaypoint { destination, weight: w.weight });
    }
    let mut blocks = Vec::new();
    for (i, b) in s.cidr_vips.iter().enumerate() {
        let cidr = cidr(&b.cidr, &mut at.at("cidrVips").at(i).at("cidr"));
        blocks.push(CidrVip { network: b.network.as_str().into(), cidr });
    }
    Service {
        name: s.name.as_str().into(),
        namespace: s.namespace.as_str().into(),
        hostname: s.hostname.as_str().into(),
        vips: vips(s, at),
        cidr_vips: blocks,
        ports: PortMap(s.ports.clone()),
        app_protocols: BTreeMap::new(),
        subject_alt_names: s.subject_alt_names.iter().map(|n| n.as_str().into()).collect(),
        waypoint: s.waypoint.as_ref().map(|g| gateway(g, &mut at.at("waypoint"))),
        weighted_waypoints: weighted,
        load_balancing: s.load_balancer.as_ref().map(load_balancing),
        ip_families: match s.ip_families {
            None => IpFamilies::Automatic,
            Some(file::IpFamilies::Dual) => IpFamilies::Dual,
            Some(file::IpFamilies::IPv4) => IpFamilies::Ipv4Only,
            Some(file::IpFamilies::IPv6) => IpFamilies::Ipv6Only,
        },
        canonical: s.canonical,
        visibility: match s.visibility {
            file::Visibility::Namespace => Visibility::Namespace,
            file::Visibility::Public => Visibility::Public,
        },
        extensions: Vec::new(),
    }
}

/// Files members that the service names under the workloads, where the model has them.
pub(super) fn members(s: &file::Service, workloads: &mut [Workload], at: &mut At<'_>) {
    let key = format!("{}/{}", s.namespace, s.hostname);
    for (name, endpoint) in &s.endpoints {
        let mut at = at.at("endpoints");
        let mut at = at.at(name);
        let Some(w) = workloads.iter_mut().find(|w| *w.uid == *endpoint.workload_uid) else {
            at.at("workloadUid")
                .mistake(format!("no workload is called {:?}", endpoint.workload_uid), "name one by its uid");
            continue;
        };
        if super::workload::health(endpoint.status) != w.health {
            at.mistake("its status is not the workload's", "set the status on the workload");
        }
        if endpoint.port.iter().any(|(service, target)| *service == 0 || *target == 0) {
            at.at("port").mistake("0 is not a port", "use 1 to 65535");
        }
        w.services.entry(key.as_str().into()).or_default().0.extend(&endpoint.port);
    }
}

fn vips(s: &file::Service, at: &mut At<'_>) -> Vec<NetworkAddress> {
    let mut made = Vec::new();
    for (i, text) in s.vips.iter().enumerate() {
        match address(text) {
            Some(a) => made.push(a),
            None => at.at("vips").at(i).mistake(
                format!("{text:?} is not an address in a network"),
                "write network/ip; the default network is written /10.0.0.1",
            ),
        }
    }
    made
}

fn load_balancing(l: &file::LoadBalancer) -> LoadBalancing {
    let scope = |s: &file::RoutingScope| match s {
        file::RoutingScope::Cluster => Scope::Cluster,
        file::RoutingScope::Network => Scope::Network,
        file::RoutingScope::Node => Scope::Node,
        file::RoutingScope::Region => Scope::Region,
        file::RoutingScope::Subzone => Scope::Subzone,
        file::RoutingScope::Zone => Scope::Zone,
    };
    LoadBalancing {
        preference: l.routing_preferences.iter().map(scope).collect(),
        mode: match l.mode {
            file::LoadBalancerMode::Failover => LoadBalancingMode::Failover,
            file::LoadBalancerMode::Passthrough => LoadBalancingMode::Passthrough,
            file::LoadBalancerMode::Standard => LoadBalancingMode::Unspecified,
            file::LoadBalancerMode::Strict => LoadBalancingMode::Strict,
        },
        health: match l.health_policy {
            file::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
            file::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
        },
    }
}
