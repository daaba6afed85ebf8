//! The document that describes a lab.

use std::collections::BTreeMap;
use std::path::Path;

use document::{Mistakes, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec_policy::Policy;

/// A lab: nodes, the pods on them, services, policies.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Name of the lab; part of paths and control group names. Labs of different names do not meet.
    pub name: String,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The pods.
    pub pods: Vec<Pod>,
    /// The services.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Waypoints: what requests of services that name one pass. With any, the lab has a control plane as well.
    #[serde(default)]
    pub waypoints: Vec<Waypoint>,
    /// Objects of Kubernetes for the control plane, written as `kubectl apply` takes them: routes, L7 policies. Namespaces,
    /// pods, services and Gateways of the lab are made by itself.
    #[serde(default)]
    pub manifests: Vec<serde_json::Value>,
    /// Authorization policies, in the form of Istio's local file (discovery.md 5).
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// How two meshed pods of one node talk.
    #[serde(default)]
    pub same_node: SameNode,
    /// Trust domain of all identities.
    #[serde(default = "defaults::trust_domain")]
    pub trust_domain: String,
    /// Traces.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Whether pods have IPv6 addresses too.
    #[serde(default = "defaults::yes")]
    pub ipv6: bool,
    /// Threads of each ztunnel that carry connections.
    #[serde(default = "defaults::workers")]
    pub workers: usize,
    /// Life of workload certificates.
    #[serde(default = "defaults::certificate_lifetime")]
    pub certificate_lifetime: Span,
    /// Whether ztunnels follow a list of revoked certificates, so that the fault `revoke` is possible.
    #[serde(default)]
    pub crl: bool,
    /// Log level of our programs, as in `info,hbone=debug`.
    #[serde(default = "defaults::log")]
    pub log: String,
}

/// A node.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    /// Name.
    pub name: String,
}

/// A pod, and the program that it runs.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pod {
    /// Name; the lab asks that it is unique over all namespaces, so that `exec web` is never ambiguous.
    pub name: String,
    /// Namespace.
    #[serde(default = "defaults::namespace")]
    pub namespace: String,
    /// Service account; the pod's name when not given.
    #[serde(default)]
    pub service_account: Option<String>,
    /// The node it runs on.
    pub node: String,
    /// Whether it is in the mesh.
    #[serde(default = "defaults::yes")]
    pub mesh: bool,
    /// The program and its arguments. Without one the pod has only its network, to be used by `exec`.
    #[serde(default)]
    pub command: Vec<String>,
    /// User that the program runs as; root when not given.
    #[serde(default)]
    pub user: Option<String>,
    /// Files for the program, by path relative to `/srv`, where it also starts.
    #[serde(default)]
    pub files: Files,
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Capabilities on top of those that a container has by default, as in `NET_ADMIN`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// When the pod counts as ready.
    #[serde(default)]
    pub ready: Option<Ready>,
    /// Selector policies (`namespace/name`) that apply to it.
    #[serde(default)]
    pub policies: Vec<String>,
    /// DENY policies (`namespace/name`, scope WorkloadSelector) that judge what it dials, by address and port of the
    /// destination. Its own node is exempt.
    #[serde(default)]
    pub egress: Vec<String>,
    /// Whether its look-ups over port 53 go to the node's proxy. Names in `/etc/hosts` are there all the same.
    #[serde(default)]
    pub dns: bool,
}

impl Pod {
    /// The service account, by default the pod's own name.
    pub fn account(&self) -> &str {
        self.service_account.as_deref().unwrap_or(&self.name)
    }
}

/// Texts by relative path.
pub type Files = BTreeMap<String, String>;

/// When a pod counts as ready.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ready {
    /// This port accepts connections on the pod's own address.
    pub tcp: u16,
}

/// A service. Its virtual addresses mean something only to pods in the mesh: nothing routes or translates them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    /// Name.
    pub name: String,
    /// Namespace.
    #[serde(default = "defaults::namespace")]
    pub namespace: String,
    /// Service port to port of the pods.
    pub ports: BTreeMap<u16, u16>,
    /// Names of its pods.
    pub pods: Vec<String>,
    /// Without virtual addresses: the name leads to the pods themselves.
    #[serde(default)]
    pub headless: bool,
    /// Waypoint of its namespace that its traffic passes.
    #[serde(default)]
    pub waypoint: Option<String>,
    /// What its ports speak (`appProtocol` of Kubernetes): `http`, `kubernetes.io/h2c`, `grpc`, `tcp`. Told by the first bytes
    /// when not given.
    #[serde(default)]
    pub protocol: Option<String>,
}

impl Service {
    /// The full host name.
    pub fn hostname(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

/// A waypoint. It runs in a pod of its own that is not captured, with a service account of its own name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Waypoint {
    /// Name; also that of its pod, so it is unique among the pods.
    pub name: String,
    /// Namespace.
    #[serde(default = "defaults::namespace")]
    pub namespace: String,
    /// The node it runs on.
    pub node: String,
}

impl Waypoint {
    /// The pod that it runs in.
    pub(crate) fn pod(&self) -> Pod {
        Pod {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: None,
            node: self.node.clone(),
            mesh: false,
            command: Vec::new(),
            user: None,
            files: Files::new(),
            env: BTreeMap::new(),
            capabilities: Vec::new(),
            ready: None,
            policies: Vec::new(),
            egress: Vec::new(),
            dns: false,
        }
    }

    /// The service that node proxies find it by.
    pub(crate) fn service(&self) -> Service {
        Service {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            ports: BTreeMap::from([(Self::PORT, Self::PORT)]),
            pods: vec![self.name.clone()],
            headless: false,
            waypoint: None,
            protocol: None,
        }
    }

    /// Where tunnels arrive (waypoint-api.md 1).
    pub(crate) const PORT: u16 = 15008;
}

/// How two meshed pods of one node talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SameNode {
    /// Through their ztunnel without a tunnel; identities and policies are checked all the same.
    Direct,
    /// By mutual TLS, like everybody else.
    #[default]
    Mtls,
}

/// Where traces go.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Telemetry {
    /// `auto` starts a collector in the lab, `off` sends nothing, anything else is an `http://host:port` that the
    /// ztunnels can reach.
    #[serde(default)]
    pub otlp: OtlpTo,
    /// Share of connections that are traced, 0 to 1.
    #[serde(default = "defaults::sampling")]
    pub sampling: f64,
    /// Whether records of the access log go there, too.
    #[serde(default)]
    pub access_log: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp: OtlpTo::default(), sampling: defaults::sampling(), access_log: false }
    }
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct OtlpTo(pub String);

impl OtlpTo {
    /// No traces.
    pub const OFF: &'static str = "off";
    /// A collector in the lab.
    pub const AUTO: &'static str = "auto";
}

impl Default for OtlpTo {
    fn default() -> Self {
        Self(Self::OFF.to_owned())
    }
}

impl Spec {
    /// Reads a document.
    ///
    /// # Errors
    /// All of its mistakes.
    pub fn parse(file: &str, text: &str) -> Result<Self, Mistakes> {
        document::parse(file, text)
    }

    /// Reads a document from a file.
    ///
    /// # Errors
    /// All of its mistakes, or the one that it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Mistakes> {
        document::load(path)
    }
}

pub(crate) mod defaults {
    use std::time::Duration;

    use document::Span;

    pub(crate) fn trust_domain() -> String {
        ::mesh::workload::DEFAULT_TRUST_DOMAIN.to_owned()
    }

    pub(crate) fn namespace() -> String {
        "default".to_owned()
    }

    pub(crate) fn yes() -> bool {
        true
    }

    // A lab is there to be looked at: every connection is traced.
    pub(crate) fn sampling() -> f64 {
        1.0
    }

    // Two nodes share one machine; one thread a node measured best on two CPUs (performance.md 3), two find races.
    pub(crate) fn workers() -> usize {
        2
    }

    // Istio's SECRET_TTL (ca.md 3).
    pub(crate) fn certificate_lifetime() -> Span {
        Span::from(Duration::from_secs(24 * 3600))
    }

    pub(crate) fn log() -> String {
        "info".to_owned()
    }
}
