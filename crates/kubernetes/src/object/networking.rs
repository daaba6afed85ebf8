//! `networking.istio.io`: DestinationRule, ServiceEntry and WorkloadEntry.

mod destination;

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::IstioStatus;
pub use destination::{
    ClientTls, ConnectionPool, ConsistentHash, DestinationRule, DestinationRuleSpec, H2Upgrade, HashCookie,
    HttpSettings, LoadBalancer, OutlierDetection, PortNumber, PortSettings, SimpleBalancer, Subset, TcpSettings,
    TlsMode, TrafficPolicy,
};

text! {
    /// Whether the hosts of a ServiceEntry are part of the mesh.
    Location {
        /// No: there is no mutual TLS by the mesh's identities.
        MeshExternal = "MESH_EXTERNAL",
        /// Yes.
        MeshInternal = "MESH_INTERNAL",
    }
}

text! {
    /// How the endpoints of a ServiceEntry are found.
    Resolution {
        /// The client's destination address is the endpoint.
        None = "NONE",
        /// The endpoints that are listed or selected.
        Static = "STATIC",
        /// By name, all answers.
        Dns = "DNS",
        /// By name, the first answer.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// By the name that the client asked for.
        DynamicDns = "DYNAMIC_DNS",
    }
}

/// Hosts that are not Services of Kubernetes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "ServiceEntry",
    plural = "serviceentries",
    namespaced,
    status = "IstioStatus",
    shortname = "se",
    category = "istio-io",
    category = "networking-istio-io",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Hosts", "type": "string", "description": "The hosts associated with the ServiceEntry", "jsonPath": ".spec.hosts"}"#,
    printcolumn = r#"{"name": "Location", "type": "string", "description": "Whether the service is external to the mesh or part of the mesh (MESH_EXTERNAL or MESH_INTERNAL)", "jsonPath": ".spec.location"}"#,
    printcolumn = r#"{"name": "Resolution", "type": "string", "description": "Service resolution mode for the hosts (NONE, STATIC, or DNS)", "jsonPath": ".spec.resolution"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["hosts"], "x-kubernetes-validations" = [
    {
        "rule": "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
        "message": "only one of WorkloadSelector or Endpoints can be set"
    },
    {
        "rule": "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains('/')) && \
                 !((has(self.resolution) ? self.resolution : 'NONE') in ['STATIC', 'NONE']))",
        "message": "CIDR addresses are allowed only for NONE/STATIC resolution types"
    },
    {
        "rule": "((has(self.resolution) ? self.resolution : 'NONE') == 'NONE') ? !has(self.endpoints) : true",
        "message": "NONE mode cannot set endpoints"
    },
    {
        "rule": "((has(self.resolution) ? self.resolution : '') == 'DNS_ROUND_ROBIN') ? \
                 ((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true",
        "message": "DNS_ROUND_ROBIN mode cannot have multiple endpoints"
    }
]))]
pub struct ServiceEntrySpec {
    /// Names of the hosts.
    #[schemars(length(min = 1, max = 256))]
    pub hosts: Vec<String>,
    /// Virtual addresses or CIDR blocks of the hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub addresses: Vec<String>,
    /// Ports of the hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub ports: Vec<ServicePort>,
    /// Whether the hosts are part of the mesh; absent = MESH_EXTERNAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// How endpoints are found; absent = NONE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// The endpoints; absent together with `workloadSelector` = the hosts themselves, by DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub endpoints: Option<Vec<WorkloadEntrySpec>>,
    /// Pods and WorkloadEntries of the namespace that are the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<EndpointSelector>,
    /// Namespaces that see it: `*`, `.` or names; none = all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Identities that are accepted of the endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}

/// Selects the endpoints of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSelector {
    /// Labels that an endpoint must have, all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["number", "name"]))]
pub struct ServicePort {
    /// Port number.
    #[schemars(range(min = 1, max = 65535))]
    pub number: i64,
    /// Name, unique in the ServiceEntry.
    #[schemars(length(max = 256))]
    pub name: String,
    /// HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP or TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub protocol: Option<String>,
    /// Port of the endpoints; absent = `number`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i64>,
}

/// A workload that is not a pod.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadEntry",
    plural = "workloadentries",
    namespaced,
    status = "IstioStatus",
    shortname = "we",
    category = "istio-io",
    category = "networking-istio-io",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "description": "Address associated with the network endpoint.", "jsonPath": ".spec.address"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "has(self.address) || has(self.network)", "message": "Address is required" },
    {
        "rule": "(has(self.address) ? self.address : '').startsWith('unix://') ? !has(self.ports) : true",
        "message": "UDS may not include ports"
    }
]))]
pub struct WorkloadEntrySpec {
    /// Address or DNS name without port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub address: Option<String>,
    /// Ports of the workload by the name of the service's port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub ports: BTreeMap<String, i64>,
    /// Labels of the workload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Network that the address belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub network: Option<String>,
    /// `region/zone/subzone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub locality: Option<String>,
    /// Share of the traffic; absent = 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295_i64))]
    pub weight: Option<i64>,
    /// Service account of the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub service_account: Option<String>,
}
