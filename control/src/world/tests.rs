use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::arrival;
use crate::object::fault::MAX_FAULTS;
use crate::object::shown;
use crate::translate::translate_all;

fn read(kind: Kind, value: Value) -> Input {
    arrival::read(kind, &value).unwrap().unwrap()
}

fn pod(name: &str, ip: &str, ready: bool) -> Input {
    let ready = if ready { "True" } else { "False" };
    read(
        Kind::Pod,
        json!({
            "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": []},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        }),
    )
}

fn service() -> Input {
    let spec = json!({"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 80}]});
    read(Kind::Service, json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))
}

fn slice(pods: &[&str], ready: bool) -> Input {
    let endpoint = |name: &&str| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": name}});
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    read(
        Kind::EndpointSlice,
        json!({
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
        }),
    )
}

fn entry(name: &str, host: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"hosts": [host], "resolution": "STATIC", "ports": [{"number": 80, "name": "http"}]},
    })
}

fn world() -> World {
    let mut world = World::new(Settings::default());
    world.upsert(service());
    for i in 1..=50 {
        world.upsert(pod(&format!("p{i}"), &format!("10.0.0.{i}"), true));
    }
    let output = world.take();
    assert_eq!((output.change.workloads.len(), output.change.services.len()), (50, 1));
    world
}

#[test]
fn a_pod_costs_a_pod() {
    let mut world = world();
    world.upsert(pod("p7", "10.0.0.7", false));
    assert_eq!(world.dirty.len(), 2, "its workload and its status: {:?}", world.dirty);
    let change = world.take().change;
    assert_eq!(change.workloads.len(), 1);
    assert!(change.services.is_empty() && change.removed.is_empty());
}

#[test]
fn what_is_as_it_was_costs_nothing() {
    let mut world = world();
    world.upsert(pod("p7", "10.0.0.7", true));
    world.upsert(service());
    assert!(world.dirty.is_empty());
    assert!(world.take().is_empty());
}

#[test]
fn a_slice_that_is_written_anew_concerns_those_who_come_and_go() {
    let mut world = world();
    world.upsert(slice(&["p1", "p2", "p3"], true));
    world.take();
    world.upsert(slice(&["p1", "p2", "p4"], false));
    let pods: BTreeSet<&str> = world
        .dirty
        .iter()
        .filter_map(|unit| match unit {
            Unit::Workloads(key) if key.kind == Kind::Pod => Some(&*key.name),
            _ => None,
        })
        .collect();
    assert_eq!(pods, BTreeSet::from(["p3", "p4"]));
}

#[test]
fn a_list_that_is_complete_removes_what_it_does_not_name() {
    let mut world = world();
    world.begin(Kind::Pod);
    world.upsert(pod("p1", "10.0.0.1", true));
    assert!(world.take().is_empty(), "before the end of the list nothing is gone");
    world.upsert(pod("p2", "10.0.0.2", false));
    world.finish(Kind::Pod);
    let change = world.take().change;
    assert_eq!((change.removed.len(), change.workloads.len()), (48, 1));
    assert_eq!(translate_all(&world).services.len(), 1, "other kinds stay");
}

#[test]
fn a_pod_that_came_during_a_list_stays() {
    let mut world = world();
    world.begin(Kind::Pod);
    world.upsert(pod("new", "10.0.1.1", true));
    world.remove(&Key::new(Kind::Pod, "shop", "p1"));
    world.finish(Kind::Pod);
    world.take();
    assert_eq!(translate_all(&world).workloads.len(), 1);
}

#[test]
fn a_waypoint_is_used_while_something_of_l7_is_attached() {
    let mut world = world();
    world.upsert(read(
        Kind::Gateway,
        json!({
            "metadata": {"namespace": "shop", "name": "wp"},
            "spec": {"gatewayClassName": "culvert-waypoint", "listeners": [{"name": "l", "port": 15008, "protocol": "HBONE"}]},
            "status": {"addresses": [{"type": "Hostname", "value": "wp.shop.svc.cluster.local"}]},
        }),
    ));
    world.upsert(read(
        Kind::Namespace,
        json!({"metadata": {"name": "shop", "labels": {"istio.io/use-waypoint": "wp"}}}),
    ));
    let output = world.take();
    assert_eq!(output.routing.len(), 2, "the service, and the waypoint itself");
    assert!(output.change.is_empty(), "bound, and nothing changes on the wire");
    assert!(output.statuses[0].conditions[0].message.contains("unused: no L7 policy"));

    let route = read(
        Kind::HttpRoute,
        json!({
            "metadata": {"namespace": "shop", "name": "r"},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
                     "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
        }),
    );
    let key = route.key();
    world.upsert(route);
    let output = world.take();
    assert!(output.change.services[0].waypoint.is_some());
    let web = output.statuses.iter().find(|s| s.object.kind == Kind::Service).unwrap();
    assert_eq!(web.conditions[0].message, "traffic goes through waypoint shop/wp");

    world.remove(&key);
    assert_eq!(world.take().change.services[0].waypoint, None);
}

#[test]
fn a_condition_is_taken_back_when_its_cause_is_gone() {
    let bound = |label: Value| {
        let spec = json!({"ports": [{"port": 80}]});
        read(Kind::Service, json!({"metadata": {"namespace": "shop", "name": "s", "labels": label}, "spec": spec}))
    };
    let mut world = World::new(Settings::default());
    world.upsert(bound(json!({"istio.io/use-waypoint": "absent"})));
    assert_eq!(world.take().statuses[0].conditions.len(), 1);
    assert_eq!(world.statuses().len(), 1);
    world.upsert(bound(json!({})));
    let output = world.take();
    assert!(output.statuses[0].conditions.is_empty());
    assert!(world.statuses().is_empty());
    world.remove(&Key::new(Kind::Service, "shop", "s"));
    assert!(world.take().statuses.is_empty(), "an object that is gone took its status along");
}

#[test]
fn a_service_that_becomes_an_alias_gives_its_address_free() {
    let web = |kind: &str| {
        let spec = json!({"type": kind, "clusterIP": "203.0.113.1", "ports": [{"port": 80}]});
        read(Kind::Service, json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))
    };
    let mut claim = entry("e", "h.example.com");
    claim["spec"]["addresses"] = json!(["203.0.113.1"]);
    let mut world = World::new(Settings::default());
    world.upsert(web("ClusterIP"));
    world.upsert(read(Kind::ServiceEntry, claim));
    world.take();
    world.upsert(web("ExternalName"));
    let output = world.take();
    assert_eq!(output.change.removed, ["shop/web.shop.svc.cluster.local".into()]);
    assert_eq!(output.change.services[0].vips[0].ip.to_string(), "203.0.113.1");
}

#[test]
fn who_runs_where() {
    let world = world();
    let facts = world.pod_on_node("shop", "p1").unwrap();
    assert_eq!((&*facts.uid, &*facts.node, &*facts.service_account), ("uid-p1", "n1", "web"));
    assert_eq!(world.pod_on_node("shop", "absent"), None);
}

#[test]
fn the_pod_network_is_that_of_nodes_and_settings() {
    let block = |text: &str| text.parse::<Cidr>().unwrap();
    let node =
        |name: &str, cidrs: Value| read(Kind::Node, json!({"metadata": {"name": name}, "spec": {"podCIDRs": cidrs}}));
    let mut world = World::new(Settings { pod_cidrs: vec![block("10.9.0.0/16")], ..Settings::default() });
    assert_eq!(world.take().pod_cidrs, Some(vec![block("10.9.0.0/16")]));
    world.upsert(node("n1", json!(["10.0.1.0/24", "fd00:1::/64"])));
    world.upsert(node("n2", json!(["10.0.1.0/24", "nonsense"])));
    let output = world.take();
    assert_eq!(output.pod_cidrs, Some(vec![block("10.0.1.0/24"), block("10.9.0.0/16"), block("fd00:1::/64")]));
    assert!(output.statuses[0].events[0].message.starts_with("spec.podCIDRs[1]: \"nonsense\""));
    world.remove(&Key::new(Kind::Node, "", "n2"));
    assert_eq!(world.take().pod_cidrs, None, "the other node has it too");

    let mut deaf = World::new(Settings { pod_cidrs_from_nodes: false, ..Settings::default() });
    deaf.upsert(node("n1", json!(["10.0.1.0/24"])));
    assert_eq!(deaf.take().pod_cidrs, None);
}

/// Addresses that a world wants to be written, by entry.
fn proposed(output: &Output) -> Vec<(Arc<str>, Vec<IpAddr>)> {
    let list = output
        .statuses
        .iter()
        .filter_map(|s| Some((s.object.name.clone(), s.addresses.as_ref()?.iter().map(|(_, ip)| *ip).collect())));
    list.collect()
}

#[test]
fn every_host_gets_its_own_addresses_and_every_replica_proposes_the_same() {
    let entries: Vec<Input> =
        (0..2000).map(|i| read(Kind::ServiceEntry, entry(&format!("e{i}"), &format!("h{i}.example.com")))).collect();
    let mut one = World::new(Settings::default());
    entries.iter().cloned().for_each(|e| one.upsert(e));
    let list = proposed(&one.take());
    let all: Vec<IpAddr> = list.iter().flat_map(|(_, ips)| ips.clone()).collect();
    assert_eq!(all.len(), 4000);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 4000, "no address twice");
    let settings = Settings::default();
    assert!(all.iter().all(|ip| settings.allocate_v4.contains(*ip) || settings.allocate_v6.contains(*ip)));

    let mut other = World::new(Settings::default());
    other.replace_all(Kind::ServiceEntry, entries);
    assert_eq!(proposed(&other.take()), list);
}

#[test]
fn a_full_block_is_said_and_the_other_family_is_still_given() {
    let small = Settings { allocate_v4: "240.240.0.0/30".parse().unwrap(), ..Settings::default() };
    let mut world = World::new(small);
    for i in 0..4 {
        world.upsert(read(Kind::ServiceEntry, entry(&format!("e{i}"), &format!("h{i}.example.com"))));
    }
    let output = world.take();
    let v4 = proposed(&output).iter().flat_map(|(_, ips)| ips.clone()).filter(IpAddr::is_ipv4).count();
    assert_eq!(v4, 2, "a /30 has two addresses between its first and its last");
    let told = output.statuses.iter().filter(|s| s.conditions.iter().any(|c| c.message.contains("is full")));
    assert_eq!(told.count(), 2);
}

#[test]
fn hostile_objects_are_named_in_few_words_and_stop_nobody() {
    let mega = "x".repeat(1 << 20);
    let mut world = World::new(Settings::default());
    let addresses: Vec<String> = (0..5000).map(|i| format!("not-an-address-{i}")).collect();
    world.upsert(read(
        Kind::ServiceEntry,
        json!({
            "metadata": {"namespace": "shop", "name": "huge", "annotations": {
                "networking.istio.io/traffic-distribution": mega, "istio.io/use-waypoint-canary-weight": mega}},
            "spec": {"hosts": [mega, "", "*", "a b", "ok.example.com"], "addresses": addresses, "resolution": mega,
                     "exportTo": [mega, mega], "ports": [{"number": -5, "name": mega, "protocol": mega}],
                     "endpoints": [{"address": mega}, {"address": ""}]},
        }),
    ));
    world.upsert(read(Kind::Service, json!({"metadata": {"namespace": "shop", "name": "empty"}})));
    world.upsert(read(Kind::Pod, json!({"metadata": {"namespace": "shop", "name": "empty"}})));
    world.upsert(pod("p", "10.0.0.1", true));
    let output = world.take();
    assert_eq!(output.change.workloads.len(), 1);
    assert_eq!(output.change.services.len(), 2, "the empty service and the one host that is one");
    let condition = &output.statuses[0].conditions[0];
    assert_eq!((condition.kind, condition.status), ("culvert.dev/Accepted", false));
    assert!(condition.message.len() < MAX_FAULTS * 400, "{}", condition.message.len());
    assert!(condition.message.contains("more"));
    assert!(!shown(&mega).contains(&mega));
}

#[test]
fn equal_texts_of_many_objects_are_one_allocation() {
    let world = world();
    let one = world.state.pods.get("shop", "p1").unwrap();
    let other = world.state.pods.get("shop", "p2").unwrap();
    assert!(Arc::ptr_eq(&one.node, &other.node) && Arc::ptr_eq(&one.service_account, &other.service_account));
    assert!(Arc::ptr_eq(one.meta.labels.get("app").unwrap(), other.meta.labels.get("app").unwrap()));
}

#[test]
fn nothing_is_left_when_everything_is_gone() {
    let mut world = world();
    world.upsert(slice(&["p1"], true));
    world.upsert(read(Kind::ServiceEntry, entry("e", "h.example.com")));
    world.take();
    for key in world.state.keys().collect::<Vec<_>>() {
        world.remove(&key);
    }
    let change = world.take().change;
    assert_eq!(change.removed.len(), 52);
    let state = &world.state;
    assert_eq!(state.keys().count(), 0);
    assert!(state.pods_by_labels.is_empty());
    assert_eq!(state.hosts.iter().count() + state.vips.iter().count(), 0);
    assert_eq!(state.pods_by_node.iter().count() + state.slices_by_pod.iter().count(), 0);
    assert!(state.pod_network.is_empty());
    assert_eq!(state.slices_by_service.iter().count() + state.waypoint_users.iter().count(), 0);
}

fn waypoint(address: bool) -> Input {
    let addresses =
        if address { json!([{"type": "Hostname", "value": "wp.shop.svc.cluster.local"}]) } else { json!([]) };
    read(
        Kind::Gateway,
        json!({
            "metadata": {"namespace": "shop", "name": "wp"},
            "spec": {"gatewayClassName": "culvert-waypoint", "listeners": [{"name": "l", "port": 15008, "protocol": "HBONE"}]},
            "status": {"addresses": addresses},
        }),
    )
}

fn security_policy() -> Input {
    read(
        Kind::AuthorizationPolicy,
        json!({
            "metadata": {"namespace": "shop", "name": "p"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                     "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
        }),
    )
}

fn bound_world(address: bool) -> World {
    let mut world = world();
    world.upsert(waypoint(address));
    world.upsert(read(
        Kind::Namespace,
        json!({"metadata": {"name": "shop", "labels": {"istio.io/use-waypoint": "wp"}}}),
    ));
    world.take();
    world
}

const RULE: &str = "culvert-system/culvert_waypoint_80_shop_wp";

/// What is said of the guard of the service.
fn guard(statuses: &[Status]) -> Option<(bool, &'static str)> {
    let web = statuses.iter().find(|s| s.object.kind == Kind::Service)?;
    web.conditions.iter().find(|c| c.kind == "culvert.dev/WaypointEnforced").map(|c| (c.status, c.reason))
}

#[test]
fn nobody_is_refused_before_every_node_goes_through_the_waypoint() {
    let mut world = bound_world(true);
    world.upsert(security_policy());
    let first = world.take();
    assert!(first.change.services[0].waypoint.is_some(), "the waypoint is used at once");
    assert!(first.change.policies.is_empty() && first.change.workloads.is_empty(), "and nobody is refused yet");
    assert_eq!(guard(&first.statuses), Some((false, "Waiting")));
    let waiting: Vec<_> = world.waiting().map(|(key, (_, gateway))| (key.clone(), gateway)).collect();
    let web = Key::new(Kind::Service, "shop", "web");
    assert_eq!(waiting, [(web.clone(), "wp".into())]);

    world.acknowledge([web.clone()]);
    let second = world.take();
    assert_eq!(guard(&second.statuses), Some((true, "Enforced")));
    assert_eq!(world.waiting().count(), 0);
    let rule = &second.change.policies[0];
    assert_eq!((rule.key().as_str(), rule.action), (RULE, mesh::authz::Action::Deny));
    let matches: Vec<_> = rule.rules[0].clauses.iter().flat_map(|c| c.matches.clone()).collect();
    assert_eq!(matches[0].destination_ports, [80]);
    assert_eq!(matches[1].not_principals, [mesh::authz::StringMatch::Exact("cluster.local/ns/shop/sa/wp".into())]);
    assert_eq!(second.change.workloads.len(), 50, "every endpoint names the rule");
    assert!(second.change.workloads.iter().all(|w| *w.authorization_policies == [RULE.into()]));

    // The waypoint goes: nobody else is let in, and traffic goes nowhere.
    world.upsert(waypoint(false));
    let third = world.take();
    let nowhere = third.change.services[0].waypoint.clone().unwrap().destination.to_string();
    assert_eq!(nowhere, "culvert.dev/no-waypoint.culvert.dev");
    assert!(third.change.removed_policies.is_empty() && third.change.workloads.is_empty(), "the rule stays");
    assert_eq!(guard(&third.statuses), Some((true, "Refused")));
    // It comes back: the endpoints were shut all the time.
    world.upsert(waypoint(true));
    let fourth = world.take();
    assert_eq!(guard(&fourth.statuses), Some((true, "Enforced")));
    assert!(fourth.change.removed_policies.is_empty() && fourth.change.workloads.is_empty());

    // The policy goes, and with it the rule; another one begins anew.
    world.remove(&Key::new(Kind::AuthorizationPolicy, "shop", "p"));
    let fifth = world.take();
    assert_eq!(fifth.change.removed_policies, [RULE.into()]);
    assert_eq!(fifth.change.workloads.len(), 50);
    assert_eq!(fifth.change.services[0].waypoint, None, "nothing of L7 is left");
    world.upsert(security_policy());
    assert_eq!(guard(&world.take().statuses), Some((false, "Waiting")));
}

#[test]
fn a_security_policy_whose_waypoint_is_not_ready_refuses_at_once() {
    let mut world = bound_world(false);
    world.upsert(security_policy());
    let output = world.take();
    let nowhere = output.change.services[0].waypoint.clone().unwrap().destination.to_string();
    assert_eq!(nowhere, "culvert.dev/no-waypoint.culvert.dev");
    assert_eq!(output.change.policies[0].key(), RULE);
    assert_eq!(output.change.workloads.len(), 50);
    assert_eq!(world.waiting().count(), 0);
}

#[test]
fn what_was_enforced_before_a_restart_is_enforced_after_it() {
    let mut web = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {
        "clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    web["status"] = json!({"conditions": [{"type": "culvert.dev/WaypointEnforced", "status": "True", "reason": "Enforced",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let mut world = bound_world(true);
    world.upsert(read(Kind::Service, web));
    world.upsert(security_policy());
    let output = world.take();
    assert_eq!(guard(&output.statuses), Some((true, "Enforced")));
    assert_eq!(output.change.policies[0].key(), RULE);
}

#[test]
fn keys_of_issuers_are_asked_for_and_reach_the_waypoint() {
    let mut world = bound_world(true);
    world.upsert(read(
        Kind::RequestAuthentication,
        json!({
            "metadata": {"namespace": "shop", "name": "jwt"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                     "jwtRules": [{"issuer": "https://a"}, {"issuer": "b", "jwksUri": "https://b/keys"}]},
        }),
    ));
    let rules = |output: &Output| {
        let web = output.routing.iter().find(|r| r.name.contains("web")).unwrap();
        web.message.authentications[0].rules.clone()
    };
    let first = rules(&world.take());
    assert!(first.iter().all(|r| r.jwks.is_empty() && r.keys_missing.is_some()), "no token is valid yet");
    let wanted: Vec<_> = world.wanted_keys().into_iter().collect();
    assert_eq!(wanted.len(), 2);
    world.set_keys(&wanted[0], Ok("{\"keys\":[1]}".into()));
    world.set_keys(&wanted[1], Err("it is away".into()));
    let output = world.take();
    let second = rules(&output);
    assert_eq!((second[0].jwks.as_str(), &second[0].keys_missing), ("{\"keys\":[1]}", &None));
    assert_eq!(second[1].keys_missing.as_ref().unwrap().reason, "it is away");
    let told = output.statuses.iter().find(|s| s.object.kind == Kind::RequestAuthentication).unwrap();
    assert!(told.conditions[0].message.contains("it is away"), "{told:?}");

    world.remove(&Key::new(Kind::RequestAuthentication, "shop", "jwt"));
    world.take();
    assert!(world.wanted_keys().is_empty());
    assert!(world.state.layer7.keys.is_empty(), "what nobody asks for is not kept");
}
