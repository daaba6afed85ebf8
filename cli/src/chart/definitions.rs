//! The template of the chart `culvert-crds`, made of the types in the crate `kubernetes`. Only Helm renders it.

use anyhow::{Context, Result};
use kubernetes::object::{MANAGED_BY, crds};
use serde_json::json;

use super::function;

/// What says that an object is part of Culvert, whoever manages it: Helm writes itself into [`MANAGED_BY`].
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "culvert");

const HEAD: &str = "\
{{- /* Made by `culvert manifest definitions`; a test says when it is out of date.

A definition that is there and that this release did not make is left alone. Helm never deletes one by itself, because users'
objects go with it; remove.yaml does, when there are none. */ -}}
";

/// The text of `templates/crds.yaml`.
///
/// # Errors
/// A definition that a template cannot carry, which is a mistake of ours.
pub(crate) fn template() -> Result<String> {
    let mut text = HEAD.to_owned();
    for definition in crds() {
        let mut object = serde_json::to_value(&definition)?;
        object["apiVersion"] = json!("apiextensions.k8s.io/v1");
        object["kind"] = json!("CustomResourceDefinition");
        let name = object["metadata"]["name"].as_str().context("a definition has no name")?.to_owned();
        let labels = &mut object["metadata"]["labels"];
        labels[MANAGED_BY] = json!("@SERVICE@");
        labels[PART_OF.0] = json!(PART_OF.1);
        if object["metadata"]["annotations"].is_null() {
            object["metadata"]["annotations"] = json!({});
        }
        object["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
        object.as_object_mut().context("a definition is no object")?.remove("status");
        let body = function::yaml(&object);
        anyhow::ensure!(!body.contains("{{"), "the definition {name} has a text that Helm would take for an action");
        let body = body.replace("\"@SERVICE@\"", "{{ .Release.Service }}");
        text.push_str(&format!(
            "{{{{- $there := lookup \"apiextensions.k8s.io/v1\" \"CustomResourceDefinition\" \"\" \"{name}\" }}}}\n\
             {{{{- $by := dig \"metadata\" \"annotations\" \"meta.helm.sh/release-name\" \"\" $there }}}}\n\
             {{{{- $from := dig \"metadata\" \"annotations\" \"meta.helm.sh/release-namespace\" \"\" $there }}}}\n\
             {{{{- if or (not $there) (and (eq $by .Release.Name) (eq $from .Release.Namespace)) }}}}\n\
             ---\n{body}\n{{{{- end }}}}\n"
        ));
    }
    Ok(text)
}

/// The kinds that the definitions define, for roles: (group, plural).
#[cfg(test)]
pub(super) fn kinds() -> Vec<(String, String)> {
    let of = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let names = |d| serde_json::to_value(d).map(|d| (of(&d["spec"]["group"]), of(&d["spec"]["names"]["plural"])));
    crds().iter().filter_map(|d| names(d).ok()).collect()
}
