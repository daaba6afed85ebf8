//! OpenTelemetry export: what the `OTEL_*` variables say, and the handle of the exporter (telemetry.md 4).

mod env;

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

/// How long one export may take (the specification's `OTEL_EXPORTER_OTLP_TIMEOUT`).
const TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Where records of the access log are sent, beside where they are written; `None`: nowhere.
    pub access: Option<Collector>,
}

/// A collector of one kind of data.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Where it is, `http://host:4317`.
    pub endpoint: String,
    /// Headers to send along (credentials: never shown).
    pub headers: Vec<(String, String)>,
    /// How long one export may take.
    pub timeout: Duration,
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
            timeout: TIMEOUT,
            sampler: Sampler::ParentAlwaysOn,
            resource: vec![("service.name".to_owned(), service.to_owned())],
            // Queue, batch and delay: defaults of the specification's batch processor (OTEL_BSP_*).
            queue: 2_048,
            batch: 512,
            delay: Duration::from_secs(5),
            access: None,
        }
    }

    /// Sends records of the access log to the same collector.
    pub fn with_access(mut self) -> Self {
        self.access = Some(self.collector());
        self
    }

    fn collector(&self) -> Collector {
        Collector { endpoint: self.endpoint.clone(), headers: self.headers.clone(), timeout: self.timeout }
    }

    /// The settings of the exporter of access records.
    fn for_access(&self) -> Option<Self> {
        let Collector { endpoint, headers, timeout } = self.access.clone()?;
        Some(Self { endpoint, headers, timeout, access: None, ..self.clone() })
    }

    /// Sets an attribute of the resource, in place of one of the same name.
    pub fn attribute(&mut self, key: &str, value: impl Into<String>) {
        self.resource.retain(|(k, _)| k != key);
        self.resource.push((key.to_owned(), value.into()));
    }
}

/// The running exporter. Clones share it.
#[derive(Clone)]
pub struct Tracing {
    sampler: Sampler,
    queue: Queue,
    provider: SdkTracerProvider,
    exporter: Arc<Exporter>,
    /// Of access records.
    access: Option<Arc<Exporter>>,
}

impl Tracing {
    /// Starts the exporter on a thread and runtime of its own. Without a connector the endpoint must be `http://`.
    ///
    /// # Errors
    /// When the endpoint cannot be used or no thread can be started. A collector that does not answer is no error: it is
    /// tried again and what it misses is counted.
    pub fn start(config: &TracingConfig, connector: Option<Connector>) -> Result<Self, TracingError> {
        let exporter = Exporter::otlp(config, connector)?;
        let access = config.for_access().map(|config| Exporter::access(&config)).transpose()?;
        let made = Self::with(config, exporter);
        Ok(match access {
            Some(access) => made.and_access(access),
            None => made,
        })
    }

    pub(crate) fn and_access(self, access: Exporter) -> Self {
        Self { access: Some(Arc::new(access)), ..self }
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

    /// Sends everything that waits, at most until the deadline. Returns whether the queues are empty.
    pub async fn flush(&self, deadline: Duration) -> bool {
        let access = async {
            match &self.access {
                Some(access) => access.flush(deadline).await,
                None => true,
            }
        };
        let (spans, access) = tokio::join!(self.exporter.flush(deadline), access);
        spans && access
    }

    /// A tracer for spans of the `tracing` crate.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer(SCOPE)
    }

    pub(crate) fn connection(&self, facts: &Arc<Facts>) {
        if facts.trace.is_some_and(|t| t.sampled) {
            self.queue.send(Item::Connection(facts.clone()));
        }
        if let Some(access) = &self.access {
            access.send(Item::Connection(facts.clone()));
        }
    }

    pub(crate) fn request(&self, facts: &Arc<RequestFacts>) {
        if facts.is_traced() {
            self.queue.send(Item::Request(facts.clone()));
        }
        if let Some(access) = self.access.as_ref().filter(|_| facts.is_logged()) {
            access.send(Item::Request(facts.clone()));
        }
    }

    pub(crate) fn with(config: &TracingConfig, exporter: Exporter) -> Self {
        let queue = exporter.queue();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(config))
            .with_sampler(sdk_sampler(config.sampler))
            .with_span_processor(queue.clone())
            .build();
        Self { sampler: config.sampler, queue, provider, exporter: Arc::new(exporter), access: None }
    }

    pub(crate) fn register(&self, metrics: &Metrics) {
        let Queue { dropped, exported, failed, .. } = self.queue.clone();
        metrics.counter_fn("culvert_spans_dropped", "Spans dropped because the queue was full", move || dropped.get());
        metrics.counter_fn("culvert_spans_exported", "Spans that the collector took", move || exported.get());
        metrics.counter_fn("culvert_spans_failed", "Spans that the collector did not take", move || failed.get());
        let Some(access) = &self.access else { return };
        let Queue { dropped, exported, failed, .. } = access.queue();
        for (name, help, count) in [
            ("culvert_access_records_dropped", "Access records dropped because the queue was full", dropped),
            ("culvert_access_records_exported", "Access records that the collector took", exported),
            ("culvert_access_records_failed", "Access records that the collector did not take", failed),
        ] {
            metrics.counter_fn(name, help, move || count.get());
        }
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
