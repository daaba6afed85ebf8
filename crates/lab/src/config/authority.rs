//! The certificate authority's files.

use serde_json::{Value, json};

use super::write;
use crate::error::LabError;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::programs::{CA_NAME, CA_PORT, SYSTEM_NAMESPACE};
use crate::state::write_atomically;

/// Tokens by node, which the authority knows and the ztunnels show.
pub(crate) struct Token {
    pub(crate) node: String,
    pub(crate) text: String,
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
    let list: Vec<Value> = tokens
        .iter()
        .map(|t| {
            json!({
                "token": t.text,
                "namespace": SYSTEM_NAMESPACE,
                "serviceAccount": "ztunnel",
                "node": t.node,
                // For the pods of its node, and no others.
                "mayImpersonate": "node",
            })
        })
        .collect();
    write(&folder.join("tokens.yaml"), &json!({ "tokens": list }))?;
    tokens.iter().try_for_each(|t| write_atomically(&paths.token(&t.node), &t.text))
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
