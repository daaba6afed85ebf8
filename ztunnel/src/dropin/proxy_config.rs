//! `PROXY_CONFIG`: settings of the mesh, which rank below the variables.

use std::time::Duration;

use document::{Check, Span};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Mistake;
use super::environment::Environment;

/// The parts of a ProxyConfig that concern a node proxy. The others are for sidecars and gateways: the same text goes to
/// all of them, so a key that we do not know is no mistake.
#[derive(Debug, Default)]
pub(super) struct ProxyConfig {
    /// Port of the admin server.
    pub(super) proxy_admin_port: Option<u16>,
    /// Port of the metrics server.
    pub(super) stats_port: Option<u16>,
    /// Threads; 0 = one for each CPU.
    pub(super) concurrency: Option<usize>,
    /// Where the control plane is.
    pub(super) discovery_address: Option<String>,
    /// How long open connections may go on at the end.
    pub(super) termination_drain_duration: Option<Duration>,
    /// Further variables.
    pub(super) proxy_metadata: Environment,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Text {
    proxy_admin_port: Option<u16>,
    stats_port: Option<u16>,
    concurrency: Option<usize>,
    discovery_address: Option<String>,
    termination_drain_duration: Option<String>,
    proxy_metadata: Environment,
}

impl Check for Text {}

impl ProxyConfig {
    /// Reads `PROXY_CONFIG`; an empty one when there is none, or when it is wrong.
    pub(super) fn read(environment: &Environment) -> (Self, Vec<Mistake>) {
        let text = environment.get("PROXY_CONFIG").map_or("", |text| text.trim());
        if text.is_empty() {
            return (Self::default(), Vec::new());
        }
        let wrong = |what: String, remedy: &str| Mistake {
            variable: "PROXY_CONFIG".to_owned(),
            what,
            remedy: if remedy.is_empty() { "write the YAML of a ProxyConfig" } else { remedy }.to_owned(),
        };
        let read = match document::parse::<Text>("PROXY_CONFIG", text) {
            Ok(read) => read,
            Err(mistakes) => {
                let of = |m: document::Mistake| {
                    wrong(format!("line {}, column {}: {}: {}", m.line, m.column, m.field, m.what), &m.remedy)
                };
                return (Self::default(), mistakes.0.into_iter().map(of).collect());
            }
        };
        let mut mistakes = Vec::new();
        let drain = read.termination_drain_duration.as_deref().and_then(|text| match text.parse::<Span>() {
            Ok(span) => Some(span.into()),
            Err(error) => {
                mistakes.push(wrong(format!("terminationDrainDuration: {error}"), "write a duration such as 5s"));
                None
            }
        });
        let made = Self {
            proxy_admin_port: read.proxy_admin_port,
            stats_port: read.stats_port,
            concurrency: read.concurrency,
            discovery_address: read.discovery_address.filter(|address| !address.is_empty()),
            termination_drain_duration: drain,
            proxy_metadata: read.proxy_metadata,
        };
        (made, mistakes)
    }
}
