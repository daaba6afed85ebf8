//! The documents: `ca.yaml`, the token file, the pod file.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::Deserialize;

/// `ca.yaml`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Address of the gRPC service.
    #[serde(default = "default_listen")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The trust domain of every identity that is issued.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// Cluster ids that callers may send; the empty one is always accepted.
    #[serde(default = "default_clusters")]
    pub clusters: Vec<String>,
    /// Where the signing key comes from.
    pub authority: AuthoritySource,
    /// Where to write the root bundle for clients (public, 0644). Nowhere when absent.
    pub root_output: Option<PathBuf>,
    /// DNS names and IP addresses of the service's own certificate.
    pub server_names: Vec<String>,
    /// Server certificates for other services, written at start and renewed.
    #[serde(default)]
    pub server_certificates: Vec<ServerFiles>,
    /// Lives of workload certificates.
    #[serde(default)]
    pub ttl: TtlSettings,
    /// Callers by token.
    pub token_file: PathBuf,
    /// Pods by node.
    pub pod_file: PathBuf,
    /// How often one caller may ask.
    #[serde(default)]
    pub rate_limit: RateSettings,
    /// Address of `/healthz/ready`. Off when absent.
    #[schemars(with = "Option<String>")]
    pub health: Option<SocketAddr>,
    /// Address of `/metrics`. Off when absent.
    #[schemars(with = "Option<String>")]
    pub metrics: Option<SocketAddr>,
}

/// Where the signing key comes from: one of the two.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthoritySource {
    /// A folder of our own: a root is made there at first start.
    pub folder: Option<PathBuf>,
    /// Files made elsewhere.
    pub files: Option<PluggedFiles>,
}

/// An authority made elsewhere, PEM (Istio's `cacerts`: `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PluggedFiles {
    /// The signing certificate, a root or an intermediate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates between it and the root.
    pub chain: Option<PathBuf>,
    /// The roots that workloads shall trust: several while one follows another.
    pub roots: PathBuf,
}

/// A server certificate for another service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServerFiles {
    /// DNS names and IP addresses.
    pub names: Vec<String>,
    /// Where the chain goes (0644).
    pub certificate: PathBuf,
    /// Where the key goes (0600).
    pub key: PathBuf,
}

/// Lives of workload certificates.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TtlSettings {
    /// When the request names none. 24 h as Istio's `DEFAULT_WORKLOAD_CERT_TTL`.
    pub default: Span,
    /// The longest. 90 days as Istio's `MAX_WORKLOAD_CERT_TTL`.
    pub max: Span,
    /// A longer request: `refuse` as Istio does, or `shorten`.
    pub above_max: AboveMax,
}

/// What to do with a request for too long a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AboveMax {
    /// Refuse it.
    Refuse,
    /// Issue for the longest life allowed.
    Shorten,
}

/// How often one caller may ask.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RateSettings {
    /// In the long run. 20: a node's 250 identities renewed within a quarter of a minute.
    pub per_second: u32,
    /// At once. 500: twice the pods that a large node holds (Kubernetes' limit is 110 by default, 250 in practice).
    pub burst: u32,
}

/// The token file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenDocument {
    /// One entry per caller.
    pub tokens: Vec<TokenEntry>,
}

/// A caller.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenEntry {
    /// What it shows. At least 16 characters.
    pub token: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The node it runs on; needed with `mayImpersonate: node`.
    pub node: Option<String>,
    /// `node`: asks for the pods of its node, never for itself. `none`: asks for itself only.
    pub may_impersonate: Mayhap,
}

/// For whom a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mayhap {
    /// For the pods of its node.
    Node,
    /// For itself.
    None,
}

/// The pod file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodDocument {
    /// One entry per pod, or per service account and node.
    pub pods: Vec<PodEntry>,
}

/// A pod.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// Whether it has ended; such a pod gives its node no right.
    #[serde(default)]
    pub finished: bool,
}

fn default_listen() -> SocketAddr {
    // ca.md 1: 15012; all addresses, since every node calls.
    SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 15012))
}

fn default_trust_domain() -> String {
    "cluster.local".to_owned()
}

fn default_clusters() -> Vec<String> {
    // drop-in.md: the default of CLUSTER_ID.
    vec!["Kubernetes".to_owned()]
}

impl Default for TtlSettings {
    fn default() -> Self {
        Self {
            default: Span(Duration::from_secs(24 * 3600)),
            max: Span(Duration::from_secs(90 * 24 * 3600)),
            above_max: AboveMax::Refuse,
        }
    }
}

impl Default for RateSettings {
    fn default() -> Self {
        Self { per_second: 20, burst: 500 }
    }
}

/// A token has no `Debug` text.
impl std::fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token of {}/{}", self.namespace, self.service_account)
    }
}

impl Check for Config {
    fn check(&self, report: &mut Report) {
        if let Err(e) = mesh::Identity::new(self.trust_domain.as_str(), "a", "b") {
            report.at("/trustDomain").mistake(e.to_string(), "use a name such as cluster.local");
        }
        match (&self.authority.folder, &self.authority.files) {
            (Some(_), None) | (None, Some(_)) => {}
            _ => report.at("/authority").mistake("exactly one of folder and files is needed", "keep one of the two"),
        }
        names(&self.server_names, "/serverNames", report);
        for (i, files) in self.server_certificates.iter().enumerate() {
            names(&files.names, &format!("/serverCertificates/{i}/names"), report);
        }
        // Under a minute the begin two minutes in the past would outweigh the rest, and renewal would never rest.
        if self.ttl.default.get() < Duration::from_secs(1) {
            report.at("/ttl/default").mistake("below one second", "use 1h to 24h; seconds only in tests");
        }
        if self.ttl.default.get() > self.ttl.max.get() {
            report.at("/ttl/default").mistake("longer than ttl.max", "raise ttl.max or lower ttl.default");
        }
        if self.rate_limit.per_second == 0 || self.rate_limit.burst == 0 {
            report.at("/rateLimit").mistake("0 would refuse everybody", "use at least 1 for both");
        }
    }
}

impl Check for TokenDocument {
    fn check(&self, report: &mut Report) {
        let mut seen = HashSet::new();
        for (i, entry) in self.tokens.iter().enumerate() {
            let at = |field: &str| format!("/tokens/{i}/{field}");
            // 16 characters of base64 are 96 bits: beyond guessing.
            if entry.token.len() < 16 || entry.token.trim() != entry.token {
                report.at(&at("token")).mistake(
                    "shorter than 16 characters, or with white space around it",
                    "make one with: head -c 24 /dev/urandom | base64",
                );
            }
            if !seen.insert(&entry.token) {
                report
                    .at(&at("token"))
                    .mistake("the same token as an entry before", "give each caller a token of its own");
            }
            if entry.may_impersonate == Mayhap::Node && entry.node.as_deref().unwrap_or_default().is_empty() {
                report.at(&at("mayImpersonate")).mistake("node needs the caller's node", "add node: <name>");
            }
            account(&entry.namespace, &entry.service_account, &format!("/tokens/{i}"), report);
        }
    }
}

impl Check for PodDocument {
    fn check(&self, report: &mut Report) {
        for (i, pod) in self.pods.iter().enumerate() {
            account(&pod.namespace, &pod.service_account, &format!("/pods/{i}"), report);
            if pod.node.is_empty() {
                report.at(&format!("/pods/{i}/node")).mistake("empty", "name the node");
            }
        }
    }
}

fn account(namespace: &str, service_account: &str, at: &str, report: &mut Report) {
    for (field, value) in [("namespace", namespace), ("serviceAccount", service_account)] {
        if let Err(e) = mesh::Identity::new("td", value, value) {
            report.at(&format!("{at}/{field}")).mistake(e.to_string(), "use the name as Kubernetes has it");
        }
    }
}

fn names(names: &[String], at: &str, report: &mut Report) {
    if names.is_empty() {
        report.at(at).mistake("a certificate needs a name", "list the DNS names or addresses that clients use");
    }
    for (i, name) in names.iter().enumerate() {
        if name.parse::<IpAddr>().is_err() && rustls_pki_types::DnsName::try_from(name.as_str()).is_err() {
            report
                .at(&format!("{at}/{i}"))
                .mistake("not a DNS name or IP address", "use a name such as ca.culvert-system.svc");
        }
    }
}
