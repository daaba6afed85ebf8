//! `culvert status`: the nodes, and every pod that is or should be in the mesh.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Connection;
use crate::enroll::MODE;
use crate::{forward, install};

/// On mirror pods: the UID by which the kubelet and the agent know the static pod (node, `kubernetes/facts.rs`).
const STATIC: &str = "kubernetes.io/config.hash";

/// The agent's admin port, on the node's own network (docs/ztunnel.md).
const AGENT_PORT: u16 = 15010;

/// Shows what is in the mesh, and what should be and is not.
#[derive(Args)]
pub(crate) struct StatusCommand {
    #[command(flatten)]
    connection: Connection,
    /// Only pods of this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Namespace of Culvert's own pods.
    #[arg(long, default_value = "culvert-system")]
    system: String,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Json,
    Table,
}

/// Everything shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) pods: Vec<PodStatus>,
}

/// A node and its two programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    /// Name of the agent's pod.
    pub(crate) agent: Option<String>,
    /// Names of the proxies' pods that are ready.
    pub(crate) proxies: Vec<String>,
    /// Why the agent could not be asked.
    pub(crate) error: Option<String>,
}

/// A pod.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    /// What the agent says: `captured`, `waiting`, `announced`, `leaving`, `failed`; of a pod that asks for the mesh and that the
    /// agent does not have, `left out` when it cannot be captured, `starting` while it has no network, `unknown` when the agent
    /// cannot be asked, else `missing`.
    pub(crate) state: String,
    /// It waits for a proxy, and what it connects meanwhile goes in clear.
    pub(crate) in_clear: bool,
    /// Connections older than the enrolment, in clear.
    pub(crate) clear_connections: u64,
    /// Why, and what to do.
    pub(crate) note: String,
}

/// Runs it.
pub(crate) async fn run(command: StatusCommand) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let (status, _) = gather_all(&client, &command.system, command.namespace.as_deref()).await?;
    let mut out = stdout().lock();
    match command.output {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
        Form::Table => write!(out, "{}", table::table(&status))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the API server and every agent: the status, and what each agent says of itself, by node.
///
/// # Errors
/// When the API server does not answer. An agent that does not is told as its node's error.
pub(crate) async fn gather_all(
    client: &Client,
    system: &str,
    namespace: Option<&str>,
) -> Result<(Status, BTreeMap<String, Value>)> {
    let all = ListParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = call("list nodes", nodes.list(&all)).await?.items;
    let own: Api<Pod> = Api::namespaced(client.clone(), system);
    let own = call("list Culvert's pods", own.list(&all)).await?.items;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespaces = call("list namespaces", namespaces.list(&all)).await?.items;
    let pods: Api<Pod> = namespace.map_or_else(|| Api::all(client.clone()), |n| Api::namespaced(client.clone(), n));
    let pods = call("list pods", pods.list(&all)).await?.items;

    let labelled = namespaces.iter().filter(|n| n.labels().get(MODE).is_some_and(|m| m == "ambient"));
    let mut seen = Seen { system, labelled: labelled.map(ResourceExt::name_any).collect(), ..Seen::default() };
    seen.excluded = install::excluded(client, system).await?;
    let (mut statuses, mut agents) = (Vec::new(), BTreeMap::new());
    for node in &nodes {
        let mut status = node_of(&node.name_any(), &own);
        if let Some(agent) = &status.agent {
            match ask(client, system, agent).await {
                Ok(report) => {
                    seen.known.extend(by_uid(&report["pods"]));
                    seen.left_out.extend(by_uid(&report["leftOut"]));
                    seen.asked.insert(status.name.clone());
                    agents.insert(status.name.clone(), report);
                }
                Err(error) => status.error = Some(format!("{error:#}")),
            }
        }
        statuses.push(status);
    }
    let shown = pods.iter().filter_map(|pod| pod_status(pod, &seen)).collect();
    Ok((Status { nodes: statuses, pods: shown }, agents))
}

/// What was seen of the cluster, to judge a pod by.
#[derive(Debug, Default)]
struct Seen<'a> {
    /// Namespace of Culvert itself.
    system: &'a str,
    /// Namespaces that ask for the mesh.
    labelled: BTreeSet<String>,
    /// Namespaces that are never captured.
    excluded: BTreeSet<String>,
    /// Nodes whose agents answered.
    asked: BTreeSet<String>,
    /// Pods that agents have, and those that they leave out, by UID.
    known: BTreeMap<String, Value>,
    left_out: BTreeMap<String, Value>,
}

/// What an agent says of itself and its pods.
async fn ask(client: &Client, system: &str, agent: &str) -> Result<Value> {
    let body = forward::get(client, system, agent, AGENT_PORT, "/status").await?;
    Ok(serde_json::from_slice(&body)?)
}

fn by_uid(pods: &Value) -> Vec<(String, Value)> {
    let pods = pods.as_array().map(Vec::as_slice).unwrap_or_default();
    pods.iter().filter_map(|pod| Some((pod["uid"].as_str()?.to_owned(), pod.clone()))).collect()
}

fn node_of(name: &str, own: &[Pod]) -> NodeStatus {
    let here = |app: &str| {
        own.iter()
            .filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name))
            .filter(|p| p.labels().get("app.kubernetes.io/name").is_some_and(|a| a == app) && is_ready(p))
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>()
    };
    let agent = here("culvert-node").pop();
    let error = agent.is_none().then(|| "no agent is ready on this node; see `culvert check`".to_owned());
    NodeStatus { name: name.to_owned(), agent, proxies: here("ztunnel"), error }
}

/// Whether the kubelet says that a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A pod that is or should be in the mesh.
fn pod_status(pod: &Pod, seen: &Seen<'_>) -> Option<PodStatus> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let uid = pod.annotations().get(STATIC).cloned().or_else(|| pod.uid()).unwrap_or_default();
    let report = seen.known.get(&uid);
    let (state, note) = match report {
        Some(report) => (report["state"].as_str().unwrap_or_default().to_owned(), note(report, asks(pod, seen))),
        None if asks(pod, seen) => absent(pod, &uid, seen),
        None => return None,
    };
    Some(PodStatus {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        state,
        in_clear: report.is_some_and(|r| r["state"] == "waiting" && r["refusing"] == false),
        clear_connections: report.and_then(|r| r["clearConnections"].as_u64()).unwrap_or_default(),
        note,
    })
}

/// What is to know of a pod that its agent has.
fn note(report: &Value, asks: bool) -> String {
    let number = |key: &str| report[key].as_u64().unwrap_or_default();
    let mut notes = match report["state"].as_str().unwrap_or_default() {
        "failed" => vec![report["error"].as_str().unwrap_or_default().to_owned()],
        "leaving" => vec![format!(
            "new connections are direct; what was captured goes on through the proxy until it ends ({} sockets)",
            number("connections")
        )],
        "announced" => vec!["leaves the mesh when its peers have been told".to_owned()],
        "waiting" if report["refusing"] == false => {
            vec!["waits for a proxy; what it connects goes in clear".to_owned()]
        }
        "waiting" => vec!["waits for a proxy; its connects are refused".to_owned()],
        "captured" if !asks => vec!["no label wants it here any more".to_owned()],
        _ => Vec::new(),
    };
    let clear = number("clearConnections");
    if clear > 0 {
        notes.push(format!("{clear} connections older than the enrolment go on in clear; restart the pod to end them"));
    }
    let others: Vec<&str> =
        report["uncapturedInterfaces"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !others.is_empty() {
        notes.push(format!("not captured are its interfaces {}", others.join(", ")));
    }
    notes.join("; ")
}

/// State and note of a pod that asks for the mesh and that no agent has.
fn absent(pod: &Pod, uid: &str, seen: &Seen<'_>) -> (String, String) {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    // A pod has an address when its network is made, which is when it is captured.
    let begun = pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
    let told = seen.left_out.get(uid).and_then(|left| left["message"].as_str());
    let (state, note) = if let Some(told) = told {
        ("left out", told)
    } else if pod.namespace().is_some_and(|n| seen.excluded.contains(&n)) {
        ("left out", "its namespace is in mesh.excludedNamespaces")
    } else if spec.and_then(|s| s.host_network) == Some(true) {
        ("left out", "it uses the host's network")
    } else if pod.annotations().contains_key(SIDECAR) {
        ("left out", "it has a sidecar of Istio")
    } else if !begun {
        ("starting", "has no network yet; it is captured before its first process runs")
    } else if !seen.asked.contains(node) {
        ("unknown", "its node's agent cannot be asked; what was captured stays so without it")
    } else {
        ("missing", "should be captured, and its agent does not know it; see the agent's log")
    };
    (state.to_owned(), note.to_owned())
}

/// Set by Istio's injector on pods that have a sidecar.
pub(crate) const SIDECAR: &str = "sidecar.istio.io/status";

/// Whether a pod asks for the mesh, by the agent's rules (node, `kubernetes/enrolment.rs`).
fn asks(pod: &Pod, seen: &Seen<'_>) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    namespace != seen.system
        && match pod.labels().get(MODE).map(String::as_str) {
            Some("none") => false,
            Some("ambient") => true,
            _ => seen.labelled.contains(&namespace),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"containers": [], "nodeName": "n1"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
        for (key, value) in value.as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                pod[key][inner] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_should_be_in_the_mesh_and_is_not_is_shown() {
        let seen = |state: Value| Seen {
            labelled: ["shop".to_owned(), "kube-system".to_owned()].into(),
            excluded: ["kube-system".to_owned()].into(),
            asked: ["n1".to_owned()].into(),
            known: if state.is_null() { BTreeMap::new() } else { BTreeMap::from([("u1".to_owned(), state)]) },
            left_out: BTreeMap::from([("kata".to_owned(), json!({"reason": "UnsupportedRuntime", "message": "why"}))]),
            ..Seen::default()
        };
        let none = seen(Value::Null);
        let state = |changes: Value| pod_status(&pod(changes), &none).map(|s| s.state);
        for (changes, wanted) in [
            (json!({}), Some("missing")),
            (json!({"metadata": {"labels": {MODE: "anything"}}}), Some("missing")),
            (json!({"status": {"phase": "Pending", "podIP": null}}), Some("starting")),
            (json!({"spec": {"nodeName": "n2"}}), Some("unknown")),
            (json!({"spec": {"hostNetwork": true}}), Some("left out")),
            (json!({"metadata": {"annotations": {SIDECAR: "x"}}}), Some("left out")),
            (json!({"metadata": {"namespace": "kube-system"}}), Some("left out")),
            (json!({"metadata": {"uid": "kata"}}), Some("left out")),
            (json!({"metadata": {"labels": {MODE: "none"}}}), None),
            (json!({"metadata": {"namespace": "other"}}), None),
            (json!({"metadata": {"namespace": "other", "labels": {MODE: "anything"}}}), None),
            (json!({"status": {"phase": "Succeeded"}}), None),
        ] {
            assert_eq!(state(changes.clone()).as_deref(), wanted, "{changes}");
        }
        assert_eq!(pod_status(&pod(json!({"metadata": {"uid": "kata"}})), &none).unwrap().note, "why");
        // A mirror pod goes by the UID of its static pod.
        let mirror = pod(json!({"metadata": {"uid": "x", "annotations": {STATIC: "u1"}}}));
        assert_eq!(pod_status(&mirror, &seen(json!({"state": "captured"}))).unwrap().state, "captured");
        let told = |report: Value| pod_status(&pod(json!({})), &seen(report)).unwrap();
        assert_eq!(told(json!({"state": "failed", "error": "why"})).note, "why");
        assert!(told(json!({"state": "leaving", "connections": 3})).note.contains("(3 sockets)"));
        let clear = told(json!({"state": "captured", "clearConnections": 2, "uncapturedInterfaces": ["net1"]})).note;
        assert!(clear.starts_with("2 connections") && clear.contains("net1"), "{clear}");
        assert!(told(json!({"state": "waiting", "refusing": false})).in_clear);
        assert!(!told(json!({"state": "waiting", "refusing": true})).in_clear);
    }
}
