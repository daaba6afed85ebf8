//! What enrolling a namespace would break or change, before it does.

use std::fmt;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;

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

/// Runtimes whose sockets the node's kernel does not see being connected (design: enrolment is refused or the guard drops).
const OTHER_KERNELS: [&str; 3] = ["gvisor", "runsc", "kata"];

/// Everything to know before a namespace is enrolled.
///
/// # Errors
/// When the namespace is not there.
pub(super) fn find(
    name: &str,
    namespaces: &[Namespace],
    pods: &[Pod],
    policies: &[NetworkPolicy],
) -> Result<Vec<Finding>> {
    let Some(namespace) = namespaces.iter().find(|n| n.name_any() == name) else {
        let names: Vec<String> = namespaces.iter().map(ResourceExt::name_any).collect();
        anyhow::bail!("there is no namespace {name}; there are {}", names.join(", "));
    };
    let mut found = Vec::new();
    if namespace.labels().get("istio-injection").is_some_and(|v| v == "enabled") {
        found.push(Finding {
            severity: Severity::Breaks,
            object: format!("namespace {name}"),
            what: "label istio-injection=enabled gives new pods a sidecar, and those stay out of the mesh".to_owned(),
            remedy: format!("kubectl label namespace {name} istio-injection-"),
        });
    }
    found.extend(pods.iter().filter_map(pod));
    let mut as_enrolled = namespace.clone();
    as_enrolled.labels_mut().insert(super::MODE.to_owned(), "ambient".to_owned());
    for super::Blocked { policy, what, remedy } in super::blocked(&[as_enrolled], pods, policies) {
        found.push(Finding {
            severity: Severity::Breaks,
            object: format!("NetworkPolicy {policy}"),
            what: format!("{what}: in the mesh every connection between pods is to TCP 15008"),
            remedy,
        });
    }
    Ok(found)
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
    if OTHER_KERNELS.iter().any(|k| runtime.contains(k)) {
        return note(
            Severity::Breaks,
            &format!(
                "runs under runtime class {runtime:?}, whose sockets cannot be captured: its TCP would be dropped"
            ),
            "label the pod istio.io/dataplane-mode=none",
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
