//! A workload: one pod, or another thing with addresses and an identity (discovery API `istio.workload.Workload`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::NetworkAddress;
use crate::identity::{Identity, IdentityError};

/// Trust domain that an empty field stands for on the wire.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Service account that an empty field stands for on the wire.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// Cluster that an empty field stands for on the wire.
pub const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Everything discovery says of one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Key among all workloads, for a pod `<cluster>//Pod/<namespace>/<name>`.
    pub uid: Arc<str>,
    /// Name of the pod (or entry).
    pub name: Arc<str>,
    /// Namespace: scope of policies and part of the identity.
    pub namespace: Arc<str>,
    /// The workload's addresses; may be empty when `hostname` or a gateway leads to it.
    pub addresses: Vec<IpAddr>,
    /// Name to resolve when there is no address.
    pub hostname: Arc<str>,
    /// The network that the addresses belong to; empty for the default one.
    pub network: Arc<str>,
    /// How to reach it.
    pub tunnel: TunnelProtocol,
    /// Trust domain of its identity.
    pub trust_domain: Arc<str>,
    /// Service account of its identity.
    pub service_account: Arc<str>,
    /// Waypoint for traffic addressed to the workload's own address.
    pub waypoint: Option<GatewayAddress>,
    /// Gateway to use from another network.
    pub network_gateway: Option<GatewayAddress>,
    /// Node it runs on.
    pub node: Arc<str>,
    /// Canonical service name, for telemetry.
    pub canonical_name: Arc<str>,
    /// Canonical revision, for telemetry.
    pub canonical_revision: Arc<str>,
    /// Kind of the owner, for telemetry.
    pub workload_type: WorkloadType,
    /// Name of the owner, for telemetry.
    pub workload_name: Arc<str>,
    /// The workload speaks HBONE by itself.
    pub native_tunnel: bool,
    /// What the workload expects around its bytes.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// The services it belongs to, by `namespace/hostname`, with ports that override the service's own.
    pub services: BTreeMap<Arc<str>, PortMap>,
    /// Names (`namespace/name`) of the selector policies that apply to it.
    pub authorization_policies: Vec<Arc<str>>,
    /// What it may dial; `None`: anything.
    pub egress: Option<Arc<Egress>>,
    /// Addresses of its node, from which NetworkPolicies let in whatever comes in clear; `None` where none of them is about it.
    pub node_addresses: Option<Arc<[IpAddr]>>,
    /// Whether it wants traffic.
    pub health: Health,
    /// The cluster it lives in.
    pub cluster_id: Arc<str>,
    /// Where it is.
    pub locality: Locality,
    /// Whether its address is its own.
    pub network_mode: NetworkMode,
    /// Weight in load balancing; 1 unless said otherwise.
    pub capacity: u32,
    /// Names of extensions on the workload (contents are not interpreted here).
    pub extensions: Vec<Arc<str>>,
}

impl Default for Workload {
    fn default() -> Self {
        let none: Arc<str> = Arc::from("");
        Self {
            uid: none.clone(),
            name: none.clone(),
            namespace: none.clone(),
            addresses: Vec::new(),
            hostname: none.clone(),
            network: none.clone(),
            tunnel: TunnelProtocol::None,
            trust_domain: DEFAULT_TRUST_DOMAIN.into(),
            service_account: DEFAULT_SERVICE_ACCOUNT.into(),
            waypoint: None,
            network_gateway: None,
            node: none.clone(),
            canonical_name: none.clone(),
            canonical_revision: none.clone(),
            workload_type: WorkloadType::Pod,
            workload_name: none,
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            authorization_policies: Vec::new(),
            egress: None,
            node_addresses: None,
            health: Health::Healthy,
            cluster_id: DEFAULT_CLUSTER.into(),
            locality: Locality::default(),
            network_mode: NetworkMode::Standard,
            capacity: 1,
            extensions: Vec::new(),
        }
    }
}

impl Workload {
    /// The workload's SPIFFE identity.
    ///
    /// # Errors
    /// When a part is empty or not allowed in a SPIFFE id.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::new(self.trust_domain.clone(), self.namespace.clone(), self.service_account.clone())
    }

    /// Whether this is a pod: pods win when two workloads claim one address (discovery.md 2).
    pub fn is_pod(&self) -> bool {
        self.uid.contains("//Pod/")
    }
}

/// What judges the connections that a workload opens, by their destination: Kubernetes' egress NetworkPolicies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Egress {
    /// Keys (`namespace/name`) of the policies.
    pub policies: Vec<Arc<str>>,
    /// Addresses that they have no say about: those of its own node (Kubernetes, "Network Policies": traffic to the node where
    /// a pod runs is always allowed).
    pub exempt: Vec<IpAddr>,
}

/// How bytes reach a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// As they are.
    #[default]
    None,
    /// Inside an HBONE tunnel.
    Hbone,
}

/// Kind of the object that owns a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// CronJob.
    CronJob,
    /// Deployment.
    Deployment,
    /// Job.
    Job,
    /// A pod of its own.
    #[default]
    Pod,
}

impl WorkloadType {
    /// The word inside baggage keys (`k8s.<type>.name`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CronJob => "cronjob",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::Pod => "pod",
        }
    }
}

/// What the application expects before or around its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// The protocol.
    pub protocol: AppTunnelProtocol,
    /// The port to connect to in place of the request's, when set.
    pub port: Option<u16>,
}

/// Protocols of an [`ApplicationTunnel`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppTunnelProtocol {
    /// None.
    #[default]
    None,
    /// A PROXY protocol v2 header before the first byte.
    Proxy,
}

/// Whether a workload wants traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready, or going away.
    Unhealthy,
}

/// Whether the address belongs to the workload alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NetworkMode {
    /// The address is the pod's own.
    #[default]
    Standard,
    /// The address is the node's: never look it up by address.
    HostNetwork,
}

/// Region, zone and subzone; empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Subzone.
    pub subzone: Arc<str>,
}

/// Service port to target port. A target of 0 means "named, look in the workload's own map".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMap(pub BTreeMap<u16, u16>);

/// A waypoint or a network gateway, by name or by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Where it is.
    pub destination: GatewayDestination,
    /// Its HBONE port (service port).
    pub hbone_port: u16,
}

/// The two ways to name a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// By address.
    Address(NetworkAddress),
    /// By the hostname of its service.
    Hostname(NamespacedHostname),
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => a.fmt(f),
            Self::Hostname(h) => h.fmt(f),
        }
    }
}

/// A service's key: `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedHostname {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Fully qualified host name.
    pub hostname: Arc<str>,
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}
