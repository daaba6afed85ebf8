//! The certificate authority's files.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::write;
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::programs::{CA_NAME, CA_PORT, CONTROL_ACCOUNT, CONTROL_NAME, SYSTEM_NAMESPACE};
use crate::spec::Waypoint;
use crate::state::write_atomically;

/// A token that the authority knows, and who shows it.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) holder: Holder,
}

/// Who shows a token.
pub(crate) enum Holder {
    /// The ztunnels of a node, for its pods.
    Node(String),
    /// The control plane, for its server certificate.
    Control,
    /// A waypoint, for itself.
    Waypoint(Waypoint),
}

impl Token {
    /// One that nobody guesses.
    pub(crate) fn new(holder: Holder) -> Self {
        Self { text: format!("{:032x}", rand::random::<u128>()), holder }
    }

    /// Where its holder finds it.
    pub(crate) fn file(&self, paths: &Paths) -> PathBuf {
        match &self.holder {
            Holder::Node(node) => paths.token(node),
            Holder::Control => paths.control().join("token"),
            Holder::Waypoint(waypoint) => paths.waypoint(&waypoint.name).join("token"),
        }
    }

    fn entry(&self) -> Value {
        match &self.holder {
            Holder::Node(node) => json!({
                "token": self.text,
                "namespace": SYSTEM_NAMESPACE,
                "serviceAccount": "ztunnel",
                "node": node,
                // For the pods of its node, and no others.
                "mayImpersonate": "node",
            }),
            Holder::Control => json!({
                "token": self.text,
                "namespace": SYSTEM_NAMESPACE,
                "serviceAccount": CONTROL_ACCOUNT,
                "mayImpersonate": "none",
                "names": [CONTROL_NAME],
            }),
            Holder::Waypoint(waypoint) => json!({
                "token": self.text,
                "namespace": waypoint.namespace,
                "serviceAccount": waypoint.name,
                "mayImpersonate": "none",
            }),
        }
    }
}

/// The configuration, the tokens that it honours and the pods by node that it issues for.
pub(crate) fn config(paths: &Paths, plan: &Plan, tokens: &[Token]) -> Result<(), LabError> {
    let folder = paths.ca();
    let listen: Vec<String> = plan.infra().iter().take(1).map(|ip| format!("{ip}:{CA_PORT}")).collect();
    let value = json!({
        "listen": listen.first(),
        "trustDomain": plan.spec.trust_domain,
        "authority": { "folder": paths.authority() },
        "rootOutput": paths.roots(),
        "serverNames": [CA_NAME],
        "tokenFile": folder.join("tokens.yaml"),
        "podFile": folder.join("pods.yaml"),
    });
    write(&folder.join("ca.yaml"), &value)?;
    let list: Vec<Value> = tokens.iter().map(Token::entry).collect();
    write(&folder.join("tokens.yaml"), &json!({ "tokens": list }))?;
    tokens.iter().try_for_each(|t| write_atomically(&t.file(paths), &t.text))
}

/// Which identities run on which node.
pub(crate) fn pods(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    let pods: Vec<Value> = plan
        .pods
        .iter()
        .filter(|p| p.pod.mesh)
        .map(|p| json!({"node": p.pod.node, "namespace": p.pod.namespace, "serviceAccount": p.pod.account()}))
        .collect();
    write(&paths.ca().join("pods.yaml"), &json!({ "pods": pods }))
}
