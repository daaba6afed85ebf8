//! A service: a name and virtual addresses in front of workloads (discovery API `istio.workload.Service`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::addr::{Cidr, NetworkAddress};
use crate::workload::{GatewayAddress, NamespacedHostname, PortMap};

/// Everything discovery says of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Fully qualified host name; together with the namespace the key.
    pub hostname: Arc<str>,
    /// Virtual addresses; empty for a headless service.
    pub vips: Vec<NetworkAddress>,
    /// Virtual address blocks.
    pub cidr_vips: Vec<CidrVip>,
    /// Service port to target port.
    pub ports: PortMap,
    /// What the ports speak, where it is said.
    pub app_protocols: BTreeMap<u16, AppProtocol>,
    /// Identities accepted in addition to the workload's own.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Waypoint for traffic addressed to a virtual address.
    pub waypoint: Option<GatewayAddress>,
    /// Waypoints to choose from by weight, per connection; empty means `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How to choose among endpoints; `None` = random by capacity.
    pub load_balancing: Option<LoadBalancing>,
    /// Families that the service answers on.
    pub ip_families: IpFamilies,
    /// Wins ties of host name or address outside the client's namespace.
    pub canonical: bool,
    /// Who may see it.
    pub visibility: Visibility,
    /// Names of extensions on the service (contents are not interpreted here).
    pub extensions: Vec<Arc<str>>,
}

impl Default for Service {
    fn default() -> Self {
        let none: Arc<str> = Arc::from("");
        Self {
            name: none.clone(),
            namespace: none.clone(),
            hostname: none,
            vips: Vec::new(),
            cidr_vips: Vec::new(),
            ports: PortMap::default(),
            app_protocols: BTreeMap::new(),
            subject_alt_names: Vec::new(),
            waypoint: None,
            weighted_waypoints: Vec::new(),
            load_balancing: None,
            ip_families: IpFamilies::Automatic,
            canonical: false,
            visibility: Visibility::Public,
            extensions: Vec::new(),
        }
    }
}

impl Service {
    /// The key, `namespace/hostname`.
    pub fn key(&self) -> NamespacedHostname {
        NamespacedHostname { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }
}

/// A block of virtual addresses in a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CidrVip {
    /// Name of the network.
    pub network: Arc<str>,
    /// The block.
    pub cidr: Cidr,
}

/// One of several waypoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// Where it is.
    pub destination: GatewayAddress,
    /// Its share; 0 = none.
    pub weight: u32,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// gRPC.
    Grpc,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 in clear.
    Http2,
    /// Opaque TCP.
    Tcp,
    /// TLS.
    Tls,
    /// Not said.
    #[default]
    Unknown,
}

/// How to choose among a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Scopes in order of preference.
    pub preference: Vec<Scope>,
    /// What the preference means.
    pub mode: LoadBalancingMode,
    /// Which endpoints count.
    pub health: HealthPolicy,
}

/// A scope of locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
    /// Same node.
    Node,
    /// Same region.
    Region,
    /// Same subzone.
    Subzone,
    /// Same zone.
    Zone,
}

/// What a routing preference means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancingMode {
    /// Prefer the best rank, fall back to the next.
    Failover,
    /// To the original destination, without choosing.
    Passthrough,
    /// Only endpoints that match the whole preference.
    Strict,
    /// No preference.
    #[default]
    Unspecified,
}

/// Which endpoints count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HealthPolicy {
    /// All.
    AllowAll,
    /// Healthy ones only.
    #[default]
    OnlyHealthy,
}

/// Families that a service answers on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IpFamilies {
    /// Whatever the addresses are.
    #[default]
    Automatic,
    /// Both.
    Dual,
    /// IPv4.
    Ipv4Only,
    /// IPv6.
    Ipv6Only,
}

/// Who may see a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Its own namespace.
    Namespace,
    /// Everybody.
    #[default]
    Public,
}
