//! The node agent's configuration, and the list of pods that it serves in file mode.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything an operator can say to the node agent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Config {
    /// Name of the node.
    pub(crate) node: String,
    /// A cgroup v2 folder at or above the cgroups of this node's pods and proxies.
    pub(crate) cgroup_root: PathBuf,
    /// BPF file system for the pins; mounted there when none is.
    #[serde(default = "defaults::bpffs")]
    pub(crate) bpffs: PathBuf,
    /// Where the node proxy comes for its pods.
    #[serde(default = "defaults::zds_socket")]
    pub(crate) zds_socket: PathBuf,
    /// The pods of this node; re-read when it changes.
    pub(crate) pods_file: PathBuf,
    /// Status and metrics; local addresses only.
    #[serde(default = "defaults::admin")]
    pub(crate) admin: SocketAddr,
    /// How long captured connections of a pod that leaves the mesh may go on before they are closed.
    #[serde(default = "defaults::leave")]
    pub(crate) leave_deadline: Span,
    /// Level of messages, or levels by module.
    #[serde(default)]
    pub(crate) log_level: Option<String>,
}

impl Check for Config {
    fn check(&self, report: &mut Report) {
        if !self.admin.ip().is_loopback() {
            let what = format!("{} can be reached from other hosts", self.admin);
            report.at("/admin").mistake(&what, "use a loopback address such as 127.0.0.1:15010");
        }
    }
}

/// The pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodsFile {
    /// The pods.
    pub(crate) pods: Vec<PodEntry>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodEntry {
    /// Unique name, at most 64 bytes; Kubernetes' UID.
    pub(crate) uid: String,
    /// Name.
    pub(crate) name: String,
    /// Namespace.
    pub(crate) namespace: String,
    /// Service account.
    pub(crate) service_account: String,
    /// Handle of its network namespace.
    pub(crate) netns: PathBuf,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Name of the node's end of its link, in the agent's own network namespace.
    pub(crate) host_interface: String,
    /// It ran before it was listed: what it has open goes on in clear, and it is captured as soon as a proxy is there.
    /// Otherwise it is captured from birth, and its connects are refused until a proxy is there.
    #[serde(default)]
    pub(crate) running: bool,
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

mod defaults {
    use super::{Ipv4Addr, PathBuf, SocketAddr, Span};
    use std::time::Duration;

    pub(super) fn bpffs() -> PathBuf {
        "/sys/fs/bpf".into()
    }

    pub(super) fn zds_socket() -> PathBuf {
        "/var/run/ztunnel/ztunnel.sock".into()
    }

    pub(super) fn admin() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 15010).into()
    }

    // Kubernetes' default terminationGracePeriodSeconds.
    pub(super) fn leave() -> Span {
        Span::from(Duration::from_secs(30))
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

    #[test]
    fn a_status_page_for_other_hosts_is_refused() {
        let text = "{node: n, cgroupRoot: /sys/fs/cgroup, podsFile: /p, admin: '0.0.0.0:15010'}";
        let mistakes = document::parse::<Config>("node.yaml", text).unwrap_err().to_string();
        assert!(mistakes.contains("can be reached from other hosts"), "{mistakes}");
    }
}
