//! The documents: `ca.yaml`, the token file, the pod file.

mod kubernetes;
mod lists;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use document::{Check, Report, Span};
use schemars::JsonSchema;
use serde::Deserialize;

pub use kubernetes::{Account, Compat, DirectIssuance, Kubernetes, OwnIstioNames, RootMaps, ServerAccount};
pub use lists::{Mayhap, PodDocument, PodEntry, TokenDocument, TokenEntry};

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
    /// Callers by token, where there is no Kubernetes.
    pub token_file: Option<PathBuf>,
    /// Pods by node, where there is no Kubernetes.
    pub pod_file: Option<PathBuf>,
    /// Callers and pods as a cluster knows them, in place of the two files.
    pub kubernetes: Option<Kubernetes>,
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

/// Where the signing key comes from: one of the three.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AuthoritySource {
    /// A folder of our own: a root is made there at first start.
    pub folder: Option<PathBuf>,
    /// Files made elsewhere, followed when they are replaced.
    pub files: Option<PluggedFiles>,
    /// A Secret: a root is made there at first start, unless there is one. Needs `kubernetes`.
    pub secret: Option<SecretSource>,
}

/// The Secret of the authority. Its keys are those of Istio's `cacerts` (`ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`,
/// `root-cert.pem`) or those of cert-manager (`tls.crt`, `tls.key`, `ca.crt`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct SecretSource {
    /// Its namespace: the authority's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether a missing one is made, with a new root. `false` waits for whoever makes it.
    pub make: bool,
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
    /// Where to keep former roots, and the former key while the new one is not known everywhere (0600). Without it they are
    /// forgotten at a restart.
    pub state: Option<PathBuf>,
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

impl Default for SecretSource {
    fn default() -> Self {
        // design.md 7; the Secret's name is the chart's `ca.secretName`.
        Self { namespace: "culvert-system".to_owned(), name: "culvert-ca-key".to_owned(), make: true }
    }
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

impl Check for Config {
    fn check(&self, report: &mut Report) {
        if let Err(e) = mesh::Identity::new(self.trust_domain.as_str(), "a", "b") {
            report.at("/trustDomain").mistake(e.to_string(), "use a name such as cluster.local");
        }
        self.check_sources(report);
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

impl Config {
    /// Callers, pods and the key come from a cluster or from files, never from both.
    fn check_sources(&self, report: &mut Report) {
        let authority = &self.authority;
        let sources = [authority.folder.is_some(), authority.files.is_some(), authority.secret.is_some()];
        if sources.iter().filter(|given| **given).count() != 1 {
            report
                .at("/authority")
                .mistake("exactly one of folder, files and secret is needed", "keep one; in a cluster: secret: {}");
        }
        match (&self.kubernetes, &self.token_file, &self.pod_file) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => {}
            (Some(_), ..) => report.at("/kubernetes").mistake(
                "callers and pods come from the cluster and from files",
                "remove tokenFile and podFile, or remove kubernetes",
            ),
            (None, ..) => report.at("/tokenFile").mistake(
                "nobody says who calls and who runs where",
                "give tokenFile and podFile, or in a cluster: kubernetes: {}",
            ),
        }
        if self.kubernetes.is_some() && authority.folder.is_some() {
            report.at("/authority/folder").mistake(
                "a folder is one machine's own, so two replicas would have two roots",
                "use secret: {} or files",
            );
        }
        if let Some(secret) = &authority.secret {
            if self.kubernetes.is_none() {
                report.at("/authority/secret").mistake("there is no cluster to read it from", "add kubernetes: {}");
            }
            for (field, value) in [("namespace", &secret.namespace), ("name", &secret.name)] {
                kubernetes::object_name(value, &format!("/authority/secret/{field}"), report);
            }
        }
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.check(report);
            if !self.server_certificates.is_empty() {
                report.at("/serverCertificates").mistake(
                    "a cluster's servers ask for their certificates themselves",
                    "list them by service account in kubernetes.serverCertificates",
                );
            }
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
