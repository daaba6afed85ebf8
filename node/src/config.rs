//! The node agent's configuration.
//!
//! Pods come from one of two places: a file ([`PodsFile`]), or a Kubernetes API server ([`KubernetesConfig`]).

mod kubernetes;
mod pods;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::Deserialize;

pub use kubernetes::{CniConfig, KubernetesConfig, LateCapture};
pub use pods::{PodEntry, PodsFile};

/// Everything an operator can say to the node agent.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Name of the node.
    pub node: String,
    /// A cgroup v2 folder at or above the cgroups of this node's pods and proxies. Nothing outside of it is looked at. Where
    /// the folder is not on cgroup v2 and its `unified` is (a host with both versions), that is meant.
    pub cgroup_root: PathBuf,
    /// BPF file system for the pins; mounted there when none is.
    #[serde(default = "defaults::bpffs")]
    pub bpffs: PathBuf,
    /// Where the node proxy comes for its pods. One path; for several see `zdsSockets`.
    #[serde(default)]
    pub zds_socket: Option<PathBuf>,
    /// Several such paths, for generations of the proxy that have no path in common; they are one succession, the newest
    /// connection gets new pods. Absent, and without `zdsSocket`: `/var/run/ztunnel/ztunnel.sock`.
    #[serde(default)]
    pub zds_sockets: Vec<PathBuf>,
    /// The pods of this node as a file, re-read when it changes. Either this or `kubernetes`.
    #[serde(default)]
    pub pods_file: Option<PathBuf>,
    /// Pods come from Kubernetes. Either this or `podsFile`.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Status and metrics; local addresses only.
    #[serde(default = "defaults::admin")]
    pub admin: SocketAddr,
    /// Readiness and metrics for others. Absent: port 15021 of all addresses on Kubernetes, none with a file.
    #[serde(default)]
    pub health: Option<SocketAddr>,
    /// How long captured connections of a pod that leaves the mesh may go on before they are closed; absent: until they end.
    /// When the agent itself is removed they have 30 s, or this if it is less.
    #[serde(default)]
    pub leave_deadline: Option<Span>,
    /// How long connections that are older than their pod's enrolment may go on in clear before they are closed. Absent: until
    /// they end by themselves.
    #[serde(default)]
    pub clear_deadline: Option<Span>,
    /// Level of messages, or levels by module.
    #[serde(default)]
    pub log_level: Option<String>,
}

impl Config {
    /// The hand-over sockets, at least one.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let named: Vec<PathBuf> = self.zds_socket.iter().chain(&self.zds_sockets).cloned().collect();
        // The name that every ztunnel looks for (cni-zds.md 2).
        if named.is_empty() { vec!["/var/run/ztunnel/ztunnel.sock".into()] } else { named }
    }

    /// Where readiness is served.
    pub fn health(&self) -> Option<SocketAddr> {
        // Design 7: health is port 15021 everywhere.
        self.health.or_else(|| self.kubernetes.as_ref().map(|_| (Ipv4Addr::UNSPECIFIED, 15021).into()))
    }
}

impl Check for Config {
    fn check(&self, report: &mut Report) {
        if self.node.is_empty() {
            report.at("/node").mistake("a node has a name", "give Kubernetes' name of the node");
        }
        if !self.admin.ip().is_loopback() {
            let what = format!("{} can be reached from other hosts", self.admin);
            report.at("/admin").mistake(&what, "use a loopback address such as 127.0.0.1:15010");
        }
        if self.zds_socket.is_some() && !self.zds_sockets.is_empty() {
            let what = "zdsSocket and zdsSockets are both given";
            report.at("/zdsSockets").mistake(what, "list all paths in zdsSockets and leave zdsSocket out");
        }
        let sockets = self.sockets();
        for (index, path) in self.zds_sockets.iter().enumerate() {
            if self.zds_sockets.iter().take(index).any(|p| p == path) {
                let place = format!("/zdsSockets/{index}");
                report.at(&place).mistake(format!("{} is listed twice", path.display()), "keep one of the two");
            }
        }
        match (&self.pods_file, &self.kubernetes) {
            (None, None) => {
                let remedy = "give `kubernetes: {}` in a cluster, or `podsFile` for a list of pods";
                report.at("").mistake("nothing says where pods come from", remedy);
            }
            (Some(_), Some(_)) => {
                report.at("/podsFile").mistake("podsFile and kubernetes are both given", "keep one of the two");
            }
            (None, Some(kubernetes)) => {
                report.at("/kubernetes").check(kubernetes);
                if sockets.contains(&kubernetes.cni.socket) {
                    let what = "is also a hand-over socket";
                    report.at("/kubernetes/cni/socket").mistake(what, "give the CNI plug-in a path of its own");
                }
            }
            (Some(_), None) => {}
        }
    }
}

mod defaults {
    use super::{Ipv4Addr, PathBuf, SocketAddr};

    pub(super) fn bpffs() -> PathBuf {
        "/sys/fs/bpf".into()
    }

    pub(super) fn admin() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 15010).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        document::parse::<Config>("node.yaml", text).map(|_| String::new()).unwrap_or_else(|m| m.to_string())
    }

    #[test]
    fn a_status_page_for_other_hosts_is_refused() {
        let text = "{node: n, cgroupRoot: /sys/fs/cgroup, podsFile: /p, admin: '0.0.0.0:15010'}";
        assert!(mistakes(text).contains("can be reached from other hosts"));
    }

    #[test]
    fn nothing_is_cut_unless_somebody_asks_for_it() {
        let text = "{node: n, cgroupRoot: /sys/fs/cgroup, podsFile: /p}";
        let config = document::parse::<Config>("node.yaml", text).unwrap();
        assert!(config.leave_deadline.is_none() && config.clear_deadline.is_none());
    }

    #[test]
    fn pods_come_from_exactly_one_place() {
        let base = "node: n\ncgroupRoot: /sys/fs/cgroup\n";
        for (rest, wanted) in [
            ("", "nothing says where pods come from"),
            ("podsFile: /p\nkubernetes: {}\n", "both given"),
            ("podsFile: /p\nzdsSocket: /a\nzdsSockets: [/b]\n", "zdsSocket and zdsSockets are both given"),
            ("podsFile: /p\nzdsSockets: [/b, /b]\n", "listed twice"),
            ("kubernetes: {cni: {socket: /var/run/ztunnel/ztunnel.sock}}\n", "also a hand-over socket"),
            ("kubernetes: {cni: {deadline: 200s}}\n", "kubelet"),
            ("kubernetes: {kubeletPort: 0}\n", "kubeletPort"),
            ("kubernetes: {systemNamespace: ''}\n", "systemNamespace"),
            (
                "kubernetes: {proxyAccounts: [istio-system/ztunnel, ztunnel, /x, a/b/c]}\n",
                "kubernetes.proxyAccounts[1]",
            ),
            ("kubernetes: {proxyAccounts: [a/b/c]}\n", "kubernetes.proxyAccounts[0]"),
        ] {
            let found = mistakes(&format!("{base}{rest}"));
            assert!(found.contains(wanted), "{rest:?}: {found}");
        }
        for good in ["podsFile: /p\n", "kubernetes: {}\n", "kubernetes: {}\nzdsSockets: [/a, /b]\n"] {
            assert_eq!(mistakes(&format!("{base}{good}")), "");
        }
    }

    #[test]
    fn what_is_not_said_has_the_documented_values() {
        let read =
            |rest: &str| document::parse::<Config>("node.yaml", &format!("node: n\ncgroupRoot: /c\n{rest}")).unwrap();
        let config = read("kubernetes: {}\n");
        assert_eq!(config.sockets(), [PathBuf::from("/var/run/ztunnel/ztunnel.sock")]);
        assert_eq!(config.health().unwrap().port(), 15021);
        let kubernetes = config.kubernetes.unwrap();
        assert_eq!(kubernetes.system_namespace, "culvert-system");
        assert_eq!(kubernetes.exclude_namespaces, ["kube-system"]);
        assert_eq!(kubernetes.cni.socket, PathBuf::from("/var/run/culvert/cni.sock"));
        assert_eq!(read("podsFile: /p\nzdsSocket: /z\n").sockets(), [PathBuf::from("/z")]);
        assert_eq!(read("podsFile: /p\n").health(), None);
    }
}
