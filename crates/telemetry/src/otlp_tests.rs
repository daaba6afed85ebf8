use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::{Buf, Bytes};
use mesh::{Direction, Outcome, TraceContext};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::metadata::MetadataMap;

use super::*;
use crate::fixture::{address, record, value};
use crate::{Config, Telemetry};

fn env<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    let map: HashMap<_, _> = pairs.iter().copied().collect();
    move |name| map.get(name).map(|v| (*v).to_owned())
}

fn read(pairs: &[(&str, &str)]) -> Result<Option<TracingConfig>, TracingError> {
    TracingConfig::from_env(&env(pairs), "ztunnel")
}

#[test]
fn without_a_collector_or_switched_off_there_is_no_tracing() {
    assert_eq!(read(&[]).unwrap(), None);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    assert_eq!(read(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).unwrap(), None);
    assert_eq!(read(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]).unwrap(), None);
    assert_eq!(read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]).unwrap(), None);
}

#[test]
fn variables_of_the_signal_win_and_defaults_are_the_specifications() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://common:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc, x-scope = 1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1,service.name=other"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
    ])
    .unwrap()
    .unwrap();
    assert_eq!(config.endpoint, "http://traces:4317");
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(config.headers, [pair("authorization", "Basic abc"), pair("x-scope", "1")]);
    assert_eq!(config.timeout, Duration::from_millis(2_500));
    assert_eq!(config.sampler, Sampler::ParentRatio(0.25));
    assert_eq!(config.resource, [pair("k8s.node.name", "n1"), pair("service.name", "mine")]);
    assert_eq!((config.queue, config.batch, config.delay), (100, 100, Duration::from_secs(5)));

    let plain = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]).unwrap().unwrap();
    assert_eq!(plain, TracingConfig::new("http://c:4317", "ztunnel"));
}

#[test]
fn access_records_go_where_the_logs_exporter_says_and_nowhere_else() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    let on = ("OTEL_LOGS_EXPORTER", "otlp");
    assert_eq!(read(&[endpoint]).unwrap().unwrap().access, None, "off by default");
    let both = read(&[endpoint, on, ("OTEL_EXPORTER_OTLP_TIMEOUT", "100")]).unwrap().unwrap();
    let there = |endpoint: &str| super::Collector { endpoint: endpoint.into(), headers: vec![], timeout: both.timeout };
    assert_eq!((both.access.clone(), both.timeout), (Some(there("http://c:4317")), Duration::from_millis(100)));
    let own = read(&[endpoint, on, ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4317")]).unwrap().unwrap();
    assert_eq!((own.endpoint.as_str(), own.access.unwrap().endpoint.as_str()), ("http://c:4317", "http://logs:4317"));
    let alone = read(&[endpoint, on, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().unwrap();
    assert_eq!((alone.sampler, alone.access.is_some()), (Sampler::AlwaysOff, true));
    let bad = read(&[endpoint, on, ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json")]).unwrap_err();
    assert!(bad.to_string().contains("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"), "{bad}");
    let made = TracingConfig::new("http://c:4317", "x").with_access();
    assert_eq!(made.access.unwrap().endpoint, "http://c:4317");
}

#[test]
fn what_we_cannot_do_is_refused_with_the_variables_name() {
    for (name, bad) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "novalue"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
    ] {
        let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), (name, bad)]).unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
    }
}

#[test]
fn https_without_a_connector_is_refused_with_a_remedy() {
    let error = Tracing::start(&TracingConfig::new("https://c:4317", "x"), None).unwrap_err();
    assert!(error.to_string().contains("configure TLS"), "{error}");
}

/// Keeps what is exported; each export waits for a permit.
#[derive(Debug, Clone)]
struct Memory {
    spans: Arc<Mutex<Vec<SpanData>>>,
    gate: Arc<Semaphore>,
    fail: bool,
}

impl Memory {
    fn new(permits: usize, fail: bool) -> Self {
        Self { spans: Arc::default(), gate: Arc::new(Semaphore::new(permits)), fail }
    }

    fn names(&self) -> Vec<String> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|s| s.name.to_string()).collect()
    }
}

impl SpanExporter for Memory {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.gate.acquire().await.unwrap().forget();
        if self.fail {
            return Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure("refused".to_owned()));
        }
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(batch);
        Ok(())
    }
}

fn tracing_to(memory: &Memory, change: impl FnOnce(&mut TracingConfig)) -> Tracing {
    let mut config = TracingConfig::new("memory", "test");
    change(&mut config);
    let memory = memory.clone();
    let exporter = Exporter::start(&config, move || Ok(memory)).unwrap();
    Tracing::with(&config, exporter)
}

fn telemetry(tracing: &Tracing) -> Telemetry {
    Telemetry::new(Config { tracing: Some(tracing.clone()), ..Config::default() })
}

/// More than any test needs; a hang ends as a failure.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn both_ends_of_a_tunnel_join_one_trace() {
    let memory = Memory::new(100, false);
    let tracing = tracing_to(&memory, |_| {});
    let telemetry = telemetry(&tracing);
    let mut outbound = record(&telemetry, Direction::Outbound);
    let sent = outbound.trace_context();
    assert!(sent.sampled, "the default sampler records roots");
    let received: TraceContext = sent.to_string().parse().unwrap();
    let mut inbound = record(&telemetry, Direction::Inbound);
    inbound.continue_trace(received);
    inbound.finish(Outcome::Closed);
    outbound.finish(Outcome::Closed);
    // A stock peer never samples.
    let mut stock = record(&telemetry, Direction::Inbound);
    stock.continue_trace(TraceContext { sampled: false, ..received });
    stock.finish(Outcome::Closed);
    assert!(tracing.flush(SOON).await);
    let spans = memory.spans.lock().unwrap().clone();
    let find = |name: &str| spans.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (out, inb) = (find("tcp outbound"), find("tcp inbound"));
    assert_eq!((out.len(), inb.len()), (1, 1));
    assert_eq!(out[0].span_context.trace_id(), inb[0].span_context.trace_id());
    assert_eq!(inb[0].parent_span_id, out[0].span_context.span_id());
    assert!(inb[0].parent_span_is_remote);
    assert_eq!(tracing.exported(), 2);
}

#[tokio::test]
async fn a_stuck_exporter_never_blocks_and_drops_are_counted() {
    let memory = Memory::new(0, false);
    let tracing = tracing_to(&memory, |c| (c.queue, c.batch, c.timeout) = (8, 4, Duration::from_secs(60)));
    let telemetry = telemetry(&tracing);
    let begin = Instant::now();
    for _ in 0..100 {
        let mut record = record(&telemetry, Direction::Outbound);
        record.trace_context();
        record.finish(Outcome::Closed);
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "100 records took {:?}", begin.elapsed());
    // At most one batch is in flight and one queue waits.
    assert!((100 - 12..=100 - 8).contains(&tracing.dropped()), "{}", tracing.dropped());
    assert_eq!(value(&telemetry.render(), "culvert_spans_dropped_total", &[]), tracing.dropped());
    let begin = Instant::now();
    assert!(!tracing.flush(Duration::from_millis(50)).await, "nothing went out");
    assert!(begin.elapsed() < Duration::from_secs(5));
    memory.gate.add_permits(1_000);
    assert!(tracing.flush(SOON).await);
    assert_eq!(tracing.exported() + tracing.dropped() + tracing.failed(), 100);
}

#[tokio::test]
async fn what_the_collector_refuses_is_counted_and_not_kept() {
    let memory = Memory::new(1_000, true);
    let tracing = tracing_to(&memory, |_| {});
    let telemetry = telemetry(&tracing);
    for _ in 0..3 {
        let mut record = record(&telemetry, Direction::Outbound);
        record.trace_context();
        record.finish(Outcome::Closed);
    }
    assert!(tracing.flush(SOON).await, "the queue is empty all the same");
    assert_eq!((tracing.failed(), tracing.exported()), (3, 0));
}

#[tokio::test]
async fn spans_of_our_programs_are_exported_and_those_of_libraries_are_not() {
    let memory = Memory::new(1_000, false);
    let tracing = tracing_to(&memory, |_| {});
    let writer = crate::LineWriter::new(std::io::sink(), 16).unwrap();
    let (subscriber, _handle) =
        crate::logging::subscriber(&crate::LogConfig::default(), writer, Some(&tracing)).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!("sign", pod = "web").in_scope(|| {
            tracing::debug_span!("library").in_scope(|| tracing::info!("an event"));
            tracing::info_span!("store").in_scope(|| {});
        });
    });
    assert!(tracing.flush(SOON).await);
    let spans = memory.spans.lock().unwrap().clone();
    let names: Vec<_> = spans.iter().map(|s| s.name.as_ref()).collect();
    assert_eq!(names, ["store", "sign"]);
    assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
    assert!(spans[1].attributes.iter().any(|a| a.key.as_str() == "pod" && a.value.as_str() == "web"));
}

#[tokio::test]
async fn a_full_batch_goes_out_without_waiting() {
    let memory = Memory::new(1_000, false);
    let tracing = tracing_to(&memory, |c| (c.batch, c.delay) = (2, Duration::from_secs(3_600)));
    let telemetry = telemetry(&tracing);
    for _ in 0..2 {
        let mut record = record(&telemetry, Direction::Outbound);
        record.trace_context();
        record.finish(Outcome::Closed);
    }
    let begin = Instant::now();
    while tracing.exported() < 2 {
        assert!(begin.elapsed() < SOON, "{:?}", memory.names());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_dead_endpoint_neither_blocks_nor_keeps() {
    // Bound and closed again: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = TracingConfig::new(format!("http://{free}"), "test");
    config.timeout = Duration::from_secs(2);
    let tracing = Tracing::start(&config, None).unwrap();
    let telemetry = telemetry(&tracing);
    let mut record = record(&telemetry, Direction::Outbound);
    record.trace_context();
    let begin = Instant::now();
    record.finish(Outcome::Closed);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(tracing.flush(SOON).await);
    assert_eq!((tracing.failed(), tracing.exported()), (1, 0));
}

type Kept = Arc<Mutex<Vec<(MetadataMap, Bytes)>>>;

/// A collector that keeps what it is sent, undecoded, and answers with an empty message.
#[derive(Clone, Debug, Default)]
struct Collector(Kept);

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let export = Export(self.0.clone());
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(export, request).await) })
    }
}

struct Export(Kept);

impl Service<tonic::Request<Bytes>> for Export {
    type Response = tonic::Response<()>;
    type Error = tonic::Status;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (metadata, _, body) = request.into_parts();
        self.0.lock().unwrap().push((metadata, body));
        Box::pin(async { Ok(tonic::Response::new(())) })
    }
}

/// Takes messages as bytes and writes empty ones.
struct Raw;

impl Codec for Raw {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test]
async fn a_real_collector_gets_names_resource_and_headers() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind(address("127.0.0.1:0")).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().serve_with_incoming_shutdown(collector.clone(), incoming, async {
        stopped.await.ok();
    });
    let server = tokio::spawn(server);
    let mut config = TracingConfig::new(format!("http://{at}"), "culvert-test");
    config.headers = vec![("x-tenant".to_owned(), "seven".to_owned())];
    config.attribute("k8s.node.name", "node-9");
    let tracing = Tracing::start(&config, None).unwrap();
    let telemetry = telemetry(&tracing);
    let mut one = record(&telemetry, Direction::Outbound);
    one.trace_context();
    one.enter(crate::Phase::Resolve);
    one.finish(Outcome::ConnectRefused);
    assert!(tracing.flush(SOON).await);
    assert_eq!((tracing.exported(), tracing.failed()), (1, 0));
    let kept = collector.0.lock().unwrap().clone();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0.get("x-tenant").unwrap(), "seven");
    let holds = |text: &str| kept[0].1.windows(text.len()).any(|w| w == text.as_bytes());
    for text in
        ["culvert-test", "node-9", "tcp outbound", "resolve", "error.type", "connect_refused", "network.peer.address"]
    {
        assert!(holds(text), "{text}");
    }
    stop.send(()).unwrap();
    drop(telemetry);
    drop(tracing);
    server.await.unwrap().unwrap();
}
