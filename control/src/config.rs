//! `control.yaml`: everything an operator can say to the control plane.

mod check;
pub mod providers;
pub mod waypoint;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use document::{CidrText, Span};
use schemars::JsonSchema;
use serde::Deserialize;

/// `control.yaml`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// Where objects come from.
    #[serde(default)]
    pub source: Source,
    /// Addresses to listen on.
    #[serde(default)]
    pub listen: Listen,
    /// Where the server certificate of discovery comes from.
    pub certificate: Certificate,
    /// Names of the mesh.
    #[serde(default)]
    pub mesh: Mesh,
    /// Service accounts of node proxies, `namespace/name`: whoever is none of them gets nothing.
    #[serde(default = "defaults::node_proxies")]
    pub node_proxies: Vec<String>,
    /// Callers by token. Needed when objects come from a folder, and refused when they come from Kubernetes, whose API
    /// server reviews tokens.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The audience that tokens must have.
    #[serde(default = "defaults::audience")]
    pub audience: String,
    /// Pace and bounds.
    #[serde(default)]
    pub pace: Pace,
    /// Who writes statuses.
    #[serde(default)]
    pub leader: Leader,
    /// Who is asked by AuthorizationPolicies with action CUSTOM.
    #[serde(default)]
    pub extension_providers: Vec<providers::Provider>,
    /// PEM file of the roots to trust when keys of token issuers are fetched; the machine's bundle when absent.
    #[serde(default)]
    pub issuer_roots: Option<PathBuf>,
    /// What is made for Gateways of a waypoint class. Nothing when absent.
    #[serde(default)]
    pub waypoint: Option<waypoint::Waypoint>,
    /// The log.
    #[serde(default)]
    pub log: Log,
}

/// Where objects come from: one of the two. Kubernetes, from inside, when neither is named.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Source {
    /// The API server.
    pub kubernetes: Option<Kubernetes>,
    /// A folder of Kubernetes manifests (`*.yaml`, `*.yml`, `*.json`), watched. No cluster is needed.
    pub folder: Option<PathBuf>,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Kubernetes {
    /// A kubeconfig. What Kubernetes gives every pod when absent.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig; its current one when absent.
    pub context: Option<String>,
}

/// Addresses to listen on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Listen {
    /// Discovery, TLS. 15012 on all addresses: every node calls (discovery.md 1).
    #[schemars(with = "String")]
    pub xds: SocketAddr,
    /// `/metrics`, and `/debug/syncz` as istioctl asks for it. 15014 on all addresses (telemetry.md).
    #[schemars(with = "String")]
    pub metrics: SocketAddr,
    /// `/healthz/ready`. 15021 on all addresses: the kubelet asks.
    #[schemars(with = "String")]
    pub health: SocketAddr,
    /// Log levels, what clients have, what the mesh should be. Loopback only.
    #[schemars(with = "String")]
    pub admin: SocketAddr,
}

/// Where the server certificate comes from: one of the two.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Certificate {
    /// Asked from the mesh's CA.
    pub ca: Option<Ca>,
    /// PEM files that somebody else renews; read again when they change.
    pub files: Option<CertificateFiles>,
}

/// The mesh's CA.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ca {
    /// `https://host:port`.
    #[serde(default = "defaults::ca_address")]
    pub address: String,
    /// PEM file of the roots to trust when talking to it.
    #[serde(default = "defaults::root_file")]
    pub root_file: PathBuf,
    /// Our own token, read again for each request.
    #[serde(default = "defaults::token_file")]
    pub token_file: PathBuf,
    /// The name to verify in place of the address's host.
    #[serde(default)]
    pub alt_name: Option<String>,
    /// Our own service account, `namespace/name`: the identity that stands in the certificate beside the names.
    #[serde(default = "defaults::own_account")]
    pub service_account: String,
    /// DNS names that node proxies call us by; the certificate must have every one.
    #[serde(default = "defaults::names")]
    pub names: Vec<String>,
    /// Life to ask for. 24 h; renewed after a third of it, so that the CA may be away for 16 h.
    #[serde(default = "defaults::ttl")]
    pub ttl: Span,
}

/// A certificate that somebody else renews.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Names of the mesh.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Mesh {
    /// Trust domain of every identity.
    pub trust_domain: String,
    /// Id of this cluster, the first part of workload uids.
    pub cluster_id: String,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// Network of pods; empty is the default network.
    pub network: String,
    /// Namespace whose policies without selector hold everywhere.
    pub root_namespace: String,
    /// Whether `Node.spec.podCIDRs` say which addresses are pods'. Not every network plug-in uses them.
    pub pod_cidrs_from_nodes: bool,
    /// Further blocks that pods' addresses come from.
    pub pod_cidrs: Vec<CidrText>,
}

/// Pace and bounds.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Pace {
    /// How long changes are gathered after the first one. 10 ms: a tenth of the goal for a change to reach the proxies
    /// (100 ms), and long enough that the objects of one rollout step travel together.
    pub debounce: Span,
    /// Changes applied together at most. 1000: some milliseconds of work, so that a storm does not hold the first back.
    pub batch: usize,
    /// Threads that serve streams. 0 = as many as there are CPUs, up to 4: a push of 70 000 resources to one node takes
    /// one thread some 100 ms, and more threads would only hold more such pushes in memory at once.
    pub threads: usize,
    /// After this time, give or take a tenth, a stream is ended in the ordinary way; the client comes again, with what it
    /// holds, perhaps to another replica, and its token is reviewed anew. 30 min, as istiod does.
    pub stream_life: Span,
    /// How long an accepted token is good for new streams while the API server cannot be asked. 1 h: twice a stream's
    /// life, so that every known proxy comes back once more; the API server's own outage is rarely longer, and a deleted
    /// pod that is used meanwhile must have kept both its token and our address.
    pub outage: Span,
    /// Status writes in a second. 20: what client-go's controllers take by default, a small part of what the API server
    /// has for all.
    pub status_writes: u32,
}

/// Who writes statuses. Every replica serves; the one that holds the Lease writes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Leader {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Our name in it. The host's name with a random part when absent.
    pub identity: Option<String>,
    /// Whether to write statuses and Events at all.
    pub write_statuses: bool,
}

/// The log.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Log {
    /// Level, or levels by module: `info`, `info,kube_client=off,control=debug`.
    pub level: String,
    /// Whether lines are JSON.
    pub json: bool,
}

impl Default for Listen {
    fn default() -> Self {
        let all = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // 15013: beside ours, and free on hosts where programs run as processes (node proxy 15000, agent 15010).
        Self { xds: all(15012), metrics: all(15014), health: all(15021), admin: ([127, 0, 0, 1], 15013).into() }
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            // drop-in.md: the default of CLUSTER_ID.
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            network: String::new(),
            root_namespace: "culvert-system".to_owned(),
            pod_cidrs_from_nodes: true,
            pod_cidrs: Vec::new(),
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            debounce: Span(Duration::from_millis(10)),
            batch: 1000,
            threads: 0,
            stream_life: Span(Duration::from_secs(30 * 60)),
            outage: Span(Duration::from_secs(3600)),
            status_writes: 20,
        }
    }
}

impl Default for Leader {
    fn default() -> Self {
        Self {
            namespace: "culvert-system".to_owned(),
            lease: "culvert-control-leader".to_owned(),
            identity: None,
            write_statuses: true,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        // kube tells of each failed connection anew; watches and calls of ours say it once, with the remedy.
        Self { level: "info,kube_client=off".to_owned(), json: false }
    }
}

mod defaults {
    use super::{Duration, PathBuf, Span};

    pub(super) fn node_proxies() -> Vec<String> {
        vec!["culvert-system/ztunnel".to_owned(), "istio-system/ztunnel".to_owned()]
    }

    pub(super) fn audience() -> String {
        kubernetes::review::AUDIENCE.to_owned()
    }

    pub(super) fn ca_address() -> String {
        "https://culvert-ca.culvert-system.svc:15012".to_owned()
    }

    pub(super) fn root_file() -> PathBuf {
        "/var/run/secrets/istio/root-cert.pem".into()
    }

    pub(super) fn token_file() -> PathBuf {
        "/var/run/secrets/tokens/istio-token".into()
    }

    pub(super) fn own_account() -> String {
        "culvert-system/culvert-control".to_owned()
    }

    pub(super) fn names() -> Vec<String> {
        vec![
            "culvert-control.culvert-system.svc".to_owned(),
            "culvert-control.culvert-system.svc.cluster.local".to_owned(),
        ]
    }

    pub(super) fn ttl() -> Span {
        Span(Duration::from_secs(24 * 3600))
    }
}

impl Listen {
    /// An address to bind for `address`: where a host has no IPv6, its unspecified address is the IPv4 one.
    pub fn usable(address: SocketAddr) -> SocketAddr {
        let unspecified = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unspecified());
        if unspecified && std::fs::metadata("/proc/net/if_inet6").is_err() {
            return SocketAddr::from(([0, 0, 0, 0], address.port()));
        }
        address
    }
}
