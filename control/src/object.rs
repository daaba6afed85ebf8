//! Kubernetes objects, trimmed on arrival to what translation reads.
//!
//! Making one cannot fail. What is broken in a field is left out and noted as a [`Fault`], so that the rest of the object
//! and all other objects are translated as ever; the faults reach the user as a condition or an Event.

pub mod backend_tls;
pub mod cluster;
pub(crate) mod condition;
pub mod config_map;
pub mod destination;
pub mod entry;
pub mod fault;
pub mod gateway;
pub mod grant;
pub mod pod;
pub mod request;
pub mod request_policy;
pub mod route;
pub mod service;
pub mod slice;
pub(crate) mod target;
pub mod telemetry;
pub mod text;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use crate::policies::{AuthorizationPolicy, NetworkPolicy, PeerAuthentication};
pub use backend_tls::BackendTlsPolicy;
pub use cluster::{Namespace, Node};
pub(crate) use condition::{enforces, reported};
pub use config_map::ConfigMap;
pub use destination::DestinationRule;
pub use entry::{ServiceEntry, WorkloadEntry};
pub use fault::{Fault, Faults};
pub(crate) use fault::{bad_port, port, shown};
pub use gateway::{Gateway, GatewayClass};
pub use grant::ReferenceGrant;
pub use pod::Pod;
pub use request::RequestAuthentication;
pub use request_policy::RequestPolicy;
pub use route::Route;
pub use service::Service;
pub use slice::EndpointSlice;
pub use telemetry::Telemetry;
pub use text::{Labels, Pool, none};

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `security.istio.io/v1`
    AuthorizationPolicy,
    /// `gateway.networking.k8s.io/v1`
    BackendTlsPolicy,
    /// `v1`
    ConfigMap,
    /// `networking.istio.io/v1`
    DestinationRule,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1`
    Gateway,
    /// `gateway.networking.k8s.io/v1`
    GatewayClass,
    /// `gateway.networking.k8s.io/v1`
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1`
    HttpRoute,
    /// `v1`
    Namespace,
    /// `networking.k8s.io/v1`
    NetworkPolicy,
    /// `v1`
    Node,
    /// `security.istio.io/v1`
    PeerAuthentication,
    /// `v1`
    Pod,
    /// `gateway.networking.k8s.io/v1beta1`
    ReferenceGrant,
    /// `security.istio.io/v1`
    RequestAuthentication,
    /// `culvert.dev/v1alpha1`
    RequestPolicy,
    /// `v1`
    Service,
    /// `networking.istio.io/v1`
    ServiceEntry,
    /// `gateway.networking.k8s.io/v1`
    TcpRoute,
    /// `telemetry.istio.io/v1`
    Telemetry,
    /// `gateway.networking.k8s.io/v1`
    TlsRoute,
    /// `networking.istio.io/v1`
    WorkloadEntry,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::AuthorizationPolicy,
        Self::BackendTlsPolicy,
        Self::ConfigMap,
        Self::DestinationRule,
        Self::EndpointSlice,
        Self::Gateway,
        Self::GatewayClass,
        Self::GrpcRoute,
        Self::HttpRoute,
        Self::Namespace,
        Self::NetworkPolicy,
        Self::Node,
        Self::PeerAuthentication,
        Self::Pod,
        Self::ReferenceGrant,
        Self::RequestAuthentication,
        Self::RequestPolicy,
        Self::Service,
        Self::ServiceEntry,
        Self::TcpRoute,
        Self::Telemetry,
        Self::TlsRoute,
        Self::WorkloadEntry,
    ];

    /// The kind as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::DestinationRule => "DestinationRule",
            Self::EndpointSlice => "EndpointSlice",
            Self::Gateway => "Gateway",
            Self::GatewayClass => "GatewayClass",
            Self::GrpcRoute => "GRPCRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::Pod => "Pod",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::RequestPolicy => "RequestPolicy",
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::TcpRoute => "TCPRoute",
            Self::Telemetry => "Telemetry",
            Self::TlsRoute => "TLSRoute",
            Self::WorkloadEntry => "WorkloadEntry",
        }
    }

    /// `apiVersion` of the objects that are watched.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => {
                "security.istio.io/v1"
            }
            Self::BackendTlsPolicy
            | Self::Gateway
            | Self::GatewayClass
            | Self::GrpcRoute
            | Self::HttpRoute
            | Self::TcpRoute
            | Self::TlsRoute => "gateway.networking.k8s.io/v1",
            Self::ConfigMap | Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::DestinationRule | Self::ServiceEntry | Self::WorkloadEntry => "networking.istio.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::RequestPolicy => "culvert.dev/v1alpha1",
            Self::Telemetry => "telemetry.istio.io/v1",
            // The version that every release of the Gateway API serves.
            Self::ReferenceGrant => "gateway.networking.k8s.io/v1beta1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object. The namespace of an object that has none is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{} {}", self.kind, self.name),
            ns => write!(f, "{} {ns}/{}", self.kind, self.name),
        }
    }
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; empty for objects without one.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Uid: tells an object from a later one of the same name.
    pub uid: Arc<str>,
    /// Seconds since 1970; decides who was first.
    pub created: i64,
    /// Generation, for conditions.
    pub generation: i64,
    /// Labels.
    pub labels: Labels,
}

impl Meta {
    /// Trims an object's metadata. Annotations are read by who needs them.
    pub fn new(meta: &ObjectMeta) -> Self {
        Self {
            namespace: text(meta.namespace.as_deref()),
            name: text(meta.name.as_deref()),
            uid: text(meta.uid.as_deref()),
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            generation: meta.generation.unwrap_or_default(),
            labels: Labels::new(meta.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()))),
        }
    }

    /// The key under this kind.
    pub fn key(&self, kind: Kind) -> Key {
        Key { kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    fn share(&mut self, pool: &mut Pool) {
        pool.text(&mut self.namespace);
        pool.text(&mut self.name);
        pool.labels(&mut self.labels);
    }
}

/// Annotation that makes a bound waypoint used although nothing L7 is attached; its only value is `always` (design.md 5).
pub(crate) const WAYPOINT_ANNOTATION: &str = "culvert.dev/waypoint";

/// Annotation `istio.io/use-waypoint-canary-weight`, unread. Longer texts than any number are cut off: they are wrong
/// either way, and a namespace's annotation may hold 256 KiB.
pub(crate) fn canary_weight(meta: &ObjectMeta) -> Option<Arc<str>> {
    annotation(meta, "istio.io/use-waypoint-canary-weight").map(|w| w.chars().take(16).collect::<String>().into())
}

/// A text that may not be there.
pub(crate) fn text(text: Option<&str>) -> Arc<str> {
    text.filter(|t| !t.is_empty()).map_or_else(none, Arc::from)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// One trimmed object.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Who may reach a workload.
    AuthorizationPolicy(AuthorizationPolicy),
    /// TLS to the endpoints of a service.
    BackendTlsPolicy(BackendTlsPolicy),
    /// Roots of certificates.
    ConfigMap(ConfigMap),
    /// How endpoints are treated.
    DestinationRule(DestinationRule),
    /// A slice of a service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A Gateway; waypoints are Gateways.
    Gateway(Gateway),
    /// A class of Gateways.
    GatewayClass(GatewayClass),
    /// A namespace.
    Namespace(Namespace),
    /// What Kubernetes lets reach a pod.
    NetworkPolicy(NetworkPolicy),
    /// A node.
    Node(Node),
    /// Whether a workload takes connections in clear.
    PeerAuthentication(PeerAuthentication),
    /// A pod.
    Pod(Pod),
    /// Who may name objects of other namespaces.
    ReferenceGrant(ReferenceGrant),
    /// Which tokens are taken.
    RequestAuthentication(RequestAuthentication),
    /// What is done to requests beside routing them.
    RequestPolicy(RequestPolicy),
    /// A route of any kind.
    Route(Route),
    /// A service.
    Service(Service),
    /// A service outside Kubernetes' own.
    ServiceEntry(ServiceEntry),
    /// What is recorded of requests.
    Telemetry(Telemetry),
    /// A workload that is no pod.
    WorkloadEntry(WorkloadEntry),
}

impl Input {
    /// Which object it is.
    pub fn key(&self) -> Key {
        match self {
            Self::AuthorizationPolicy(x) => x.meta.key(Kind::AuthorizationPolicy),
            Self::BackendTlsPolicy(x) => x.meta.key(Kind::BackendTlsPolicy),
            Self::ConfigMap(x) => x.meta.key(Kind::ConfigMap),
            Self::DestinationRule(x) => x.meta.key(Kind::DestinationRule),
            Self::EndpointSlice(x) => x.meta.key(Kind::EndpointSlice),
            Self::Gateway(x) => x.meta.key(Kind::Gateway),
            Self::GatewayClass(x) => x.meta.key(Kind::GatewayClass),
            Self::Namespace(x) => x.meta.key(Kind::Namespace),
            Self::NetworkPolicy(x) => x.meta.key(Kind::NetworkPolicy),
            Self::Node(x) => x.meta.key(Kind::Node),
            Self::PeerAuthentication(x) => x.meta.key(Kind::PeerAuthentication),
            Self::Pod(x) => x.meta.key(Kind::Pod),
            Self::ReferenceGrant(x) => x.meta.key(Kind::ReferenceGrant),
            Self::RequestAuthentication(x) => x.meta.key(Kind::RequestAuthentication),
            Self::RequestPolicy(x) => x.meta.key(Kind::RequestPolicy),
            Self::Route(x) => x.key(),
            Self::Service(x) => x.meta.key(Kind::Service),
            Self::ServiceEntry(x) => x.meta.key(Kind::ServiceEntry),
            Self::Telemetry(x) => x.meta.key(Kind::Telemetry),
            Self::WorkloadEntry(x) => x.meta.key(Kind::WorkloadEntry),
        }
    }

    /// Makes the texts that many objects have in common one allocation.
    pub(crate) fn share(&mut self, pool: &mut Pool) {
        match self {
            Self::AuthorizationPolicy(x) => x.meta.share(pool),
            Self::BackendTlsPolicy(x) => x.share(pool),
            Self::ConfigMap(x) => x.share(pool),
            Self::DestinationRule(x) => x.share(pool),
            Self::EndpointSlice(x) => x.share(pool),
            Self::Gateway(x) => x.meta.share(pool),
            Self::GatewayClass(x) => x.meta.share(pool),
            Self::Namespace(x) => x.meta.share(pool),
            Self::NetworkPolicy(x) => x.meta.share(pool),
            Self::Node(x) => x.meta.share(pool),
            Self::PeerAuthentication(x) => x.meta.share(pool),
            Self::Pod(x) => x.share(pool),
            Self::ReferenceGrant(x) => x.share(pool),
            Self::RequestAuthentication(x) => x.share(pool),
            Self::RequestPolicy(x) => x.share(pool),
            Self::Route(x) => x.share(pool),
            Self::Service(x) => x.share(pool),
            Self::ServiceEntry(x) => x.meta.share(pool),
            Self::Telemetry(x) => x.share(pool),
            Self::WorkloadEntry(x) => x.meta.share(pool),
        }
    }
}
