//! What the agent keeps of a pod: trimmed on arrival, so that a node's pods cost some kilobytes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::mirror::Life;

/// The label by which pods and namespaces ask for the mesh (cni-zds.md 1).
pub(crate) const MODE: &str = "istio.io/dataplane-mode";
/// The annotation that says that a pod is captured; control publishes HBONE for it (cni-zds.md 1).
pub(crate) const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Set by Istio's injector on pods that have a sidecar.
const SIDECAR: &str = "sidecar.istio.io/status";
/// A pod that wants no inbound capture.
const BYPASS: &str = "ambient.istio.io/bypass-inbound-capture";
/// Whether a pod wants its DNS captured.
const DNS: &str = "ambient.istio.io/dns-capture";
/// On mirror pods: the UID by which the kubelet knows the static pod, also in the names of its cgroups.
const STATIC: &str = "kubernetes.io/config.hash";
/// What makes a pod a mirror pod; its value is that of [`STATIC`].
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It begins or runs.
    Alive,
    /// All its containers have ended for good.
    Ended,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// The UID that the kubelet and cgroups have for it.
    pub(crate) uid: String,
    /// The UID of the object, which differs for static pods.
    pub(crate) object_uid: String,
    /// When the API server took it.
    pub(crate) created: Option<Time>,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    /// Label [`MODE`].
    pub(crate) mode: Option<String>,
    /// It has a sidecar of Istio.
    pub(crate) sidecar: bool,
    pub(crate) host_network: bool,
    pub(crate) runtime_class: Option<String>,
    /// It wants no inbound capture, which we do not offer.
    pub(crate) bypass_inbound: bool,
    pub(crate) stage: Stage,
    /// As its status has them; none before the kubelet has told of its network, none after its end.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it says of DNS capture.
    pub(crate) dns: Option<bool>,
    /// Annotation [`REDIRECTION`].
    pub(crate) redirection: Option<String>,
}

impl PodFacts {
    /// Takes what is needed. `None` for an object without name, namespace or UID, which no API server sends.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key)).cloned();
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        let object_uid = meta.uid.clone()?;
        let phase = status.and_then(|s| s.phase.as_deref());
        Some(Self {
            uid: static_uid(pod).unwrap_or_else(|| object_uid.clone()),
            object_uid,
            created: meta.creation_timestamp.clone(),
            name: meta.name.clone()?,
            namespace: meta.namespace.clone()?,
            // The API server's admission fills it in; static pods have none.
            service_account: spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()),
            mode: label(MODE),
            sidecar: annotation(SIDECAR).is_some(),
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            runtime_class: spec.and_then(|s| s.runtime_class_name.clone()),
            bypass_inbound: annotation(BYPASS).as_deref() == Some("true"),
            // "Unknown" means that the node did not answer for a while: the pod may well run.
            stage: if matches!(phase, Some("Succeeded" | "Failed")) { Stage::Ended } else { Stage::Alive },
            addresses: addresses(pod),
            // Any other text says nothing, as with Istio.
            dns: annotation(DNS).and_then(|text| text.parse().ok()),
            redirection: annotation(REDIRECTION),
        })
    }

    /// `namespace/name`.
    pub(crate) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The UID by which the kubelet and cgroups know a static pod. Everybody who may make pods may write the annotation; only a mirror pod
/// is known by it. It is owned by its Node: admission (NodeRestriction) lets a kubelet make no other, and a kubelet ends a mirror
/// pod that others made, since it has no static pod for it.
fn static_uid(pod: &Pod) -> Option<String> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let uid = annotations.get(STATIC)?;
    let node = pod.spec.as_ref()?.node_name.as_ref()?;
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owned = owners.any(|o| o.api_version == "v1" && o.kind == "Node" && o.name == *node);
    (owned && annotations.get(MIRROR) == Some(uid)).then(|| uid.clone())
}

impl Life for PodFacts {
    fn is_same(&self, other: &Self) -> bool {
        self.object_uid == other.object_uid
    }

    fn is_older(&self, other: &Self) -> bool {
        self.created.as_ref().zip(other.created.as_ref()).is_some_and(|(own, other)| own < other)
    }
}

/// The label of a namespace: all that is kept of one, so that a namesake is the same.
impl Life for Option<String> {
    fn is_same(&self, _other: &Self) -> bool {
        true
    }

    fn is_older(&self, _other: &Self) -> bool {
        false
    }
}

fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    // What the API server holds has been checked; a text that is no address would be a newer form of it.
    let mut found: Vec<IpAddr> = listed.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    let mut seen = Vec::new();
    found.retain(|ip| {
        !seen.contains(ip) && {
            seen.push(*ip);
            true
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Option<PodFacts> {
        PodFacts::of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_pod_is_trimmed() {
        let text = r#"{"metadata": {"name": "web-1", "namespace": "shop", "uid": "u1",
            "labels": {"istio.io/dataplane-mode": "ambient", "app": "web", "other": "x"},
            "annotations": {"ambient.istio.io/redirection": "enabled", "sidecar.istio.io/status": "{}", "ambient.istio.io/dns-capture": "false"}},
            "spec": {"serviceAccountName": "web", "hostNetwork": true, "runtimeClassName": "gvisor", "containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "x"}]}}"#;
        let found = facts(text).unwrap();
        assert_eq!((found.uid.as_str(), found.title().as_str()), ("u1", "shop/web-1"));
        assert_eq!(found.mode.as_deref(), Some("ambient"));
        assert_eq!(found.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(found.dns, Some(false));
        assert!(found.sidecar && found.host_network && !found.bypass_inbound);
        assert_eq!((found.stage, found.redirection.as_deref()), (Stage::Alive, Some("enabled")));
    }

    #[test]
    fn stages_and_odd_pods() {
        for (status, stage) in [
            (r#"{"phase": "Pending"}"#, Stage::Alive),
            (r#"{"phase": "Unknown"}"#, Stage::Alive),
            (r#"{"phase": "Succeeded"}"#, Stage::Ended),
            (r#"{"phase": "Failed"}"#, Stage::Ended),
            ("{}", Stage::Alive),
        ] {
            let text = format!(r#"{{"metadata": {{"name": "a", "namespace": "b", "uid": "c"}}, "status": {status}}}"#);
            let found = facts(&text).unwrap();
            assert_eq!((found.stage, found.service_account.as_str()), (stage, "default"), "{status}");
        }
        assert_eq!(facts(r#"{"metadata": {"name": "a"}}"#), None);
    }

    #[test]
    fn only_a_mirror_pod_goes_by_the_uid_of_a_static_pod() {
        let mirror = serde_json::json!({
            "metadata": {
                "name": "a-node1", "namespace": "b", "uid": "c",
                "annotations": {"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "n"}],
            },
            "spec": {"nodeName": "node1", "containers": []},
        });
        let uid = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut pod = mirror.clone();
            change(&mut pod);
            let found = facts(&pod.to_string()).unwrap();
            assert_eq!(found.object_uid, "c");
            found.uid
        };
        assert_eq!(uid(&|_| {}), "h");
        // Others who write the annotation are known by their own.
        let annotations = |pod: &mut serde_json::Value, key: &str, value: &str| {
            pod["metadata"]["annotations"][key] = value.into();
        };
        assert_eq!(uid(&|pod| annotations(pod, "kubernetes.io/config.mirror", "x")), "c");
        assert_eq!(uid(&|pod| annotations(pod, "kubernetes.io/config.hash", "victim")), "c");
        assert_eq!(
            uid(&|pod| pod["metadata"]["annotations"] = serde_json::json!({"kubernetes.io/config.hash": "h"})),
            "c"
        );
        assert_eq!(uid(&|pod| pod["metadata"]["ownerReferences"] = serde_json::json!([])), "c");
        assert_eq!(uid(&|pod| pod["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet".into()), "c");
        assert_eq!(uid(&|pod| pod["metadata"]["ownerReferences"][0]["name"] = "node2".into()), "c");
    }
}
