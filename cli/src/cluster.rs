//! The cluster that a command works on.

use std::future::Future;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use kubernetes::client::{self, CallError, Source};
use serde_json::Value;

/// Who we are in the API server's log and among field managers.
pub(crate) const PROGRAM: &str = "culvert-cli";

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// File that says where the cluster is.
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context in that file; its current one when not given.
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
}

impl Connection {
    /// A client: by the file, else by `~/.kube/config`, else, in a pod, by its service account.
    ///
    /// # Errors
    /// When no place says where the cluster is, or says it wrongly.
    pub(crate) async fn client(&self) -> Result<Client> {
        let home = std::env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        let source = match self.kubeconfig.clone().or(home) {
            Some(path) => Source::Kubeconfig { path, context: self.context.clone() },
            None => Source::InCluster,
        };
        Ok(client::connect(&source, PROGRAM).await?)
    }
}

/// Runs a command to its end. Errors are one message on stderr and status 1.
pub(crate) fn run(work: impl Future<Output = Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    finish(runtime.context("no runtime").and_then(|runtime| runtime.block_on(work)))
}

/// The exit status of what was done; an error is told on stderr.
pub(crate) fn finish(done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        // The reader of our output had enough, as in `culvert manifest generate | head`.
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// An object's kind and name, for messages.
pub(crate) fn name_of(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match text("/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// The API of an object's kind.
///
/// # Errors
/// When the object does not say what it is.
pub(crate) fn api_of(client: &Client, object: &Value) -> Result<Api<DynamicObject>> {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let (Some(version), Some(kind)) = (text("/apiVersion"), text("/kind")) else {
        bail!("{} has no apiVersion and kind", name_of(object));
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(match text("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Makes an object be as it is given (server-side apply), and says whether that changed anything.
///
/// # Errors
/// What the API server says.
pub(crate) async fn apply(client: &Client, object: &Value) -> Result<bool> {
    let api = api_of(client, object)?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let what = format!("apply {}", name_of(object));
    let before = client::call(&what, api.get_metadata_opt(name)).await?.and_then(|o| o.resource_version());
    // Forced: an installation is ours, whoever changed it by hand.
    let params = PatchParams::apply(PROGRAM).force();
    let after = client::call(&what, api.patch(name, &params, &Patch::Apply(object))).await?;
    Ok(before != after.resource_version())
}

/// Deletes an object, and says whether it was there.
///
/// # Errors
/// What the API server says.
pub(crate) async fn delete(client: &Client, object: &Value) -> Result<bool> {
    let api = api_of(client, object)?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let what = format!("delete {}", name_of(object));
    match client::call(&what, api.delete(name, &kube::api::DeleteParams::background())).await {
        Ok(_) => Ok(true),
        Err(CallError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
