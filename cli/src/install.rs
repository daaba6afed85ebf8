//! `culvert install` and `culvert uninstall`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use kubernetes::object::{MANAGED_BY, MANAGED_BY_US, crds};
use serde_json::json;

use crate::cluster::{self, Connection, apply, delete, name_of};
use crate::manifest::Choice;

/// The agents, which take the capture off their nodes when they are told to go for good.
const AGENTS: &str = "culvert-node";

/// Installs or updates Culvert in a cluster.
#[derive(Args)]
pub(crate) struct Install {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    /// Do not wait until everything is ready.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

/// Takes Culvert out of a cluster: pods leave the mesh, then nothing of it is left.
#[derive(Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    /// Only take the capture off the nodes, by ending the agents; the rest stays. What the chart's pre-delete hook does.
    #[arg(long)]
    only_nodes: bool,
    /// Keep the Secret with the signing key, so that a new installation trusts the same root.
    #[arg(long)]
    keep_key: bool,
    /// How long to wait for the agents, in seconds.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// Runs `install`.
pub(crate) async fn install(command: Install) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let objects = command.choice.objects()?;
    let namespace = &command.choice.namespace;
    make_definitions(&client).await?;
    make_namespace(&client, namespace).await?;
    let mut changed = 0;
    for object in &objects {
        if apply(&client, object).await? {
            changed += 1;
            eprintln!("  {}", name_of(object));
        }
    }
    eprintln!("{changed} of {} objects changed", objects.len());
    if command.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let limit = Duration::from_secs(command.timeout);
    let ready = tokio::time::timeout(limit, ready(&client, namespace)).await;
    ready.with_context(|| format!("not everything is ready after {} s; `culvert check` says why", limit.as_secs()))??;
    eprintln!("Culvert is ready. Next: kubectl label namespace NAME istio.io/dataplane-mode=ambient");
    Ok(ExitCode::SUCCESS)
}

/// Runs `uninstall`.
pub(crate) async fn uninstall(command: Uninstall) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let namespace = &command.choice.namespace;
    end_agents(&client, namespace, Duration::from_secs(command.timeout)).await?;
    if command.only_nodes {
        return Ok(ExitCode::SUCCESS);
    }
    let mut objects = command.choice.objects()?;
    for name in ["networkPolicies.enabled=true", "monitoring.podMonitor.enabled=true"] {
        // What an earlier installation with other values made is ours too.
        let mut all = command.choice.clone();
        all.settings.push(name.to_owned());
        objects.extend(all.objects()?);
    }
    if !command.keep_key {
        let values = crate::chart::values(&command.choice.files, &command.choice.settings)?;
        let secret = values["ca"]["secretName"].clone();
        objects.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": namespace}}));
    }
    for object in objects.iter().rev() {
        match delete(&client, object).await {
            Ok(true) => eprintln!("  {}", name_of(object)),
            Ok(false) => {}
            // A kind that the cluster does not have, as the Prometheus operator's.
            Err(error) if object["apiVersion"] == "monitoring.coreos.com/v1" => {
                eprintln!("  {} not deleted: {error:#}", name_of(object));
            }
            Err(error) => return Err(error),
        }
    }
    delete_roots(&client).await?;
    delete_definitions(&client).await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the definitions that nobody has made.
async fn make_definitions(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in crds() {
        let name = definition.name_any();
        let there = call("get a resource definition", api.get_opt(&name)).await?;
        match there {
            Some(other) if other.labels().get(MANAGED_BY).is_none_or(|m| m != MANAGED_BY_US) => {}
            Some(_) => {
                let mut object = serde_json::to_value(&definition)?;
                object["apiVersion"] = json!("apiextensions.k8s.io/v1");
                object["kind"] = json!("CustomResourceDefinition");
                apply(client, &object).await?;
            }
            None => {
                call("create a resource definition", api.create(&PostParams::default(), &definition)).await?;
                eprintln!("  CustomResourceDefinition {name}");
            }
        }
    }
    Ok(())
}

/// Deletes the definitions that are ours, unless somebody's objects would go with them.
async fn delete_definitions(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_US}"));
    for definition in call("list our resource definitions", api.list(&ours)).await? {
        let name = definition.name_any();
        let kind = &definition.spec.names.kind;
        let version = definition.spec.versions.iter().find(|v| v.storage).map(|v| v.name.as_str()).unwrap_or_default();
        let sample = json!({"apiVersion": format!("{}/{version}", definition.spec.group), "kind": kind});
        let left = call("list objects of a kind", cluster::api_of(client, &sample)?.list(&ListParams::default())).await?;
        if left.items.is_empty() {
            call("delete a resource definition", api.delete(&name, &DeleteParams::background())).await?;
            eprintln!("  CustomResourceDefinition {name}");
        } else {
            eprintln!("  CustomResourceDefinition {name} is kept: {} objects of that kind are yours", left.items.len());
        }
    }
    Ok(())
}

/// Deletes the roots that the authority published.
async fn delete_roots(client: &Client) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    for namespace in call("list namespaces", api.list(&ListParams::default())).await? {
        let namespace = namespace.name_any();
        for name in ["culvert-ca-root-cert", "istio-ca-root-cert"] {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}});
            let api = cluster::api_of(client, &object)?;
            let there = call("get a root", api.get_metadata_opt(name)).await?;
            if there.is_some_and(|o| o.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGED_BY_US)) {
                delete(client, &object).await?;
            }
        }
    }
    Ok(())
}

async fn make_namespace(client: &Client, name: &str) -> Result<()> {
    // Privileged pods are admitted only where the namespace says so (Pod Security Standards).
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
        "pod-security.kubernetes.io/enforce": "privileged", "istio.io/dataplane-mode": "none"}}});
    apply(client, &object).await.map(|_| ())
}

/// Waits until every program of ours is as the manifests want it.
async fn ready(client: &Client, namespace: &str) -> Result<()> {
    for name in ["culvert-ca", "culvert-control"] {
        eprintln!("  waiting for {name}");
        let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        wait(api, name, |d: &Deployment| {
            let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            d.status.as_ref().is_some_and(|s| {
                s.observed_generation == d.metadata.generation
                    && s.updated_replicas == Some(wanted)
                    && s.ready_replicas == Some(wanted)
                    && s.replicas == Some(wanted)
            })
        })
        .await?;
    }
    for name in [AGENTS, "ztunnel"] {
        eprintln!("  waiting for {name}");
        let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
        wait(api, name, |d: &DaemonSet| {
            d.status.as_ref().is_some_and(|s| {
                s.observed_generation == d.metadata.generation
                    && s.updated_number_scheduled == Some(s.desired_number_scheduled)
                    && s.number_ready == s.desired_number_scheduled
            })
        })
        .await?;
    }
    Ok(())
}

/// Follows an object until it is as wanted.
async fn wait<K>(api: Api<K>, name: &str, good: impl Fn(&K) -> bool) -> Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let stream = watcher(api, watcher::Config::default().fields(&format!("metadata.name={name}")));
    let mut stream = std::pin::pin!(stream.default_backoff().applied_objects());
    loop {
        match stream.try_next().await {
            Ok(Some(object)) if good(&object) => return Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => bail!("the watch of {name} ended"),
            // Tried again with growing delays; the caller has a deadline.
            Err(error) => eprintln!("  {name}: {error}"),
        }
    }
}

/// Deletes the agents' DaemonSet and waits until they are gone: an agent that ends while its DaemonSet is being deleted takes
/// the capture off its node.
async fn end_agents(client: &Client, namespace: &str, limit: Duration) -> Result<()> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let there = call("get the agents", api.get_metadata_opt(AGENTS)).await?;
    let Some(uid) = there.and_then(|o| o.uid()) else { return Ok(()) };
    eprintln!("  taking the capture off the nodes");
    call("delete the agents", api.delete(AGENTS, &DeleteParams::foreground())).await?;
    let gone = kube::runtime::wait::await_condition(api, AGENTS, kube::runtime::conditions::is_deleted(&uid));
    tokio::time::timeout(limit, gone)
        .await
        .with_context(|| format!("the agents have not ended after {} s; see their logs", limit.as_secs()))??;
    Ok(())
}
