//! The chart `culvert`, as it lies in `manifests/culvert` and in this program: one set of files for `helm install` and for
//! `culvert install`.

mod definitions;
mod form;
mod function;
mod go;
mod setting;
mod template;
mod values;

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use document::{Check, Mistakes, Report};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};

use self::values::{DefinitionValues, Values};

pub(crate) use self::definitions::{PART_OF, template as definitions_template};

/// The templates, in the order in which their objects are made: whoever needs a root or an account comes after it.
const TEMPLATES: [(&str, &str); 9] = [
    ("installed.yaml", include_str!("../../manifests/culvert/templates/installed.yaml")),
    ("ca.yaml", include_str!("../../manifests/culvert/templates/ca.yaml")),
    ("control.yaml", include_str!("../../manifests/culvert/templates/control.yaml")),
    ("node.yaml", include_str!("../../manifests/culvert/templates/node.yaml")),
    ("ztunnel.yaml", include_str!("../../manifests/culvert/templates/ztunnel.yaml")),
    ("network-policies.yaml", include_str!("../../manifests/culvert/templates/network-policies.yaml")),
    ("monitoring.yaml", include_str!("../../manifests/culvert/templates/monitoring.yaml")),
    ("remove.yaml", include_str!("../../manifests/culvert/templates/remove.yaml")),
    ("tests/check.yaml", include_str!("../../manifests/culvert/templates/tests/check.yaml")),
];

/// By this annotation Helm knows an object that belongs to a moment, such as a test, and not to the installation.
const HOOK: &str = "helm.sh/hook";

const DEFAULTS: &str = include_str!("../../manifests/culvert/values.yaml");

/// Version of the chart, and of the programs that it names unless told otherwise.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The schema of the values, as `values.schema.json` has it.
pub(crate) fn schema() -> Value {
    schema_of::<Values>()
}

/// The same of the chart `culvert-crds`.
pub(crate) fn definitions_schema() -> Value {
    schema_of::<DefinitionValues>()
}

fn schema_of<V: JsonSchema>() -> Value {
    schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<V>().to_value()
}

/// The defaults, overlaid with files and settings as Helm does it: maps are merged, all else is replaced.
///
/// # Errors
/// Every mistake in a file with its line, or a setting that does not fit.
pub(crate) fn values(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Value> {
    over(parse("values.yaml", DEFAULTS)?, files, settings)
}

/// The same over other values in place of the defaults.
///
/// # Errors
/// As [`values`].
pub(crate) fn over(base: Value, files: &[impl AsRef<Path>], settings: &[String]) -> Result<Value> {
    let merged = overlaid(base, files, settings)?;
    // What --set brought is checked here; a file was checked with its lines before.
    if let Err(mistakes) = document::parse::<Values>("values", &merged.to_string()) {
        let told: Vec<String> = mistakes.0.iter().map(|m| format!("{}: {}; {}", m.field, m.what, m.remedy)).collect();
        bail!(
            "the values do not fit together:\n  {}\n`culvert manifest schema` prints what can be set",
            told.join("\n  ")
        );
    }
    Ok(merged)
}

/// The same, without a look at whether they fit together: keys of another version may be among them.
///
/// # Errors
/// As [`values`].
pub(crate) fn overlaid(mut merged: Value, files: &[impl AsRef<Path>], settings: &[String]) -> Result<Value> {
    for file in files {
        let overlay: Overlay = document::load(file.as_ref())?;
        merge(&mut merged, overlay.0);
    }
    for setting in settings {
        for overlay in setting::parse(setting)? {
            merge(&mut merged, overlay);
        }
    }
    Ok(merged)
}

/// Values that an installation recorded (the ConfigMap `culvert`), completed by today's defaults.
///
/// # Errors
/// When they are no JSON.
pub(crate) fn recorded(text: &str) -> Result<Value> {
    let mut merged = parse("values.yaml", DEFAULTS)?;
    merge(&mut merged, serde_json::from_str(text)?);
    Ok(merged)
}

/// Where the objects go and who is said to manage them.
pub(crate) struct Release<'a> {
    /// Name of the release.
    pub(crate) name: &'a str,
    /// Namespace.
    pub(crate) namespace: &'a str,
    /// The label `app.kubernetes.io/managed-by`.
    pub(crate) service: &'a str,
}

/// Whether an object is one of Helm's hooks, which `culvert install` does not make.
pub(crate) fn is_hook(object: &Value) -> bool {
    object["metadata"]["annotations"][HOOK].is_string()
}

/// Renders every object of the chart, Helm's hooks among them.
///
/// # Errors
/// A mistake in a template, which is ours.
pub(crate) fn objects(release: &Release<'_>, values: &Value) -> Result<Vec<Value>> {
    rendered(&TEMPLATES, release, values)
}

/// Renders some templates.
fn rendered(templates: &[(&str, &str)], release: &Release<'_>, values: &Value) -> Result<Vec<Value>> {
    let root = json!({
        "Values": values,
        "Chart": {"Name": "culvert", "Version": VERSION, "AppVersion": VERSION},
        "Release": {"Name": release.name, "Namespace": release.namespace, "Service": release.service},
    });
    let mut objects = Vec::new();
    for (name, text) in templates {
        let made = template::render(text, &root).with_context(|| format!("template {name}"))?;
        for part in made.split("\n---\n") {
            if part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
                objects.push(parse(name, part)?);
            }
        }
    }
    Ok(objects)
}

/// The objects of both charts that Helm makes with the defaults, hooks among them.
#[cfg(test)]
pub(crate) fn helms() -> Vec<Value> {
    let release = Release { name: "culvert", namespace: "culvert-system", service: crate::manifest::HELM };
    let values = values(&[""; 0], &[]).unwrap();
    let hook = include_str!("../../manifests/culvert-crds/templates/remove.yaml");
    let mut objects = objects(&release, &values).unwrap();
    objects.extend(rendered(&[("remove.yaml", hook)], &release, &values).unwrap());
    objects
}

/// An object as YAML, for reading.
pub(crate) fn yaml(object: &Value) -> String {
    function::yaml(object)
}

/// Reads one document of anything.
fn parse(name: &str, text: &str) -> Result<Value, Mistakes> {
    document::parse::<Anything>(name, text).map(|a| a.0)
}

/// Any document: templates and defaults are ours and tested.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Anything(Value);

impl Check for Anything {
    fn check(&self, _: &mut Report) {}
}

/// Some of the values: their schema without what is needed.
#[derive(Deserialize)]
#[serde(transparent)]
struct Overlay(Value);

impl Check for Overlay {
    fn check(&self, _: &mut Report) {}
}

impl JsonSchema for Overlay {
    fn schema_name() -> Cow<'static, str> {
        "Overlay".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // Everything inline, so that no definition elsewhere asks for keys again.
        let mut settings = generator.settings().clone();
        settings.inline_subschemas = true;
        let mut schema = settings.into_generator().into_root_schema_for::<Values>().to_value();
        optional(&mut schema);
        Schema::try_from(schema).unwrap_or_default()
    }
}

/// Takes `required` away, everywhere.
fn optional(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // A property may be called so too; then it is an object and not a list.
            if map.get("required").is_some_and(Value::is_array) {
                map.remove("required");
            }
            map.values_mut().for_each(optional);
        }
        Value::Array(items) => items.iter_mut().for_each(optional),
        _ => {}
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests;
