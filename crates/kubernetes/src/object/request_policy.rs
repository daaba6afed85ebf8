//! RequestPolicy, a kind of our own: bounds of requests, faults on purpose and external processing. Neither the Gateway API
//! nor Istio has an object for them that a waypoint could follow.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backend_tls::SectionTargetReference;
use super::common::Condition;
use super::route::BackendObjectReference;

/// What is done to requests beside routing them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "culvert.dev",
    version = "v1alpha1",
    kind = "RequestPolicy",
    plural = "requestpolicies",
    namespaced,
    status = "RequestPolicyStatus",
    shortname = "reqpol",
    category = "culvert",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.rateLimits) || has(self.fault) || has(self.externalProcessing)",
    "message": "one of rateLimits, fault and externalProcessing is needed"
}]))]
pub struct RequestPolicySpec {
    /// Services, HTTPRoutes, GRPCRoutes or waypoints of the namespace. None for a policy that routes name by extensionRef.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<SectionTargetReference>,
    /// Bounds; a request must be within every one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    pub rate_limits: Vec<RateLimit>,
    /// Delays and refusals on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Services that may change requests and answers, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4))]
    pub external_processing: Vec<ExternalProcessing>,
}

/// A bound of requests, for each replica of the waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["requests", "per"]))]
pub struct RateLimit {
    /// So many requests; 0 = none at all.
    #[schemars(range(min = 0, max = 4_294_967_295_u32))]
    pub requests: i64,
    /// In this time, such as `1s`.
    #[schemars(extend("pattern" = DURATION))]
    pub per: String,
    /// So many at once; absent = as many as `requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u32))]
    pub burst: Option<i64>,
    /// Whether each identity that calls has the bound for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_identity: Option<bool>,
}

/// Delays and refusals on purpose. Each takes its share of all requests, whatever the other does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.delay) || has(self.abort)",
    "message": "one of delay and abort is needed"
}]))]
pub struct Fault {
    /// A wait before the request goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// An answer in place of the backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["percent", "duration"]))]
pub struct Delay {
    /// Share of the requests, in steps of 0.0001.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// How long, such as `250ms`.
    #[schemars(extend("pattern" = DURATION))]
    pub duration: String,
}

/// A refusal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["percent", "status"]))]
pub struct Abort {
    /// Share of the requests, in steps of 0.0001.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// HTTP status of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: i64,
}

/// A service that may change requests and answers: Envoy's ext_proc v3, headers only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["backendRef"]))]
pub struct ExternalProcessing {
    /// Which service; one that speaks gRPC.
    pub backend_ref: BackendObjectReference,
    /// How long each of its answers may take; absent = `200ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = DURATION))]
    pub timeout: Option<String>,
    /// Whether requests go on while it does not answer; absent = no: they are answered 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_open: Option<bool>,
    /// Whether it sees headers of requests; absent = yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<bool>,
    /// Whether it sees headers of answers; absent = no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<bool>,
}

/// What control says of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestPolicyStatus {
    /// `Accepted` and `ResolvedRefs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A duration of the Gateway API (GEP-2257).
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
