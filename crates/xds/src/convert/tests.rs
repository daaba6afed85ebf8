use mesh::authz::{Action, Match};
use mesh::service::Visibility;
use mesh::workload::NetworkMode;
use proptest::prelude::*;
use prost::Message;
use prost_types::Any;
use proto::security as wire_sec;
use proto::workload as wire;
use proto::{POD_NETWORKS_NAME, POD_NETWORKS_TYPE};

use super::arbitrary::{authorization, service, workload};
use super::*;

proptest! {
    #[test]
    fn a_workload_survives_the_wire(w in workload()) {
        let bytes = workload_to_wire(&w).encode_to_vec();
        prop_assert_eq!(workload_from_wire(wire::Workload::decode(&*bytes).unwrap()).unwrap(), w);
    }

    #[test]
    fn a_service_survives_the_wire(s in service()) {
        let bytes = service_to_wire(&s).encode_to_vec();
        prop_assert_eq!(service_from_wire(wire::Service::decode(&*bytes).unwrap()).unwrap(), s);
    }

    #[test]
    fn a_policy_survives_the_wire(a in authorization()) {
        let bytes = authorization_to_wire(&a).encode_to_vec();
        prop_assert_eq!(authorization_from_wire(wire_sec::Authorization::decode(&*bytes).unwrap()).unwrap(), a);
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for type_url in [ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_TYPE] {
            let any = Any { type_url: type_url.into(), value: bytes.clone() };
            let resource = Resource { name: "x".into(), resource: Some(any), ..Default::default() };
            // Names of random content do not fit, so both must refuse.
            prop_assert!(address_from_resource(&resource).is_err());
            prop_assert!(authorization_from_resource(&resource).is_err());
            prop_assert!(pod_networks_from_resource(&resource).is_err());
        }
    }
}

fn pod() -> wire::Workload {
    wire::Workload { uid: "c//Pod/shop/web".into(), addresses: vec![vec![10, 0, 0, 1]], ..Default::default() }
}

fn reason(w: wire::Workload) -> String {
    workload_from_wire(w).unwrap_err().to_string()
}

#[test]
fn empty_fields_become_their_defaults() {
    let w = workload_from_wire(pod()).unwrap();
    assert!(w.identity().is_err(), "a namespace has no default");
    assert_eq!((&*w.trust_domain, &*w.service_account, &*w.cluster_id), ("cluster.local", "default", "Kubernetes"));
    assert_eq!(w.capacity, 1);
}

#[test]
fn malformed_workloads_are_rejected_with_the_field() {
    assert_eq!(reason(wire::Workload { uid: String::new(), ..pod() }), "uid: missing");
    assert_eq!(reason(wire::Workload { tunnel_protocol: 9, ..pod() }), "tunnel_protocol: value 9 is not known here");
    assert!(reason(wire::Workload { tunnel_protocol: 2, ..pod() }).contains("LEGACY_ISTIO_MTLS"));
    assert_eq!(reason(wire::Workload { status: 2, ..pod() }), "status: value 2 is not known here");
    assert_eq!(reason(wire::Workload { workload_type: 4, ..pod() }), "workload_type: value 4 is not known here");
    assert_eq!(reason(wire::Workload { network_mode: 2, ..pod() }), "network_mode: value 2 is not known here");
    assert!(reason(wire::Workload { addresses: vec![vec![1, 2, 3]], ..pod() }).contains("this one has 3"));
    let gateway = wire::GatewayAddress { destination: None, hbone_mtls_port: 15008 };
    assert_eq!(reason(wire::Workload { waypoint: Some(gateway), ..pod() }), "waypoint.destination: missing");
    let list = wire::PortList { ports: vec![wire::Port { service_port: 70_000, target_port: 80, app_protocol: 0 }] };
    let services = [("a/b".to_owned(), list)].into();
    assert_eq!(reason(wire::Workload { services, ..pod() }), "services[a/b].service_port: 70000 is not a port");
    let tunnel = wire::ApplicationTunnel { protocol: 7, port: 0 };
    assert!(reason(wire::Workload { application_tunnel: Some(tunnel), ..pod() }).contains("value 7"));
}

#[test]
fn malformed_services_are_rejected_and_tolerable_ones_read() {
    let good = || wire::Service { namespace: "a".into(), hostname: "b".into(), ..Default::default() };
    let reason = |s| service_from_wire(s).unwrap_err().to_string();
    let lb = |scope, mode| wire::LoadBalancing { routing_preference: vec![scope], mode, health_policy: 0 };
    assert!(reason(wire::Service { load_balancing: Some(lb(0, 0)), ..good() }).contains("not specified"));
    assert!(reason(wire::Service { load_balancing: Some(lb(7, 0)), ..good() }).contains("value 7"));
    assert!(reason(wire::Service { load_balancing: Some(lb(1, 4)), ..good() }).contains("load_balancing.mode"));
    assert_eq!(reason(wire::Service { hostname: String::new(), ..good() }), "hostname: missing");
    let block = |length| wire::NetworkAddress { network: String::new(), address: vec![10, 0, 0, 0], length };
    let text = reason(wire::Service { addresses: vec![block(Some(33))], ..good() });
    assert_eq!(text, "addresses: a prefix of 33 bits does not fit 10.0.0.0");
    let weighted = vec![wire::WeightedWaypoint { destination: None, weight: 1 }];
    assert_eq!(
        reason(wire::Service { weighted_waypoints: weighted, ..good() }),
        "weighted_waypoints.destination: missing"
    );
    let odd = wire::Service {
        visibility: 9,
        ports: vec![wire::Port { service_port: 80, target_port: 0, app_protocol: 99 }],
        ..good()
    };
    let odd = service_from_wire(odd).unwrap();
    assert_eq!(odd.visibility, Visibility::Public);
    assert_eq!(odd.ports.0.get(&80), Some(&0));
}

fn policy(action: i32, m: wire_sec::Match) -> wire_sec::Authorization {
    wire_sec::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        action,
        rules: vec![wire_sec::Rule { clauses: vec![wire_sec::Clause { matches: vec![m] }] }],
        ..Default::default()
    }
}

#[test]
fn malformed_policies_are_rejected() {
    let reason = |a| authorization_from_wire(a).unwrap_err().to_string();
    assert!(reason(policy(2, wire_sec::Match::default())).contains("action"));
    assert!(reason(wire_sec::Authorization { scope: 3, ..policy(0, wire_sec::Match::default()) }).contains("scope"));
    let ports = wire_sec::Match { destination_ports: vec![65_536], ..Default::default() };
    assert_eq!(reason(policy(0, ports)), "destination_ports: 65536 is not a port");
    let kindless =
        wire_sec::Match { principals: vec![wire_sec::StringMatch { match_type: None }], ..Default::default() };
    assert_eq!(reason(policy(0, kindless)), "principals.match_type: missing");
    let address = wire_sec::Address { address: vec![0; 16], length: 129 };
    let long = wire_sec::Match { not_source_ips: vec![address], ..Default::default() };
    assert!(reason(policy(0, long)).contains("129 bits"));
}

#[test]
fn a_mapped_block_becomes_the_ipv4_block_inside() {
    let mut address = vec![0; 10];
    address.extend([0xff, 0xff, 10, 1, 2, 3]);
    let block = wire_sec::Address { address: address.clone(), length: 104 };
    let read = authorization_from_wire(policy(0, wire_sec::Match { source_ips: vec![block], ..Default::default() }));
    assert_eq!(read.unwrap().rules[0].clauses[0].matches[0].source_ips[0].to_string(), "10.0.0.0/8");
    let wide = wire_sec::Address { address, length: 8 };
    assert!(
        authorization_from_wire(policy(0, wire_sec::Match { source_ips: vec![wide], ..Default::default() })).is_err()
    );
}

#[test]
fn an_extension_inside_a_match_never_lets_more_through() {
    let m = || wire_sec::Match {
        destination_ports: vec![80],
        extensions: vec![wire_sec::Extension { name: "x".into(), config: None }],
        ..Default::default()
    };
    let first = |action| authorization_from_wire(policy(action, m())).unwrap().rules[0].clauses[0].matches[0].clone();
    assert_eq!(first(Action::Allow as i32), Match::default(), "ALLOW: matches nothing");
    assert_eq!(first(1).destination_ports, [80], "DENY: the rest decides");
}

#[test]
fn a_resource_must_be_called_after_its_content() {
    let address = wire::Address { r#type: Some(wire::address::Type::Workload(pod())) };
    let any = Any { type_url: ADDRESS_TYPE.into(), value: address.encode_to_vec() };
    let mut resource = Resource { name: "c//Pod/shop/web".into(), resource: Some(any), ..Default::default() };
    assert_eq!(address_from_resource(&resource).unwrap().name().as_ref(), "c//Pod/shop/web");
    assert!(matches!(authorization_from_resource(&resource), Err(Reason::Type(_))));
    resource.name = "other".into();
    assert!(matches!(address_from_resource(&resource), Err(Reason::Name { .. })));
}

#[test]
fn aliases_are_addresses_with_their_network() {
    let mut w = workload_from_wire(wire::Workload { network: "n1".into(), ..pod() }).unwrap();
    assert_eq!(workload_aliases(&w), ["n1/10.0.0.1".into()]);
    w.network_mode = NetworkMode::HostNetwork;
    assert!(workload_aliases(&w).is_empty());
    let block = wire::NetworkAddress { network: String::new(), address: vec![10, 0, 0, 0], length: Some(24) };
    let vip = wire::NetworkAddress { length: None, ..block.clone() };
    let s = wire::Service { hostname: "b".into(), addresses: vec![vip, block], ..Default::default() };
    assert_eq!(service_aliases(&service_from_wire(s).unwrap()), ["/10.0.0.0".into(), "/10.0.0.0/24".into()]);
}

#[test]
fn what_a_workload_may_dial_is_understood_or_the_workload_is_refused() {
    let extension = |name: &str, type_url: &str, value: Vec<u8>| wire::Extension {
        name: name.into(),
        config: Some(Any { type_url: type_url.into(), value }),
    };
    let egress = |policies: &[&str], exempt: Vec<Vec<u8>>| {
        let policies = policies.iter().map(|p| (*p).to_owned()).collect();
        let value = proto::egress::Egress { policies, exempt }.encode_to_vec();
        extension(proto::EGRESS_EXTENSION, proto::EGRESS_TYPE, value)
    };
    let with = |extensions| wire::Workload { extensions, ..pod() };
    let read = workload_from_wire(with(vec![
        extension("other", "x", vec![0xff]),
        egress(&["shop/a"], vec![vec![10, 0, 0, 9]]),
        egress(&["shop/b"], Vec::new()),
    ]))
    .unwrap();
    let found = read.egress.as_deref().unwrap();
    assert_eq!(found.policies, ["shop/a".into(), "shop/b".into()], "all of several count");
    assert_eq!(found.exempt, [std::net::IpAddr::from([10, 0, 0, 9])]);
    assert_eq!(read.extensions, ["other".into()]);
    assert_eq!(workload_from_wire(pod()).unwrap().egress, None);

    let broken = |e| reason(with(vec![e]));
    assert!(broken(egress(&[], vec![vec![1]])).contains("this one has 1"));
    assert!(broken(extension(proto::EGRESS_EXTENSION, "x", Vec::new())).contains("holds a \"x\""));
    assert!(
        broken(extension(proto::EGRESS_EXTENSION, proto::EGRESS_TYPE, vec![0xff])).contains("not a readable message")
    );
    let empty = wire::Extension { name: proto::EGRESS_EXTENSION.into(), config: None };
    assert_eq!(broken(empty), "extensions[culvert.dev/egress].config: missing");
}

fn networks(blocks: &[(&[u8], u32)]) -> Resource {
    let block = |(address, length): &(&[u8], u32)| proto::network::Block { address: address.to_vec(), length: *length };
    let value = proto::network::PodNetworks { blocks: blocks.iter().map(block).collect() }.encode_to_vec();
    let any = Any { type_url: POD_NETWORKS_TYPE.into(), value };
    Resource { name: POD_NETWORKS_NAME.into(), resource: Some(any), ..Default::default() }
}

#[test]
fn pod_networks_survive_the_wire_and_are_taken_whole_or_not_at_all() {
    let blocks: Vec<mesh::addr::Cidr> = ["10.1.0.0/16", "fd00:1::/64"].map(|t| t.parse().unwrap()).to_vec();
    let entry = crate::server::Entry::pod_networks(&blocks);
    let any = Any { type_url: POD_NETWORKS_TYPE.into(), value: entry.body.to_vec() };
    let resource = Resource { name: entry.name.to_string(), resource: Some(any), ..Default::default() };
    assert_eq!(pod_networks_from_resource(&resource).unwrap(), blocks);
    assert_eq!(pod_networks_from_resource(&networks(&[])).unwrap(), []);
    let wrong = |blocks: &[(&[u8], u32)]| pod_networks_from_resource(&networks(blocks)).unwrap_err().to_string();
    assert_eq!(
        wrong(&[(&[10, 0, 0, 0], 8), (&[10, 0, 0], 8)]),
        "blocks[1]: an address has 4 or 16 bytes, this one has 3"
    );
    assert_eq!(wrong(&[(&[10, 0, 0, 0], 33)]), "blocks[0]: a prefix of 33 bits does not fit 10.0.0.0");
    let other = Resource { name: "services".into(), ..networks(&[]) };
    assert!(pod_networks_from_resource(&other).unwrap_err().to_string().contains("\"services\""));
}

#[test]
fn pod_networks_that_are_refused_leave_what_was_known() {
    use crate::client::{Update, to_change};
    let update = |upserts: Vec<Resource>, removals: Vec<Arc<str>>| {
        to_change(Update { type_url: POD_NETWORKS_TYPE, upserts, removals, answered: vec![], synced: true })
    };
    let (change, rejected) = update(vec![networks(&[(&[10, 0, 0, 0], 8)])], vec![]);
    assert_eq!((change.pod_networks.map(|n| n.len()), rejected.len(), change.synced), (Some(1), 0, true));
    for removals in [vec![], vec![POD_NETWORKS_NAME.into()]] {
        let (change, rejected) = update(vec![networks(&[(&[10], 8)])], removals);
        assert_eq!((change.pod_networks, rejected.len(), change.synced), (None, 1, false));
    }
    assert_eq!(update(vec![], vec![POD_NETWORKS_NAME.into()]).0.pod_networks, Some(Vec::new()));
    assert_eq!(update(vec![], vec!["x".into()]).0.pod_networks, None);
}
