//! The files that our programs read, one function a file, in the form that a user would write.

pub(crate) mod agent;
pub(crate) mod authority;
pub(crate) mod control;
pub(crate) mod discovery;
pub(crate) mod waypoint;
mod yaml;
pub(crate) mod ztunnel;

use std::path::Path;

use serde_json::Value;

use crate::error::LabError;
use crate::state::write_atomically;

// Readers watch these files: they see the old one or the new one.
fn write(path: &Path, value: &Value) -> Result<(), LabError> {
    write_atomically(path, &yaml::text(value))
}
