//! The control plane's files: its configuration, who may call it, and the lab as objects of Kubernetes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::authority::{Holder, Token};
use super::{write, yaml};
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan, ServicePlan};
use crate::programs::{CA_NAME, CA_PORT, CONTROL_ACCOUNT, CONTROL_NAME, CONTROL_PORT, SYSTEM_NAMESPACE};
use crate::spec::Waypoint;
use crate::state::write_atomically;

/// Class of the lab's Gateways.
const CLASS: &str = "culvert-waypoint";

/// The configuration, and the tokens of waypoints.
pub(crate) fn config(paths: &Paths, plan: &Plan, tokens: &[Token]) -> Result<(), LabError> {
    let folder = paths.control();
    let infra = plan.infra();
    let ip = infra.first();
    let value = json!({
        "source": { "folder": paths.manifests() },
        "listen": { "xds": ip.map(|ip| format!("{ip}:{CONTROL_PORT}")) },
        "certificate": { "ca": {
            "address": ip.map(|ip| format!("https://{ip}:{CA_PORT}")),
            "rootFile": paths.roots(),
            "tokenFile": folder.join("token"),
            "altName": CA_NAME,
            "serviceAccount": format!("{SYSTEM_NAMESPACE}/{CONTROL_ACCOUNT}"),
            "names": [CONTROL_NAME],
        } },
        "mesh": { "trustDomain": plan.spec.trust_domain },
        "tokenFile": folder.join("tokens.yaml"),
        "leader": { "writeStatuses": false },
        "log": { "level": plan.spec.log },
    });
    write(&folder.join("control.yaml"), &value)?;
    let callers: Vec<Value> = tokens
        .iter()
        .filter_map(|token| match &token.holder {
            Holder::Waypoint(w) => Some(json!({
                "token": token.text, "namespace": w.namespace, "serviceAccount": w.name, "pod": w.name,
            })),
            Holder::Node(_) | Holder::Control => None,
        })
        .collect();
    write(&folder.join("tokens.yaml"), &json!({ "tokens": callers }))
}

/// Writes the objects of the plan as it is now.
pub(crate) fn publish(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    let text: String = objects(plan).iter().map(|o| format!("---\n{}", yaml::text(o))).collect();
    write_atomically(&paths.manifests().join("lab.yaml"), &text)
}

fn objects(plan: &Plan) -> Vec<Value> {
    let names: BTreeSet<&str> = plan.pods.iter().map(|p| p.pod.namespace.as_str()).collect();
    let mut all: Vec<Value> = names.into_iter().map(namespace).collect();
    all.extend(plan.nodes.iter().map(|n| {
        let blocks: Vec<String> = n.pod_cidrs().iter().map(ToString::to_string).collect();
        object("v1", "Node", None, &n.name, json!({ "spec": { "podCIDRs": blocks } }))
    }));
    all.extend(plan.pods.iter().map(|p| pod(plan, p)));
    all.extend(plan.services.iter().flat_map(|s| [service(s), slice(plan, s)]));
    all.extend(plan.spec.waypoints.iter().map(gateway));
    all.extend(plan.spec.manifests.iter().cloned());
    all
}

fn object(version: &str, kind: &str, namespace: Option<&str>, name: &str, rest: Value) -> Value {
    let mut made = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name } });
    if let Some(namespace) = namespace {
        made["metadata"]["namespace"] = namespace.into();
    }
    if let Value::Object(rest) = rest {
        for (key, value) in rest {
            match (key.as_str(), value) {
                ("labels" | "annotations", value) => made["metadata"][&key] = value,
                (_, value) => made[&key] = value,
            }
        }
    }
    made
}

fn namespace(name: &str) -> Value {
    object("v1", "Namespace", None, name, json!({}))
}

fn pod(plan: &Plan, pod: &PodPlan) -> Value {
    let p = &pod.pod;
    let waypoint = plan.spec.waypoints.iter().any(|w| w.name == p.name && w.namespace == p.namespace);
    let mut made = object(
        "v1",
        "Pod",
        Some(&p.namespace),
        &p.name,
        json!({
            "labels": { "app": p.name },
            "spec": { "nodeName": p.node, "serviceAccountName": p.account(), "containers": [{ "name": "main" }] },
            "status": {
                "phase": "Running",
                "podIP": pod.addresses.first(),
                "podIPs": pod.addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        }),
    );
    if p.mesh {
        made["metadata"]["annotations"] = json!({ "ambient.istio.io/redirection": "enabled" });
    }
    if waypoint {
        made["metadata"]["labels"] = json!({
            "gateway.networking.k8s.io/gateway-name": p.name,
            "gateway.istio.io/managed": "istio.io-mesh-controller",
        });
    }
    made
}

fn service(plan: &ServicePlan) -> Value {
    let s = &plan.service;
    let ports: Vec<Value> = s
        .ports
        .iter()
        .map(|(port, target)| {
            let mut one = json!({ "name": format!("p{port}"), "port": port, "targetPort": target });
            if let Some(protocol) = &s.protocol {
                one["appProtocol"] = protocol.as_str().into();
            }
            one
        })
        .collect();
    let first = plan.vips.first().map_or_else(|| "None".to_owned(), ToString::to_string);
    let all: Vec<String> = match plan.vips.is_empty() {
        true => vec![first.clone()],
        false => plan.vips.iter().map(ToString::to_string).collect(),
    };
    let spec = json!({ "clusterIP": first, "clusterIPs": all, "ports": ports });
    let labels = match &s.waypoint {
        Some(name) => json!({ "istio.io/use-waypoint": name }),
        None => json!({}),
    };
    object("v1", "Service", Some(&s.namespace), &s.name, json!({ "labels": labels, "spec": spec }))
}

/// One slice of a service's pods, by their first addresses.
fn slice(plan: &Plan, service: &ServicePlan) -> Value {
    let s = &service.service;
    let pods = plan.pods.iter().filter(|p| p.pod.namespace == s.namespace && s.pods.contains(&p.pod.name));
    let endpoints: Vec<Value> = pods
        .map(|p| {
            json!({
                "addresses": p.addresses.iter().take(1).collect::<Vec<_>>(),
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": p.pod.node,
                "targetRef": { "kind": "Pod", "name": p.pod.name, "namespace": p.pod.namespace },
            })
        })
        .collect();
    let ports = s.ports.iter().map(|(port, target)| json!({ "name": format!("p{port}"), "port": target }));
    let mut made = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        Some(&s.namespace),
        &format!("{}-1", s.name),
        json!({ "labels": { "kubernetes.io/service-name": s.name } }),
    );
    made["addressType"] = "IPv4".into();
    made["endpoints"] = endpoints.into();
    made["ports"] = ports.collect::<Vec<_>>().into();
    made
}

fn gateway(waypoint: &Waypoint) -> Value {
    let Waypoint { name, namespace, .. } = waypoint;
    let rest = json!({
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{ "name": "mesh", "port": Waypoint::PORT, "protocol": "HBONE" }],
        },
        // Nobody writes statuses here: the lab waits for the waypoint itself.
        "status": { "addresses": [{
            "type": "Hostname", "value": waypoint.service().hostname(),
        }] },
    });
    object("gateway.networking.k8s.io/v1", "Gateway", Some(namespace), name, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn a_lab_is_told_in_objects_of_kubernetes() {
        let text = "
name: t
ipv6: false
nodes: [{name: n}]
pods: [{name: web, node: n, namespace: a}, {name: cart, node: n, namespace: a}]
services: [{name: cart, namespace: a, ports: {80: 8080}, pods: [cart], waypoint: wp, protocol: http}]
waypoints: [{name: wp, namespace: a, node: n}]
manifests: [{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}]
";
        let plan = Plan::new(Spec::parse("t.yaml", text).unwrap()).unwrap();
        let all = objects(&plan);
        let of = |kind: &str, name: &str| {
            let found = all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
            found.unwrap_or_else(|| panic!("no {kind} {name}")).clone()
        };
        assert_eq!(of("Pod", "cart")["metadata"]["annotations"]["ambient.istio.io/redirection"], "enabled");
        assert_eq!(of("Pod", "wp")["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"], "wp");
        assert_eq!(of("Service", "cart")["metadata"]["labels"]["istio.io/use-waypoint"], "wp");
        assert_eq!(of("Service", "cart")["spec"]["ports"][0]["appProtocol"], "http");
        assert_eq!(of("EndpointSlice", "wp-1")["endpoints"][0]["addresses"][0], "10.244.1.12");
        assert_eq!(of("Gateway", "wp")["status"]["addresses"][0]["value"], "wp.a.svc.cluster.local");
        assert_eq!(of("ConfigMap", "x")["apiVersion"], "v1");
    }
}
