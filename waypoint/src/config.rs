//! The waypoint's configuration: one YAML file, parsed once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use document::{Check, Report, Span};
use mesh::{Identity, IdentityError};
use proxy::settings::{self, Authority, ControlPlane, Log, Otlp, OwnPod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that can be said to a waypoint. Its deployer writes it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    /// The pod that it runs in.
    pub own_pod: OwnPod,
    /// Service account of that pod: with its namespace and the trust domain, the identity that the waypoint speaks with.
    pub service_account: String,
    /// Trust domain.
    #[serde(default = "defaults::trust_domain")]
    pub trust_domain: String,
    /// Name of the node that it runs on.
    #[serde(default)]
    pub node: String,
    /// Name of the Gateway that it is an instance of; what it calls itself in spans.
    #[serde(default = "defaults::gateway")]
    pub gateway: String,
    /// The control plane.
    pub xds: ControlPlane,
    /// Who signs our certificate.
    pub ca: Authority,
    /// Threads that carry connections; one per CPU when not given.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Network that it is in; empty for the default one.
    #[serde(default)]
    pub network: String,
    /// Cluster that it is in.
    #[serde(default = "defaults::cluster")]
    pub cluster: String,
    /// Where tunnels arrive.
    #[serde(default = "defaults::listen")]
    pub listen: SocketAddr,
    /// Traces.
    #[serde(default)]
    pub otlp: Option<Otlp>,
    /// Access log and other messages.
    #[serde(default)]
    pub log: Log,
    /// Admin server; local addresses only.
    #[serde(default = "defaults::admin")]
    pub admin: SocketAddr,
    /// Metrics server.
    #[serde(default = "defaults::metrics")]
    pub metrics: SocketAddr,
    /// Readiness server.
    #[serde(default = "defaults::ready")]
    pub ready: SocketAddr,
    /// How long requests and connections may go on after a SIGTERM. New ones are still taken for the first part of it,
    /// because callers hear of the end of a pod later than the pod itself.
    #[serde(default = "defaults::drain")]
    pub drain: Span,
    /// Revoked certificates, PEM; re-read when it changes.
    #[serde(default)]
    pub crl_file: Option<PathBuf>,
    /// How long a client may be silent on a port whose protocol is not declared, before its connection is carried as plain
    /// TCP: servers that speak first would wait for ever otherwise.
    #[serde(default = "defaults::detection")]
    pub detection: Span,
    /// What clients and backends may use.
    #[serde(default)]
    pub limits: Limits,
}

/// What clients and backends may use.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limits {
    /// Connections of applications at one time, over all workers.
    pub connections: usize,
    /// TLS handshakes at one time, over all workers.
    pub handshakes: usize,
    /// Bytes of a request's or answer's head.
    pub head_bytes: u32,
    /// Fields of a request's or answer's head.
    pub head_fields: usize,
    /// Requests at one time on one HTTP/2 connection of a client.
    pub concurrent_streams: u32,
    /// Bytes of a request's body that are kept so that it can be sent again. A larger body is sent once.
    pub replay_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Each may hold one stream in and one out; more than a pod of the usual size can serve.
            connections: 65_536,
            // About a quarter of a second of public-key work on one core (0.25 ms an end, performance.md 2).
            handshakes: 1_024,
            // Envoy's own bound (max_request_headers_kb 60), rounded: what passes an Istio waypoint passes this one.
            head_bytes: 64 * 1024,
            // Envoy's own (max_headers_count).
            head_fields: 100,
            // Envoy's recommendation for untrusted clients, and what RFC 9113 6.5.2 recommends at least.
            concurrent_streams: 100,
            // Envoy's per-request retry buffer is 1 MiB by default; 64 KiB hold nearly every JSON or gRPC request, and
            // 10 000 requests of that size at once are 640 MiB that are bounded by the connections above.
            replay_bytes: 64 * 1024,
        }
    }
}

impl Config {
    /// The identity that the waypoint speaks with.
    ///
    /// # Errors
    /// When namespace, service account or trust domain cannot be part of one.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::new(self.trust_domain.as_str(), self.own_pod.namespace.as_str(), self.service_account.as_str())
    }

    /// Our address as callers and discovery know it.
    pub fn address(&self) -> IpAddr {
        self.own_pod.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

impl Check for Config {
    fn check(&self, report: &mut Report) {
        settings::check(report, self.admin, &self.ca, Some(&self.xds), self.otlp.as_ref());
        if let Err(error) = self.identity() {
            report.at("/serviceAccount").mistake(
                format!("no identity can be made of it: {error}"),
                "give ownPod.namespace, serviceAccount and trustDomain as Kubernetes has them",
            );
        }
        if self.own_pod.address.is_none() {
            report
                .at("/ownPod/address")
                .mistake("missing", "give the pod's address (status.podIP of the downward API)");
        }
        if self.own_pod.name.is_empty() {
            report.at("/ownPod/name").mistake("missing", "give the pod's name (metadata.name of the downward API)");
        }
        if self.workers == Some(0) {
            report.at("/workers").mistake("0 workers carry no connection", "use 1 or more, or leave it out");
        }
        // hyper's own least buffer, and what fits one HTTP/2 frame (RFC 9113 4.2).
        if self.limits.head_bytes < 8 * 1024 {
            report.at("/limits/headBytes").mistake("too small for ordinary requests", "use 8192 or more");
        }
        for (field, value) in [
            ("connections", self.limits.connections),
            ("handshakes", self.limits.handshakes),
            ("headFields", self.limits.head_fields),
            ("concurrentStreams", self.limits.concurrent_streams as usize),
        ] {
            if value == 0 {
                report.at(&format!("/limits/{field}")).mistake("0 lets nothing pass", "use 1 or more");
            }
        }
    }
}

mod defaults {
    use super::{Ipv4Addr, Ipv6Addr, SocketAddr, Span};
    use std::time::Duration;

    pub(super) fn trust_domain() -> String {
        mesh::workload::DEFAULT_TRUST_DOMAIN.to_owned()
    }

    pub(super) fn gateway() -> String {
        "waypoint".to_owned()
    }

    pub(super) fn cluster() -> String {
        mesh::workload::DEFAULT_CLUSTER.to_owned()
    }

    pub(super) fn listen() -> SocketAddr {
        (Ipv6Addr::UNSPECIFIED, directory::HBONE_PORT).into()
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

    // Less than the grace period of 30 s that a pod has by default, with room for the last answers and spans.
    pub(super) fn drain() -> Span {
        Span::from(Duration::from_secs(20))
    }

    // Far above the time between a connection and its first bytes within a cluster (the client sends as soon as the
    // connection is up), and short enough that nobody waits for a mail server's greeting.
    pub(super) fn detection() -> Span {
        Span::from(Duration::from_millis(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
ownPod: { name: wp-1, namespace: shop, address: 10.0.0.7 }
serviceAccount: waypoint
xds: { address: 'https://control:15012', rootFile: /r, tokenFile: /t }
ca: { address: 'https://ca:15012', rootFile: /r, tokenFile: /t }
";

    #[test]
    fn what_a_deployer_writes_is_enough() {
        let config: Config = document::parse("w.yaml", GOOD).unwrap();
        assert_eq!(config.identity().unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/waypoint");
        assert_eq!(config.listen.port(), 15008);
        assert_eq!(config.limits.head_fields, 100);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = GOOD.replace("10.0.0.7", "").replace("https://ca", "http://ca").replace("name: wp-1, ", "")
            + "workers: 0\nlimits: { headBytes: 1, connections: 0 }\nadmin: 0.0.0.0:15000\n";
        let mistakes = document::parse::<Config>("w.yaml", &text.replace("address:  }", "}")).unwrap_err();
        let told: Vec<_> = mistakes.0.iter().map(|m| m.field.as_str()).collect();
        for field in ["admin", "ca.address", "limits.headBytes", "limits.connections", "ownPod.name", "workers"] {
            assert!(told.iter().any(|t| t.contains(field)), "{field} is not in {told:?}");
        }
    }
}
