//! Callers and pods as files, for the lab and for machines without Kubernetes.

use std::collections::HashSet;

use document::{Check, Report};
use schemars::JsonSchema;
use serde::Deserialize;

/// The token file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenDocument {
    /// One entry per caller.
    pub tokens: Vec<TokenEntry>,
}

/// A caller.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenEntry {
    /// What it shows. At least 16 characters.
    pub token: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The node it runs on; needed with `mayImpersonate: node`.
    pub node: Option<String>,
    /// `node`: asks for the pods of its node, never for itself. `none`: asks for itself only.
    pub may_impersonate: Mayhap,
    /// DNS names that its certificate may have, as the control plane's server needs them.
    #[serde(default)]
    pub names: Vec<String>,
}

/// For whom a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mayhap {
    /// For the pods of its node.
    Node,
    /// For itself.
    None,
}

/// The pod file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodDocument {
    /// One entry per pod, or per service account and node.
    pub pods: Vec<PodEntry>,
}

/// A pod.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PodEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// Whether it has ended; such a pod gives its node no right.
    #[serde(default)]
    pub finished: bool,
}

/// A token has no `Debug` text.
impl std::fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token of {}/{}", self.namespace, self.service_account)
    }
}

impl Check for TokenDocument {
    fn check(&self, report: &mut Report) {
        let mut seen = HashSet::new();
        for (i, entry) in self.tokens.iter().enumerate() {
            let at = |field: &str| format!("/tokens/{i}/{field}");
            // 16 characters of base64 are 96 bits: beyond guessing.
            if entry.token.len() < 16 || entry.token.trim() != entry.token {
                report.at(&at("token")).mistake(
                    "shorter than 16 characters, or with white space around it",
                    "make one with: head -c 24 /dev/urandom | base64",
                );
            }
            if !seen.insert(&entry.token) {
                report
                    .at(&at("token"))
                    .mistake("the same token as an entry before", "give each caller a token of its own");
            }
            if entry.may_impersonate == Mayhap::Node && entry.node.as_deref().unwrap_or_default().is_empty() {
                report.at(&at("mayImpersonate")).mistake("node needs the caller's node", "add node: <name>");
            }
            account(&entry.namespace, &entry.service_account, &format!("/tokens/{i}"), report);
        }
    }
}

impl Check for PodDocument {
    fn check(&self, report: &mut Report) {
        for (i, pod) in self.pods.iter().enumerate() {
            account(&pod.namespace, &pod.service_account, &format!("/pods/{i}"), report);
            if pod.node.is_empty() {
                report.at(&format!("/pods/{i}/node")).mistake("empty", "name the node");
            }
        }
    }
}

fn account(namespace: &str, service_account: &str, at: &str, report: &mut Report) {
    for (field, value) in [("namespace", namespace), ("serviceAccount", service_account)] {
        if let Err(e) = mesh::Identity::new("td", value, value) {
            report.at(&format!("{at}/{field}")).mistake(e.to_string(), "use the name as Kubernetes has it");
        }
    }
}
