//! Step by step comes to the same as all at once: random objects of a small universe come, change and go, and after each
//! `take` a follower of the outputs knows exactly what a translation of the whole world gives.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Provider, Settings, World};
use crate::arrival;
use crate::object::{Input, Key, Kind};
use crate::translate::tests::lines::Picture;
use crate::translate::translate_all;

#[derive(Clone, Debug)]
enum Op {
    /// Every node goes through the waypoints that services wait for.
    Acknowledge,
    /// Keys of an issuer were fetched, or could not be.
    Keys(u8),
    Relist(Kind, Vec<(u8, [u8; 12])>),
    Remove(Kind, u8),
    Take,
    Upsert(Kind, u8, [u8; 12]),
    /// The replica that writes statuses writes the addresses, and the watch brings them back.
    WriteAddresses,
}

const KINDS: [Kind; 23] = Kind::ALL;

/// Six names of each kind: three in each of two namespaces.
fn name(kind: Kind, which: u8) -> (&'static str, &'static str) {
    let namespace = if which.is_multiple_of(2) { "a" } else { "b" };
    match kind {
        Kind::Namespace => ("", namespace),
        Kind::GatewayClass | Kind::Node => ("", ["x", "y"][usize::from(which) % 2]),
        _ => (namespace, ["x", "y", "z"][usize::from(which) / 2 % 3]),
    }
}

fn key(kind: Kind, which: u8) -> Key {
    let (namespace, name) = name(kind, which);
    Key::new(kind, namespace, name)
}

/// Picks by a random byte; shrinks to the first.
fn pick<'a, T: ?Sized>(byte: u8, of: &[&'a T]) -> &'a T {
    of[usize::from(byte) % of.len()]
}

fn labels(c: &[u8; 12]) -> Value {
    let mut labels = json!({"app": pick(c[0], &["x", "y", "z"])});
    let mut set = |yes: bool, key: &str, value: &str| {
        if yes {
            labels[key] = json!(value);
        }
    };
    set(c[1] & 3 == 1, "istio.io/use-waypoint", pick(c[1] >> 2, &["x", "y", "none"]));
    set(c[1] & 7 == 5, "istio.io/use-waypoint-namespace", "b");
    set(c[2] & 7 == 1, "istio.io/use-waypoint-canary", "z");
    set(c[2] & 7 == 2, "gateway.networking.k8s.io/gateway-name", "x");
    set(c[2] & 7 == 3, "istio.io/waypoint-for", pick(c[2] >> 3, &["all", "workload", "none"]));
    set(c[2] & 7 == 4, "networking.istio.io/tunnel", "http");
    set(c[2] & 7 == 5, "networking.istio.io/enable-autoallocate-ip", "false");
    labels
}

fn annotations(c: &[u8; 12]) -> Value {
    let mut annotations = json!({});
    let mut set = |yes: bool, key: &str, value: &str| {
        if yes {
            annotations[key] = json!(value);
        }
    };
    set(c[3] & 1 == 1, "culvert.dev/waypoint", "always");
    set(c[3] & 2 == 2, "ambient.istio.io/redirection", "enabled");
    set(c[3] & 4 == 4, "networking.istio.io/traffic-distribution", pick(c[3] >> 4, &["PreferClose", "Odd"]));
    set(c[3] & 8 == 8, "istio.io/use-waypoint-canary-weight", pick(c[3] >> 4, &["10", "x"]));
    annotations
}

fn object(kind: Kind, which: u8, c: &[u8; 12]) -> Value {
    let (namespace, name) = name(kind, which);
    let mut metadata = json!({
        "name": name, "uid": format!("uid-{}", c[4] % 2), "labels": labels(c), "annotations": annotations(c),
        "creationTimestamp": format!("2026-01-0{}T00:00:00Z", 1 + c[5] % 3),
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    let mut made = match kind {
        Kind::AuthorizationPolicy | Kind::NetworkPolicy | Kind::PeerAuthentication => policy(kind, c),
        Kind::BackendTlsPolicy => backend_tls(c),
        Kind::ConfigMap => json!({"data": {"ca.crt": pick(c[6], &["-----BEGIN CERTIFICATE-----", "odd"])}}),
        Kind::DestinationRule => json!({"spec": {
            "host": pick(c[6], &["x", "y", "h1.example.com", "x.a.svc.cluster.local"]),
            "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": c[7] % 2}}, "odd": c[8] & 1},
        }}),
        Kind::GrpcRoute | Kind::HttpRoute | Kind::TcpRoute | Kind::TlsRoute => route(kind, c),
        Kind::ReferenceGrant => json!({"spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": pick(c[6], &["a", "b"])}],
            "to": [{"group": "", "kind": "Service", "name": pick(c[7], &["x", "y"])}],
        }}),
        Kind::RequestAuthentication => json!({"spec": {
            "targetRefs": [target(c[6])],
            "jwtRules": [{"issuer": "https://i", "jwksUri": pick(c[7], &["https://i/a", "https://i/b", "http://i"])}],
        }}),
        Kind::RequestPolicy => request_policy(c),
        Kind::Telemetry => telemetry(c),
        Kind::EndpointSlice => {
            metadata["labels"] = json!({"kubernetes.io/service-name": pick(c[6], &["x", "y", "z"])});
            slice(c)
        }
        Kind::Gateway => gateway(c),
        Kind::GatewayClass => json!({"spec": {"controllerName": "example.com/x"}}),
        Kind::Namespace => json!({}),
        Kind::Node => {
            metadata["labels"]["topology.kubernetes.io/zone"] = json!(pick(c[6], &["z1", "z2"]));
            let address = pick(c[8], &["192.168.0.1", "192.168.0.2", "host"]);
            json!({"spec": {"podCIDRs": [pick(c[7], &["10.0.0.0/24", "10.0.1.0/24", "odd"])]},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
        }
        Kind::Pod => pod(which, c),
        Kind::Service => {
            let mut made = service(c);
            if c[10] & 7 == 1 {
                let enforced = json!({"type": "culvert.dev/WaypointEnforced", "status": "True", "reason": "", "message": "",
                                      "lastTransitionTime": "2026-01-01T00:00:00Z"});
                made["status"]["conditions"] = json!([enforced]);
            }
            made
        }
        Kind::ServiceEntry => entry(c),
        Kind::WorkloadEntry => json!({"spec": {
            "address": pick(c[6], &["192.168.0.1", "vm.example.com", "unix:///x"]), "labels": {"app": pick(c[7], &["x", "y"])},
            "ports": {"http": u32::from(c[8])}, "weight": c[9],
        }}),
    };
    made["metadata"] = metadata;
    made
}

fn pod(which: u8, c: &[u8; 12]) -> Value {
    json!({
        "spec": {
            "nodeName": pick(c[6], &["x", "y", ""]), "serviceAccountName": "sa", "hostNetwork": c[7] & 7 == 7,
            "containers": [{"name": "c", "ports": [{"name": pick(c[8], &["http", "other"]), "containerPort": 8080}]}],
        },
        "status": {
            "phase": pick(c[9], &["Running", "Running", "Failed"]),
            "podIP": pick(c[10], &[format!("10.0.0.{which}").as_str(), "10.0.0.9", "", "odd"]),
            "conditions": [{"type": "Ready", "status": pick(c[11], &["True", "False"])}],
        },
    })
}

fn service(c: &[u8; 12]) -> Value {
    let mut spec = json!({
        "clusterIP": pick(c[6], &["None", "10.96.0.1", "203.0.113.1"]),
        "type": pick(c[7], &["ClusterIP", "LoadBalancer", "ExternalName"]),
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "n", "port": u32::from(c[8] % 3), "targetPort": 81}],
    });
    if c[9] & 1 == 1 {
        spec["selector"] = json!({"app": pick(c[9] >> 1, &["x", "y"])});
    }
    let ingress = pick(c[11], &["203.0.113.1", "203.0.113.9", "192.168.0.1", "10.0.0.9"]);
    json!({"spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": ingress}]}}})
}

fn slice(c: &[u8; 12]) -> Value {
    let pod = |b: u8| {
        let target =
            json!({"kind": "Pod", "name": pick(b, &["x", "y", "z"]), "uid": pick(b >> 4, &["uid-0", "uid-1", ""])});
        json!({"addresses": ["10.0.0.1"], "targetRef": target})
    };
    json!({
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000 + u32::from(c[7] % 2), "protocol": "TCP"}],
        "endpoints": [pod(c[8]), pod(c[9]), {"addresses": [pick(c[10], &["192.168.1.1", "192.168.1.2", "odd"])]}],
    })
}

fn entry(c: &[u8; 12]) -> Value {
    let hosts = ["h1.example.com", "h2.example.com", "x.a.svc.cluster.local", "*.example.com"];
    let mut spec = json!({
        "hosts": [pick(c[6], &hosts), pick(c[6] >> 2, &hosts)],
        "resolution": pick(c[7], &["STATIC", "DNS", "NONE", "DYNAMIC_DNS", "ODD"]),
        "ports": [{"name": "http", "number": 80, "targetPort": u32::from(c[8] % 2)}],
    });
    match c[9] % 4 {
        1 => spec["workloadSelector"] = json!({"labels": {"app": pick(c[9] >> 2, &["x", "y"])}}),
        2 => {
            spec["endpoints"] = json!([
                {"address": "192.168.2.1", "labels": labels(c)}, {"address": pick(c[9] >> 2, &["192.168.2.1", "e.example.com"])},
            ])
        }
        _ => {}
    }
    match c[10] % 4 {
        1 => spec["addresses"] = json!(["203.0.113.1", "192.168.0.1", "10.0.0.9"]),
        2 => spec["addresses"] = json!(["203.0.113.1", "240.240.0.1", "198.51.100.0/24", "10.0.1.7", "10.0.0.0/16"]),
        _ => {}
    }
    match c[10] >> 2 & 3 {
        1 => spec["exportTo"] = json!(["."]),
        2 => spec["exportTo"] = json!(["~"]),
        _ => {}
    }
    let host = spec["hosts"][0].clone();
    let status = match c[11] % 4 {
        1 => json!({"addresses": [{"host": host, "value": "240.240.0.1"}]}),
        2 => {
            json!({"addresses": [{"host": host, "value": "240.240.0.2"}, {"host": "gone.example.com", "value": "2001:2::1"}]})
        }
        _ => json!({}),
    };
    json!({"spec": spec, "status": status})
}

fn gateway(c: &[u8; 12]) -> Value {
    let namespaces = match c[7] % 4 {
        0 => json!({"from": "All"}),
        1 => json!({"from": "Selector", "selector": {"matchLabels": {"app": pick(c[7] >> 2, &["x", "y"])}}}),
        _ => json!({"from": "Same"}),
    };
    let listener = json!({
        "name": "l", "port": 15008, "protocol": pick(c[8], &["HBONE", "HBONE", "HTTP"]), "allowedRoutes": {"namespaces": namespaces},
    });
    let addresses = match c[9] % 3 {
        0 => json!([{"type": "Hostname", "value": "wp.example.com"}]),
        1 => json!([{"type": "IPAddress", "value": "10.96.0.9"}]),
        _ => json!([]),
    };
    json!({
        "spec": {"gatewayClassName": pick(c[6], &["x", "y"]), "listeners": [listener]}, "status": {"addresses": addresses},
    })
}

/// Somebody that a policy can be attached to.
fn target(c: u8) -> Value {
    let name = pick(c >> 3, &["x", "y", "z"]);
    match c & 7 {
        0..=3 => json!({"kind": "Service", "name": name}),
        4 => json!({"kind": "ServiceEntry", "group": "networking.istio.io", "name": name}),
        5 => json!({"kind": "GatewayClass", "group": "gateway.networking.k8s.io", "name": name}),
        _ => json!({"kind": "Gateway", "group": "gateway.networking.k8s.io", "name": name}),
    }
}

/// Somebody that a route can lead to.
fn backend(c: u8, weight: u8) -> Value {
    let mut made = match c & 3 {
        0 => json!({"name": "x"}),
        1 => json!({"name": pick(c >> 2, &["x", "y"]), "namespace": pick(c >> 3, &["a", "b"])}),
        2 => json!({"name": pick(c >> 2, &["h1.example.com", "x.a.svc.cluster.local"]), "kind": "Hostname",
                    "group": "networking.istio.io"}),
        _ => json!({"name": "x", "kind": pick(c >> 2, &["ServiceEntry", "Odd"]), "group": "networking.istio.io"}),
    };
    made["port"] = json!(pick(c >> 4, &["80", "81", "1"]).parse::<u16>().unwrap());
    made["weight"] = json!(weight % 3);
    made
}

fn route(kind: Kind, c: &[u8; 12]) -> Value {
    let parent = |c: u8| {
        let mut made = match c & 3 {
            3 => {
                json!({"kind": "ServiceEntry", "group": "networking.istio.io", "name": pick(c >> 2, &["x", "y", "z"])})
            }
            _ => json!({"kind": "Service", "group": "", "name": pick(c >> 2, &["x", "y", "z"])}),
        };
        if c >> 4 & 1 == 1 {
            made["namespace"] = json!("a");
        }
        match c >> 5 & 3 {
            1 => made["port"] = json!(80),
            2 => made["sectionName"] = json!("http"),
            _ => {}
        }
        made
    };
    let mut rule = json!({"backendRefs": [backend(c[8], c[9]), backend(c[9], c[10])]});
    if kind == Kind::HttpRoute && c[10] & 3 == 1 {
        rule["filters"] = json!([{"type": "RequestMirror", "requestMirror": {"backendRef": backend(c[11], 0)}}]);
    }
    if kind == Kind::HttpRoute && c[10] & 3 == 2 {
        rule["filters"] = json!([{"type": "Odd"}]);
    }
    if matches!(kind, Kind::GrpcRoute | Kind::HttpRoute) && c[10] & 3 == 3 {
        rule["name"] = json!("first");
        let policy = json!({"group": "culvert.dev", "kind": "RequestPolicy", "name": pick(c[11], &["x", "y"])});
        rule["filters"] = json!([{"type": "ExtensionRef", "extensionRef": policy}]);
    }
    let mut spec = json!({"parentRefs": [parent(c[6]), parent(c[7])], "rules": [rule]});
    if kind == Kind::TlsRoute {
        spec["hostnames"] = json!(["a.example"]);
    }
    json!({"spec": spec})
}

fn request_policy(c: &[u8; 12]) -> Value {
    let mut at = target(c[6]);
    if c[7] & 1 == 1 {
        at = json!({"kind": pick(c[7] >> 1, &["HTTPRoute", "GRPCRoute"]), "group": "gateway.networking.k8s.io",
                    "name": pick(c[6], &["x", "y", "z"])});
    }
    if c[7] & 8 == 8 {
        at["sectionName"] = json!("first");
    }
    let mut spec = json!({"rateLimits": [{"requests": c[8] % 3, "per": pick(c[9], &["1s", "odd"])}]});
    if c[10] & 1 == 1 {
        spec["targetRefs"] = json!([at]);
    }
    if c[10] & 2 == 2 {
        spec["externalProcessing"] = json!([{"backendRef": backend(c[11], 1)}]);
    }
    json!({"spec": spec})
}

fn telemetry(c: &[u8; 12]) -> Value {
    let mut spec = json!({"tracing": [{"randomSamplingPercentage": c[6] % 3}]});
    match c[7] & 3 {
        0 => {}
        1 => spec["selector"] = json!({"matchLabels": {"app": "x"}}),
        _ => spec["targetRefs"] = json!([target(c[8]), target(c[9])]),
    }
    if c[10] & 1 == 1 {
        spec["accessLogging"] =
            json!([{"disabled": c[10] & 2 == 2, "providers": [{"name": pick(c[11], &["envoy", "odd"])}]}]);
    }
    json!({"spec": spec})
}

fn backend_tls(c: &[u8; 12]) -> Value {
    let mut target = json!({"group": "", "kind": "Service", "name": pick(c[6], &["x", "y"])});
    if c[7] & 1 == 1 {
        target["sectionName"] = json!("http");
    }
    let mut validation = json!({"hostname": "h"});
    match c[8] & 1 {
        0 => validation["wellKnownCACertificates"] = json!("System"),
        _ => {
            validation["caCertificateRefs"] =
                json!([{"group": "", "kind": "ConfigMap", "name": pick(c[9], &["x", "y"])}])
        }
    }
    json!({"spec": {"targetRefs": [target], "validation": validation}})
}

fn policy(kind: Kind, c: &[u8; 12]) -> Value {
    let labels = json!({"app": pick(c[6], &["x", "y"])});
    let selector = if c[7] & 1 == 1 { json!({"matchLabels": labels}) } else { Value::Null };
    match kind {
        Kind::AuthorizationPolicy if c[7] & 6 != 0 => json!({"spec": {
            "targetRefs": [target(c[10]), target(c[11])], "action": pick(c[8], &["ALLOW", "DENY", "AUDIT", "CUSTOM"]),
            "provider": {"name": pick(c[9], &["asked", "odd"])},
            "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}],
        }}),
        Kind::AuthorizationPolicy => json!({"spec": {
            "selector": selector, "action": pick(c[8], &["ALLOW", "DENY", "AUDIT"]),
            "rules": [{"to": [{"operation": {"ports": [pick(c[9], &["80", "81", "odd"])]}}]}],
        }}),
        Kind::NetworkPolicy => json!({"spec": {
            "podSelector": if c[7] & 1 == 1 { selector } else { json!({}) },
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": pick(c[8], &["x", "y"])}}},
                         {"namespaceSelector": {"matchLabels": {"app": pick(c[9], &["x", "y"])}}}],
                "ports": [{"port": pick(c[10], &["http", "other"])}],
            }],
            "egress": if c[11] & 1 == 1 { json!([]) } else { json!([{
                "to": [{"namespaceSelector": {"matchLabels": {"app": pick(c[8], &["x", "y"])}}}],
                "ports": [{"port": pick(c[11], &["http", "other"])}, {"port": 80}],
            }]) },
        }}),
        _ => json!({"spec": {"selector": selector, "mtls": {"mode": pick(c[8], &["STRICT", "PERMISSIVE", "UNSET"])}}}),
    }
}

fn input(kind: Kind, which: u8, c: &[u8; 12]) -> Input {
    arrival::read(kind, &object(kind, which, c)).unwrap().unwrap()
}

fn op() -> impl Strategy<Value = Op> {
    let kind = || prop::sample::select(&KINDS[..]);
    // Pods, services and entries take part in most; they come most often.
    let busy = prop::sample::select(&[Kind::Pod, Kind::Service, Kind::ServiceEntry, Kind::EndpointSlice][..]);
    let choices = || any::<[u8; 12]>();
    prop_oneof![
        6 => (kind(), 0..6_u8, choices()).prop_map(|(k, n, c)| Op::Upsert(k, n, c)),
        6 => (busy, 0..6_u8, choices()).prop_map(|(k, n, c)| Op::Upsert(k, n, c)),
        3 => (kind(), 0..6_u8).prop_map(|(k, n)| Op::Remove(k, n)),
        4 => Just(Op::Take),
        1 => Just(Op::WriteAddresses),
        1 => (kind(), prop::collection::vec((0..6_u8, choices()), 0..4)).prop_map(|(k, list)| Op::Relist(k, list)),
        1 => Just(Op::Acknowledge),
        1 => any::<u8>().prop_map(Op::Keys),
    ]
}

fn settle(world: &mut World, picture: &mut Picture) {
    let output = world.take();
    let cidrs = output.pod_cidrs.clone();
    picture.apply(output);
    picture.forget(|key| !world.state.holds(key));
    let (told, all) = (picture.clone().spoken(), Picture::of(translate_all(world)).spoken());
    if told != all {
        let (told, all) = (told.everything(), all.everything());
        let only =
            |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>().join("\n  ");
        panic!("told and not so:\n  {}\nso and not told:\n  {}", only(&told, &all), only(&all, &told));
    }
    if let Some(cidrs) = cidrs {
        assert_eq!(cidrs, world.pod_cidrs());
    }
    let again = world.take();
    assert!(again.is_empty(), "nothing happened, and yet {again:?}");
}

fn write_addresses(world: &mut World, picture: &Picture) {
    for (key, addresses) in picture.addresses() {
        let mut entry = (**world.state.entries.get(&key.namespace, &key.name).unwrap()).clone();
        entry.allocated.clone_from(addresses);
        world.upsert(Input::ServiceEntry(entry));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn step_by_step_is_the_same_as_all_at_once(ops in prop::collection::vec(op(), 1..80)) {
        let asked = Provider {
            namespace: None, host: "h1.example.com".into(), port: 80, ask: Default::default(),
        };
        let providers = [("asked".into(), asked)].into();
        let settings = Settings { root_namespace: "b".into(), providers, ..Settings::default() };
        let mut world = World::new(settings);
        let mut picture = Picture::default();
        for op in ops {
            match op {
                Op::Acknowledge => {
                    settle(&mut world, &mut picture);
                    let waiting: Vec<Key> = world.waiting().map(|(key, _)| key.clone()).collect();
                    world.acknowledge(waiting);
                }
                Op::Keys(c) => {
                    for source in world.wanted_keys() {
                        let keys = Ok("{}".into());
                        world.set_keys(&source, if c & 1 == 0 { keys } else { Err("away".into()) });
                    }
                }
                Op::Relist(kind, list) => world.replace_all(kind, list.iter().map(|(n, c)| input(kind, *n, c))),
                Op::Remove(kind, n) => world.remove(&key(kind, n)),
                Op::Take => settle(&mut world, &mut picture),
                Op::Upsert(kind, n, c) => world.upsert(input(kind, n, &c)),
                Op::WriteAddresses => {
                    settle(&mut world, &mut picture);
                    write_addresses(&mut world, &picture);
                }
            }
        }
        settle(&mut world, &mut picture);
        // Written twice at most, everything that was to be written is there: no two replicas chase each other.
        for _ in 0..3 {
            write_addresses(&mut world, &picture);
            settle(&mut world, &mut picture);
        }
        prop_assert_eq!(picture.addresses().count(), 0);
    }
}
