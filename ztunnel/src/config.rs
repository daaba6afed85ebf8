//! The node proxy's configuration: one YAML file, parsed once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use document::{Check, Report, Span};
use identity::channel::TrustedRoots;
use mesh::addr::Cidr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use telemetry::TracingConfig;

/// Everything an operator can say to the node proxy.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Config {
    /// Name of the node.
    pub(crate) node: String,
    /// Workloads, services and policies from a file in place of a control plane; re-read when it changes.
    #[serde(default)]
    pub(crate) local_file: Option<PathBuf>,
    /// The same as text, for a world that never changes.
    #[serde(default)]
    pub(crate) local_text: Option<String>,
    /// The control plane.
    #[serde(default)]
    pub(crate) xds: Option<ControlPlane>,
    /// Who signs our workloads' certificates.
    pub(crate) ca: Authority,
    /// The pod that this proxy itself runs in, as the control plane is told.
    #[serde(default)]
    pub(crate) own_pod: OwnPod,
    /// Where the node agent hands pods over.
    #[serde(default = "defaults::zds_socket")]
    pub(crate) zds_socket: PathBuf,
    /// Threads that carry connections; one per CPU, at most 4, when not given.
    #[serde(default)]
    pub(crate) workers: Option<usize>,
    /// Addresses of pods: a destination in here that discovery does not know is never reached in clear unless
    /// `unknownPodDestination` says so.
    #[serde(default, rename = "podCIDRs")]
    pub(crate) pod_cidrs: Vec<String>,
    /// What to do with such a destination.
    #[serde(default)]
    pub(crate) unknown_pod_destination: UnknownPod,
    /// How two pods of this node talk to each other.
    #[serde(default)]
    pub(crate) same_node: SameNode,
    /// Network that this node is in; empty for the default one.
    #[serde(default)]
    pub(crate) network: String,
    /// Cluster that this node is in.
    #[serde(default = "defaults::cluster")]
    pub(crate) cluster: String,
    /// Traces.
    #[serde(default)]
    pub(crate) otlp: Option<Otlp>,
    /// Traces as the `OTEL_*` variables say, in place of `otlp`; only the environment adapter sets it.
    #[serde(skip)]
    pub(crate) otel: Option<TracingConfig>,
    /// Access log and other messages.
    #[serde(default)]
    pub(crate) log: Log,
    /// Admin server; local addresses only.
    #[serde(default = "defaults::admin")]
    pub(crate) admin: SocketAddr,
    /// Metrics server.
    #[serde(default = "defaults::metrics")]
    pub(crate) metrics: SocketAddr,
    /// Readiness server.
    #[serde(default = "defaults::ready")]
    pub(crate) ready: SocketAddr,
    /// How long open connections may go on after a SIGTERM.
    #[serde(default = "defaults::drain")]
    pub(crate) drain: Span,
    /// Revoked certificates, PEM; re-read when it changes.
    #[serde(default)]
    pub(crate) crl_file: Option<PathBuf>,
    /// Mark of our own sockets, for capture by another agent's iptables (Istio: 1337). Not given = captured by Culvert.
    #[serde(default)]
    pub(crate) packet_mark: Option<u32>,
    /// Listen on IPv6 too.
    #[serde(default = "defaults::yes")]
    pub(crate) ipv6: bool,
    /// Look-ups of names.
    #[serde(default)]
    pub(crate) dns: Dns,
    /// What one pod may use at a time.
    #[serde(default)]
    pub(crate) pod_limits: PodLimits,
}

/// Look-ups of names by pods.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Dns {
    /// Answer captured look-ups of the mesh's names, and send others on. Off: no look-up is touched; the node agent must
    /// not capture any then.
    #[serde(default = "defaults::yes")]
    pub(crate) enabled: bool,
    /// The cluster's domain.
    #[serde(default = "defaults::cluster_domain")]
    pub(crate) cluster_domain: String,
    /// Namespace that wins when a host name is in several: behind the client's own and the canonical one.
    #[serde(default)]
    pub(crate) preferred_service_namespace: Option<String>,
}

impl Default for Dns {
    fn default() -> Self {
        Self { enabled: true, cluster_domain: defaults::cluster_domain(), preferred_service_namespace: None }
    }
}

/// The pod that the proxy runs in. The control plane compares the namespace with that of our token (discovery.md 1).
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct OwnPod {
    /// Its name.
    #[serde(default)]
    pub(crate) name: String,
    /// Its namespace.
    #[serde(default)]
    pub(crate) namespace: String,
    /// Its address.
    #[serde(default)]
    pub(crate) address: Option<IpAddr>,
}

/// The control plane's address and how to trust it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ControlPlane {
    /// `https://host:port`.
    pub(crate) address: String,
    /// PEM file with the roots of its certificate, re-read when it changes; `SYSTEM` means the machine's bundle.
    pub(crate) root_file: PathBuf,
    /// File with our bearer token; read for every stream.
    pub(crate) token_file: PathBuf,
    /// Name to check in its certificate in place of the address's.
    #[serde(default)]
    pub(crate) alt_name: Option<String>,
    /// Further headers of the stream.
    #[serde(default, serialize_with = "names_only")]
    pub(crate) headers: BTreeMap<String, String>,
    /// Further node metadata.
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, serde_json::Value>,
}

/// The certificate authority's address and how to trust it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Authority {
    /// `https://host:port`.
    pub(crate) address: String,
    /// PEM file with the roots of its certificate, re-read when it changes; `SYSTEM` means the machine's bundle.
    pub(crate) root_file: PathBuf,
    /// File with our bearer token; read for every request.
    pub(crate) token_file: PathBuf,
    /// Name to check in its certificate in place of the address's.
    #[serde(default)]
    pub(crate) alt_name: Option<String>,
    /// Further headers of each request.
    #[serde(default, serialize_with = "names_only")]
    pub(crate) headers: BTreeMap<String, String>,
    /// Life of a certificate to ask for.
    #[serde(default = "defaults::certificate_lifetime")]
    pub(crate) certificate_lifetime: Span,
}

/// What to do with a destination in `podCIDRs` that discovery does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum UnknownPod {
    /// Connect in clear.
    Plaintext,
    /// Refuse after waiting for discovery.
    #[default]
    Refuse,
}

/// How two pods of one node talk to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum SameNode {
    /// Through the proxy without a tunnel: identities and policies are checked all the same, bytes never leave the node.
    Direct,
    /// By mutual TLS, like everybody else.
    #[default]
    Mtls,
}

/// Where spans go.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Otlp {
    /// `http://host:4317` (gRPC).
    pub(crate) endpoint: String,
    /// Share of connections that are traced, 0 to 1.
    #[serde(default = "defaults::sampling")]
    pub(crate) sampling: f64,
}

/// Messages.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Log {
    /// Level, or levels by module: `info,hbone=debug`.
    #[serde(default)]
    pub(crate) level: Option<String>,
    /// Form of the lines.
    #[serde(default)]
    pub(crate) format: LogFormat,
    /// Write policy decisions at INFO in place of DEBUG.
    #[serde(default)]
    pub(crate) policy_info: bool,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Tab-separated text.
    #[default]
    Text,
}

/// What one pod may use at a time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodLimits {
    /// Connections and streams.
    #[serde(default)]
    pub(crate) connections: Option<usize>,
    /// TLS handshakes.
    #[serde(default)]
    pub(crate) handshakes: Option<usize>,
    /// Look-ups of names that wait for a server.
    #[serde(default)]
    pub(crate) lookups: Option<usize>,
}

impl Config {
    /// The pod networks. Texts were checked when the file was read.
    pub(crate) fn pod_networks(&self) -> Vec<Cidr> {
        self.pod_cidrs.iter().filter_map(|c| c.parse().ok()).collect()
    }
}

/// Whom to trust, as `rootFile` says.
pub(crate) fn roots(root_file: &Path) -> TrustedRoots {
    // The spelling of Istio's XDS_ROOT_CA and CA_ROOT_CA (drop-in.md).
    if root_file.as_os_str() == "SYSTEM" { TrustedRoots::System } else { TrustedRoots::File(root_file.to_owned()) }
}

/// A header may be a credential, and the configuration is shown by `/config_dump`.
fn names_only<S: Serializer>(headers: &BTreeMap<String, String>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(headers.keys().map(|name| (name, "(hidden)")))
}

impl Config {
    /// How many of the places that a world can come from are named.
    fn sources(&self) -> usize {
        [self.local_file.is_some(), self.local_text.is_some(), self.xds.is_some()].into_iter().filter(|s| *s).count()
    }
}

impl Check for Config {
    fn check(&self, report: &mut Report) {
        for (index, text) in self.pod_cidrs.iter().enumerate() {
            if let Err(error) = text.parse::<Cidr>() {
                report
                    .at(&format!("/podCIDRs/{index}"))
                    .mistake(error.to_string(), "write a block such as 10.244.0.0/16");
            }
        }
        match self.sources() {
            0 => report.at("").mistake(
                "neither `localFile` nor `localText` nor `xds` is given",
                "name where workloads and policies come from",
            ),
            1 => {}
            _ => report
                .at("")
                .mistake("more than one of `localFile`, `localText` and `xds` is given", "keep one of them"),
        }
        if !self.admin.ip().is_loopback() {
            let what =
                format!("{} can be reached from other hosts, and the admin server can stop the proxy", self.admin);
            report.at("/admin").mistake(&what, "use 127.0.0.1:15000 or [::1]:15000");
        }
        for (path, address) in
            [("/ca/address", Some(&self.ca.address)), ("/xds/address", self.xds.as_ref().map(|x| &x.address))]
        {
            if address.is_some_and(|a| !a.starts_with("https://")) {
                report.at(path).mistake(
                    "not an https:// address",
                    "tokens and certificates are never sent in clear; use https://host:port",
                );
            }
        }
        if let Err(error) = crate::dns::settings(self) {
            let field = match &error {
                dns::SettingsError::Domain(_) => "/dns/clusterDomain",
                dns::SettingsError::Namespace(_) => "/dns/preferredServiceNamespace",
            };
            report.at(field).mistake(error.to_string(), "use letters, digits and hyphens, such as cluster.local");
        }
        if self.workers == Some(0) {
            report.at("/workers").mistake("0 workers carry no connection", "use 1 or more, or leave it out");
        }
        if let Some(sampling) = self.otlp.as_ref().map(|o| o.sampling)
            && !(0.0..=1.0).contains(&sampling)
        {
            report.at("/otlp/sampling").mistake(format!("{sampling} is not a share"), "use a number from 0 to 1");
        }
    }
}

mod defaults {
    use super::{Ipv4Addr, Ipv6Addr, PathBuf, SocketAddr, Span};
    use std::time::Duration;

    pub(super) fn zds_socket() -> PathBuf {
        "/var/run/ztunnel/ztunnel.sock".into()
    }

    pub(super) fn cluster() -> String {
        mesh::workload::DEFAULT_CLUSTER.to_owned()
    }

    pub(super) fn admin() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 15000).into()
    }

    pub(super) fn metrics() -> SocketAddr {
        (Ipv6Addr::UNSPECIFIED, 15020).into()
    }

    pub(super) fn ready() -> SocketAddr {
        (Ipv6Addr::UNSPECIFIED, 15021).into()
    }

    // Istio's CONNECTION_TERMINATION_DEADLINE (hbone.md 11).
    pub(super) fn drain() -> Span {
        Span::from(Duration::from_secs(5))
    }

    // Istio's SECRET_TTL (ca.md 3).
    pub(super) fn certificate_lifetime() -> Span {
        Span::from(Duration::from_secs(24 * 3600))
    }

    pub(super) fn sampling() -> f64 {
        // Istio's PILOT_TRACE_SAMPLING (telemetry.md 4).
        0.01
    }

    pub(super) fn cluster_domain() -> String {
        "cluster.local".to_owned()
    }

    pub(super) fn yes() -> bool {
        true
    }
}
