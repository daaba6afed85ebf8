//! What a user lays over the objects of a waypoint: a ConfigMap that `infrastructure.parametersRef` of the Gateway (or
//! `parametersRef` of its class) names. Its keys are the objects, their values pieces of them, in YAML.

use std::borrow::Cow;
use std::collections::BTreeMap;

use document::{Check, Report};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::Fault;

/// Objects that can be laid over, by the keys that Istio gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// `horizontalPodAutoscaler`: naming it makes one.
    Autoscaler,
    /// `podDisruptionBudget`: naming it makes one.
    Budget,
    /// `deployment`
    Deployment,
    /// `service`
    Service,
    /// `serviceAccount`
    ServiceAccount,
}

impl Part {
    const ALL: [Self; 5] = [Self::Autoscaler, Self::Budget, Self::Deployment, Self::Service, Self::ServiceAccount];

    /// Its key in the ConfigMap.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Autoscaler => "horizontalPodAutoscaler",
            Self::Budget => "podDisruptionBudget",
            Self::Deployment => "deployment",
            Self::Service => "service",
            Self::ServiceAccount => "serviceAccount",
        }
    }
}

/// What one ConfigMap lays over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Overlay {
    /// `ConfigMap namespace/name`.
    pub(crate) name: String,
    parts: BTreeMap<Part, Value>,
}

impl Overlay {
    /// Reads a ConfigMap's data.
    ///
    /// # Errors
    /// Every mistake in it.
    pub(crate) fn read(name: &str, data: &BTreeMap<String, String>) -> Result<Self, Vec<Fault>> {
        let (mut parts, mut faults) = (BTreeMap::new(), Vec::new());
        for (key, text) in data {
            let place = format!("{name}, key {key}");
            let Some(part) = Part::ALL.into_iter().find(|part| part.key() == key) else {
                let known = Part::ALL.map(Part::key).join(", ");
                faults.push(Fault::new(place, "no object of a waypoint is called so", format!("use {known}")));
                continue;
            };
            // An empty piece changes nothing, but names the object.
            if text.trim().is_empty() {
                parts.insert(part, Value::Object(Map::new()));
                continue;
            }
            match document::parse::<Piece>(&place, text) {
                Ok(Piece(value @ Value::Object(_))) => drop(parts.insert(part, value)),
                Ok(_) => faults.push(Fault::new(place, "this is no map", "write a piece of the object in YAML")),
                Err(mistakes) => faults.extend(
                    mistakes.0.into_iter().map(|m| Fault::new(format!("{place}, line {}", m.line), m.what, m.remedy)),
                ),
            }
        }
        if faults.is_empty() { Ok(Self { name: name.to_owned(), parts }) } else { Err(faults) }
    }

    /// What it lays over an object.
    pub(crate) fn part(&self, part: Part) -> Option<&Value> {
        self.parts.get(&part)
    }
}

/// Any YAML.
#[derive(Deserialize)]
#[serde(transparent)]
struct Piece(Value);

impl Check for Piece {
    fn check(&self, _: &mut Report) {}
}

impl JsonSchema for Piece {
    fn schema_name() -> Cow<'static, str> {
        "Piece".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(data: &[(&str, &str)]) -> Result<Overlay, String> {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Overlay::read("ConfigMap shop/options", &data).map_err(|f| super::super::fault::all(&f))
    }

    #[test]
    fn every_mistake_is_named_with_its_key() {
        let overlay = read(&[("deployment", "spec: {replicas: 3}\n"), ("podDisruptionBudget", "")]).unwrap();
        assert_eq!(overlay.part(Part::Deployment), Some(&json!({"spec": {"replicas": 3}})));
        assert_eq!(overlay.part(Part::Budget), Some(&json!({})));
        assert_eq!(overlay.part(Part::Service), None);
        let told = read(&[("deploymnet", "{}"), ("service", "spec: ["), ("deployment", "[1]")]).unwrap_err();
        for named in ["key deploymnet", "podDisruptionBudget", "key service, line", "key deployment: this is no map"] {
            assert!(told.contains(named), "{named}: {told}");
        }
    }
}
