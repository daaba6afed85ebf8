//! The files that our programs read, one function a file, in the form that a user would write.

pub(crate) mod agent;
pub(crate) mod authority;
pub(crate) mod control;
pub(crate) mod discovery;
pub(crate) mod waypoint;
mod yaml;
pub(crate) mod ztunnel;

use std::path::Path;

use serde_json::{Value, json};

use crate::error::LabError;
use crate::plan::Plan;
use crate::programs::collector_endpoint;
use crate::spec::Telemetry;
use crate::state::write_atomically;

/// Where spans go, and records of the access log; `None`: nowhere.
fn otlp(plan: &Plan) -> Option<Value> {
    let endpoint = collector_endpoint(plan)?;
    let Telemetry { sampling, access_log, .. } = &plan.spec.telemetry;
    Some(json!({"endpoint": endpoint, "sampling": sampling, "accessLog": access_log}))
}

// Readers watch these files: they see the old one or the new one.
fn write(path: &Path, value: &Value) -> Result<(), LabError> {
    write_atomically(path, &yaml::text(value))
}
