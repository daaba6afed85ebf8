//! `culvert install` and `culvert uninstall`.

mod capture;
mod chosen;
mod definitions;
mod drain;
#[cfg(test)]
pub(crate) mod fake;
mod ours;
mod remove;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::TryStreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use serde_json::{Value, json};

pub(crate) use self::chosen::chosen;
pub(crate) use self::definitions::definitions_to_make;
pub(crate) use self::ours::{excluded, obsolete, refuse_others};
pub(crate) use self::remove::{Uninstall, uninstall};
use crate::check::trouble;
use crate::cluster::{Connection, apply, delete, name_of};
use crate::manifest::{Choice, Keep};

/// The agents, which take the capture off their nodes when they are told to go for good.
const AGENTS: &str = "culvert-node";

/// The programs that run anywhere.
const PROGRAMS: [&str; 2] = ["culvert-ca", "culvert-control"];

/// Installs or updates Culvert in a cluster.
#[derive(Args)]
pub(crate) struct Install {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    keep: Keep,
    /// Do not wait until everything is ready.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// End the proxies that are being replaced as soon as the new ones are ready: what is still connected through them is reset.
    /// Without it that ends by itself, or with `ztunnel.drainSeconds`.
    #[arg(long, conflicts_with = "no_wait")]
    drain_now: bool,
}

/// Runs `install`.
pub(crate) async fn install(command: Install) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let namespace = &command.choice.namespace;
    make(&client, &command.choice, command.keep).await?;
    if command.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let limit = Duration::from_secs(command.timeout);
    let ready = tokio::time::timeout(limit, ready(&client, namespace)).await;
    ready
        .with_context(|| format!("not everything is ready after {} s; `culvert check` says why", limit.as_secs()))??;
    if command.drain_now {
        let ended = tokio::time::timeout(limit, drain::now(&client, namespace)).await;
        ended.with_context(|| format!("a replaced proxy has not ended after {} s", limit.as_secs()))??;
    }
    eprintln!("Culvert is ready. Next: kubectl label namespace NAME istio.io/dataplane-mode=ambient");
    Ok(ExitCode::SUCCESS)
}

/// Makes everything be as chosen. Says how many objects changed or were deleted.
///
/// # Errors
/// Mistakes in the values, values that would be reset in silence, and what the API server refuses.
pub(crate) async fn make(client: &Client, choice: &Choice, keep: Keep) -> Result<usize> {
    refuse_others(client, choice).await?;
    let chosen = chosen(client, choice, keep).await?;
    chosen.agreed()?;
    let objects = choice.rendered(&chosen.values)?;
    definitions::make(client).await?;
    apply(client, &namespace_object(&choice.namespace)).await?;
    let mut changed = 0;
    for object in &objects {
        if apply(client, object).await.with_context(|| hint(object))? {
            changed += 1;
            eprintln!("  {}", name_of(object));
        }
    }
    eprintln!("{changed} of {} objects changed", objects.len());
    // What other values asked for, and these do not.
    for object in obsolete(client, &choice.namespace, &objects).await? {
        delete(client, &object).await?;
        changed += 1;
        eprintln!("  {} deleted: nothing asks for it any more", name_of(&object));
    }
    Ok(changed)
}

/// Culvert's own namespace.
pub(crate) fn namespace_object(name: &str) -> Value {
    // Privileged pods are admitted only where the namespace says so (Pod Security Standards).
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
        "pod-security.kubernetes.io/enforce": "privileged", "istio.io/dataplane-mode": "none"}}})
}

/// What may be wrong when an object is refused.
fn hint(object: &Value) -> String {
    match object["apiVersion"].as_str() {
        Some("monitoring.coreos.com/v1") => {
            "monitoring.podMonitor and monitoring.prometheusRule need the Prometheus operator; install it or switch them off"
                .to_owned()
        }
        _ => format!("{} cannot be installed", name_of(object)),
    }
}

/// Waits until every program of ours is as the manifests want it.
async fn ready(client: &Client, namespace: &str) -> Result<()> {
    for name in PROGRAMS {
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
        on_every_node(client, namespace, name).await?;
    }
    Ok(())
}

/// Kubernetes' note of how often the template of a DaemonSet has changed; its pods carry it as a label.
const TEMPLATE: (&str, &str) = ("deprecated.daemonset.template.generation", "pod-template-generation");

/// The selector of a DaemonSet's pods that are of its newest template (`=`), or are not (`!=`).
fn of_template(set: &DaemonSet, compare: &str) -> String {
    let generation = set.annotations().get(TEMPLATE.0).cloned().unwrap_or_default();
    format!("app.kubernetes.io/name={},{}{compare}{generation}", set.name_any(), TEMPLATE.1)
}

/// Waits until a pod of the newest template is ready on every node. The status of a DaemonSet does not say so: it counts the
/// oldest pod of a node, and an old proxy drains for as long as somebody is connected to it.
async fn on_every_node(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let seen = |d: &DaemonSet| d.status.as_ref().is_some_and(|s| s.observed_generation == d.metadata.generation);
    wait(sets.clone(), name, seen).await?;
    let set = call(&format!("get {name}"), sets.get(name)).await?;
    let wanted = set.status.as_ref().map_or(0, |s| s.desired_number_scheduled);
    let labels = of_template(&set, "=");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let changes = watcher(pods.clone(), watcher::Config::default().labels(&labels)).default_backoff().touched_objects();
    let mut changes = std::pin::pin!(changes);
    let mut told = BTreeSet::new();
    loop {
        let newest = call("list pods", pods.list(&ListParams::default().labels(&labels))).await?;
        for pod in &newest {
            // What every pod says while it begins is no trouble.
            if let Some(why) = trouble(pod).filter(|why| why != "ContainerCreating" && why != "PodInitializing")
                && told.insert((pod.name_any(), why.clone()))
            {
                eprintln!("  {}: {why}", pod.name_any());
            }
        }
        let ready = newest.iter().filter(|pod| crate::status::is_ready(pod)).count();
        if i32::try_from(ready).is_ok_and(|ready| ready >= wanted) {
            return Ok(());
        }
        match changes.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => bail!("the watch of the pods of {name} ended"),
            // Tried again with growing delays; the caller has a deadline.
            Err(error) => eprintln!("  {name}: {error}"),
        }
    }
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
