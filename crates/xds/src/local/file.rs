//! The shape of the file: keys, spellings and defaults of discovery.md 5. What the texts mean is judged in `model`.

mod policy;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use policy::{Match, Policy, PolicyAction, PolicyScope, ServiceAccount, StringMatch};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct File {
    /// Pods and other things with an address and an identity.
    pub workloads: Vec<Workload>,
    /// Authorization policies.
    pub policies: Vec<Policy>,
    /// Names and virtual addresses in front of workloads.
    pub services: Vec<Service>,
}

/// One workload. Trust domain and service account have no default here, unlike on the wire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    /// Key; when empty, `<clusterId or Kubernetes>//Pod/<namespace>/<name>`.
    #[serde(default)]
    pub uid: String,
    /// Name of the pod.
    #[serde(default)]
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Trust domain of its identity.
    #[serde(default)]
    pub trust_domain: String,
    /// Service account of its identity.
    #[serde(default)]
    pub service_account: String,
    /// Addresses.
    pub workload_ips: Vec<String>,
    /// Network of the addresses.
    #[serde(default)]
    pub network: String,
    /// Name to resolve when there is no address.
    #[serde(default)]
    pub hostname: String,
    /// Node.
    #[serde(default)]
    pub node: String,
    /// `HBONE` or `TCP` (plain).
    #[serde(default)]
    pub protocol: Protocol,
    /// Whether the address is its own.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// Services by `namespace/hostname`, each with service port to target port.
    pub services: BTreeMap<String, BTreeMap<u16, u16>>,
    /// Waypoint for traffic to the workload's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Gateway>,
    /// Gateway from other networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_gateway: Option<Gateway>,
    /// What the application expects around its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_tunnel: Option<AppTunnel>,
    /// Speaks HBONE itself.
    #[serde(default)]
    pub native_tunnel: bool,
    /// Selector policies by `namespace/name`.
    #[serde(default)]
    pub authorization_policies: Vec<String>,
    /// What it may dial. Our own key: a stock proxy does not read a file that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Addresses of its node, which policies named `culvert_network_policy…` let in. Our own key, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_addresses: Option<Vec<String>>,
    /// Whether it wants traffic.
    #[serde(default)]
    pub status: Status,
    /// Name of the owner.
    #[serde(default)]
    pub workload_name: String,
    /// Kind of the owner: `deployment`, `cronjob`, `job` or `pod` (empty).
    #[serde(default)]
    pub workload_type: String,
    /// Canonical service.
    #[serde(default)]
    pub canonical_name: String,
    /// Canonical revision.
    #[serde(default)]
    pub canonical_revision: String,
    /// Cluster.
    #[serde(default)]
    pub cluster_id: String,
    /// Where it is.
    #[serde(default)]
    pub locality: Locality,
    /// Weight in load balancing.
    #[serde(default = "one")]
    pub capacity: u32,
}

fn one() -> u32 {
    1
}

fn hbone_port() -> u16 {
    15008
}

/// Tunnel protocol of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// Plain.
    #[default]
    TCP,
    /// In a tunnel.
    HBONE,
}

/// Whose address it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// The workload's.
    #[default]
    Standard,
    /// The node's.
    HostNetwork,
}

/// Whether a workload wants traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Status {
    /// Yes.
    #[default]
    Healthy,
    /// No.
    Unhealthy,
}

/// A waypoint or gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// `network/ip` or `namespace/hostname`.
    pub destination: String,
    /// HBONE port.
    #[serde(default = "hbone_port")]
    pub hbone_mtls_port: u16,
}

/// What the application expects around its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AppTunnel {
    /// Protocol.
    pub protocol: AppTunnelProtocol,
    /// Port to connect to in place of the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Protocols around the application's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AppTunnelProtocol {
    /// None.
    #[default]
    NONE,
    /// PROXY protocol header.
    PROXY,
}

/// What judges the connections that a workload opens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Egress {
    /// DENY policies of scope WorkloadSelector by `namespace/name`; they judge by address and port of the destination.
    pub policies: Vec<String>,
    /// Addresses that they have no say about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<String>,
}

/// Region, zone, subzone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Locality {
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// Subzone.
    pub subzone: String,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Service {
    /// Short name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Fully qualified host name.
    pub hostname: String,
    /// Virtual addresses, `network/ip`; the default network is written `/10.0.0.1`.
    pub vips: Vec<String>,
    /// Service port to target port; 0 = the workload says.
    pub ports: BTreeMap<u16, u16>,
    /// Normally filled from the workloads; here for files that name members on the service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Identities accepted besides the workloads' own.
    #[serde(default)]
    pub subject_alt_names: Vec<String>,
    /// Waypoint for traffic to a virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Gateway>,
    /// Waypoints to choose from by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weighted_waypoints: Vec<Weighted>,
    /// How to choose among endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Address families; unset = whatever the addresses are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_families: Option<IpFamilies>,
    /// Virtual address blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidr_vips: Vec<CidrVip>,
    /// Wins ties outside the client's namespace.
    #[serde(default)]
    pub canonical: bool,
    /// Who may see it.
    #[serde(default)]
    pub visibility: Visibility,
}

/// A member named on the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoint {
    /// The workload.
    pub workload_uid: String,
    /// Service port to target port.
    #[serde(default)]
    pub port: BTreeMap<u16, u16>,
    /// Must be the workload's.
    #[serde(default)]
    pub status: Status,
}

/// One of several waypoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Weighted {
    /// Where.
    pub destination: Gateway,
    /// Its share.
    pub weight: u32,
}

/// How to choose among endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancer {
    /// Scopes in order of preference.
    pub routing_preferences: Vec<RoutingScope>,
    /// What the preference means.
    pub mode: LoadBalancerMode,
    /// Which endpoints count.
    pub health_policy: HealthPolicy,
}

/// Scopes of locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RoutingScope {
    Cluster,
    Network,
    Node,
    Region,
    Subzone,
    Zone,
}

/// What a preference means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerMode {
    /// Best rank first.
    Failover,
    /// To the original destination.
    Passthrough,
    /// No preference.
    #[default]
    Standard,
    /// Full matches only.
    Strict,
}

/// Which endpoints count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HealthPolicy {
    /// All.
    AllowAll,
    /// Healthy ones.
    #[default]
    OnlyHealthy,
}

/// Address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names say it")]
pub enum IpFamilies {
    Dual,
    IPv4,
    IPv6,
}

/// Who may see a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// Its namespace.
    Namespace,
    /// Everybody.
    #[default]
    Public,
}

/// A block of virtual addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CidrVip {
    /// Network.
    pub network: String,
    /// Block.
    pub cidr: String,
}
