//! One file of manifests.

use std::borrow::Cow;
use std::path::Path;

use document::{Check, Mistake, Mistakes, Report};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::arrival;
use crate::grants::made_uid;
use crate::object::{Input, Kind};

/// A document of which only its head is known.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Manifest(Value);

impl JsonSchema for Manifest {
    fn schema_name() -> Cow<'static, str> {
        "Manifest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Each kind has a shape of its own, which its type reads.
        Schema::from(true)
    }
}

impl Check for Manifest {
    fn check(&self, report: &mut Report) {
        for (at, object) in items(&self.0) {
            match read(object) {
                Err((what, remedy)) => report.at(&at).mistake(what, remedy),
                Ok(read) => {
                    for field in read.into_iter().flat_map(|(_, unknown)| unknown) {
                        let name = field.rsplit('/').next().unwrap_or_default();
                        let what = format!("{} has no field {name} here", object["kind"].as_str().unwrap_or_default());
                        let remedy = "take it away, or write the name of the field that you mean";
                        report.at(&format!("{at}{field}")).mistake(what, remedy);
                    }
                }
            }
        }
    }
}

/// Reads the objects of a file that discovery is concerned with.
pub(super) fn load(file: &Path) -> Result<Vec<Input>, Mistakes> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|e| {
        let (what, remedy) = (format!("cannot read the file: {e}"), "check its permissions, and that it is UTF-8");
        let (field, remedy) = (String::new(), remedy.to_owned());
        Mistakes(vec![Mistake { file: name.clone(), line: 1, column: 1, field, what, remedy }])
    })?;
    let (mut objects, mut mistakes) = (Vec::new(), Vec::new());
    for document in documents(&text) {
        match document::parse::<Manifest>(&name, &document) {
            Ok(manifest) => objects.extend(items(&manifest.0).filter_map(|(_, object)| Some(read(object).ok()??.0))),
            Err(found) => mistakes.extend(found.0),
        }
    }
    if mistakes.is_empty() { Ok(objects) } else { Err(Mistakes(mistakes)) }
}

/// The documents of a text, each with as many empty lines before it as to have its mistakes at the lines of the file.
fn documents(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    for (number, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            found.push(std::mem::replace(&mut current, "\n".repeat(number + 1)));
        } else {
            current.push_str(line);
            current.push('\n');
        }
    }
    found.push(current);
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    found.retain(|document| document.lines().any(says));
    found
}

/// The objects of a document with their places: itself, or the items of a list.
fn items(document: &Value) -> Box<dyn Iterator<Item = (String, &Value)> + '_> {
    match document["items"].as_array() {
        Some(items) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
            Box::new(items.iter().enumerate().map(|(i, item)| (format!("/items/{i}"), item)))
        }
        _ => Box::new(std::iter::once((String::new(), document))),
    }
}

/// An object, and the fields of it that its kind does not have.
type Read = (Input, Vec<String>);

/// Reads one object; `None` when its kind is none of ours. Otherwise mistake and remedy.
fn read(object: &Value) -> Result<Option<Read>, (String, &'static str)> {
    let (Some(version), Some(name)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        let what = "apiVersion and kind are needed".to_owned();
        return Err((what, "write it as kubectl apply takes it"));
    };
    let group = |version: &str| version.split_once('/').map(|(group, _)| group.to_owned()).unwrap_or_default();
    let Some(kind) = Kind::ALL.into_iter().find(|k| k.as_str() == name && group(k.api_version()) == group(version))
    else {
        return Ok(None);
    };
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(("metadata.name is needed".to_owned(), "name the object"));
    }
    let object = completed(kind, object);
    match arrival::read_strictly(kind, &object) {
        None => Ok(None),
        Some(Ok(read)) => Ok(Some(read)),
        Some(Err(why)) => Err((format!("not a {kind}: {why}"), "write it as kubectl apply takes it")),
    }
}

/// Adds what an API server would have added: namespace and, for pods, a uid.
fn completed(kind: Kind, object: &Value) -> Value {
    let mut object = object.clone();
    let cluster_wide = matches!(kind, Kind::Namespace | Kind::Node | Kind::GatewayClass);
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if !cluster_wide {
            metadata.entry("namespace").or_insert_with(|| "default".into());
        }
        let text = |metadata: &Map<String, Value>, key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        if !cluster_wide && !metadata.contains_key("uid") {
            let uid = made_uid(&text(metadata, "namespace"), &text(metadata, "name"));
            metadata.insert("uid".to_owned(), uid.into());
        }
    }
    object
}
