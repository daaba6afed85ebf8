//! Requests through a waypoint: routes, filters, policies, resilience and telemetry on real connections.
//!
//! Stricter than the Gateway API's own suite, which looks at neither Location nor what backends see.

mod waypoint {
    pub(crate) mod call;
    pub(crate) mod deaths;
    pub(crate) mod features;
    pub(crate) mod filters;
    pub(crate) mod protocols;
    pub(crate) mod requests;
    pub(crate) mod resilience;
    pub(crate) mod routes;
    pub(crate) mod security;
    pub(crate) mod telemetry;
    pub(crate) mod tls;
}

use e2e_lab::{Checks, program};
use lab::{Lab, Options, Spec};
use serde_json::Value;

const LAB: &str = "
name: waypoint
telemetry: {otlp: auto, accessLog: true}
nodes: [{name: n1}, {name: n2}]
waypoints: [{name: wp, namespace: shop, node: n2}]
pods:
- {name: web, namespace: shop, node: n1}
- {name: guest, namespace: other, node: n2}
- {name: v1, namespace: shop, node: n1, command: [ECHO, v1, '8080'], ready: {tcp: 8080}}
- {name: v2, namespace: shop, node: n2, command: [ECHO, v2, '8080'], ready: {tcp: 8080}}
- {name: peer, namespace: shop, node: n1, command: [PEER, serve], ready: {tcp: 9001}}
- {name: processor, namespace: shop, node: n1, command: [PROCESSOR, '9000'], ready: {tcp: 9000}}
TLS
services:
- {name: v1, namespace: shop, ports: {80: 8080}, pods: [v1]}
- {name: v2, namespace: shop, ports: {80: 8080}, pods: [v2]}
- {name: processor, namespace: shop, ports: {9000: 9000}, pods: [processor]}
- {name: nobody, namespace: shop, ports: {80: 8080}, pods: []}
- {name: talker, namespace: shop, ports: {9001: 9001, 9002: 9002}, pods: [peer], waypoint: wp}
";

#[test]
fn requests_are_routed_judged_and_recorded() {
    let mut services = String::new();
    let mut manifests = Vec::<Value>::new();
    for part in [
        waypoint::routes::PARTS,
        waypoint::filters::PARTS,
        waypoint::features::PARTS,
        waypoint::protocols::PARTS,
        waypoint::requests::PARTS,
        waypoint::resilience::PARTS,
        waypoint::security::PARTS,
    ] {
        for (service, objects) in part {
            services += &format!(
                "- {{name: {service}, namespace: shop, ports: {{80: 8080, 81: 8080}}, pods: [v1, v2], waypoint: wp, \
                 protocol: http}}\n"
            );
            manifests.extend(waypoint::call::objects(service, objects));
        }
    }
    let of = |name: &str| program(name).unwrap().display().to_string();
    let site = waypoint::tls::Site::new();
    let text = LAB.replace("ECHO", &of("e2e-echo")).replace("PEER", &of("e2e-peer"));
    let text = text.replace("PROCESSOR", &of("e2e-processor")).replace("TLS", &site.pod());
    let text = text + &services + &waypoint::tls::Site::services() + waypoint::features::SERVICES;
    manifests.extend(site.objects());
    let mut spec = Spec::parse("waypoint.yaml", &text).unwrap();
    spec.manifests = manifests;
    let lab = Lab::up(&spec, &Options::default()).unwrap();
    let mut checks = Checks::new();
    waypoint::routes::run(&lab, &mut checks);
    waypoint::filters::run(&lab, &mut checks);
    waypoint::features::run(&lab, &mut checks);
    waypoint::protocols::run(&lab, &mut checks);
    waypoint::resilience::run(&lab, &mut checks);
    waypoint::security::run(&lab, &mut checks);
    waypoint::requests::run(&lab, &mut checks);
    waypoint::tls::run(&lab, &mut checks);
    waypoint::telemetry::run(&lab, &mut checks);
    waypoint::deaths::run(&lab, &mut checks);
    if checks.failures() > 0 {
        waypoint::call::tell(&lab);
    }
    lab.down().unwrap();
    checks.finish();
}

#[test]
fn a_lab_whose_route_has_a_field_that_there_is_not_does_not_come_up_and_says_where() {
    let text = "
name: typo
nodes: [{name: n1}]
waypoints: [{name: wp, namespace: shop, node: n1}]
pods: [{name: web, namespace: shop, node: n1}]
manifests:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: typo, namespace: shop}
  spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], rules: [{form: []}]}
";
    let failed = Lab::up(&Spec::parse("typo.yaml", text).unwrap(), &Options::default()).unwrap_err().to_string();
    assert!(failed.contains("control") && failed.contains("spec.rules[0].form"), "{failed}");
}
