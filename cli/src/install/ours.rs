//! What of an installation is in a cluster.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DynamicObject, ListParams};
use kube::{Client, ResourceExt};
use kubernetes::client::{CallError, call};
use kubernetes::object::{MANAGED_BY, MANAGED_BY_US};
use serde_json::{Value, json};

use crate::chart;
use crate::cluster::{PROGRAM, api_of};
use crate::manifest::{Choice, HELM};

/// Every kind that the chart makes, in the order in which they are deleted: nobody loses a right or a configuration before it
/// has ended.
const KINDS: [(&str, &str, bool); 13] = [
    // (apiVersion, kind, whether it is in a namespace)
    ("monitoring.coreos.com/v1", "PrometheusRule", true),
    ("monitoring.coreos.com/v1", "PodMonitor", true),
    ("policy/v1", "PodDisruptionBudget", true),
    ("apps/v1", "DaemonSet", true),
    ("apps/v1", "Deployment", true),
    ("networking.k8s.io/v1", "NetworkPolicy", true),
    ("v1", "Service", true),
    ("v1", "ConfigMap", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
    ("rbac.authorization.k8s.io/v1", "Role", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
    ("v1", "ServiceAccount", true),
];

/// The ConfigMap that keeps the values (templates/installed.yaml), and its key.
const RECORD: (&str, &str) = ("culvert", "values.json");

/// What an installation keeps of itself.
pub(super) struct Record {
    /// Who manages it: the value of the label.
    pub(super) by: String,
    /// Its values.
    pub(super) values: Value,
}

/// Reads the record of the installation in a namespace.
///
/// # Errors
/// When the API server does not answer, or the record cannot be read.
pub(super) async fn record(client: &Client, namespace: &str) -> Result<Option<Record>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (name, key) = RECORD;
    let Some(map) = call("get the recorded values", api.get_opt(name)).await? else { return Ok(None) };
    let by = map.labels().get(MANAGED_BY).cloned().unwrap_or_default();
    let text = map.data.unwrap_or_default().remove(key).unwrap_or_else(|| "{}".to_owned());
    let values = chart::recorded(&text);
    let what =
        || format!("ConfigMap {namespace}/{name} does not hold values; delete it, and give the values by -f and --set");
    Ok(Some(Record { by, values: values.with_context(what)? }))
}

/// The namespaces whose pods an installation never captures.
///
/// # Errors
/// As of [`record`].
pub(crate) async fn excluded(client: &Client, namespace: &str) -> Result<BTreeSet<String>> {
    let record = record(client, namespace).await?;
    let listed = record.as_ref().and_then(|record| record.values["mesh"]["excludedNamespaces"].as_array());
    Ok(listed.into_iter().flatten().filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect())
}

/// Refuses to work on an installation that somebody else manages.
///
/// # Errors
/// What to do instead.
pub(crate) async fn refuse_others(client: &Client, choice: &Choice) -> Result<()> {
    match record(client, &choice.namespace).await? {
        Some(record) if record.by == HELM => bail!(
            "the installation in {} is Helm's; use `helm upgrade`, `helm diff` and `helm uninstall`, with the release that \
             `helm list -n {}` names",
            choice.namespace,
            choice.namespace
        ),
        _ => Ok(()),
    }
}

/// Every object that `culvert install` made, without its contents.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn all(client: &Client, namespace: &str) -> Result<Vec<Value>> {
    let (part, of) = chart::PART_OF;
    let labelled = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGED_BY_US},{part}={of}"));
    let mut found = Vec::new();
    for (version, kind, in_namespace) in KINDS {
        let mut sample = json!({"apiVersion": version, "kind": kind, "metadata": {}});
        if in_namespace {
            sample["metadata"]["namespace"] = json!(namespace);
        }
        let listed = call(&format!("list our {kind}s"), api_of(client, &sample)?.list_metadata(&labelled)).await;
        let items = match listed {
            Ok(list) => list.items,
            // A kind that the cluster does not have, as those of the Prometheus operator.
            Err(CallError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        for item in items.iter().filter(|item| made_by_us(&item.metadata)) {
            let mut object = sample.clone();
            object["metadata"]["name"] = json!(item.name_any());
            found.push(object);
        }
    }
    Ok(found)
}

/// Whether this program has applied an object: labels alone could be copied.
fn made_by_us(metadata: &kube::core::ObjectMeta) -> bool {
    metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(PROGRAM))
}

/// What earlier installations made and this one does not have.
///
/// # Errors
/// When the API server does not answer.
pub(crate) async fn obsolete(client: &Client, namespace: &str, wanted: &[Value]) -> Result<Vec<Value>> {
    let mut found = all(client, namespace).await?;
    let wanted: BTreeSet<_> = wanted.iter().map(identity).collect();
    found.retain(|object| !wanted.contains(&identity(object)));
    Ok(found)
}

/// What tells an object from others: group, kind, namespace and name.
fn identity(object: &Value) -> [String; 4] {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text("/apiVersion");
    let group = version.split_once('/').map_or("", |(group, _)| group).to_owned();
    [group, text("/kind"), text("/metadata/namespace"), text("/metadata/name")]
}

/// Whether an object has a label with a value.
pub(super) fn is_managed_by(object: &DynamicObject, by: &str) -> bool {
    object.labels().get(MANAGED_BY).is_some_and(|m| m == by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_chart_is_known() {
        let values = chart::values(
            &[""; 0],
            &["networkPolicies.enabled=true,monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true"
                .to_owned()],
        );
        let release = chart::Release { name: "culvert", namespace: "culvert-system", service: MANAGED_BY_US };
        let objects = chart::objects(&release, &values.unwrap()).unwrap();
        for object in objects.iter().filter(|o| !chart::is_hook(o)) {
            let known =
                KINDS.iter().find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind);
            let (.., in_namespace) = known.unwrap_or_else(|| panic!("{object} would not be removed"));
            assert_eq!(object["metadata"]["namespace"].is_string(), *in_namespace, "{object}");
            let labels = &object["metadata"]["labels"];
            assert_eq!((&labels[MANAGED_BY], &labels[chart::PART_OF.0]), (&json!("culvert"), &json!("culvert")));
        }
    }

    #[test]
    fn the_version_of_a_group_does_not_tell_objects_apart() {
        let object =
            |version: &str| json!({"apiVersion": version, "kind": "K", "metadata": {"name": "n", "namespace": "x"}});
        assert_eq!(identity(&object("policy/v1")), identity(&object("policy/v1beta1")));
        assert_ne!(identity(&object("v1")), identity(&object("policy/v1")));
    }
}
