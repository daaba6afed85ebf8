//! Policies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Policy {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Which workloads it is for.
    pub scope: PolicyScope,
    /// What a match means.
    pub action: PolicyAction,
    /// Rules (or), clauses (and), matches (or).
    pub rules: Vec<Vec<Vec<Match>>>,
    /// Only report.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyScope {
    /// All.
    Global,
    /// Those of its namespace.
    Namespace,
    /// Those that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// May pass.
    Allow,
    /// May not.
    Deny,
}

/// Kinds that must all hold; within one kind one value is enough, and of a `not` kind none may hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "as in mesh::authz::Match")]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

/// How a text is compared: `{Exact: x}`, `{Prefix: x}`, `{Suffix: x}`, `{Presence: []}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StringMatch {
    /// The whole text.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Anything but the empty text.
    Presence(),
    /// Its end.
    Suffix(String),
}

/// A service account in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccount {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub service_account: String,
}
