//! The pods of a node as a file.

use std::net::IpAddr;
use std::path::PathBuf;

use document::{Check, Report};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodsFile {
    /// The pods.
    pub pods: Vec<PodEntry>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodEntry {
    /// Unique name, at most 64 bytes; Kubernetes' UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// Handle of its network namespace.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the node's end of its link, in the agent's own network namespace.
    pub host_interface: String,
    /// It ran before it was listed: what it has open goes on in clear, and it is captured as soon as a proxy is there.
    /// Otherwise it is captured from birth, and its connects are refused until a proxy is there.
    #[serde(default)]
    pub running: bool,
    /// Its questions to port 53 go to the proxy while that has a socket for them, and to their server otherwise.
    #[serde(default)]
    pub dns: bool,
}

impl Check for PodsFile {
    fn check(&self, report: &mut Report) {
        for (index, pod) in self.pods.iter().enumerate() {
            let mut mistake = |field: &str, what: String, remedy: &str| {
                report.at(&format!("/pods/{index}/{field}")).mistake(&what, remedy);
            };
            if pod.addresses.is_empty() {
                mistake("addresses", "a pod without an address cannot be captured".into(), "list its addresses");
            }
            if pod.uid.is_empty() || pod.uid.len() > redirect_abi::UID_BYTES {
                let what = format!("a uid has 1 to {} bytes", redirect_abi::UID_BYTES);
                mistake("uid", what, "use the pod's UID");
            }
            if self.pods.iter().take(index).any(|p| p.uid == pod.uid) {
                mistake("uid", format!("{} is listed twice", pod.uid), "keep one of the two");
            }
            if self.pods.iter().take(index).any(|p| p.netns == pod.netns) {
                mistake(
                    "netns",
                    format!("{} belongs to another pod above", pod.netns.display()),
                    "keep one of the two",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_of_a_list_come_at_once_with_their_lines() {
        let text = "
pods:
- {uid: a, name: web, namespace: shop, serviceAccount: web, netns: /run/netns/web, addresses: [10.0.0.1], hostInterface: veth1}
- {uid: a, name: cart, namespace: shop, serviceAccount: cart, netns: /run/netns/web, addresses: [], hostInterface: veth2}
";
        let mistakes = document::parse::<PodsFile>("pods.yaml", text).unwrap_err().to_string();
        for wanted in ["a is listed twice", "belongs to another pod", "without an address", "pods.yaml:4"] {
            assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
        }
        let unknown = document::parse::<PodsFile>("pods.yaml", "pods:\n- {uuid: a}\n").unwrap_err().to_string();
        assert!(unknown.contains("uuid") && unknown.contains("uid"), "{unknown}");
    }
}
