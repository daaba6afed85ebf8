//! The values to install with, when there is an installation that has values already.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use kube::Client;
use serde_json::{Map, Value};

use super::ours;
use crate::chart;
use crate::manifest::{Choice, Keep};

/// The values, and what becomes of those that the installation has.
pub(crate) struct Chosen {
    pub(crate) values: Value,
    /// Values of the installation that would be reset although nobody said so: `path: old -> new`.
    reset: Vec<String>,
}

impl Chosen {
    /// # Errors
    /// What would be reset in silence, such as the pod networks, without which unknown pods are reached in clear.
    pub(crate) fn agreed(&self) -> Result<()> {
        if self.reset.is_empty() {
            return Ok(());
        }
        bail!(
            "the installation has other values, which would be reset:\n  {}\ngive them again (-f, --set), or say --reuse-values to \
             keep what is not given, or --reset-values",
            self.reset.join("\n  ")
        )
    }
}

/// Chooses.
///
/// # Errors
/// Mistakes in the values, or when the API server does not answer.
pub(crate) async fn chosen(client: &Client, choice: &Choice, keep: Keep) -> Result<Chosen> {
    let fresh = chart::values(&choice.files, &choice.settings)?;
    let record = match keep.reset_values {
        true => None,
        false => ours::record(client, &choice.namespace).await?,
    };
    let Some(record) = record else { return Ok(Chosen { values: fresh, reset: Vec::new() }) };
    if keep.reuse_values {
        let values = chart::over(record.values, &choice.files, &choice.settings)?;
        return Ok(Chosen { values, reset: Vec::new() });
    }
    // What is given wins over the recorded values as over the defaults, and so does not differ.
    let kept = chart::overlaid(record.values, &choice.files, &choice.settings)?;
    let mut reset = Vec::new();
    differing("", &kept, &fresh, &mut reset);
    Ok(Chosen { values: fresh, reset })
}

fn differing(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) if !after.is_empty() && !before.is_empty() => {
            for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let of = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differing(&path, &of(before), &of(after), found);
            }
        }
        (old, new) if old != new => found.push(format!("{path}: {old} -> {new}")),
        _ => {}
    }
}
