//! Telemetry: what is recorded of requests.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::common::{IstioStatus, TargetReference, WorkloadSelector};

/// What is recorded of requests.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "telemetry.istio.io",
    version = "v1",
    kind = "Telemetry",
    plural = "telemetries",
    namespaced,
    status = "IstioStatus",
    shortname = "telemetry",
    category = "istio-io",
    category = "telemetry-istio-io",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(rename = "TelemetrySpec", extend("x-kubernetes-validations" = [{
    "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
    "message": "only one of targetRefs or selector can be set"
}]))]
pub struct TelemetrySpec {
    /// Workloads that it applies to. Without a proxy in the pod nothing reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// Older form of `targetRefs`, read when that is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetReference>,
    /// Waypoints, services or gateway classes that it is for; none = the namespace, in the root namespace the mesh.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetReference>,
    /// Traces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracing: Vec<TracingRule>,
    /// Metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricsRule>,
    /// Access logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_logging: Vec<LoggingRule>,
}

absent_is_empty!(TelemetrySpec);

/// Somebody who takes what is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct ProviderReference {
    /// Name in the mesh configuration.
    #[schemars(length(min = 1))]
    pub name: String,
}

text! {
    /// On which side of a connection something is recorded.
    WorkloadMode {
        /// On both.
        Both = "CLIENT_AND_SERVER",
        /// Where it is sent.
        Client = "CLIENT",
        /// Where it is received.
        Server = "SERVER",
    }
}

/// Which traffic is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModeMatch {
    /// On which side; absent = on both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<WorkloadMode>,
}

/// How requests are traced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingRule {
    /// Which traffic is meant.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<ModeMatch>,
    /// Who takes the spans; none = as the mesh says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderReference>,
    /// Percent of the requests without a decision of their own that are traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub random_sampling_percentage: Option<f64>,
    /// Whether no span is reported; contexts are passed on all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_span_reporting: Option<bool>,
    /// Tags of the spans, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Whether spans have Istio's own tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_istio_tags: Option<bool>,
    /// Whether the request's id decides on sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Whether contexts are not passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_context_propagation: Option<bool>,
}

/// Where the value of a tag comes from: one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomTag {
    /// From here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub literal: Option<ValueTag>,
    /// From a header of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<NamedTag>,
    /// From the proxy's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<NamedTag>,
    /// From a format of Envoy's access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub formatter: Option<ValueTag>,
}

/// A text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["value"]))]
pub struct ValueTag {
    /// The text.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// Something that has a name and may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct NamedTag {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What stands in its place when it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<String>,
}

/// How metrics are told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsRule {
    /// Who takes them; none = as the mesh says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderReference>,
    /// What is different from the usual, later ones over earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<MetricsOverride>,
    /// How often TCP metrics are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporting_interval: Option<String>,
}

/// What is different from the usual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// For which metrics; absent = for all.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<MetricSelector>,
    /// Whether they are not told at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Their labels, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

text! {
    /// Istio's standard metrics.
    IstioMetric {
        /// Every one of them.
        All = "ALL_METRICS",
        /// `istio_requests_total`
        RequestCount = "REQUEST_COUNT",
        /// `istio_request_duration_milliseconds`
        RequestDuration = "REQUEST_DURATION",
        /// `istio_request_bytes`
        RequestSize = "REQUEST_SIZE",
        /// `istio_response_bytes`
        ResponseSize = "RESPONSE_SIZE",
        /// `istio_tcp_connections_opened_total`
        TcpOpened = "TCP_OPENED_CONNECTIONS",
        /// `istio_tcp_connections_closed_total`
        TcpClosed = "TCP_CLOSED_CONNECTIONS",
        /// `istio_tcp_sent_bytes_total`
        TcpSent = "TCP_SENT_BYTES",
        /// `istio_tcp_received_bytes_total`
        TcpReceived = "TCP_RECEIVED_BYTES",
        /// `istio_request_messages_total`
        GrpcRequests = "GRPC_REQUEST_MESSAGES",
        /// `istio_response_messages_total`
        GrpcResponses = "GRPC_RESPONSE_MESSAGES",
    }
}

/// Which metrics are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSelector {
    /// One of Istio's; absent = all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<IstioMetric>,
    /// Another one, by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub custom_metric: Option<String>,
    /// On which side; absent = on both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<WorkloadMode>,
}

text! {
    /// What becomes of a label.
    TagOperation {
        /// It has another value.
        Upsert = "UPSERT",
        /// It is left out.
        Remove = "REMOVE",
    }
}

/// What becomes of a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TagOverride {
    /// What; absent = UPSERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<TagOperation>,
    /// Expression for the value, for UPSERT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Which requests are written to which access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingRule {
    /// Which traffic is meant.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<ModeMatch>,
    /// Which logs; none = as the mesh says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<ProviderReference>,
    /// Whether nothing is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Which requests are written; absent = all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LoggingFilter>,
}

/// Which requests are written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoggingFilter {
    /// An expression of CEL over Envoy's attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}
