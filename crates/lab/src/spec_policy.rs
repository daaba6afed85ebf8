//! Policies in the form of Istio's local file (discovery.md 5), so that either proxy reads what the lab writes.

use document::{CidrText, Report};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An authorization policy.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
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
    /// Only report.
    #[serde(default)]
    pub dry_run: bool,
    /// Rules (one is enough) of clauses (all must hold) of matches (one is enough).
    pub rules: Vec<Vec<Vec<Match>>>,
}

impl Policy {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Which workloads a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PolicyScope {
    /// All.
    Global,
    /// Those of its namespace.
    Namespace,
    /// Those that name it.
    WorkloadSelector,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PolicyAction {
    /// May pass.
    Allow,
    /// May not pass.
    Deny,
}

/// Kinds that must all hold; of the values of a kind one is enough, of a `not` kind none may hold.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Match {
    /// Namespaces of the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<TextMatch>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<TextMatch>,
    /// Principals of the source, as in `cluster.local/ns/shop/sa/web`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<TextMatch>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<TextMatch>,
    /// Service accounts of the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<NamedAccount>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<NamedAccount>,
    /// Addresses of the source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<CidrText>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<CidrText>,
    /// Addresses of the destination.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<CidrText>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<CidrText>,
    /// Ports of the application.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    /// None of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

/// How a text is compared: `{Exact: x}`, `{Prefix: x}`, `{Suffix: x}`, `{Presence: []}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum TextMatch {
    /// The whole text.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// Any text but the empty one. The list is empty.
    Presence([(); 0]),
    /// Its end.
    Suffix(String),
}

/// A service account in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NamedAccount {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
}

/// Checks what the shape cannot say: no two policies of one name, and no match that matches nothing.
pub(crate) fn check(policies: &[Policy], report: &mut Report) {
    for (index, policy) in policies.iter().enumerate() {
        let place = format!("/policies/{index}");
        if policies[..index].iter().any(|p| p.key() == policy.key()) {
            let what = format!("there is another policy {}", policy.key());
            report.at(&place).at("name").mistake(what, "give each policy a name of its own in its namespace");
        }
        let matches = policy.rules.iter().enumerate().flat_map(|(r, clauses)| {
            clauses.iter().enumerate().flat_map(move |(c, ms)| ms.iter().enumerate().map(move |(m, v)| (r, c, m, v)))
        });
        for (r, c, m, value) in matches {
            if serde_json::to_value(value).is_ok_and(|v| v.as_object().is_some_and(serde_json::Map::is_empty)) {
                report
                    .at(&format!("{place}/rules/{r}/{c}/{m}"))
                    .mistake("an empty match matches nothing", "name what it shall match, or leave it out");
            }
        }
    }
}
