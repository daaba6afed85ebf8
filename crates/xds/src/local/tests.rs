use std::path::Path;
use std::time::Duration;

use mesh::workload::{Egress, Health, TunnelProtocol};
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::convert::arbitrary;

const SHOP: &str = r#"
workloads:
  - uid: cluster1//Pod/shop/web
    name: web
    namespace: shop
    serviceAccount: web
    trustDomain: cluster.local
    workloadIps: ["10.0.0.1", "fd00::1"]
    protocol: HBONE
    node: n1
    network: ""
    services:
      shop/web.shop.svc.cluster.local:
        80: 8080
    authorizationPolicies: [shop/only-gateway]
    waypoint: {destination: /10.9.0.1}
    networkGateway: {destination: gw/east.example, hboneMtlsPort: 15009}
    applicationTunnel: {protocol: PROXY, port: 9000}
    locality: {region: r, zone: z, subzone: s}
    capacity: 3
  - name: plain
    namespace: shop
    workloadIps: [10.0.0.2]
    status: Unhealthy
    services: {}
services:
  - name: web
    namespace: shop
    hostname: web.shop.svc.cluster.local
    vips: [/10.1.0.1]
    ports: {80: 0, 443: 8443}
    subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/other"]
    loadBalancer: {routingPreferences: [Network, Region], mode: Failover, healthPolicy: OnlyHealthy}
    endpoints:
      one: {workloadUid: cluster1//Pod/shop/web, port: {443: 8444}}
    weightedWaypoints: [{destination: {destination: net/10.0.0.9}, weight: 2}]
    visibility: Namespace
    ipFamilies: IPv4
    cidrVips: [{network: "", cidr: 10.2.0.0/24}]
policies:
  - name: only-gateway
    namespace: shop
    scope: WorkloadSelector
    action: Allow
    dryRun: false
    rules:
      - - - principals: [{Exact: cluster.local/ns/shop/sa/api}, {Presence: []}]
            notNamespaces: [{Prefix: a}, {Suffix: b}]
            serviceAccounts: [{namespace: shop, serviceAccount: api}]
          - sourceIps: [10.0.0.0/8]
            notDestinationPorts: [9999]
"#;

fn mistakes(text: &str) -> Vec<String> {
    parse("w.yaml", text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn every_key_of_the_format_is_read() {
    let world = parse("w.yaml", SHOP).unwrap();
    assert_eq!(world.warnings, Vec::<String>::new());
    let [web, plain] = &world.workloads[..] else { panic!("two workloads") };
    assert_eq!(web.tunnel, TunnelProtocol::Hbone);
    assert_eq!(web.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(web.waypoint.as_ref().unwrap().destination.to_string(), "/10.9.0.1");
    assert_eq!(web.waypoint.as_ref().unwrap().hbone_port, 15008);
    assert_eq!(web.network_gateway.as_ref().unwrap().destination.to_string(), "gw/east.example");
    let ports = &web.services["shop/web.shop.svc.cluster.local"].0;
    assert_eq!((ports[&80], ports[&443]), (8080, 8444), "own ports and those of the service's endpoint");
    assert_eq!((&*plain.uid, plain.health), ("Kubernetes//Pod/shop/plain", Health::Unhealthy));
    assert_eq!((&*plain.trust_domain, &*plain.service_account), ("", ""), "no defaults in the local file");
    assert_eq!(world.services[0].cidr_vips[0].cidr.to_string(), "10.2.0.0/24");
    assert_eq!(world.policies[0].rules[0].clauses[0].matches.len(), 2);
    assert_eq!(world.policies[0].rules[0].clauses[0].matches[0].principals.len(), 2);
}

#[test]
fn what_is_written_is_read_back_the_same() {
    let world = parse("w.yaml", SHOP).unwrap();
    let text = File::from(&world).to_yaml();
    assert!(text.contains("\n      \"shop/web.shop.svc.cluster.local\":\n        443: 8444\n"), "{text}");
    assert_eq!(parse("again.yaml", &text).unwrap(), world);
    let empty = File::default().to_yaml();
    assert_eq!(parse("empty.yaml", &empty).unwrap(), World::default());
}

#[test]
fn unknown_keys_and_missing_ones_are_mistakes_with_lines() {
    let found = mistakes("workloads:\n  - name: a\n    namespace: b\n    workloadIp: 10.0.0.1\n    services: {}\n");
    assert!(found.iter().any(|m| m.starts_with("w.yaml:4:") && m.contains("workloadIp")), "{found:?}");
    assert!(found.iter().any(|m| m.contains("workloadIps")), "{found:?}");
}

#[test]
fn an_empty_file_is_no_empty_world() {
    // A file that is being rewritten is empty for a moment; that must not take everything away.
    assert_eq!(mistakes("").len(), 1);
    assert_eq!(mistakes("# only a remark\n").len(), 1);
}

#[test]
fn all_mistakes_of_meaning_come_at_once() {
    let found = mistakes(
        r#"
workloads:
  - {name: a, namespace: s, workloadIps: [10.0.0.1, nonsense], services: {"x": {80: 80}, "s/y": {0: 80}}, authorizationPolicies: [s/none, s/all]}
  - {name: a, namespace: s, workloadIps: [10.0.0.1], services: {}, waypoint: {destination: 10.0.0.1, hboneMtlsPort: 0}}
  - {namespace: "", workloadIps: [], services: {}, workloadType: ReplicaSet}
  - {name: e, namespace: s, workloadIps: [10.0.0.2], services: {}, egress: {policies: [s/gone, s/all, s/let], exempt: [here]}}
services:
  - {name: y, namespace: s, hostname: y, vips: [10.0.0.9, /10.0.0.8, /10.0.0.8], ports: {0: 1}, endpoints: {e: {workloadUid: u}}}
  - {name: y, namespace: s, hostname: y, vips: [], ports: {}, cidrVips: [{network: "", cidr: 1.2.3.4/40}]}
policies:
  - {name: all, namespace: s, scope: Namespace, action: Deny, dryRun: false, rules: [[[{}]]]}
  - {name: let, namespace: s, scope: WorkloadSelector, action: Allow, dryRun: false, rules: []}
  - {name: all, namespace: s, scope: Namespace, action: Deny, dryRun: false, rules: [[[{sourceIps: [bad]}]]]}
"#,
    );
    for part in [
        "w.yaml:3:53: workloads[0].workloadIps[1]: \"nonsense\" is not an IP address",
        "\"x\" is not a service",
        "0 is not a port; use 1 to 65535",
        "policy \"s/none\" is not in the file",
        "policy \"s/all\" has another scope",
        "workloads[3].egress.policies[0]: policy \"s/gone\" is not in the file",
        "workloads[3].egress.policies[1]: policy \"s/all\" has another scope",
        "workloads[3].egress.policies[2]: policy \"s/let\" is no DENY policy",
        "workloads[3].egress.exempt[0]: \"here\" is not an IP address",
        "is also that of workloads[0]",
        "10.0.0.1 is also an address of",
        "\"10.0.0.1\" is neither an address nor a service",
        "hboneMtlsPort",
        "namespace: is empty",
        "has neither uid nor name",
        "no address, hostname or networkGateway",
        "\"ReplicaSet\" is not known",
        "\"10.0.0.9\" is not an address in a network",
        "/10.0.0.8 also belongs to services[0]",
        "no workload is called \"u\"",
        "s/y is also services[0]",
        "\"1.2.3.4/40\" is not an address or a block",
        "s/all is also policies[0]",
        "an empty match matches nothing",
        "\"bad\" is not an address or a block",
    ] {
        assert!(found.iter().any(|m| m.contains(part)), "{part}\nin\n{}", found.join("\n"));
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let world = parse(
        "w.yaml",
        r#"
workloads:
  - {name: a, namespace: s, workloadIps: [10.0.0.1], protocol: HBONE, services: {"s/y": {81: 80}, "s/gone": {80: 80}}}
services:
  - {name: y, namespace: s, hostname: y, vips: [], ports: {80: 0}}
"#,
    );
    let text = world.unwrap().warnings.join("\n");
    for part in ["no full identity", "s/gone is not in the file", "has no port 81", "no workload says where port 80"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

proptest! {
    #[test]
    fn each_part_survives_the_file(
        mut w in arbitrary::workload(), mut s in arbitrary::service(), mut p in arbitrary::authorization(),
    ) {
        // What the file cannot say, or refuses to say.
        w.extensions.clear();
        w.services.clear();
        w.authorization_policies.clear();
        w.egress = w.egress.map(|e| std::sync::Arc::new(Egress { policies: Vec::new(), ..(*e).clone() }));
        w.namespace = format!("n{}", w.namespace).into();
        w.hostname = format!("n{}", w.hostname).into();
        let mut seen = std::collections::HashSet::new();
        w.addresses.retain(|a| seen.insert(*a));
        for g in [&mut w.waypoint, &mut w.network_gateway, &mut s.waypoint].into_iter().flatten() {
            g.hbone_port = g.hbone_port.max(1);
        }
        for g in &mut s.weighted_waypoints {
            g.destination.hbone_port = g.destination.hbone_port.max(1);
        }
        s.extensions.clear();
        s.app_protocols.clear();
        s.ports.0.remove(&0);
        s.namespace = format!("n{}", s.namespace).into();
        let mut seen = std::collections::HashSet::new();
        s.vips.retain(|a| seen.insert(a.clone()));
        p.namespace = format!("n{}", p.namespace).into();
        for c in p.rules.iter_mut().flat_map(|r| &mut r.clauses) {
            c.matches.retain(|m| *m != mesh::authz::Match::default());
        }
        let world = World { workloads: vec![w], services: vec![s], policies: vec![p], warnings: Vec::new() };
        let text = File::from(&world).to_yaml();
        let read = parse("w.yaml", &text).map_err(|m| TestCaseError::fail(format!("{m}\n{text}")))?;
        prop_assert_eq!(World { warnings: Vec::new(), ..read }, world);
    }
}

#[test]
fn a_difference_names_what_came_changed_and_went() {
    let old = parse("w.yaml", SHOP).unwrap();
    let mut new = old.clone();
    new.workloads.remove(1);
    new.workloads[0].capacity = 9;
    new.policies.clear();
    new.workloads[0].authorization_policies.clear();
    let change = old.difference(&new);
    assert_eq!(change.removed, ["Kubernetes//Pod/shop/plain".into()]);
    assert_eq!(change.workloads, new.workloads);
    assert!(change.services.is_empty());
    assert_eq!(change.removed_policies, ["shop/only-gateway".into()]);
    assert!(new.difference(&new).is_empty());
    let all = new.change();
    assert!(all.synced && all.services.len() == 1 && all.workloads.len() == 1);
}

/// Longer than any run of these tests should need; reached only when an event never comes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(watcher: &mut Watcher) -> Event {
    timeout(PATIENCE, watcher.next()).await.expect("an event")
}

fn one(name: &str) -> String {
    format!("workloads:\n  - {{name: {name}, namespace: s, workloadIps: [10.0.0.1], services: {{}}}}\n")
}

fn replace(folder: &Path, text: &str) {
    let fresh = folder.join("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, folder.join("w.yaml")).unwrap();
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.yaml");
    std::fs::write(&path, one("a")).unwrap();
    let mut watcher = Watcher::open(&path).await.unwrap();
    assert_eq!(&*watcher.world().workloads[0].name, "a");

    replace(folder.path(), &one("b"));
    let Event::Changed { change, world } = next(&mut watcher).await else { panic!("changed") };
    assert_eq!(change.removed, ["Kubernetes//Pod/s/a".into()]);
    assert_eq!(&*world.workloads[0].name, "b");

    replace(folder.path(), "workloads: 3\n");
    let Event::Broken(mistakes) = next(&mut watcher).await else { panic!("broken") };
    assert!(mistakes.to_string().contains("w.yaml:1:"), "{mistakes}");
    assert_eq!(&*watcher.world().workloads[0].name, "b", "the old world stays");

    // Another file of the folder and an unchanged text are no events; the one in place is.
    std::fs::write(folder.path().join("other"), "x").unwrap();
    replace(folder.path(), &one("b"));
    std::fs::write(&path, one("c")).unwrap();
    loop {
        match next(&mut watcher).await {
            Event::Changed { world, .. } => {
                assert_eq!(&*world.workloads[0].name, "c");
                break;
            }
            // Reading between truncation and writing sees an empty file, which is a mistake or an empty world.
            Event::Broken(_) => {}
            Event::Lost(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn a_link_that_is_swapped_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    for (version, name) in [("..v1", "a"), ("..v2", "b")] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("w.yaml"), one(name)).unwrap();
    }
    std::os::unix::fs::symlink("..v1", folder.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/w.yaml", folder.path().join("w.yaml")).unwrap();
    let mut watcher = Watcher::open(&folder.path().join("w.yaml")).await.unwrap();
    std::os::unix::fs::symlink("..v2", folder.path().join("..data_tmp")).unwrap();
    std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    let Event::Changed { world, .. } = next(&mut watcher).await else { panic!("changed") };
    assert_eq!(&*world.workloads[0].name, "b");
}

#[tokio::test]
async fn a_folder_that_vanishes_ends_the_watch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.yaml");
    std::fs::write(&path, one("a")).unwrap();
    let mut watcher = Watcher::open(&path).await.unwrap();
    drop(folder);
    loop {
        match next(&mut watcher).await {
            Event::Lost(_) => break,
            Event::Broken(_) => {}
            Event::Changed { .. } => panic!("nothing new was written"),
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_a_mistake() {
    let mistakes = load(Path::new("/nonexistent/w.yaml")).unwrap_err();
    assert!(mistakes.to_string().contains("/nonexistent/w.yaml"), "{mistakes}");
}
