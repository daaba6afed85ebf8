//! `culvert waypoint list` and `status`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kube::Client;
use kube::api::{Api, ListParams};
use kubernetes::client::{CallError, call};
use kubernetes::object::Gateway;
use serde_json::json;

use super::found::{Bindable, Waypoint, bound, is_waypoint};
use crate::cluster::{Connection, api_of};
use crate::lab::titled;

/// Lists waypoints.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    connection: Connection,
    /// Namespace of the waypoints.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Waypoints of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// Says how waypoints stand.
#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    connection: Connection,
    /// Namespace of the waypoint.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Its name; all of the namespace when none is given.
    name: Option<String>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Json,
    Table,
}

/// Runs `list`.
pub(super) async fn list(command: List) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let namespace = Some(command.namespace.as_str()).filter(|_| !command.all_namespaces);
    let found = waypoints(&client, namespace).await?;
    let mut out = stdout().lock();
    match command.output {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
        Form::Table => write!(out, "{}", table(&found))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `status`. Fails when one is not programmed.
pub(super) async fn status(command: Status) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let mut found = waypoints(&client, Some(&command.namespace)).await?;
    if let Some(name) = &command.name {
        found.retain(|w| w.name == *name);
        if found.is_empty() {
            bail!("there is no waypoint {}/{name}; `culvert waypoint list -A` shows all", command.namespace);
        }
    }
    let mut out = stdout().lock();
    match command.output {
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
        Form::Table => write!(out, "{}{}", table(&found), details(&found))?,
    }
    let ready = found.iter().all(|w| w.programmed == "True");
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The waypoints of a namespace or of all, with who is bound to them.
async fn waypoints(client: &Client, namespace: Option<&str>) -> Result<Vec<Waypoint>> {
    let api: Api<Gateway> = namespace.map_or_else(|| Api::all(client.clone()), |n| Api::namespaced(client.clone(), n));
    let gateways = match call("list the waypoints", api.list(&ListParams::default())).await {
        Ok(list) => list.items,
        Err(CallError::NotFound { .. }) => {
            bail!("the Gateway API is not installed; `culvert install` installs what we need of it")
        }
        Err(error) => return Err(error.into()),
    };
    let mut found: Vec<Waypoint> = gateways.iter().filter(|g| is_waypoint(g)).map(Waypoint::of).collect();
    let bindable = bindable(client).await?;
    for waypoint in &mut found {
        waypoint.bound = bound(&bindable, &waypoint.namespace, &waypoint.name).map(Bindable::text).collect();
    }
    Ok(found)
}

/// Everything that names a waypoint.
///
/// # Errors
/// When the API server does not answer.
pub(crate) async fn bindable(client: &Client) -> Result<Vec<Bindable>> {
    let mut all = Vec::new();
    for (version, kind, name) in [
        ("v1", "Namespace", "namespace"),
        ("v1", "Service", "Service"),
        ("v1", "Pod", "Pod"),
        ("networking.istio.io/v1", "ServiceEntry", "ServiceEntry"),
        ("networking.istio.io/v1", "WorkloadEntry", "WorkloadEntry"),
    ] {
        let api = api_of(client, &json!({"apiVersion": version, "kind": kind}))?;
        // Whoever has the label.
        let named = ListParams::default().labels(super::USE_WAYPOINT);
        match call(&format!("list each {name}"), api.list_metadata(&named)).await {
            Ok(list) => {
                for object in &list.items {
                    all.push(Bindable { kind: name, object: json!({ "metadata": object.metadata }) });
                }
            }
            Err(CallError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn table(found: &[Waypoint]) -> String {
    if found.is_empty() {
        return "there is no waypoint here; `culvert waypoint apply -n NAMESPACE --enroll-namespace` makes one\n"
            .to_owned();
    }
    let mut table = titled(&["NAMESPACE", "NAME", "CLASS", "FOR", "PROGRAMMED", "BOUND", "ADDRESS"]);
    for w in found {
        let bound = w.bound.len().to_string();
        table.add_row([&w.namespace, &w.name, &w.class, &w.takes, &w.programmed, &bound, &w.address]);
    }
    format!("{}\n", table.trim_fmt())
}

fn details(found: &[Waypoint]) -> String {
    let mut text = String::new();
    for w in found {
        text.push_str(&format!("\n{}/{}\n", w.namespace, w.name));
        w.faults.iter().for_each(|fault| text.push_str(&format!("  {fault}\n")));
        match w.bound.is_empty() {
            true => {
                let how = format!("kubectl label ns {} {}={}", w.namespace, super::USE_WAYPOINT, w.name);
                text.push_str(&format!("  nothing is bound to it; {how}\n"));
            }
            false => text.push_str(&format!("  bound: {}\n", w.bound.join(", "))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_is_wrong_and_who_is_bound() {
        let waypoint = |bound: &[&str], faults: &[&str]| Waypoint {
            namespace: "shop".into(),
            name: "waypoint".into(),
            class: "culvert-waypoint".into(),
            takes: "service".into(),
            programmed: "True".into(),
            address: "waypoint.shop.svc.cluster.local".into(),
            faults: faults.iter().map(|f| (*f).to_owned()).collect(),
            bound: bound.iter().map(|b| (*b).to_owned()).collect(),
        };
        let shown = [waypoint(&["namespace shop"], &["Programmed is False: why"])];
        let text = format!("{}{}", table(&shown), details(&shown));
        for part in ["PROGRAMMED", "waypoint.shop.svc", "  Programmed is False: why", "  bound: namespace shop"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(details(&[waypoint(&[], &[])]).contains("kubectl label ns shop istio.io/use-waypoint=waypoint"));
        assert!(table(&[]).contains("culvert waypoint apply"));
    }
}
