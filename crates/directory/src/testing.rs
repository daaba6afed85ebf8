//! Short forms for the tests of this crate.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh::addr::{Cidr, NetworkAddress};
use mesh::service::{LoadBalancing, LoadBalancingMode, Scope, Service};
use mesh::workload::{GatewayAddress, GatewayDestination, NamespacedHostname, PortMap, TunnelProtocol, Workload};
use mesh::{Identity, OriginalDst};

use crate::{HBONE_PORT, Query, Route, Snapshot, Unresolved};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn at(text: &str) -> NetworkAddress {
    let (network, address) = text.split_once('/').unwrap();
    NetworkAddress::new(network, ip(address))
}

pub(crate) fn ports(pairs: &[(u16, u16)]) -> PortMap {
    PortMap(pairs.iter().copied().collect())
}

/// A pod in `shop` with HBONE, whose service account has its name.
pub(crate) fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        addresses: address.split(' ').filter(|a| !a.is_empty()).map(ip).collect(),
        tunnel: TunnelProtocol::Hbone,
        node: "n1".into(),
        ..Workload::default()
    }
}

/// Makes a workload an endpoint of `shop/<service>.shop`.
pub(crate) fn of(service: &str, map: &[(u16, u16)], mut workload: Workload) -> Workload {
    workload.services.insert(key(service).into(), ports(map));
    workload
}

pub(crate) fn key(service: &str) -> String {
    format!("shop/{service}.shop")
}

/// A service `shop/<name>.shop`, port 80 to 8080.
pub(crate) fn service(name: &str, vip: &str) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop").into(),
        vips: vip.split(' ').filter(|v| !v.is_empty()).map(|v| NetworkAddress::new("", ip(v))).collect(),
        ports: ports(&[(80, 8080)]),
        ..Service::default()
    }
}

pub(crate) fn by_host(service: &str) -> Option<GatewayAddress> {
    let name = NamespacedHostname { namespace: "shop".into(), hostname: format!("{service}.shop").into() };
    Some(GatewayAddress { destination: GatewayDestination::Hostname(name), hbone_port: HBONE_PORT })
}

pub(crate) fn by_address(address: &str) -> Option<GatewayAddress> {
    Some(GatewayAddress { destination: GatewayDestination::Address(at(address)), hbone_port: HBONE_PORT })
}

pub(crate) fn balance(mode: LoadBalancingMode, preference: &[Scope]) -> Option<LoadBalancing> {
    Some(LoadBalancing { preference: preference.to_vec(), mode, health: Default::default() })
}

pub(crate) fn snapshot(workloads: Vec<Workload>, services: Vec<Service>) -> Snapshot {
    let mut all = Snapshot::default();
    workloads.into_iter().for_each(|w| all.insert_workload(w));
    services.into_iter().for_each(|s| all.insert_service(s));
    all
}

pub(crate) fn ask(all: &Snapshot, source: &Workload, to: &str, random: u64) -> Result<Route, Unresolved> {
    let pods: [Cidr; 2] = ["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/48".parse().unwrap()];
    let destination = OriginalDst(to.parse().unwrap());
    all.resolve(&Query { source, destination, pod_cidrs: &pods, random })
}

/// A route in one line.
pub(crate) fn line(answer: &Result<Route, Unresolved>) -> String {
    let ids = |ids: &[Identity]| ids.iter().map(|i| i.service_account().to_string()).collect::<Vec<_>>().join("+");
    match answer {
        Err(e) => format!("error: {e}"),
        Ok(Route::Direct { to, workload, service }) => {
            format!("direct {to} {} {}", workload.name, service.as_ref().map_or("-", |s| &s.name))
        }
        Ok(Route::Gateway { tunnel, authority, gateway, workload, expected, inner_expected, .. }) => format!(
            "gateway {tunnel} {}:{} {} {} [{}] [{}]",
            authority.0,
            authority.1,
            gateway.name,
            workload.name,
            ids(expected),
            ids(inner_expected)
        ),
        Ok(Route::Named(named)) => format!("named {} v6={}", named.hostname(), named.prefers_ipv6()),
        Ok(Route::Passthrough { to, why }) => format!("passthrough {to}: {why}"),
        Ok(Route::Tunnel { tunnel, authority, workload, service, expected, same_node }) => format!(
            "tunnel {tunnel} {authority} {} {} [{}] {}",
            workload.name,
            service.as_ref().map_or("-", |s| &s.name),
            ids(expected),
            if *same_node { "same" } else { "other" }
        ),
        Ok(Route::Waypoint { tunnel, authority, waypoint, service, workload, expected }) => format!(
            "waypoint {tunnel} {authority} {} for {} [{}]",
            waypoint.name,
            service.as_ref().map(|s| &s.name).or(workload.as_ref().map(|w| &w.name)).unwrap(),
            ids(expected)
        ),
    }
}

/// How often each endpoint is chosen, over evenly spread random numbers.
pub(crate) fn spread(all: &Snapshot, source: &Workload, to: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for i in 0..1000u64 {
        let name = match ask(all, source, to, i.wrapping_mul(u64::MAX / 1000)) {
            Ok(Route::Tunnel { workload, .. } | Route::Direct { workload, .. }) => workload.name.to_string(),
            Ok(Route::Waypoint { waypoint, .. }) => waypoint.name.to_string(),
            Ok(Route::Gateway { workload, .. }) => workload.name.to_string(),
            other => line(&other),
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// The names that [`spread`] finds.
pub(crate) fn chosen(all: &Snapshot, source: &Workload, to: &str) -> Vec<String> {
    spread(all, source, to).into_keys().collect()
}
