//! The wire formats: messages and gRPC services generated from `wire/*.proto`.
//!
//! Only field names and numbers come from the protocols that we speak; meaning and rules stand where the messages are
//! converted (`xds`, `zds`, `identity`, `ca`).

/// Workload discovery: addresses, workloads, services.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// Authorization policies.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod security {
    tonic::include_proto!("istio.security");
}

/// Delta discovery service.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod discovery {
    tonic::include_proto!("envoy.service.discovery.v3");
}

/// Certificate service.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// Pod hand-over.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod zds {
    tonic::include_proto!("istio.workload.zds");
}

/// What waypoints know of services: routes, policies, settings.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod routing {
    tonic::include_proto!("culvert.routing.v1");
}

/// What a workload may dial.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod egress {
    tonic::include_proto!("culvert.egress.v1");
}

/// The node that a workload runs on.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod node {
    tonic::include_proto!("culvert.node.v1");
}

/// Which addresses are pods'.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod network {
    tonic::include_proto!("culvert.network.v1");
}

/// Envoy's external authorization.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod ext_authz {
    tonic::include_proto!("envoy.service.auth.v3");
}

/// Envoy's external processing.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod ext_proc {
    tonic::include_proto!("envoy.service.ext_proc.v3");
}

/// Type URL of `workload::Address` resources.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of `security::Authorization` resources.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of `routing::Service` resources.
pub const ROUTING_TYPE: &str = "type.googleapis.com/culvert.routing.v1.Service";
/// Type URL of the one `network::PodNetworks` resource.
pub const POD_NETWORKS_TYPE: &str = "type.googleapis.com/culvert.network.v1.PodNetworks";
/// Name of that resource.
pub const POD_NETWORKS_NAME: &str = "pods";
/// Name of the entry of `workload::Workload.extensions` that holds an `egress::Egress`.
pub const EGRESS_EXTENSION: &str = "culvert.dev/egress";
/// Type URL of `egress::Egress`.
pub const EGRESS_TYPE: &str = "type.googleapis.com/culvert.egress.v1.Egress";
/// Name of the entry of `workload::Workload.extensions` that holds a `node::Node`.
pub const NODE_EXTENSION: &str = "culvert.dev/node";
/// Type URL of `node::Node`.
pub const NODE_TYPE: &str = "type.googleapis.com/culvert.node.v1.Node";
