//! The definitions of custom resources: made where nobody made them, kept while anything is of them.

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use kubernetes::object::{MANAGED_BY, MANAGED_BY_US, crds};
use serde_json::{Value, json};

use super::ours::is_managed_by;
use crate::chart::PART_OF;
use crate::cluster::{PROGRAM, api_of, name_of};
use crate::manifest::HELM;

/// The definitions that are ours to make: those that nobody else has.
///
/// # Errors
/// When the API server does not answer.
pub(crate) async fn definitions_to_make(client: &Client) -> Result<Vec<Value>> {
    let mut wanted = Vec::new();
    for definition in crds() {
        let mut object = serde_json::to_value(&definition)?;
        object["apiVersion"] = json!("apiextensions.k8s.io/v1");
        object["kind"] = json!("CustomResourceDefinition");
        let api = api_of(client, &object)?;
        let there = call("get a resource definition", api.get_opt(&definition.name_any())).await?;
        if there.is_none_or(|there| is_managed_by(&there, MANAGED_BY_US)) {
            wanted.push(object);
        }
    }
    Ok(wanted)
}

/// Makes them, or brings them up to date.
///
/// # Errors
/// When the API server refuses one.
pub(super) async fn make(client: &Client) -> Result<()> {
    for object in definitions_to_make(client).await? {
        let (api, name) = (api_of(client, &object)?, object["metadata"]["name"].as_str().unwrap_or_default());
        let before = call("get a resource definition", api.get_metadata_opt(name)).await?;
        let known = before.as_ref().is_some_and(|b| b.labels().get(MANAGED_BY).is_some_and(|m| m == MANAGED_BY_US));
        // Not forced where it is new: somebody who makes it at this moment keeps it.
        let params = PatchParams { force: known, ..PatchParams::apply(PROGRAM) };
        let after =
            call(&format!("apply {}", name_of(&object)), api.patch(name, &params, &Patch::Apply(&object))).await?;
        if before.and_then(|b| b.resource_version()) != after.resource_version() {
            eprintln!("  {}", name_of(&object));
        }
    }
    Ok(())
}

/// Deletes those that we (or Helm from our chart) made, unless somebody's objects would go with them.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn delete(client: &Client, by: &str) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    // Helm writes its own name into everything; the chart's label says that it was ours.
    let part = if by == HELM { format!(",{}={}", PART_OF.0, PART_OF.1) } else { String::new() };
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={by}{part}"));
    for definition in call("list our resource definitions", api.list(&ours)).await? {
        let name = definition.name_any();
        let kind = &definition.spec.names.kind;
        let version = definition.spec.versions.iter().find(|v| v.storage).map(|v| v.name.as_str()).unwrap_or_default();
        let sample = json!({"apiVersion": format!("{}/{version}", definition.spec.group), "kind": kind});
        let left = call("list objects of a kind", api_of(client, &sample)?.list(&ListParams::default())).await?;
        if left.items.is_empty() {
            call("delete a resource definition", api.delete(&name, &DeleteParams::background())).await?;
            eprintln!("  CustomResourceDefinition {name}");
        } else {
            eprintln!("  CustomResourceDefinition {name} is kept: {} objects of that kind are yours", left.items.len());
        }
    }
    Ok(())
}
