//! What translation is told besides objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mesh::addr::Cidr;

/// Somebody who is asked whether a request may pass (Istio's `extensionProviders`).
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// Namespace of the service; `None`: whoever has the host name.
    pub namespace: Option<Arc<str>>,
    /// Its host name.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// How it is asked; without whom.
    pub ask: proto::routing::ExternalAuth,
}

/// Facts of the mesh that no watched object says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Trust domain of every workload's identity.
    pub trust_domain: Arc<str>,
    /// Name of the cluster, the first part of every uid (Istio: `Kubernetes`).
    pub cluster_id: Arc<str>,
    /// Domain of the cluster's services, without dots at its ends.
    pub cluster_domain: Arc<str>,
    /// Network of pods and services; empty for the default one.
    pub network: Arc<str>,
    /// Namespace whose policies without selector are for the whole mesh.
    pub root_namespace: Arc<str>,
    /// Namespace of our own programs.
    pub system_namespace: Arc<str>,
    /// Service accounts in [`Settings::system_namespace`] that node proxies run under.
    pub proxy_accounts: Vec<Arc<str>>,
    /// Whether `Node.spec.podCIDRs` say which addresses are pods'. Not every network plug-in uses them.
    pub pod_cidrs_from_nodes: bool,
    /// Further blocks of pods' addresses.
    pub pod_cidrs: Vec<Cidr>,
    /// Who may be asked by policies with action CUSTOM, by name.
    pub providers: BTreeMap<Arc<str>, Provider>,
    /// Whether every namespace is treated as if it had the label `culvert.dev/auto-waypoint: enabled`.
    pub automatic_waypoints: bool,
    /// Block for automatic IPv4 addresses of ServiceEntries.
    pub allocate_v4: Cidr,
    /// Block for automatic IPv6 addresses of ServiceEntries.
    pub allocate_v6: Cidr,
}

impl Default for Settings {
    /// Istio's defaults, and the names of design.md 7.
    fn default() -> Self {
        Self {
            trust_domain: mesh::workload::DEFAULT_TRUST_DOMAIN.into(),
            cluster_id: mesh::workload::DEFAULT_CLUSTER.into(),
            cluster_domain: "cluster.local".into(),
            network: "".into(),
            root_namespace: "culvert-system".into(),
            system_namespace: "culvert-system".into(),
            proxy_accounts: vec!["ztunnel".into()],
            pod_cidrs_from_nodes: true,
            pod_cidrs: Vec::new(),
            providers: BTreeMap::new(),
            automatic_waypoints: false,
            // 240.240.0.0/16 and 2001:2::/48, as `PILOT_IP_AUTOALLOCATE_IPV4_PREFIX` and `..._IPV6_PREFIX` have it:
            // reserved (RFC 1112 4) and for benchmarks (RFC 5180 8), so that nothing routes there.
            allocate_v4: block(Ipv4Addr::new(240, 240, 0, 0).into(), 16),
            allocate_v6: block(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into(), 48),
        }
    }
}

fn block(addr: IpAddr, len: u8) -> Cidr {
    // The lengths above fit their families.
    Cidr::new(addr, len).unwrap_or(Cidr::host(addr))
}
