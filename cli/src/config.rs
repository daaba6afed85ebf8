//! `culvert config dump|diff`: what the control plane wants, against what each node proxy has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use serde_json::Value;

use crate::cluster::Connection;
use crate::{forward, status};

/// The proxy's admin port (hbone.md 1).
pub(crate) const PROXY_PORT: u16 = 15000;
/// The control plane's admin port, on loopback.
const CONTROL_PORT: u16 = 15013;

/// The parts of a dump that both sides have.
const PARTS: [&str; 3] = ["workloads", "services", "policies"];

/// What the control plane wants, and what each node proxy has.
#[derive(Args)]
pub(crate) struct ConfigCommand {
    #[command(flatten)]
    connection: Connection,
    /// Namespace of Culvert's own pods.
    #[arg(long, global = true, default_value = "culvert-system")]
    system: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print what a node proxy has, as JSON; what the control plane wants when no node is named.
    Dump {
        /// The node.
        node: Option<String>,
    },
    /// Compare every node proxy with the control plane, by name. Fails when they differ.
    Diff {
        /// Only this node.
        node: Option<String>,
    },
}

/// Runs it.
pub(crate) async fn run(command: ConfigCommand) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let system = &command.system;
    let pods: Api<Pod> = Api::namespaced(client.clone(), system);
    let pods = call("list Culvert's pods", pods.list(&ListParams::default())).await?.items;
    let mut out = stdout().lock();
    match command.verb {
        Verb::Dump { node: Some(node) } => {
            let (_, pod) = proxies(&pods, Some(&node))?.remove(0);
            out.write_all(&forward::get(&client, system, &pod, PROXY_PORT, "/config_dump").await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Dump { node: None } => {
            out.write_all(&forward::get(&client, system, &control(&pods)?, CONTROL_PORT, "/debug/world").await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Diff { node } => {
            let wanted = dump(&client, system, &control(&pods)?, CONTROL_PORT, "/debug/world").await?;
            let mut same = true;
            for (node, pod) in proxies(&pods, node.as_deref())? {
                let has = dump(&client, system, &pod, PROXY_PORT, "/config_dump").await?;
                let differences = differences(&wanted, &has);
                same &= differences.is_empty();
                writeln!(out, "{node}: {}", if differences.is_empty() { "as wanted" } else { "differs" })?;
                for difference in differences {
                    writeln!(out, "  {difference}")?;
                }
            }
            Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn dump(client: &Client, system: &str, pod: &str, port: u16, path: &str) -> Result<Value> {
    let body = forward::get(client, system, pod, port, path).await?;
    serde_json::from_slice(&body).with_context(|| format!("{path} of {pod} is no JSON"))
}

/// A ready pod of the control plane.
fn control(pods: &[Pod]) -> Result<String> {
    let named = |p: &&Pod| p.labels().get("app.kubernetes.io/name").is_some_and(|a| a == "culvert-control");
    let found = pods.iter().filter(named).find(|p| status::is_ready(p));
    found.map(ResourceExt::name_any).context("no pod of culvert-control is ready; `culvert check` says why")
}

/// Nodes and the newest ready proxy of each.
fn proxies(pods: &[Pod], node: Option<&str>) -> Result<Vec<(String, String)>> {
    let mut by_node: BTreeMap<String, &Pod> = BTreeMap::new();
    for pod in pods.iter().filter(|p| p.labels().get("app").is_some_and(|a| a == "ztunnel") && status::is_ready(p)) {
        let on = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let newer = |other: &&Pod| other.metadata.creation_timestamp < pod.metadata.creation_timestamp;
        if node.is_none_or(|n| n == on) && by_node.get(&on).is_none_or(newer) {
            by_node.insert(on, pod);
        }
    }
    if by_node.is_empty() {
        bail!("no proxy is ready{}", node.map(|n| format!(" on node {n}")).unwrap_or_default());
    }
    Ok(by_node.into_iter().map(|(node, pod)| (node, pod.name_any())).collect())
}

/// What one side has and the other has not, or has otherwise.
fn differences(wanted: &Value, has: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for part in PARTS {
        let (wanted, has) = (by_key(part, wanted), by_key(part, has));
        for key in wanted.keys().chain(has.keys()).collect::<BTreeSet<_>>() {
            match (wanted.get(key), has.get(key)) {
                (Some(_), None) => lines.push(format!("{part} {key}: the proxy has it not")),
                (None, Some(_)) => lines.push(format!("{part} {key}: the proxy has it, and it is not wanted")),
                (Some(a), Some(b)) => {
                    let fields = fields(a, b);
                    if !fields.is_empty() {
                        lines.push(format!("{part} {key}: differs in {}", fields.join(", ")));
                    }
                }
                (None, None) => {}
            }
        }
    }
    lines
}

/// The fields of `wanted` in which `has` differs. Endpoints are the proxy's own conclusion and do not count.
fn fields(wanted: &Value, has: &Value) -> Vec<String> {
    let keys = wanted.as_object().into_iter().flat_map(|o| o.keys()).filter(|key| *key != "endpoints");
    keys.filter(|key| wanted[*key] != has[*key]).cloned().collect()
}

fn by_key<'a>(part: &str, dump: &'a Value) -> BTreeMap<String, &'a Value> {
    let key = |item: &Value| {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        match part {
            "workloads" => text("uid"),
            "services" => format!("{}/{}", text("namespace"), text("hostname")),
            _ => format!("{}/{}", text("namespace"), text("name")),
        }
    };
    dump[part].as_array().into_iter().flatten().map(|item| (key(item), item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_resource_and_field() {
        let wanted = json!({"workloads": [{"uid": "a", "node": "n1"}, {"uid": "b"}],
            "services": [{"namespace": "shop", "hostname": "web", "vips": ["1"], "endpoints": {}}], "policies": []});
        let has = json!({"workloads": [{"uid": "a", "node": "n2"}],
            "services": [{"namespace": "shop", "hostname": "web", "vips": ["1"], "endpoints": {"x": 1}}],
            "policies": [{"namespace": "shop", "name": "old"}]});
        assert_eq!(
            differences(&wanted, &has),
            [
                "workloads a: differs in node",
                "workloads b: the proxy has it not",
                "policies shop/old: the proxy has it, and it is not wanted"
            ]
        );
        assert!(differences(&has, &has).is_empty());
    }
}
