//! `culvert uninstall`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use kubernetes::client::{CallError, call};
use kubernetes::object::MANAGED_BY;
use serde_json::{Value, json};

use super::{AGENTS, PROGRAMS, capture, definitions, ours};
use crate::chart;
use crate::cluster::{Connection, api_of, delete, name_of};
use crate::manifest::Choice;

/// The label of what the authority made at run time (ca, `kubernetes/content.rs`).
const AUTHORITY: &str = "culvert-ca";

/// The ConfigMaps that the authority writes into every namespace.
const ROOTS: [&str; 2] = ["culvert-ca-root-cert", "istio-ca-root-cert"];

/// The label of what the control plane made at run time (control, `deploy/plan.rs`).
const CONTROL: &str = "culvert-control";

/// Kinds that it makes: (apiVersion, kind), Gateways only where a namespace asks for a waypoint by label. A Deployment goes
/// before the account that its pods run as.
const WAYPOINTS: [(&str, &str); 8] = [
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("gateway.networking.k8s.io/v1", "GatewayClass"),
];

/// Takes Culvert out of a cluster: pods leave the mesh, then nothing of it is left but its namespace.
#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    part: Part,
    /// Keep the Secret with the signing key, so that a new installation trusts the same root.
    #[arg(long)]
    keep_key: bool,
    /// How long to wait for the end of the agents, and of the other programs, in seconds.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// What is to go; everything when none is given.
#[derive(Args, Clone, Copy, Default)]
#[group(multiple = false)]
struct Part {
    /// Only take the capture off the nodes, by ending the agents; the rest stays.
    #[arg(long)]
    only_nodes: bool,
    /// Only delete the resource definitions that are ours and of which no object is left.
    #[arg(long)]
    only_definitions: bool,
    /// Only what Helm does not know: what the pre-delete hook of the chart does.
    #[arg(long, hide = true)]
    for_helm: bool,
}

/// Runs it.
pub(crate) async fn uninstall(command: Uninstall) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    remove(&client, &command).await?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, command: &Uninstall) -> Result<()> {
    let (choice, limit) = (&command.choice, Duration::from_secs(command.timeout));
    let Part { only_nodes, only_definitions, for_helm } = command.part;
    if only_definitions {
        return definitions::delete(client, &choice.managed_by).await;
    }
    let namespace = &*choice.namespace;
    if !only_nodes && !for_helm {
        ours::refuse_others(client, choice).await?;
    }
    let agents: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    // An agent that ends while its DaemonSet is being deleted takes the capture off its node.
    capture::note(client, namespace).await?;
    end(agents, AGENTS, "taking the capture off the nodes", limit).await?;
    capture::verify(client, namespace).await?;
    if only_nodes {
        return Ok(());
    }
    let values = match ours::record(client, namespace).await? {
        Some(record) => record.values,
        None => chart::values(&choice.files, &choice.settings)?,
    };
    // A running authority puts its Secret and the roots back, a running control plane its lease.
    for name in PROGRAMS {
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        end(api, name, &format!("stopping {name}"), limit).await?;
    }
    if !command.keep_key && values["ca"]["keepSecret"] != true {
        let key = values["ca"]["secretName"].as_str().unwrap_or_default();
        // What the authority keeps beside a Secret that a user made is the authority's own.
        for name in [key.to_owned(), format!("{key}-held")] {
            delete_key(client, namespace, &name).await?;
        }
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "culvert-control-leader", "namespace": namespace}});
    told(client, &lease).await?;
    // Helm leaves the pod of a test that has run, for its log.
    let test = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "culvert-test", "namespace": namespace}});
    told(client, &test).await?;
    delete_roots(client).await?;
    delete_waypoints(client).await?;
    if for_helm {
        return Ok(());
    }
    for object in ours::all(client, namespace).await? {
        told(client, &object).await?;
    }
    definitions::delete(client, &choice.managed_by).await
}

/// Deletes an object and says so.
async fn told(client: &Client, object: &Value) -> Result<()> {
    if delete(client, object).await? {
        eprintln!("  {}", name_of(object));
    }
    Ok(())
}

/// Deletes the Secret with the signing key, when the authority made it. One that a user made is the user's.
async fn delete_key(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}});
    let there = call("get the authority's Secret", api_of(client, &secret)?.get_metadata_opt(name)).await?;
    let Some(there) = there else { return Ok(()) };
    if there.labels().get(MANAGED_BY).is_some_and(|by| by == AUTHORITY) {
        return told(client, &secret).await;
    }
    eprintln!("  {} is kept: the authority did not make it", name_of(&secret));
    Ok(())
}

/// Deletes the roots that the authority published. By name, so that a role can name them.
async fn delete_roots(client: &Client) -> Result<()> {
    let ours = format!("{MANAGED_BY}={AUTHORITY}");
    for name in ROOTS {
        let sample = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let published = ListParams::default().fields(&format!("metadata.name={name}")).labels(&ours);
        let found = call("list the published roots", api_of(client, &sample)?.list_metadata(&published)).await?;
        for root in &found.items {
            let mut object = sample.clone();
            object["metadata"]["namespace"] = json!(root.namespace());
            told(client, &object).await?;
        }
    }
    Ok(())
}

/// Deletes what the control plane made: automatic Gateways, what was made for any Gateway, and its classes.
async fn delete_waypoints(client: &Client) -> Result<()> {
    let made = ListParams::default().labels(&format!("{MANAGED_BY}={CONTROL}"));
    for (version, kind) in WAYPOINTS {
        let sample = json!({"apiVersion": version, "kind": kind, "metadata": {}});
        let found = match call(&format!("list the {kind}s of waypoints"), api_of(client, &sample)?.list_metadata(&made))
            .await
        {
            Ok(list) => list.items,
            // The Gateway API is not installed.
            Err(CallError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        // A label alone could be copied.
        let of_gateway =
            |o: &PartialObjectMeta<DynamicObject>| o.owner_references().iter().any(|r| r.kind == "Gateway");
        for object in found.into_iter().filter(|o| kind.starts_with("Gateway") || of_gateway(o)) {
            let mut gone = sample.clone();
            gone["metadata"] = json!({"name": object.name_any(), "namespace": object.namespace()});
            told(client, &gone).await?;
        }
    }
    Ok(())
}

/// Deletes a controller and waits until its pods are gone.
async fn end<K>(api: Api<K>, name: &str, what: &str, limit: Duration) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let there = call(&format!("get {name}"), api.get_metadata_opt(name)).await?;
    let Some(uid) = there.and_then(|o| o.uid()) else { return Ok(()) };
    eprintln!("  {what}");
    // In the foreground: the controller goes after its pods have gone.
    call(&format!("delete {name}"), api.delete(name, &DeleteParams::foreground())).await?;
    let gone = kube::runtime::wait::await_condition(api, name, kube::runtime::conditions::is_deleted(&uid));
    let done = tokio::time::timeout(limit, gone).await;
    done.with_context(|| format!("the pods of {name} have not ended after {} s; see their logs", limit.as_secs()))??;
    Ok(())
}

#[cfg(test)]
#[path = "remove_tests.rs"]
mod tests;
