//! Workloads, services and policies in Istio's local format (discovery.md 5): one file for all nodes and both proxies.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::write;
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan, ServicePlan};
use crate::spec::Waypoint;

/// Writes the file of the plan as it is now.
pub(crate) fn publish(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    write(&paths.discovery(), &document(plan))
}

fn document(plan: &Plan) -> Value {
    json!({
        "workloads": plan.pods.iter().map(|p| workload(plan, p)).collect::<Vec<_>>(),
        "services": plan.services.iter().map(service).collect::<Vec<_>>(),
        "policies": plan.spec.policies,
    })
}

fn workload(plan: &Plan, pod: &PodPlan) -> Value {
    let p = &pod.pod;
    let member_of = plan.services.iter().map(|s| &s.service).filter(|s| s.pods.contains(&p.name));
    let services: Map<String, Value> =
        member_of.map(|s| (format!("{}/{}", s.namespace, s.hostname()), ports(&s.ports))).collect();
    let held = |key: &str| plan.spec.policies.iter().any(|policy| policy.key() == key);
    let mut value = json!({
        "uid": pod.uid,
        "name": p.name,
        "namespace": p.namespace,
        "workloadIps": pod.addresses,
        // Both are "" when left out, not the defaults that they have over xDS.
        "trustDomain": plan.spec.trust_domain,
        "serviceAccount": p.account(),
        "node": p.node,
        "protocol": if p.mesh { "HBONE" } else { "TCP" },
        "workloadName": p.name,
        "workloadType": "pod",
        "canonicalName": p.name,
        "canonicalRevision": "latest",
        "clusterId": mesh::workload::DEFAULT_CLUSTER,
        "status": "Healthy",
        "services": services,
        // As in a cluster: a policy that was taken away is named by no workload. (One that is named and not held denies.)
        "authorizationPolicies": p.policies.iter().filter(|k| held(k)).collect::<Vec<_>>(),
    });
    // Our own key, which a stock proxy would not read.
    if !p.egress.is_empty() {
        let policies: Vec<&String> = p.egress.iter().filter(|k| held(k)).collect();
        let node = plan.nodes.iter().find(|n| n.name == p.node);
        value["egress"] = json!({ "policies": policies, "exempt": node.map(|n| &n.addresses) });
    }
    value
}

fn service(plan: &ServicePlan) -> Value {
    let s = &plan.service;
    let waypoint = s.waypoint.as_ref().map(|name| {
        let destination = format!("{}/{name}.{}.svc.cluster.local", s.namespace, s.namespace);
        json!({ "destination": destination, "hboneMtlsPort": Waypoint::PORT })
    });
    let mut value = json!({
        "name": s.name,
        "namespace": s.namespace,
        "hostname": s.hostname(),
        // The empty network is written by nothing before the slash.
        "vips": plan.vips.iter().map(|ip| format!("/{ip}")).collect::<Vec<_>>(),
        "ports": ports(&s.ports),
    });
    if let Some(waypoint) = waypoint {
        value["waypoint"] = waypoint;
    }
    value
}

fn ports(ports: &BTreeMap<u16, u16>) -> Value {
    ports.iter().map(|(port, target)| (port.to_string(), Value::from(*target))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn the_file_has_what_both_proxies_read() {
        let text = "
name: t
ipv6: false
nodes: [{name: n}]
pods: [{name: web, node: n, namespace: a, egress: [a/p]}, {name: cart, node: n, namespace: a, mesh: false, policies: [a/p]}]
services: [{name: cart, namespace: a, ports: {80: 8080}, pods: [cart]}]
policies: [{name: p, namespace: a, scope: WorkloadSelector, action: Allow, rules: [[[{principals: [{Exact: x}, {Presence: []}]}]]]}]
";
        let plan = Plan::new(Spec::parse("t.yaml", text).unwrap()).unwrap();
        let value = document(&plan);
        assert_eq!(value["workloads"][0]["protocol"], "HBONE");
        assert_eq!(value["workloads"][1]["protocol"], "TCP");
        assert_eq!(value["workloads"][0]["egress"], json!({"policies": ["a/p"], "exempt": ["10.99.0.11"]}));
        assert_eq!(value["workloads"][1].get("egress"), None);
        assert_eq!(value["workloads"][1]["services"], json!({"a/cart.a.svc.cluster.local": {"80": 8080}}));
        assert_eq!(value["services"][0]["vips"], json!(["/10.96.0.10"]));
        let policy = &value["policies"][0];
        assert_eq!((&policy["dryRun"], &policy["scope"]), (&json!(false), &json!("WorkloadSelector")));
        assert_eq!(policy["rules"], json!([[[{"principals": [{"Exact": "x"}, {"Presence": []}]}]]]));
    }
}
