//! Which nodes are the mesh's: those that agents and proxies are meant for.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint, Toleration};
use kube::ResourceExt;

use super::facts::Facts;

/// The label by which a node says what it runs.
const OS: &str = "kubernetes.io/os";

/// The DaemonSets that a node of the mesh has a pod of.
const PROGRAMS: [&str; 2] = ["culvert-node", "ztunnel"];

/// Taints that the DaemonSet controller has every pod of its tolerate (Kubernetes, "Taints and tolerations").
const TOLERATED: [&str; 7] = [
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/network-unavailable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/unschedulable",
];

/// Whether a node is one of the mesh: it runs Linux, and one of the DaemonSets reaches it. Before an installation any may be.
pub(super) fn concerns(node: &Node, facts: &Facts) -> bool {
    let mut sets = facts.daemon_sets.iter().filter(|set| PROGRAMS.contains(&&*set.name_any())).peekable();
    node.labels().get(OS).is_none_or(|os| os == "linux")
        && (sets.peek().is_none() || sets.any(|set| reaches(set, node)))
}

fn reaches(set: &DaemonSet, node: &Node) -> bool {
    let Some(pod) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return true };
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value));
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    selected && taints.iter().all(|taint| passes(taint, pod))
}

/// Whether a taint does not keep a pod away.
fn passes(taint: &Taint, pod: &PodSpec) -> bool {
    let fits = |t: &Toleration| {
        let exists = t.operator.as_deref() == Some("Exists");
        t.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect)
            && match t.key.as_deref().unwrap_or_default() {
                "" => exists,
                key => {
                    key == taint.key
                        && (exists || t.value.as_deref() == Some(taint.value.as_deref().unwrap_or_default()))
                }
            }
    };
    taint.effect == "PreferNoSchedule" || TOLERATED.contains(&&*taint.key) || pod.tolerations.iter().flatten().any(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn nodes_that_no_program_is_meant_for_are_left_alone() {
        let node = |labels: Value, taint: &str| -> Node {
            let taints = if taint.is_empty() { json!([]) } else { json!([{"key": taint, "effect": "NoSchedule"}]) };
            of(json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}}))
        };
        let set = |selector: Value, tolerations: Value| -> Facts {
            let template = json!({"spec": {"containers": [], "nodeSelector": selector, "tolerations": tolerations}});
            let set = of(json!({"metadata": {"name": "ztunnel"}, "spec": {"selector": {}, "template": template}}));
            Facts { daemon_sets: vec![set], ..Facts::default() }
        };
        let (linux, all) = (json!({"kubernetes.io/os": "linux"}), json!([{"operator": "Exists"}]));
        for (case, node, facts, wanted) in [
            ("Linux", node(linux.clone(), ""), set(linux.clone(), all.clone()), true),
            ("not installed", node(linux.clone(), "x"), Facts::default(), true),
            ("Windows", node(json!({"kubernetes.io/os": "windows"}), ""), set(json!({}), all.clone()), false),
            ("not selected", node(linux.clone(), ""), set(json!({"pool": "mesh"}), all.clone()), false),
            ("tainted", node(linux.clone(), "virtual-kubelet.io/provider"), set(linux.clone(), json!([])), false),
            ("tolerated", node(linux.clone(), "virtual-kubelet.io/provider"), set(linux.clone(), all), true),
            ("not ready", node(linux.clone(), "node.kubernetes.io/not-ready"), set(linux.clone(), json!([])), true),
            (
                "tolerated by key",
                node(linux.clone(), "a"),
                set(linux, json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}])),
                true,
            ),
        ] {
            assert_eq!(concerns(&node, &facts), wanted, "{case}");
        }
    }
}
