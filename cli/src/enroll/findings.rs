//! What enrolling a namespace would break or change, before it does.

use std::fmt;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer};
use kube::ResourceExt;
use kubernetes::selector::{Answer, Selector};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Something that works would work no more.
    Breaks,
    /// Something is not as one may think.
    Note,
}

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// Which object.
    pub(crate) object: String,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.severity == Severity::Breaks { "breaks" } else { "note  " };
        write!(f, "{mark}  {}: {}\n        remedy: {}", self.object, self.what, self.remedy.replace('\n', "\n        "))
    }
}

/// How the names of RuntimeClasses begin whose pods the agent leaves out, since their sockets are not those of the node's kernel
/// (node, `config/kubernetes.rs`: `unsupportedRuntimeClasses`).
const OTHER_KERNELS: [&str; 3] = ["gvisor", "runsc", "kata"];

/// Everything to know before a namespace is enrolled.
///
/// # Errors
/// When the namespace is not there.
pub(super) fn find(
    name: &str,
    namespaces: &[Namespace],
    all_pods: &[Pod],
    policies: &[NetworkPolicy],
) -> Result<Vec<Finding>> {
    let Some(namespace) = namespaces.iter().find(|n| n.name_any() == name) else {
        let names: Vec<String> = namespaces.iter().map(ResourceExt::name_any).collect();
        anyhow::bail!("there is no namespace {name}; there are {}", names.join(", "));
    };
    let pods: Vec<&Pod> = all_pods.iter().filter(|pod| pod.namespace().as_deref() == Some(name)).collect();
    let mut found = Vec::new();
    if namespace.labels().get("istio-injection").is_some_and(|v| v == "enabled") {
        found.push(Finding {
            severity: Severity::Breaks,
            object: format!("namespace {name}"),
            what: "label istio-injection=enabled gives new pods a sidecar, and those stay out of the mesh".to_owned(),
            remedy: format!("kubectl label namespace {name} istio-injection-"),
        });
    }
    if let Some(revision) = namespace.labels().get("istio.io/rev") {
        found.push(Finding {
            severity: Severity::Breaks,
            object: format!("namespace {name}"),
            what: format!("label istio.io/rev={revision} gives new pods a sidecar, and those stay out of the mesh"),
            remedy: format!("kubectl label namespace {name} istio.io/rev-"),
        });
    }
    // Pods that say no are not asked for.
    let asked = |pod: &&Pod| pod.labels().get(super::MODE).is_none_or(|mode| mode != "none");
    found.extend(pods.into_iter().filter(asked).filter_map(pod));
    let mut enrolled = namespaces.to_vec();
    for namespace in enrolled.iter_mut().filter(|n| n.name_any() == name) {
        namespace.labels_mut().insert(super::MODE.to_owned(), "ambient".to_owned());
    }
    let concerned: Vec<NetworkPolicy> = policies.iter().filter(|p| concerns(p, namespace)).cloned().collect();
    for super::Blocked { policy, what, remedy } in super::blocked(&enrolled, all_pods, &concerned) {
        found.push(Finding {
            severity: Severity::Breaks,
            object: format!("NetworkPolicy {policy}"),
            what: format!("{what}: in the mesh every connection between pods is to TCP 15008"),
            remedy,
        });
    }
    Ok(found)
}

/// Whether a policy is about connections of a namespace's pods: it lies there, or a peer of its rules may be there. Pods of other
/// namespaces that are in the mesh talk to these in clear until now, and by tunnels from then on.
fn concerns(policy: &NetworkPolicy, namespace: &Namespace) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let of_egress = spec.egress.iter().flatten().map(|rule| rule.to.as_deref().unwrap_or_default());
    let of_ingress = spec.ingress.iter().flatten().map(|rule| rule.from.as_deref().unwrap_or_default());
    let is_there = |peer: &NetworkPolicyPeer| match &peer.namespace_selector {
        Some(selector) => {
            let labels = namespace.labels();
            Selector::new(selector).0.answer(|key| labels.get(key).map(String::as_str)) != Answer::No
        }
        // Addresses may be anybody's; pods alone are those of the policy's own namespace.
        None => peer.ip_block.is_some(),
    };
    policy.namespace() == Some(namespace.name_any())
        || of_egress.chain(of_ingress).any(|peers| peers.is_empty() || peers.iter().any(is_there))
}

/// What is special about a pod.
fn pod(pod: &Pod) -> Option<Finding> {
    let spec = pod.spec.as_ref()?;
    let note = |severity, what: &str, remedy: &str| {
        let object = format!("pod {}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        Some(Finding { severity, object, what: what.to_owned(), remedy: remedy.to_owned() })
    };
    if spec.host_network == Some(true) {
        return note(
            Severity::Note,
            "is on the node's network and stays out of the mesh",
            "give it a network of its own, or leave it out",
        );
    }
    if pod.annotations().contains_key("sidecar.istio.io/status") {
        return note(Severity::Note, "has a sidecar and stays out of the mesh", "remove the sidecar and restart it");
    }
    let runtime = spec.runtime_class_name.as_deref().unwrap_or_default();
    if OTHER_KERNELS.iter().any(|k| runtime.starts_with(k)) {
        return note(
            Severity::Note,
            &format!(
                "runs under runtime class {runtime:?}, whose sockets cannot be captured: it stays out of the mesh, and what asks \
                 for an identity refuses it"
            ),
            "run it with the default runtime, or label it istio.io/dataplane-mode=none",
        );
    }
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten()).map(|p| p.container_port);
    if let Some(port) = ports.into_iter().find(|p| matches!(p, 15001 | 15006 | 15008)) {
        return note(
            Severity::Breaks,
            &format!("listens on port {port}, which is the mesh's in every pod"),
            "move it to another port",
        );
    }
    None
}
