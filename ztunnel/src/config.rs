//! The node proxy's configuration: one YAML file, parsed once.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use document::{Check, Report, Span};
use mesh::addr::Cidr;
use proxy::settings::{self, Authority, ControlPlane, Log, Otlp, OwnPod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    /// Have the control plane say more of them, as Culvert's does; others end the stream of who asks.
    #[serde(default, rename = "podCIDRsFromControl")]
    pub(crate) pod_cidrs_from_control: bool,
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

/// What to do with a destination in a pod network that discovery does not know.
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

impl Check for Config {
    fn check(&self, report: &mut Report) {
        for (index, text) in self.pod_cidrs.iter().enumerate() {
            if let Err(error) = text.parse::<Cidr>() {
                report
                    .at(&format!("/podCIDRs/{index}"))
                    .mistake(error.to_string(), "write a block such as 10.244.0.0/16");
            }
        }
        if self.pod_cidrs_from_control && self.xds.is_none() {
            report.at("/podCIDRsFromControl").mistake(
                "there is no control plane that could say them",
                "give `xds`, or list the blocks in `podCIDRs`",
            );
        }
        settings::check_source(report, self.local_file.is_some(), self.local_text.is_some(), self.xds.is_some());
        settings::check(report, self.admin, &self.ca, self.xds.as_ref(), self.otlp.as_ref());
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

    pub(super) fn cluster_domain() -> String {
        "cluster.local".to_owned()
    }

    pub(super) fn yes() -> bool {
        true
    }
}
