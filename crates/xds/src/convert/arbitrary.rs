//! Generators of model values for property tests.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::{Cidr, NetworkAddress, canonical};
use mesh::authz::{self, Authorization, Clause, Match, Rule, ServiceAccount, StringMatch};
use mesh::service::{
    AppProtocol, CidrVip, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility,
    WeightedWaypoint,
};
use mesh::workload::{
    AppTunnelProtocol, ApplicationTunnel, Egress, GatewayAddress, GatewayDestination, Health, Locality,
    NamespacedHostname, NetworkMode, PortMap, TunnelProtocol, Workload, WorkloadType,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9.-]{1,12}".prop_map(Arc::from)
}

fn maybe() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9./ -]{0,12}".prop_map(Arc::from)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(|b| canonical(IpAddr::from(b)))]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (ip(), 0u8..=128).prop_map(|(ip, len)| {
        let len = if ip.is_ipv4() { len.min(32) } else { len };
        Cidr::new(ip, len).unwrap()
    })
}

fn network() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9-]{0,6}".prop_map(Arc::from)
}

fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (network(), ip()).prop_map(|(n, ip)| NetworkAddress::new(n, ip))
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let hostname = (name(), name())
        .prop_map(|(namespace, hostname)| GatewayDestination::Hostname(NamespacedHostname { namespace, hostname }));
    let destination = prop_oneof![network_address().prop_map(GatewayDestination::Address), hostname];
    (destination, any::<u16>()).prop_map(|(destination, hbone_port)| GatewayAddress { destination, hbone_port })
}

fn ports() -> impl Strategy<Value = PortMap> {
    btree_map(any::<u16>(), any::<u16>(), 0..4).prop_map(PortMap)
}

fn locality() -> impl Strategy<Value = Locality> {
    (maybe(), maybe(), maybe()).prop_map(|(region, zone, subzone)| Locality { region, zone, subzone })
}

fn application_tunnel() -> impl Strategy<Value = ApplicationTunnel> {
    (select(vec![AppTunnelProtocol::None, AppTunnelProtocol::Proxy]), option::of(1u16..))
        .prop_map(|(protocol, port)| ApplicationTunnel { protocol, port })
}

prop_compose! {
    pub(crate) fn workload()(
        (uid, name, namespace, hostname) in (name(), maybe(), maybe(), maybe()),
        (network, trust_domain, service_account, node) in (network(), name(), name(), maybe()),
        (canonical_name, canonical_revision, workload_name, cluster_id) in (maybe(), maybe(), maybe(), name()),
        addresses in vec(ip(), 0..3),
        tunnel in select(vec![TunnelProtocol::None, TunnelProtocol::Hbone]),
        (waypoint, network_gateway) in (option::of(gateway()), option::of(gateway())),
        workload_type in select(
            vec![WorkloadType::CronJob, WorkloadType::Deployment, WorkloadType::Job, WorkloadType::Pod]),
        (native_tunnel, application_tunnel) in (any::<bool>(), option::of(application_tunnel())),
        services in btree_map(name(), ports(), 0..3),
        authorization_policies in vec(name(), 0..3),
        health in select(vec![Health::Healthy, Health::Unhealthy]),
        network_mode in select(vec![NetworkMode::Standard, NetworkMode::HostNetwork]),
        (locality, capacity, extensions) in (locality(), any::<u32>(), vec(name(), 0..2)),
        egress in option::of((vec(name(), 0..3), vec(ip(), 0..3))),
        node_addresses in option::of(vec(ip(), 0..3)),
    ) -> Workload {
        let node_addresses = node_addresses.map(Arc::from);
        let egress = egress.map(|(policies, exempt)| Arc::new(Egress { policies, exempt }));
        Workload {
            uid, name, namespace, addresses, hostname, network, tunnel, trust_domain, service_account, waypoint,
            network_gateway, node, canonical_name, canonical_revision, workload_type, workload_name, native_tunnel,
            application_tunnel, services, authorization_policies, health, cluster_id, locality, network_mode, capacity,
            egress, node_addresses, extensions,
        }
    }
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let scope = select(vec![Scope::Cluster, Scope::Network, Scope::Node, Scope::Region, Scope::Subzone, Scope::Zone]);
    let mode = select(vec![
        LoadBalancingMode::Failover,
        LoadBalancingMode::Passthrough,
        LoadBalancingMode::Strict,
        LoadBalancingMode::Unspecified,
    ]);
    let health = select(vec![HealthPolicy::AllowAll, HealthPolicy::OnlyHealthy]);
    (vec(scope, 0..4), mode, health).prop_map(|(preference, mode, health)| LoadBalancing { preference, mode, health })
}

fn weighted() -> impl Strategy<Value = WeightedWaypoint> {
    (gateway(), any::<u32>()).prop_map(|(destination, weight)| WeightedWaypoint { destination, weight })
}

prop_compose! {
    pub(crate) fn service()(
        (name, namespace, hostname) in (maybe(), maybe(), name()),
        vips in vec(network_address(), 0..3),
        cidr_vips in vec((network(), cidr()).prop_map(|(network, cidr)| CidrVip { network, cidr }), 0..2),
        ports in ports(),
        protocols in vec(select(
            vec![AppProtocol::Grpc, AppProtocol::Http11, AppProtocol::Http2, AppProtocol::Tcp, AppProtocol::Tls]), 0..4),
        subject_alt_names in vec(name(), 0..2),
        (waypoint, weighted_waypoints) in (option::of(gateway()), vec(weighted(), 0..2)),
        load_balancing in option::of(load_balancing()),
        ip_families in select(
            vec![IpFamilies::Automatic, IpFamilies::Dual, IpFamilies::Ipv4Only, IpFamilies::Ipv6Only]),
        (canonical, visibility) in (any::<bool>(), select(vec![Visibility::Namespace, Visibility::Public])),
        extensions in vec(name(), 0..2),
    ) -> Service {
        let app_protocols = ports.0.keys().copied().zip(protocols).collect();
        Service {
            name, namespace, hostname, vips, cidr_vips, ports, app_protocols, subject_alt_names, waypoint,
            weighted_waypoints, load_balancing, ip_families, canonical, visibility, extensions,
        }
    }
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        maybe().prop_map(StringMatch::Exact),
        maybe().prop_map(StringMatch::Prefix),
        maybe().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn account() -> impl Strategy<Value = ServiceAccount> {
    (maybe(), maybe()).prop_map(|(namespace, name)| ServiceAccount { namespace, name })
}

prop_compose! {
    fn one_match()(
        (namespaces, not_namespaces) in (vec(string_match(), 0..2), vec(string_match(), 0..2)),
        (principals, not_principals) in (vec(string_match(), 0..2), vec(string_match(), 0..2)),
        (service_accounts, not_service_accounts) in (vec(account(), 0..2), vec(account(), 0..2)),
        (source_ips, not_source_ips) in (vec(cidr(), 0..2), vec(cidr(), 0..2)),
        (destination_ips, not_destination_ips) in (vec(cidr(), 0..2), vec(cidr(), 0..2)),
        (destination_ports, not_destination_ports) in (vec(any::<u16>(), 0..2), vec(any::<u16>(), 0..2)),
    ) -> Match {
        Match {
            namespaces, not_namespaces, principals, not_principals, service_accounts, not_service_accounts, source_ips,
            not_source_ips, destination_ips, not_destination_ips, destination_ports, not_destination_ports,
        }
    }
}

prop_compose! {
    pub(crate) fn authorization()(
        (name, namespace, dry_run) in (name(), maybe(), any::<bool>()),
        scope in select(vec![authz::Scope::Global, authz::Scope::Namespace, authz::Scope::WorkloadSelector]),
        action in select(vec![authz::Action::Allow, authz::Action::Deny]),
        rules in vec(vec(vec(one_match(), 0..3), 0..3), 0..3),
    ) -> Authorization {
        let clause = |matches| Clause { matches };
        let rule = |clauses: Vec<Vec<Match>>| Rule { clauses: clauses.into_iter().map(clause).collect() };
        Authorization { name, namespace, scope, action, rules: rules.into_iter().map(rule).collect(), dry_run }
    }
}
