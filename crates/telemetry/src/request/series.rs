//! The series of Istio's HTTP metrics: interned label sets, bounded in number; counting takes a read lock and a few atomics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::labels::{RequestLabels, RequestLabelsRef};
use super::{Metric, RequestFacts};
use crate::interned::{Entry, Interned};
use crate::spread::Spread;

/// Upper bounds of all three histograms, milliseconds or bytes: the ones that Istio's waypoints have, so that quantiles of
/// both can be added up.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// One of a series' histograms.
type Part = fn(&Series) -> &Histogram;

type Histogram = Spread<{ BOUNDS.len() }>;

/// All series of requests.
#[derive(Debug)]
pub(crate) struct RequestStore(pub(crate) Interned<Series>);

/// One label set and its numbers.
#[derive(Debug)]
pub(crate) struct Series {
    labels: RequestLabels,
    used: AtomicU64,
    count: AtomicU64,
    duration: Histogram,
    request: Histogram,
    response: Histogram,
}

impl RequestStore {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Interned::new(limit))
    }

    /// Counts a request that has ended.
    pub(crate) fn add(&self, facts: &RequestFacts, now: Instant) {
        let counts = |metric| facts.recording.as_ref().is_none_or(|recording| recording.counts(metric));
        let [count, duration, request, response] =
            [Metric::Count, Metric::Duration, Metric::RequestSize, Metric::ResponseSize].map(counts);
        if !(count || duration || request || response) {
            return;
        }
        let series = self.0.get(facts.shown_labels(), now);
        if count {
            series.count.fetch_add(1, Ordering::Relaxed);
        }
        if duration {
            series.duration.add(micros(facts.duration), &BOUNDS);
        }
        if request {
            series.request.add(facts.request_bytes.saturating_mul(1_000), &BOUNDS);
        }
        if response {
            series.response.add(facts.response_bytes.saturating_mul(1_000), &BOUNDS);
        }
    }
}

/// Microseconds are thousandths of the milliseconds that the metric tells.
fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

impl Entry for Series {
    type Labels<'a> = RequestLabelsRef<'a>;

    fn new(labels: RequestLabelsRef<'_>) -> Self {
        Self {
            labels: labels.to_owned(),
            used: AtomicU64::new(0),
            count: AtomicU64::new(0),
            duration: Histogram::default(),
            request: Histogram::default(),
            response: Histogram::default(),
        }
    }

    fn is(&self, labels: RequestLabelsRef<'_>) -> bool {
        self.labels.borrow() == labels
    }

    fn overflow<'a>(labels: Self::Labels<'a>) -> Self::Labels<'a> {
        labels.overflow()
    }

    fn used(&self) -> &AtomicU64 {
        &self.used
    }

    /// Who counts here holds it.
    fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }
}

/// Writes the metrics of a store.
#[derive(Debug)]
pub(crate) struct RequestMetrics(pub(crate) Arc<RequestStore>);

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.0.scrape(Instant::now());
        // A program without requests, such as the node proxy, does not tell of them.
        if all.is_empty() {
            return Ok(());
        }
        let help = "The total number of HTTP and gRPC requests";
        let mut metric = encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
        // What was never counted is not told: it is switched off.
        for series in &all {
            let count = series.count.load(Ordering::Relaxed);
            if count > 0 {
                ConstCounter::new(count).encode(metric.encode_family(&series.labels)?)?;
            }
        }
        let families: [(&str, &str, Part); 3] = [
            ("istio_request_duration_milliseconds", "Duration of requests in milliseconds", |s| &s.duration),
            ("istio_request_bytes", "Size of request bodies in bytes", |s| &s.request),
            ("istio_response_bytes", "Size of response bodies in bytes", |s| &s.response),
        ];
        for (name, help, of) in families {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for series in &all {
                let (sum, count, buckets) = of(series).read(&BOUNDS);
                if count == 0 {
                    continue;
                }
                let mut member = metric.encode_family(&series.labels)?;
                member.encode_histogram::<RequestLabels>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
