//! PeerAuthentication.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::common::{IstioStatus, WorkloadSelector};

text! {
    /// Whether a workload takes connections in clear.
    MutualTlsMode {
        /// As the next wider policy says.
        Unset = "UNSET",
        /// In ambient mode the same as PERMISSIVE.
        Disable = "DISABLE",
        /// Both kinds are taken.
        Permissive = "PERMISSIVE",
        /// Only authenticated connections are taken.
        Strict = "STRICT",
    }
}

/// Whether workloads take connections in clear.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    namespaced,
    status = "IstioStatus",
    shortname = "pa",
    category = "istio-io",
    category = "security-istio-io",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Mode", "type": "string", "description": "Defines the mTLS mode used for peer authentication.", "jsonPath": ".spec.mtls.mode"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default, remote = "Self")]
#[schemars(rename = "PeerAuthenticationSpec", extend("x-kubernetes-validations" = [{
    "rule": "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? \
             self.selector.matchLabels : {}).size() > 0) : true",
    "message": "portLevelMtls requires selector"
}]))]
pub struct PeerAuthenticationSpec {
    /// Workloads of the namespace that it applies to; absent = all (in the root namespace: of the mesh).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// The mode; absent = as the next wider policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Modes of single ports of the application. The key is a port number as text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

absent_is_empty!(PeerAuthenticationSpec);

/// A mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MutualTls {
    /// The mode; absent = UNSET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MutualTlsMode>,
}
