//! What holds for any world.

use mesh::OriginalDst;
use mesh::addr::{Cidr, NetworkAddress};
use mesh::service::{
    CidrVip, HealthPolicy, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility, WeightedWaypoint,
};
use mesh::workload::{GatewayAddress, Health, NetworkMode, TunnelProtocol, Workload};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::testing::{at, by_address, by_host, ip, key, ports};
use crate::{Authority, PROXY_PORTS, Query, Route, Snapshot};

const IPS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "::ffff:10.0.0.3", "fd00::1", "fd00::2"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const NETWORKS: [&str; 2] = ["", "west"];
const PORTS: [u16; 4] = [0, 80, 81, 15008];

#[derive(Clone, Debug)]
enum Edit {
    Remove(String),
    Service(Service),
    Workload(Workload),
}

fn gateway() -> impl Strategy<Value = Option<GatewayAddress>> {
    let host = select(&NAMES[..]).prop_map(by_host);
    let address = (select(&NETWORKS[..]), select(&IPS[..])).prop_map(|(n, i)| by_address(&format!("{n}/{i}")));
    prop_oneof![4 => Just(None), 1 => host, 1 => address]
}

fn port_map() -> impl Strategy<Value = Vec<(u16, u16)>> {
    vec((select(&PORTS[..]), select(&PORTS[..])), 0..3)
}

fn workload() -> impl Strategy<Value = Workload> {
    let who = (select(&NAMES[..]), select(&NAMES[..]), select(&NETWORKS[..]), vec(select(&IPS[..]), 0..3));
    let kind = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY, prop::bool::weighted(0.2), 0..3u32);
    let refs = (vec((select(&NAMES[..]), port_map()), 0..3), gateway(), gateway());
    (who, kind, refs).prop_map(|((uid, name, network, ips), (pod, tunnel, well, host, capacity), (of, wp, gw))| {
        Workload {
            uid: if pod { format!("K//Pod/shop/{uid}") } else { uid.to_owned() }.into(),
            name: name.into(),
            namespace: "shop".into(),
            network: network.into(),
            addresses: ips.into_iter().map(ip).collect(),
            hostname: if host { "db.example" } else { "" }.into(),
            tunnel: if tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            health: if well { Health::Healthy } else { Health::Unhealthy },
            network_mode: if host { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            capacity,
            services: of.into_iter().map(|(s, p)| (key(s).into(), ports(&p))).collect(),
            waypoint: wp,
            network_gateway: gw,
            ..Workload::default()
        }
    })
}

fn service() -> impl Strategy<Value = Service> {
    let modes = [LoadBalancingMode::Failover, LoadBalancingMode::Strict, LoadBalancingMode::Passthrough];
    let scopes = [Scope::Network, Scope::Node, Scope::Zone];
    let lb = (vec(select(scopes.to_vec()), 0..3), select(modes.to_vec()), prop::bool::ANY);
    let lb = lb.prop_map(|(preference, mode, all)| LoadBalancing {
        preference,
        mode,
        health: if all { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy },
    });
    let blocks = select(&["10.0.0.0/24", "10.0.0.0/8", "fd00::/64", "0.0.0.0/0"][..]);
    let vips = (vec((select(&NETWORKS[..]), select(&IPS[..])), 0..3), vec((select(&NETWORKS[..]), blocks), 0..2));
    let weighted = vec((gateway(), 0..3u32), 0..3);
    let refs = (prop::option::of(lb), gateway(), weighted, prop::bool::ANY, prop::bool::ANY);
    (select(&NAMES[..]), vips, port_map(), refs).prop_map(
        |(name, (vips, blocks), map, (lb, wp, many, canonical, seen))| {
            let cidr = |c: &str| c.parse::<Cidr>().unwrap();
            Service {
                vips: vips.into_iter().map(|(n, i)| at(&format!("{n}/{i}"))).collect(),
                cidr_vips: blocks.into_iter().map(|(n, c)| CidrVip { network: n.into(), cidr: cidr(c) }).collect(),
                ports: ports(&map),
                load_balancing: lb,
                waypoint: wp,
                weighted_waypoints: many
                    .into_iter()
                    .filter_map(|(g, weight)| Some(WeightedWaypoint { destination: g?, weight }))
                    .collect(),
                canonical,
                visibility: if seen { Visibility::Public } else { Visibility::Namespace },
                ..crate::testing::service(name, "")
            }
        },
    )
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = select(&["K//Pod/shop/a", "K//Pod/shop/b", "a", "b", "shop/a.shop", "shop/b.shop"][..]);
    vec(
        prop_oneof![
            3 => workload().prop_map(Edit::Workload),
            3 => service().prop_map(Edit::Service),
            2 => name.prop_map(|n| Edit::Remove(n.to_owned())),
        ],
        0..14,
    )
}

fn apply(all: &mut Snapshot, edit: Edit) {
    match edit {
        Edit::Remove(name) => {
            all.remove(&name);
        }
        Edit::Service(s) => all.insert_service(s),
        Edit::Workload(w) => all.insert_workload(w),
    }
}

/// The same world from nothing, in reverse order of names, services first.
fn rebuilt(all: &Snapshot) -> Snapshot {
    let mut fresh = Snapshot::default();
    let (mut services, mut workloads): (Vec<_>, Vec<_>) = (all.services().collect(), all.workloads().collect());
    services.reverse();
    workloads.reverse();
    services.into_iter().for_each(|s| fresh.insert_service((**s).clone()));
    workloads.into_iter().for_each(|w| fresh.insert_workload((**w).clone()));
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_edits_equals_building_from_scratch(edits in edits()) {
        let mut all = Snapshot::default();
        let mut history = Vec::new();
        for edit in edits {
            history.push((all.clone(), rebuilt(&all)));
            apply(&mut all, edit);
            prop_assert!(all == rebuilt(&all));
        }
        // No later edit has changed a clone.
        for (then, copy) in history {
            prop_assert!(then == copy);
        }
        for name in all.workloads().map(|w| w.uid.to_string()).collect::<Vec<_>>() {
            prop_assert!(all.remove(&name));
        }
        for name in all.services().map(|s| s.key().to_string()).collect::<Vec<_>>() {
            prop_assert!(all.remove(&name));
        }
        prop_assert!(all == Snapshot::default());
    }

    #[test]
    fn resolve_never_panics_and_keeps_its_promises(
        edits in edits(), source in workload(), to in select(&IPS[..]), port in select(&PORTS[..]), random in any::<u64>(),
    ) {
        let mut all = Snapshot::default();
        edits.into_iter().for_each(|e| apply(&mut all, e));
        let pods = ["10.0.0.0/16".parse().unwrap()];
        let destination = OriginalDst((ip(to), port).into());
        let query = Query { source: &source, destination, pod_cidrs: &pods, random };
        let answer = all.resolve(&query);
        prop_assert_eq!(&answer, &all.resolve(&query), "the same question has the same answer");
        let address = NetworkAddress::new(source.network.clone(), ip(to));
        let service = all.service_by_address(&address, "shop");
        match &answer {
            Ok(Route::Tunnel { workload, service: through, .. } | Route::Direct { workload, service: through, .. }) => {
                // Never around a waypoint, never in clear to what has a tunnel, never to another network.
                match through {
                    Some(s) => prop_assert!(s.waypoint.is_none() && s.weighted_waypoints.iter().all(|w| w.weight == 0)),
                    None => prop_assert!(workload.waypoint.as_ref().is_none_or(|g| all.leads_to(g, &source))),
                }
                prop_assert_eq!(&workload.network, &source.network);
                let tunnel = matches!(answer, Ok(Route::Tunnel { .. }));
                prop_assert_eq!(tunnel, workload.tunnel == TunnelProtocol::Hbone);
            }
            Ok(Route::Passthrough { .. }) => {
                let in_pods = pods[0].contains(ip(to));
                let exact = service.as_ref().is_some_and(|s| s.vips.contains(&address));
                let owner = all.workload_by_address(&address);
                prop_assert!(exact || !in_pods && !owner.as_ref().is_some_and(|w| w.is_pod()));
                prop_assert!(service.is_some() || owner.is_none());
            }
            Ok(Route::Waypoint { waypoint, authority, .. }) => {
                prop_assert_eq!(&waypoint.network, &source.network);
                prop_assert_eq!(authority.ip(), ip(to).to_canonical());
            }
            Ok(Route::Gateway { workload, .. }) => prop_assert_ne!(&workload.network, &source.network),
            Ok(Route::Named(_)) | Err(_) => {}
        }
    }

    #[test]
    fn inbound_never_leads_to_the_proxy(edits in edits(), local in workload(), own in select(&IPS[..]), text in "[a-c.:\\[\\]0-9f]{0,20}", to in select(&IPS[..]), port in select(&PORTS[..])) {
        let mut all = Snapshot::default();
        edits.into_iter().for_each(|e| apply(&mut all, e));
        let authorities = [text.parse().ok(), Some(Authority::Ip((ip(to), port).into())), Some(Authority::Host("a.shop".into(), port))];
        for authority in authorities.into_iter().flatten() {
            if let Ok(target) = all.inbound(&local, ip(own), &authority) {
                prop_assert!(!PROXY_PORTS.contains(&target.port));
            }
        }
    }
}
