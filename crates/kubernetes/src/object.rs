//! Custom resources of Istio and of the Gateway API, as far as Culvert reads them.
//!
//! What users write is read tolerantly. A value that we do not know is kept as text (`Other`), a number that is out of
//! range is kept as a number, a field that we do not know is ignored: whoever translates the object names the fault, and
//! one odd object never breaks a list. An object of the wrong shape altogether (a text where a list should be) is for
//! [`kube::core::DeserializeGuard`], with which every watch reads these kinds: it keeps metadata and error.
//!
//! The definitions made from these types ([`crds`]) are strict where the types are tolerant, as Istio's own are, so that
//! the API server refuses most faults at once.
//!
//! Shapes: istio/api `kubernetes/customresourcedefinitions.gen.yaml`, kubernetes-sigs/gateway-api `config/crd/standard`. One kind
//! is our own, [`RequestPolicy`].

#[macro_use]
mod text;

mod backend_tls;
mod common;
mod definitions;
pub mod gateway;
pub mod networking;
pub mod request_policy;
pub mod route;
pub mod security;
pub mod telemetry;

pub use backend_tls::{
    AltNameType, BackendTlsPolicy, BackendTlsPolicySpec, BackendTlsValidation, PolicyAncestorStatus, PolicyStatus,
    SectionTargetReference, SubjectAltName, WellKnownRoots,
};
pub use common::{Condition, Generation, IstioStatus, StatusAddress, TargetReference, WorkloadSelector};
pub use definitions::{MANAGED_BY, MANAGED_BY_US, crds};
pub use gateway::{GATEWAY_NAME, Gateway, GatewayClass};
pub use networking::{DestinationRule, ServiceEntry, WorkloadEntry};
pub use request_policy::RequestPolicy;
pub use route::{GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute};
pub use security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
pub use telemetry::Telemetry;

#[cfg(test)]
mod tests;
