//! The agent on a node of Kubernetes.

use std::path::PathBuf;
use std::time::Duration;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::Deserialize;

/// The kubelet waits two minutes for the runtime to make a sandbox (`runtimeRequestTimeout` of its configuration); a
/// plug-in that is still waiting then is killed, and its text is lost.
const LONGEST_ADD: Duration = Duration::from_secs(100);

/// How the agent works on a node of Kubernetes. Everything has a value that fits a usual node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KubernetesConfig {
    /// A kubeconfig, for an agent that does not run in a pod. Absent: the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of Culvert itself. Nothing in it is ever captured.
    pub system_namespace: String,
    /// Service accounts, `namespace/name`, whose pods may be the node's proxy beside Culvert's own `ztunnel`, such as Istio's
    /// `istio-system/ztunnel`. They get the network namespaces of pods and are never captured.
    pub proxy_accounts: Vec<String>,
    /// Namespaces whose pods are never captured.
    pub exclude_namespaces: Vec<String>,
    /// RuntimeClasses whose pods cannot be captured, because their sockets are not those of this kernel (gVisor, Kata). A `*`
    /// at the end stands for anything. Pods of these classes that ask for the mesh get an Event that says so.
    pub unsupported_runtime_classes: Vec<String>,
    /// proc(5) of the host, with the host's processes.
    pub proc: PathBuf,
    /// How long a pod that leaves the mesh stays captured after its annotation is gone, so that peers learn of it first and no
    /// tunnel to it fails.
    pub leave_notice: Span,
    /// Port of the kubelet. Who listens there is the kubelet, and its probes reach pods as if these were not captured.
    pub kubelet_port: u16,
    /// Whether pods' questions to port 53 go to the proxy (while that answers any). A pod's annotation
    /// `ambient.istio.io/dns-capture` says otherwise for itself.
    pub dns_capture: bool,
    /// What becomes of connections of a pod that should have been captured from birth and was not.
    pub late_capture: LateCapture,
    /// The CNI plug-in.
    pub cni: CniConfig,
}

/// What becomes of connections that a pod made before it was captured, although it should have been captured from birth
/// (the CNI plug-in was not in the chain).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LateCapture {
    /// They are cut off.
    #[default]
    Close,
    /// They go on in clear, counted.
    Keep,
}

/// The CNI plug-in and its place in the node's chain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CniConfig {
    /// Whether the agent puts the plug-in into the node's chain and keeps it there. Without it, pods are captured some moments
    /// after their start.
    pub install: bool,
    /// Folder of the node's network configurations.
    pub conf_dir: PathBuf,
    /// Folder of the node's plug-ins.
    pub bin_dir: PathBuf,
    /// The plug-in to install. Absent: `culvert-cni` beside the agent's own program.
    pub plugin: Option<PathBuf>,
    /// Where the plug-in finds the agent. The path must be the same on the host and in the agent's container.
    pub socket: PathBuf,
    /// How long the start of a pod waits for a proxy before it fails (and Kubernetes tries again).
    pub deadline: Span,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            system_namespace: "culvert-system".to_owned(),
            proxy_accounts: Vec::new(),
            exclude_namespaces: vec!["kube-system".to_owned()],
            unsupported_runtime_classes: ["gvisor*", "runsc*", "kata*"].map(ToOwned::to_owned).to_vec(),
            proc: "/proc".into(),
            // A change reaches every proxy well within a second (issue goal: p99 of 100 ms at 10 000 pods).
            leave_notice: Span::from(Duration::from_secs(2)),
            // `port` of the kubelet's configuration.
            kubelet_port: 10250,
            // Istio's default (cni-zds.md 1).
            dns_capture: true,
            late_capture: LateCapture::Close,
            cni: CniConfig::default(),
        }
    }
}

impl Default for CniConfig {
    fn default() -> Self {
        Self {
            install: true,
            // Where containerd, CRI-O and cri-dockerd look unless told otherwise.
            conf_dir: "/etc/cni/net.d".into(),
            bin_dir: "/opt/cni/bin".into(),
            plugin: None,
            socket: "/var/run/culvert/cni.sock".into(),
            // A proxy that is there answers in milliseconds; one that is being replaced is back within this.
            deadline: Span::from(Duration::from_secs(30)),
        }
    }
}

impl Check for KubernetesConfig {
    fn check(&self, report: &mut Report) {
        if self.system_namespace.is_empty() {
            let remedy = "give the namespace in which Culvert runs, usually culvert-system";
            report.at("/systemNamespace").mistake("systemNamespace is empty", remedy);
        }
        for (index, account) in self.proxy_accounts.iter().enumerate() {
            if parts(account).is_none() {
                let what = format!("{account:?} is no service account");
                report
                    .at("/proxyAccounts")
                    .at(index)
                    .mistake(what, "write namespace/name, such as istio-system/ztunnel");
            }
        }
        if self.kubelet_port == 0 {
            let remedy = "give the kubelet's port, usually 10250";
            report.at("/kubeletPort").mistake("0 is no kubeletPort", remedy);
        }
        if self.cni.deadline.0 > LONGEST_ADD {
            let what = format!("the kubelet would give up before {:?}", self.cni.deadline.0);
            report.at("/cni/deadline").mistake(what, format!("use at most {LONGEST_ADD:?}"));
        }
    }
}

impl KubernetesConfig {
    /// Namespace and name of each service account whose pods may be the node's proxy.
    pub(crate) fn proxies(&self) -> Vec<(String, String)> {
        let own = (self.system_namespace.as_str(), "ztunnel");
        let further = self.proxy_accounts.iter().filter_map(|account| parts(account));
        std::iter::once(own).chain(further).map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect()
    }
}

/// Namespace and name of a service account.
fn parts(account: &str) -> Option<(&str, &str)> {
    account.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'))
}
