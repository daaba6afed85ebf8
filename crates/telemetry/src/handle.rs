//! The handle that programs hold: all sinks of finished records.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mesh::Direction;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::access::AccessLog;
use crate::counters::{Counters, Meter};
use crate::facts::Facts;
use crate::flow::{self, Flows};
use crate::health::Health;
use crate::labels::{LabelsRef, Pairs};
use crate::metrics::Metrics;
use crate::otlp::Tracing;
use crate::outcomes::Outcomes;
use crate::request::{RequestFacts, RequestMetrics, RequestStore};
use crate::series::{Place, Series, Store, Totals};

/// Series kept at most: 10 000 label sets of some 500 bytes of text each are 5 MB here and about 25 MB of text a scrape.
pub const SERIES: usize = 10_000;

/// Where records go.
#[derive(Debug)]
pub struct Config {
    /// The access log; `None` writes none.
    pub access: Option<AccessLog>,
    /// Spans; `None` exports none.
    pub tracing: Option<Tracing>,
    /// Size of the flow ring.
    pub flows: usize,
    /// Series of Istio's TCP metrics kept at most.
    pub series: usize,
    /// Whether policy decisions are logged at INFO in place of DEBUG (`AUTHZ_POLICY_INFO_LOGGING`).
    pub policy_info: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { access: None, tracing: None, flows: flow::CAPACITY, series: SERIES, policy_info: false }
    }
}

/// Writes an event of scope `rbac`: at level info when the operator asked for it, else at debug.
macro_rules! rbac {
    ($telemetry:expr, $($event:tt)+) => {
        match $telemetry.policy_info() {
            true => tracing::info!(target: "rbac", $($event)+),
            false => tracing::debug!(target: "rbac", $($event)+),
        }
    };
}
pub(crate) use rbac;

/// All sinks. Clones share them; any thread may use them.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Sinks>);

#[derive(Debug)]
struct Sinks {
    metrics: Metrics,
    store: Arc<Store>,
    requests: Arc<RequestStore>,
    health: Arc<Health>,
    outcomes: Arc<Outcomes>,
    flows: Flows,
    access: Option<AccessLog>,
    tracing: Option<Tracing>,
    policy_info: bool,
}

impl Telemetry {
    /// Makes the sinks and registers their metrics.
    pub fn new(config: Config) -> Self {
        let metrics = Metrics::new();
        let store = Arc::new(Store::new(config.series));
        let requests = Arc::new(RequestStore::new(config.series));
        metrics.add(Box::new(RequestMetrics(requests.clone())));
        let health = Arc::new(Health::default());
        metrics.add(Box::new(Traffic { store: store.clone(), health: health.clone() }));
        let outcomes = Arc::new(Outcomes::default());
        metrics.add(Box::new(outcomes.clone()));
        own_metrics(&metrics, &store, &health, &config);
        let (evicted, overflowed) = (requests.0.evicted.clone(), requests.0.overflowed.clone());
        metrics.counter_fn(
            "culvert_telemetry_request_series_evicted",
            "Request series dropped because they were idle or the store was full",
            move || evicted.get(),
        );
        metrics.counter_fn(
            "culvert_telemetry_request_series_overflowed",
            "Requests counted as unknown because there are too many series",
            move || overflowed.get(),
        );
        Self(Arc::new(Sinks {
            metrics,
            store,
            requests,
            health,
            outcomes,
            flows: Flows::new(config.flows),
            access: config.access,
            tracing: config.tracing,
            policy_info: config.policy_info,
        }))
    }

    /// The registry, to add metrics of a program's own.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The OpenMetrics text of all metrics; its content type is [`metrics::CONTENT_TYPE`](crate::metrics::CONTENT_TYPE).
    pub fn render(&self) -> String {
        self.0.metrics.render()
    }

    /// The flow ring.
    pub fn flows(&self) -> &Flows {
        &self.0.flows
    }

    /// The span exporter, when tracing is on.
    pub fn tracing(&self) -> Option<&Tracing> {
        self.0.tracing.as_ref()
    }

    pub(crate) fn open(&self, facts: &Facts, meter: Arc<dyn Meter>) -> Place {
        let place = self.0.store.open(facts.labels(), meter, Instant::now());
        if let Some(access) = &self.0.access {
            access.opened(facts);
        }
        place
    }

    pub(crate) fn swap(&self, place: &Place, meter: Arc<dyn Meter>) {
        self.0.store.swap(place, meter);
    }

    pub(crate) fn policy_info(&self) -> bool {
        self.0.policy_info
    }

    /// Writes a finished record to every sink. The only place that does.
    pub(crate) fn write(&self, facts: Facts, place: Option<Place>) {
        let sinks = &*self.0;
        let report = facts.outcome.report();
        let (now, failed) = (Instant::now(), !facts.outcome.is_ok());
        let labels = LabelsRef { flag: report.flag, ..facts.labels() };
        match place {
            Some(place) => sinks.store.close(place, labels, failed, now),
            None if facts.has_context() => {
                // It ended before anybody called it open: it was opened all the same, and Istio counts it so.
                let place = sinks.store.open(facts.labels(), Arc::new(Counters::new()), now);
                sinks.store.close(place, labels, failed, now);
            }
            None if failed => sinks.store.fail(labels, now),
            None => {}
        }
        sinks.outcomes.add(&facts);
        if let Some(health) = &facts.health {
            sinks.health.add(&facts, health);
        }
        let facts = Arc::new(facts);
        if let Some(access) = &sinks.access {
            access.complete(&facts);
        }
        if let Some(tracing) = &sinks.tracing {
            tracing.connection(&facts);
        }
        sinks.flows.push(facts);
    }

    /// Writes a finished record of a request to every sink. The only place that does.
    pub(crate) fn write_request(&self, facts: &Arc<RequestFacts>) {
        let sinks = &*self.0;
        sinks.requests.add(facts, Instant::now());
        if let Some(access) = &sinks.access {
            access.request(facts);
        }
        if let Some(tracing) = &sinks.tracing {
            tracing.request(facts);
        }
    }
}

fn own_metrics(metrics: &Metrics, store: &Arc<Store>, health: &Arc<Health>, config: &Config) {
    let (evicted, overflowed, pairs) = (store.0.evicted.clone(), store.0.overflowed.clone(), health.overflowed.clone());
    let store = store.clone();
    metrics.counter_fn(
        "culvert_telemetry_series_evicted",
        "Traffic series dropped because they were idle or the store was full",
        move || evicted.get(),
    );
    metrics.counter_fn(
        "culvert_telemetry_series_overflowed",
        "Label sets counted as unknown because every series was in use",
        move || overflowed.get(),
    );
    metrics.counter_fn(
        "culvert_telemetry_health_overflowed",
        "Connections whose pair of identities found no room in the TCP health metrics",
        move || pairs.get(),
    );
    metrics.gauge_fn("culvert_telemetry_series", "Traffic series kept", move || store.0.len() as f64);
    if let Some(access) = &config.access {
        let (dropped, failed) = (access.writer().dropped(), access.writer().failed());
        metrics.counter_fn("culvert_log_lines_dropped", "Log lines dropped because the stream was stuck", move || {
            dropped.get()
        });
        metrics.counter_fn("culvert_log_write_failures", "Writes that the log stream refused", move || failed.get());
    }
    if let Some(tracing) = &config.tracing {
        tracing.register(metrics);
    }
}

/// Writes Istio's TCP metrics from the store.
struct Traffic {
    store: Arc<Store>,
    health: Arc<Health>,
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").finish_non_exhaustive()
    }
}

/// What a metric takes from the numbers of a series; `None` shows nothing.
type Value = dyn Fn(&Totals) -> Option<u64>;

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.store.scrape(Instant::now());
        let opened = |t: &Totals| (t.opened > 0).then_some(t.opened);
        // A series with traffic shows its end counter from the start, so that rate() sees the first end.
        let closed = |t: &Totals| (t.opened > 0 || t.closed > 0).then_some(t.closed);
        // Byte sense of the metrics is the server's on both reporters (telemetry.md 1).
        let received = |t: &Totals| (t.opened > 0).then_some(t.to_destination);
        let sent = |t: &Totals| (t.opened > 0).then_some(t.to_source);
        let failed = |t: &Totals| (t.failed > 0).then_some(t.failed);
        let families: [(&str, &str, &Value); 5] = [
            ("istio_tcp_connections_opened", "The total number of TCP connections opened", &opened),
            ("istio_tcp_connections_closed", "The total number of TCP connections closed", &closed),
            ("istio_tcp_received_bytes", "Bytes received by the server over TCP connections", &received),
            ("istio_tcp_sent_bytes", "Bytes sent by the server over TCP connections", &sent),
            ("istio_tcp_connections_failed", "The total number of TCP connections that failed", &failed),
        ];
        for (name, help, value) in families {
            family(&mut encoder, name, help, &all, value)?;
        }
        open(&mut encoder, &all)?;
        self.health.encode(&mut encoder)
    }
}

/// Connections that are open now, by reporter.
fn open(encoder: &mut DescriptorEncoder<'_>, all: &[(Arc<Series>, Totals)]) -> fmt::Result {
    let name = "istio_tcp_sockets_open";
    let mut metric = encoder.encode_descriptor(name, "The number of open TCP connections", None, MetricType::Gauge)?;
    let reporter = |series: &Series| series.labels.borrow().reporter;
    let both = [Direction::Inbound, Direction::Outbound].map(Direction::reporter);
    let reporters: BTreeSet<_> = all.iter().map(|(series, _)| reporter(series)).chain(both).collect();
    for name in reporters {
        let live: u64 = all.iter().filter(|(series, _)| reporter(series) == name).map(|(_, totals)| totals.live).sum();
        ConstGauge::new(live).encode(metric.encode_family(&Pairs(&[("reporter", name)]))?)?;
    }
    Ok(())
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &[(Arc<Series>, Totals)],
    value: &Value,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (series, totals) in all {
        if let Some(value) = value(totals) {
            ConstCounter::new(value).encode(metric.encode_family(&series.labels)?)?;
        }
    }
    Ok(())
}
