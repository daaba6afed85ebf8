//! The chart `culvert`, as it lies in `manifests/culvert` and in this program: one set of files for `helm install` and for
//! `culvert install`.

mod function;
mod template;
mod values;

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use document::{Check, Mistakes, Report};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::values::Values;

/// The templates, in the order in which their objects are made: whoever needs a root or an account comes after it.
const TEMPLATES: [(&str, &str); 6] = [
    ("ca.yaml", include_str!("../../manifests/culvert/templates/ca.yaml")),
    ("control.yaml", include_str!("../../manifests/culvert/templates/control.yaml")),
    ("node.yaml", include_str!("../../manifests/culvert/templates/node.yaml")),
    ("ztunnel.yaml", include_str!("../../manifests/culvert/templates/ztunnel.yaml")),
    ("network-policies.yaml", include_str!("../../manifests/culvert/templates/network-policies.yaml")),
    ("monitoring.yaml", include_str!("../../manifests/culvert/templates/monitoring.yaml")),
];

const DEFAULTS: &str = include_str!("../../manifests/culvert/values.yaml");

/// Version of the chart, and of the programs that it names unless told otherwise.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The schema of the values, as `values.schema.json` has it.
pub(crate) fn schema() -> Value {
    schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Values>().to_value()
}

/// The defaults, overlaid with files and settings as Helm does it: maps are merged, all else is replaced.
///
/// # Errors
/// Every mistake in a file with its line, or a setting that does not fit.
pub(crate) fn values(files: &[impl AsRef<Path>], settings: &[String]) -> Result<Value> {
    let mut merged = parse("values.yaml", DEFAULTS)?;
    for file in files {
        let overlay: Overlay = document::load(file.as_ref())?;
        merge(&mut merged, overlay.0);
    }
    for setting in settings {
        let (path, text) =
            setting.split_once('=').with_context(|| format!("--set {setting}: not of the form path.to.key=value"))?;
        merge(&mut merged, nested(path, scalar(text)));
    }
    // What --set brought is checked here; a file was checked with its lines before.
    if let Err(error) = serde_json::from_value::<Values>(merged.clone()) {
        bail!("the values do not fit together: {error}; `culvert manifest schema` prints what can be set");
    }
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

/// Renders every object of the chart.
///
/// # Errors
/// A mistake in a template, which is ours.
pub(crate) fn objects(release: &Release<'_>, values: &Value) -> Result<Vec<Value>> {
    let root = json!({
        "Values": values,
        "Chart": {"Name": "culvert", "Version": VERSION, "AppVersion": VERSION},
        "Release": {"Name": release.name, "Namespace": release.namespace, "Service": release.service},
    });
    let mut objects = Vec::new();
    for (name, text) in TEMPLATES {
        let made = template::render(text, &root).with_context(|| format!("template {name}"))?;
        for part in made.split("\n---\n") {
            if part.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#')) {
                objects.push(parse(name, part)?);
            }
        }
    }
    Ok(objects)
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

/// `a.b` and 1 → `{a: {b: 1}}`.
fn nested(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_owned(), inner)])))
}

/// As Helm's `--set`: `{a,b}` is a list, numbers and truth are themselves, all else is text.
fn scalar(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
        return list.split(',').filter(|t| !t.is_empty()).map(|t| scalar(t.trim())).collect();
    }
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    }
}

#[cfg(test)]
mod tests;
