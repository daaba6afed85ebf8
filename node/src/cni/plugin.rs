//! The plug-in itself, as the container runtime runs it (CNI specification 1.1.0, "Protocol parameters" and "Operations").
//!
//! It runs in the host's namespaces, is started for each sandbox, and knows nothing but its configuration, the environment
//! that the runtime gives it and the agent's socket. It adds nothing to the result of the plug-ins before it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::call;
use super::conflist::OwnConfig;
use super::request::{AddRequest, Address};

/// Versions of the specification that we can be asked for; all have the same chained results (`prevResult`).
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An answer to the runtime that is no success ("Error" of the specification).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 1 to 99 are the specification's, others ours.
    pub code: u32,
    /// One line.
    pub message: String,
    /// What to do.
    pub details: String,
}

/// Codes of the specification.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const UNDECODABLE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
/// Ours: the agent is away, or refuses the pod.
const AGENT_AWAY: u32 = 100;
const POD_REFUSED: u32 = 101;

/// Runs the plug-in: `environment` and `input` are the runtime's, the answer goes to `output`. Returns whether it succeeded.
pub fn run(environment: &BTreeMap<String, String>, input: &mut impl Read, output: &mut impl Write) -> bool {
    let mut text = String::new();
    let read = input.read_to_string(&mut text);
    let read = read.map_err(|e| refusal(IO_FAILURE, format!("standard input: {e}"), "this is an error of the runtime"));
    let answer = read.and_then(|_| decide(environment, &text));
    let (good, value) = match answer {
        Ok(value) => (true, value),
        Err(refusal) => (false, Some(refusal.document(&version_of(&text)))),
    };
    let told = value.is_none_or(|value| writeln!(output, "{value}").is_ok());
    good && told
}

/// What to answer; `None` = success without a word.
fn decide(environment: &BTreeMap<String, String>, text: &str) -> Result<Option<Value>, Refusal> {
    let variable = |name: &str| environment.get(name).map(String::as_str);
    let Some(command) = variable("CNI_COMMAND") else {
        let remedy = "this program is run by container runtimes; see the CNI specification";
        return Err(refusal(INVALID_ENVIRONMENT, "CNI_COMMAND is not set".into(), remedy));
    };
    match command {
        "VERSION" => Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }))),
        // Whatever the state of the agent is: a pod must be able to go. The agent sees by itself that it went.
        "DEL" | "GC" => Ok(None),
        // The runtime would call the node not ready, and then no pod could bring the agent back.
        "STATUS" => Ok(None),
        "ADD" | "CHECK" => {
            let config: Value = serde_json::from_str(text)
                .map_err(|e| refusal(UNDECODABLE, format!("configuration: {e}"), "repair the network configuration"))?;
            let version = config["cniVersion"].as_str().unwrap_or("0.1.0");
            if !VERSIONS.contains(&version) {
                let message = format!("version {version} of CNI is not supported");
                return Err(refusal(INCOMPATIBLE_VERSION, message, &format!("use one of {}", VERSIONS.join(", "))));
            }
            let result = config.get("prevResult").filter(|r| r.is_object()).ok_or_else(|| {
                let message = "no result of a plug-in before this one".to_owned();
                refusal(INVALID_CONFIGURATION, message, "culvert-cni comes last in a list of plug-ins, never alone")
            })?;
            if command == "ADD" {
                add(environment, &config, result)?;
                Ok(Some(result.clone()))
            } else {
                // What stands in the pod is the agent's business, who audits it all the time.
                Ok(None)
            }
        }
        other => {
            let message = format!("CNI_COMMAND {other:?} is not known");
            Err(refusal(INVALID_ENVIRONMENT, message, "use a runtime that speaks CNI 1.1.0 or older"))
        }
    }
}

/// Hands the pod to the agent and waits. Every failure fails the sandbox: a pod of the mesh must not start in clear.
fn add(environment: &BTreeMap<String, String>, config: &Value, result: &Value) -> Result<(), Refusal> {
    let own: OwnConfig = serde_json::from_value(config.clone()).map_err(|e| {
        let remedy = "delete the entry culvert-cni; the node agent writes it anew";
        refusal(INVALID_CONFIGURATION, format!("entry culvert-cni of the network configuration: {e}"), remedy)
    })?;
    let arguments = arguments(environment.get("CNI_ARGS").map_or("", String::as_str));
    let (Some(name), Some(namespace)) = (arguments.get("K8S_POD_NAME"), arguments.get("K8S_POD_NAMESPACE")) else {
        // A sandbox of something else than Kubernetes.
        return Ok(());
    };
    // These are never captured, and the agent itself is among them: they start also while it is away.
    if *namespace == own.system_namespace || own.exclude_namespaces.iter().any(|n| n == namespace) {
        return Ok(());
    }
    let needed = |name: &str| {
        let value = environment.get(name).filter(|v| !v.is_empty()).cloned();
        value.ok_or_else(|| {
            refusal(INVALID_ENVIRONMENT, format!("{name} is not set"), "this is an error of the runtime")
        })
    };
    let request = AddRequest {
        netns: needed("CNI_NETNS")?,
        pod_name: (*name).to_owned(),
        pod_namespace: (*namespace).to_owned(),
        ips: addresses(result),
        pod_uid: arguments.get("K8S_POD_UID").map(|uid| (*uid).to_owned()).unwrap_or_default(),
        device: needed("CNI_IFNAME")?,
    };
    // The agent answers within the deadline; the rest is for a busy machine.
    let patience = Duration::from_millis(own.deadline_ms) + Duration::from_secs(5);
    match call::post(Path::new(&own.socket), "/cmdadd", &request, patience) {
        Ok(_) => Ok(()),
        Err(call::CallError::Refused { text, .. }) => {
            let remedy = "kubectl -n culvert-system logs daemonset/culvert-node says more";
            Err(refusal(POD_REFUSED, format!("pod {namespace}/{name} is not captured: {}", text.trim()), remedy))
        }
        Err(error) => {
            let message = format!("pod {namespace}/{name} is not captured: node agent at {}: {error}", own.socket);
            let remedy = "is the pod of daemonset culvert-node on this node running? Kubernetes tries this pod again";
            Err(refusal(AGENT_AWAY, message, remedy))
        }
    }
}

/// `CNI_ARGS`: `K=V;K=V`.
fn arguments(text: &str) -> BTreeMap<&str, &str> {
    text.split(';').filter_map(|pair| pair.split_once('=')).collect()
}

/// The addresses of a result: `{"ips": [{"address": "10.0.0.5/24", "gateway": …, "interface": 2}]}` in all versions from 0.3.0.
fn addresses(result: &Value) -> Vec<Address> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let read = |ip: &Value| {
        Some(Address {
            interface: ip["interface"].as_i64(),
            address: ip["address"].as_str()?.to_owned(),
            gateway: ip["gateway"].as_str().map(ToOwned::to_owned),
        })
    };
    ips.filter_map(read).collect()
}

fn refusal(code: u32, message: String, details: &str) -> Refusal {
    Refusal { code, message, details: details.to_owned() }
}

fn version_of(text: &str) -> String {
    let config: Option<Value> = serde_json::from_str(text).ok();
    let version = config.as_ref().and_then(|c| c["cniVersion"].as_str());
    version.filter(|v| VERSIONS.contains(v)).unwrap_or("1.0.0").to_owned()
}

impl Refusal {
    fn document(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.code, "msg": self.message, "details": self.details })
    }
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
