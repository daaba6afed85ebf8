//! What the `OTEL_*` variables say.

use std::time::Duration;

use super::{Collector, TIMEOUT, TracingConfig, TracingError};
use crate::sampler::Sampler;

impl TracingConfig {
    /// Reads the `OTEL_*` variables through `variable`; `service` is the name unless they give one. `None` when no
    /// collector is named, or the SDK or every exporter is switched off. Access records are exported where
    /// `OTEL_LOGS_EXPORTER` says `otlp`, which is not its default here: they are written anyway.
    ///
    /// # Errors
    /// When a variable holds what we cannot do.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<String>, service: &str) -> Result<Option<Self>, TracingError> {
        let get = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let either = |own: &'static str, common: &'static str| match get(own) {
            Some(value) => Some((own, value)),
            None => get(common).map(|value| (common, value)),
        };
        let off = get("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let traces = !off && get("OTEL_TRACES_EXPORTER").is_none_or(|v| v != "none");
        let logs = !off && get("OTEL_LOGS_EXPORTER").is_some_and(|v| v == "otlp");
        let access = if logs { LOGS.read(&either)? } else { None };
        let collector = match if traces { TRACES.read(&either)? } else { None } {
            Some(collector) => collector,
            None => match &access {
                Some(access) => access.clone(),
                None => return Ok(None),
            },
        };
        let mut config = Self::new("", service);
        (config.endpoint, config.headers, config.timeout) = (collector.endpoint, collector.headers, collector.timeout);
        config.access = access;
        if !traces {
            config.sampler = Sampler::AlwaysOff;
        } else if let Some(name) = get("OTEL_TRACES_SAMPLER") {
            config.sampler = Sampler::parse(&name, get("OTEL_TRACES_SAMPLER_ARG").as_deref())?;
        }
        if let Some(text) = get("OTEL_RESOURCE_ATTRIBUTES") {
            for (key, value) in pairs("OTEL_RESOURCE_ATTRIBUTES", &text)? {
                config.attribute(&key, value);
            }
        }
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            config.attribute("service.name", name);
        }
        config.limits(&get)?;
        Ok(Some(config))
    }

    fn limits(&mut self, get: &dyn Fn(&str) -> Option<String>) -> Result<(), TracingError> {
        for (name, slot) in
            [("OTEL_BSP_MAX_QUEUE_SIZE", &mut self.queue), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &mut self.batch)]
        {
            if let Some(value) = get(name) {
                *slot = value.parse().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or(TracingError::Number {
                    name,
                    value,
                    wanted: "a number from 1 to 1000000",
                })?;
            }
        }
        self.batch = self.batch.min(self.queue);
        if let Some(value) = get("OTEL_BSP_SCHEDULE_DELAY") {
            self.delay = millis("OTEL_BSP_SCHEDULE_DELAY", value)?;
        }
        Ok(())
    }
}

/// The variables of one kind of data, each with the common one that it overrides.
struct Signal {
    endpoint: &'static str,
    headers: &'static str,
    timeout: &'static str,
    protocol: &'static str,
    compression: &'static str,
}

const TRACES: Signal = Signal {
    endpoint: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    protocol: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
};

const LOGS: Signal = Signal {
    endpoint: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    headers: "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    timeout: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
    protocol: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
    compression: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
};

impl Signal {
    /// The collector, if one is named.
    fn read(&self, either: &Either<'_>) -> Result<Option<Collector>, TracingError> {
        let Some((_, endpoint)) = either(self.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        match either(self.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL") {
            Some((name, value)) if value != "grpc" => return Err(TracingError::Protocol { name, value }),
            _ => {}
        }
        match either(self.compression, "OTEL_EXPORTER_OTLP_COMPRESSION") {
            Some((name, value)) if value != "none" => return Err(TracingError::Compression { name, value }),
            _ => {}
        }
        let headers = either(self.headers, "OTEL_EXPORTER_OTLP_HEADERS");
        let timeout = either(self.timeout, "OTEL_EXPORTER_OTLP_TIMEOUT");
        Ok(Some(Collector {
            endpoint,
            headers: headers.map(|(name, text)| pairs(name, &text)).transpose()?.unwrap_or_default(),
            timeout: timeout.map(|(name, text)| millis(name, text)).transpose()?.unwrap_or(TIMEOUT),
        }))
    }
}

type Either<'a> = dyn Fn(&'static str, &'static str) -> Option<(&'static str, String)> + 'a;

fn millis(name: &'static str, value: String) -> Result<Duration, TracingError> {
    match value.parse::<u64>() {
        Ok(ms) if (1..=3_600_000).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(TracingError::Number { name, value, wanted: "a number of milliseconds from 1 to 3600000" }),
    }
}

/// Reads `k=v,k2=v2` with percent-encoded values (W3C baggage; the specification's form of headers and attributes).
fn pairs(name: &'static str, text: &str) -> Result<Vec<(String, String)>, TracingError> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), percent_decoded(value.trim()))),
            // The value may be a credential: only the key is shown.
            _ => Err(TracingError::Pairs { name, part: part.chars().take(16).collect() }),
        })
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
