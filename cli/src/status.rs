//! `culvert status`: the nodes, and every pod that is or should be in the mesh.

mod table;

use std::collections::BTreeMap;
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
use crate::forward;

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
    /// What the agent says: `captured`, `waiting`, `leaving`, `failed`; `missing` when it should be captured and the agent
    /// does not know it.
    pub(crate) state: String,
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

    let (mut statuses, mut known, mut agents) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for node in &nodes {
        let mut status = node_of(&node.name_any(), &own);
        if let Some(agent) = &status.agent {
            match ask(client, system, agent).await {
                Ok(report) => {
                    known.extend(by_uid(&report));
                    agents.insert(status.name.clone(), report);
                }
                Err(error) => status.error = Some(format!("{error:#}")),
            }
        }
        statuses.push(status);
    }
    let labelled: Vec<String> = namespaces
        .iter()
        .filter(|n| n.labels().get(MODE).is_some_and(|m| m == "ambient"))
        .map(ResourceExt::name_any)
        .collect();
    let shown = pods.iter().filter_map(|pod| pod_status(pod, &labelled, &known)).collect();
    Ok((Status { nodes: statuses, pods: shown }, agents))
}

/// What an agent says of itself and its pods.
async fn ask(client: &Client, system: &str, agent: &str) -> Result<Value> {
    let body = forward::get(client, system, agent, AGENT_PORT, "/status").await?;
    Ok(serde_json::from_slice(&body)?)
}

fn by_uid(report: &Value) -> Vec<(String, Value)> {
    let pods = report["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
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
fn pod_status(pod: &Pod, labelled: &[String], known: &BTreeMap<String, Value>) -> Option<PodStatus> {
    let report = known.get(pod.uid().as_deref().unwrap_or_default());
    let wanted = wanted(pod, labelled);
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || (report.is_none() && wanted != Wanted::Yes) {
        return None;
    }
    let text = |key: &str| report.and_then(|r| r[key].as_str()).unwrap_or_default().to_owned();
    // A pod has an address when its network is made, which is when it is captured.
    let begun = pod.status.as_ref().is_some_and(|s| s.pod_ip.is_some());
    let state = match (report.is_some(), begun) {
        (true, _) => text("state"),
        (false, true) => "missing".to_owned(),
        (false, false) => "starting".to_owned(),
    };
    let clear = report.and_then(|r| r["clearConnections"].as_u64()).unwrap_or_default();
    let note = match (&*state, wanted, clear) {
        ("missing", ..) => "should be captured, and its agent does not know it; see the agent's log".to_owned(),
        ("starting", ..) => "has no network yet; it is captured before its first process runs".to_owned(),
        ("failed", ..) => text("error"),
        ("leaving", ..) => format!(
            "new connections are direct; what was captured goes on through the proxy until it ends ({} sockets)",
            report.and_then(|r| r["connections"].as_u64()).unwrap_or_default()
        ),
        ("captured", Wanted::No, _) => "no label wants it here any more".to_owned(),
        (_, _, 0) => String::new(),
        (_, _, clear) => {
            format!("{clear} connections older than the enrolment go on in clear; restart the pod to end them")
        }
    };
    Some(PodStatus {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
        state,
        clear_connections: clear,
        note,
    })
}

/// Whether the labels want a pod in the mesh (cni-zds.md 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    No,
    Yes,
}

fn wanted(pod: &Pod, labelled: &[String]) -> Wanted {
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let sidecar = pod.annotations().contains_key("sidecar.istio.io/status");
    let own = pod.labels().get(MODE).map(String::as_str);
    let by_namespace = labelled.iter().any(|n| Some(n) == pod.namespace().as_ref());
    if !host_network && !sidecar && (own == Some("ambient") || (own.is_none() && by_namespace)) {
        Wanted::Yes
    } else {
        Wanted::No
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
        let labelled = ["shop".to_owned()];
        let reports = |state: Value| BTreeMap::from([("u1".to_owned(), state)]);
        let none = BTreeMap::new();
        let state = |pod: &Pod, known: &BTreeMap<String, Value>| pod_status(pod, &labelled, known).map(|s| s.state);
        let plain = pod(json!({}));
        assert_eq!(state(&plain, &none).as_deref(), Some("missing"));
        let begins = pod(json!({"status": {"phase": "Pending", "podIP": null}}));
        assert_eq!(state(&begins, &none).as_deref(), Some("starting"));
        assert_eq!(state(&plain, &reports(json!({"state": "captured"}))).as_deref(), Some("captured"));
        for out in [
            json!({"metadata": {"labels": {MODE: "none"}}}),
            json!({"spec": {"hostNetwork": true}}),
            json!({"metadata": {"annotations": {"sidecar.istio.io/status": "x"}}}),
            json!({"metadata": {"namespace": "other"}}),
            json!({"status": {"phase": "Succeeded"}}),
        ] {
            assert_eq!(pod_status(&pod(out.clone()), &labelled, &none), None, "{out}");
        }
        let failed = pod_status(&plain, &labelled, &reports(json!({"state": "failed", "error": "why"}))).unwrap();
        assert_eq!(failed.note, "why");
        let leaving = reports(json!({"state": "leaving", "connections": 3}));
        assert!(pod_status(&plain, &labelled, &leaving).unwrap().note.contains("(3 sockets)"));
        let clear =
            pod_status(&plain, &labelled, &reports(json!({"state": "captured", "clearConnections": 2}))).unwrap();
        assert!(clear.note.starts_with("2 connections"), "{}", clear.note);
    }
}
