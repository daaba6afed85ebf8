//! OpenTelemetry export: what the `OTEL_*` variables say, and the handle of the exporter (telemetry.md 4).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SdkTracer, SdkTracerProvider};

use crate::export::{Exporter, Item, Queue};
use crate::facts::Facts;
use crate::metrics::Metrics;
use crate::request::RequestFacts;
use crate::sampler::{Sampler, SamplerError};

/// Name of the instrumentation scope of our spans.
pub(crate) const SCOPE: &str = "culvert";

/// Makes the channel to the collector; called once, on the exporter's own runtime. This is how TLS is handed in.
pub type Connector = Box<dyn FnOnce() -> tonic::transport::Channel + Send>;

/// What the environment says about tracing.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingConfig {
    /// Where the collector is, `http://host:4317`.
    pub endpoint: String,
    /// Headers to send along (credentials: never shown).
    pub headers: Vec<(String, String)>,
    /// How long one export may take.
    pub timeout: Duration,
    /// Which traces to record.
    pub sampler: Sampler,
    /// Attributes of the resource; `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// Spans that wait at most.
    pub queue: usize,
    /// Spans in one export at most.
    pub batch: usize,
    /// How long a span waits for others at most.
    pub delay: Duration,
}

/// Why tracing cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TracingError {
    /// The exporter could not be built.
    #[error("exporter to {endpoint}: {reason}")]
    Exporter {
        /// The collector.
        endpoint: String,
        /// What the exporter says.
        reason: String,
    },
    /// A variable holds something else than it should.
    #[error("{name}={value:?} is not {wanted}")]
    Number {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The protocol is one that we do not speak.
    #[error("{name}={value:?} is not supported; use grpc (port 4317 of a collector)")]
    Protocol {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// The sampler is not one that we have.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// No thread for the exporter.
    #[error("no thread for the exporter: {0}")]
    Thread(#[source] std::io::Error),
    /// A key=value list cannot be read.
    #[error("{name}: {part:?} is not key=value; separate pairs by commas")]
    Pairs {
        /// The variable.
        name: &'static str,
        /// The part at fault.
        part: String,
    },
    /// Compression is asked for.
    #[error("{name}={value:?} is not supported; leave it unset or say none")]
    Compression {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
}

impl TracingConfig {
    /// Tracing with the specification's defaults to one collector.
    pub fn new(endpoint: impl Into<String>, service: &str) -> Self {
        Self {
            endpoint: endpoint.into(),
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            sampler: Sampler::ParentAlwaysOn,
            resource: vec![("service.name".to_owned(), service.to_owned())],
            // Queue, batch and delay: defaults of the specification's batch processor (OTEL_BSP_*).
            queue: 2_048,
            batch: 512,
            delay: Duration::from_secs(5),
        }
    }

    /// Reads the `OTEL_*` variables through `variable`; `service` is the name unless they give one. `None` when no
    /// collector is named, or the SDK or the traces exporter is switched off.
    ///
    /// # Errors
    /// When a variable holds what we cannot do.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<String>, service: &str) -> Result<Option<Self>, TracingError> {
        let get = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let either = |own: &'static str, common: &'static str| match get(own) {
            Some(value) => Some((own, value)),
            None => get(common).map(|value| (common, value)),
        };
        let off = get("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
            || get("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
        let endpoint = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let (false, Some((_, endpoint))) = (off, endpoint) else { return Ok(None) };
        refuse_unsupported(&either)?;

        let mut config = Self::new(endpoint, service);
        if let Some((name, text)) = either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS") {
            config.headers = pairs(name, &text)?;
        }
        if let Some((name, text)) = either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT") {
            config.timeout = millis(name, text)?;
        }
        if let Some(name) = get("OTEL_TRACES_SAMPLER") {
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

    /// Sets an attribute of the resource, in place of one of the same name.
    pub fn attribute(&mut self, key: &str, value: impl Into<String>) {
        self.resource.retain(|(k, _)| k != key);
        self.resource.push((key.to_owned(), value.into()));
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

type Either<'a> = dyn Fn(&'static str, &'static str) -> Option<(&'static str, String)> + 'a;

fn refuse_unsupported(either: &Either<'_>) -> Result<(), TracingError> {
    match either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") {
        Some((name, value)) if value != "grpc" => return Err(TracingError::Protocol { name, value }),
        _ => {}
    }
    match either("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION") {
        Some((name, value)) if value != "none" => Err(TracingError::Compression { name, value }),
        _ => Ok(()),
    }
}

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

/// The running exporter. Clones share it.
#[derive(Clone)]
pub struct Tracing {
    sampler: Sampler,
    queue: Queue,
    provider: SdkTracerProvider,
    exporter: Arc<Exporter>,
}

impl Tracing {
    /// Starts the exporter on a thread and runtime of its own. Without a connector the endpoint must be `http://`.
    ///
    /// # Errors
    /// When the endpoint cannot be used or no thread can be started. A collector that does not answer is no error: it is
    /// tried again and what it misses is counted.
    pub fn start(config: &TracingConfig, connector: Option<Connector>) -> Result<Self, TracingError> {
        let exporter = Exporter::otlp(config, connector)?;
        Ok(Self::with(config, exporter))
    }

    /// The sampler.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// Spans dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.get()
    }

    /// Spans that the collector took.
    pub fn exported(&self) -> u64 {
        self.queue.exported.get()
    }

    /// Spans lost because the collector refused them or did not answer.
    pub fn failed(&self) -> u64 {
        self.queue.failed.get()
    }

    /// Sends everything that waits, at most until the deadline. Returns whether the queue is empty.
    pub async fn flush(&self, deadline: Duration) -> bool {
        self.exporter.flush(deadline).await
    }

    /// A tracer for spans of the `tracing` crate.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer(SCOPE)
    }

    pub(crate) fn connection(&self, facts: Arc<Facts>) {
        self.queue.send(Item::Connection(facts));
    }

    pub(crate) fn request(&self, facts: Arc<RequestFacts>) {
        self.queue.send(Item::Request(facts));
    }

    pub(crate) fn with(config: &TracingConfig, exporter: Exporter) -> Self {
        let queue = exporter.queue();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(config))
            .with_sampler(sdk_sampler(config.sampler))
            .with_span_processor(queue.clone())
            .build();
        Self { sampler: config.sampler, queue, provider, exporter: Arc::new(exporter) }
    }

    pub(crate) fn register(&self, metrics: &Metrics) {
        let Queue { dropped, exported, failed, .. } = self.queue.clone();
        metrics.counter_fn("culvert_spans_dropped", "Spans dropped because the queue was full", move || dropped.get());
        metrics.counter_fn("culvert_spans_exported", "Spans that the collector took", move || exported.get());
        metrics.counter_fn("culvert_spans_failed", "Spans that the collector did not take", move || failed.get());
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// The resource of all our spans: only what is configured, nothing detected.
pub(crate) fn resource(config: &TracingConfig) -> Resource {
    let attributes = config.resource.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
    Resource::builder_empty().with_attributes(attributes).build()
}

fn sdk_sampler(sampler: Sampler) -> SdkSampler {
    let parent = |root: SdkSampler| SdkSampler::ParentBased(Box::new(root));
    match sampler {
        Sampler::AlwaysOn => SdkSampler::AlwaysOn,
        Sampler::AlwaysOff => SdkSampler::AlwaysOff,
        Sampler::Ratio(share) => SdkSampler::TraceIdRatioBased(share),
        Sampler::ParentAlwaysOn => parent(SdkSampler::AlwaysOn),
        Sampler::ParentAlwaysOff => parent(SdkSampler::AlwaysOff),
        Sampler::ParentRatio(share) => parent(SdkSampler::TraceIdRatioBased(share)),
    }
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;
