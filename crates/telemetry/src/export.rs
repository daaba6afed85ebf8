//! The exporter's thread: takes finished connections and spans from a bounded queue and sends them in batches.

use std::fmt;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::metadata::{MetadataKey, MetadataMap};

use crate::facts::Facts;
use crate::numbers::Counter;
use crate::otlp::{Connector, TracingConfig, TracingError, resource};
use crate::records;
use crate::request::RequestFacts;
use crate::spans;

/// What waits for export.
#[derive(Debug)]
pub(crate) enum Item {
    /// An ended connection; becomes a span and its children on the exporter's thread.
    Connection(Arc<Facts>),
    /// An ended request, likewise.
    Request(Arc<RequestFacts>),
    /// A finished span of the `tracing` crate.
    Span(Box<SpanData>),
}

/// The sending side. Never blocks: a full queue drops and counts.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    items: mpsc::Sender<Item>,
    pub(crate) dropped: Counter,
    pub(crate) exported: Counter,
    pub(crate) failed: Counter,
}

/// The thread, by its control channel; it ends when this is dropped.
pub(crate) struct Exporter {
    queue: Queue,
    control: mpsc::UnboundedSender<Flush>,
}

/// "Send what waits, until the deadline, then say whether all of it went."
struct Flush {
    deadline: Instant,
    done: oneshot::Sender<bool>,
}

impl Queue {
    pub(crate) fn send(&self, item: Item) {
        if self.items.try_send(item).is_err() {
            self.dropped.inc();
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.send(Item::Span(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        // Flushing is asked for by `Tracing::flush`, which can wait without blocking a runtime.
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Exporter {
    /// An exporter by OTLP over gRPC.
    pub(crate) fn otlp(config: &TracingConfig, connector: Option<Connector>) -> Result<Self, TracingError> {
        if connector.is_none() && !config.endpoint.starts_with("http://") {
            return Err(TracingError::Exporter {
                endpoint: config.endpoint.clone(),
                reason: "begin it with http://, or configure TLS to the collector".to_owned(),
            });
        }
        let metadata = metadata(config)?;
        let of = config.clone();
        Self::start(config, move || {
            let mut builder = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&of.endpoint)
                .with_timeout(of.timeout)
                .with_metadata(metadata);
            if let Some(connect) = connector {
                builder = builder.with_channel(connect());
            }
            builder.build().map_err(|e| TracingError::Exporter { endpoint: of.endpoint.clone(), reason: e.to_string() })
        })
    }

    /// An exporter of records of the access log, by OTLP over gRPC.
    pub(crate) fn access(config: &TracingConfig) -> Result<Self, TracingError> {
        let endpoint = config.endpoint.clone();
        let wrong = move |reason: String| TracingError::Exporter { endpoint, reason };
        if !config.endpoint.starts_with("http://") {
            return Err(wrong("begin it with http://; access records are not exported by TLS".to_owned()));
        }
        let (of, metadata) = (config.clone(), metadata(config)?);
        Self::run(config, move || {
            let builder = opentelemetry_otlp::LogExporter::builder()
                .with_tonic()
                .with_endpoint(&of.endpoint)
                .with_timeout(of.timeout)
                .with_metadata(metadata);
            builder.build().map(records::Records::new).map_err(|e| wrong(e.to_string()))
        })
    }

    /// An exporter of spans of any kind, made on its own thread.
    pub(crate) fn start<E: SpanExporter + 'static>(
        config: &TracingConfig,
        make: impl FnOnce() -> Result<E, TracingError> + Send + 'static,
    ) -> Result<Self, TracingError> {
        Self::run(config, move || make().map(Spans))
    }

    /// An exporter of anything, made on its own thread.
    pub(crate) fn run<S: Sends>(
        config: &TracingConfig,
        make: impl FnOnce() -> Result<S, TracingError> + Send + 'static,
    ) -> Result<Self, TracingError> {
        let (items, inbox) = mpsc::channel(config.queue.max(1));
        let (control, orders) = mpsc::unbounded_channel();
        let queue =
            Queue { items, dropped: Counter::default(), exported: Counter::default(), failed: Counter::default() };
        let (ready, wait) = std_mpsc::sync_channel(1);
        let (exported, failed) = (queue.exported.clone(), queue.failed.clone());
        let (config, resource) = (config.clone(), resource(config));
        let thread = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(TracingError::Thread(error)))),
            };
            // A gRPC channel is bound to the runtime on which it is made.
            let guard = runtime.enter();
            let made = make();
            drop(guard);
            let exporter = match made {
                Ok(exporter) => exporter,
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(())));
            let worker = Worker { exporter, config, inbox, exported, failed, failing: false };
            runtime.block_on(worker.run(orders, resource));
        };
        std::thread::Builder::new().name("otlp".to_owned()).spawn(thread).map_err(TracingError::Thread)?;
        match wait.recv() {
            Ok(Ok(())) => Ok(Self { queue, control }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(TracingError::Thread(std::io::Error::other("the exporter's thread ended"))),
        }
    }

    pub(crate) fn send(&self, item: Item) {
        self.queue.send(item);
    }

    pub(crate) fn queue(&self) -> Queue {
        self.queue.clone()
    }

    pub(crate) async fn flush(&self, deadline: Duration) -> bool {
        let (done, wait) = oneshot::channel();
        let order = Flush { deadline: Instant::now() + deadline, done };
        if self.control.send(order).is_err() {
            return false;
        }
        matches!(timeout(deadline, wait).await, Ok(Ok(true)))
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

struct Worker<E> {
    exporter: E,
    config: TracingConfig,
    inbox: mpsc::Receiver<Item>,
    exported: Counter,
    failed: Counter,
    /// Whether the last export failed: the log says so once, the counter always.
    failing: bool,
}

/// Where batches go.
pub(crate) trait Sends: 'static {
    /// What is sent, for the log.
    const WHAT: &'static str;

    /// Says what sends it, once at the beginning.
    fn resource(&mut self, resource: &Resource);

    /// Sends a batch.
    ///
    /// # Errors
    /// What the collector says.
    fn send(&self, items: Vec<Item>) -> impl Future<Output = OTelSdkResult>;
}

struct Spans<E>(E);

impl<E: SpanExporter + 'static> Sends for Spans<E> {
    const WHAT: &'static str = "spans";

    fn resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }

    fn send(&self, items: Vec<Item>) -> impl Future<Output = OTelSdkResult> {
        self.0.export(items.into_iter().flat_map(spans::of).collect())
    }
}

impl<S: Sends> Worker<S> {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Flush>, resource: Resource) {
        self.exporter.resource(&resource);
        let mut batch = Vec::with_capacity(self.config.batch);
        let mut due = None;
        loop {
            let room = self.config.batch - batch.len();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        self.flush(&mut batch, order).await;
                        due = None;
                    }
                    // The handle is gone: nobody can send or ask any more.
                    None => break,
                },
                n = self.inbox.recv_many(&mut batch, room) => {
                    if n == 0 {
                        break;
                    }
                    let first = *due.get_or_insert_with(|| Instant::now() + self.config.delay);
                    if batch.len() >= self.config.batch || first <= Instant::now() {
                        self.export(&mut batch, None).await;
                        due = None;
                    }
                },
                () = at(due) => {
                    self.export(&mut batch, None).await;
                    due = None;
                },
            }
        }
        self.failed.add(batch.len() as u64);
    }

    async fn flush(&mut self, batch: &mut Vec<Item>, order: Flush) {
        while Instant::now() < order.deadline {
            while batch.len() < self.config.batch {
                match self.inbox.try_recv() {
                    Ok(item) => batch.push(item),
                    Err(_) => break,
                }
            }
            if batch.is_empty() {
                break;
            }
            // Leaves the batch empty, so that the next fill has room.
            self.export(batch, Some(order.deadline)).await;
        }
        // Whoever asked may have stopped waiting.
        order.done.send(batch.is_empty() && self.inbox.is_empty()).ok();
    }

    /// Sends the batch; whatever happens it is empty afterwards, so that a dead collector holds no memory.
    async fn export(&mut self, batch: &mut Vec<Item>, deadline: Option<Instant>) {
        let count = batch.len() as u64;
        let items = std::mem::replace(batch, Vec::with_capacity(self.config.batch));
        let limit = Instant::now() + self.config.timeout;
        let limit = deadline.map_or(limit, |d| d.min(limit));
        match tokio::time::timeout_at(limit, self.exporter.send(items)).await {
            Ok(Ok(())) => {
                self.exported.add(count);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(endpoint = %self.config.endpoint, what = S::WHAT, "exported again");
                }
            }
            Ok(Err(error)) => self.fail(count, &error.to_string()),
            Err(_) => self.fail(count, "no answer in time"),
        }
    }

    fn fail(&mut self, count: u64, error: &str) {
        self.failed.add(count);
        if !std::mem::replace(&mut self.failing, true) {
            let endpoint = &*self.config.endpoint;
            let what = S::WHAT;
            tracing::warn!(endpoint, error, what, "not exported, so they are lost there; check the collector");
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn metadata(config: &TracingConfig) -> Result<MetadataMap, TracingError> {
    let mut map = MetadataMap::new();
    for (key, value) in &config.headers {
        let bad = || TracingError::Pairs { name: "OTEL_EXPORTER_OTLP_HEADERS", part: key.clone() };
        let name: MetadataKey<_> = key.to_ascii_lowercase().parse().map_err(|_| bad())?;
        map.insert(name, value.parse().map_err(|_| bad())?);
    }
    Ok(map)
}
