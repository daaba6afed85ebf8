//! The series of Istio's HTTP metrics: interned label sets, bounded in number; counting takes a read lock and a few atomics.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::RequestFacts;
use super::labels::{RequestLabels, RequestLabelsRef};
use crate::numbers::Counter;
use crate::series::IDLE;
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
pub(crate) struct RequestStore {
    limit: usize,
    hasher: RandomState,
    epoch: Instant,
    table: RwLock<Table>,
    /// Series dropped because they were idle.
    pub(crate) evicted: Counter,
    /// Label sets that found no room.
    pub(crate) overflowed: Counter,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<u64, Vec<Arc<Series>>>,
    len: usize,
}

#[derive(Debug)]
struct Series {
    labels: RequestLabels,
    used: AtomicU64,
    duration: Histogram,
    request: Histogram,
    response: Histogram,
}

impl RequestStore {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hasher: RandomState::new(),
            epoch: Instant::now(),
            table: RwLock::default(),
            evicted: Counter::default(),
            overflowed: Counter::default(),
        }
    }

    /// Counts a request that has ended.
    pub(crate) fn add(&self, facts: &RequestFacts, now: Instant) {
        let labels = facts.labels();
        let hash = self.hasher.hash_one(labels);
        let found = self.table.read().unwrap_or_else(PoisonError::into_inner).find(hash, labels);
        let series = found.unwrap_or_else(|| self.insert(hash, labels));
        series.used.store(now.saturating_duration_since(self.epoch).as_secs(), Ordering::Relaxed);
        series.duration.add(micros(facts.duration), &BOUNDS);
        series.request.add(facts.request_bytes.saturating_mul(1_000), &BOUNDS);
        series.response.add(facts.response_bytes.saturating_mul(1_000), &BOUNDS);
    }

    fn insert(&self, hash: u64, labels: RequestLabelsRef<'_>) -> Arc<Series> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.len < self.limit || table.find(hash, labels).is_some() {
            return table.add(hash, labels);
        }
        self.overflowed.inc();
        let labels = labels.overflow();
        table.add(self.hasher.hash_one(labels), labels)
    }

    /// Drops series that were idle for too long and returns the others.
    fn scrape(&self, now: Instant) -> Vec<Arc<Series>> {
        let now = now.saturating_duration_since(self.epoch);
        if now > IDLE {
            let horizon = (now - IDLE).as_secs();
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            self.evicted.add(table.retain(|series| series.used.load(Ordering::Relaxed) >= horizon));
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_hash.values().flatten().cloned().collect()
    }
}

/// Microseconds are thousandths of the milliseconds that the metric tells.
fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

impl Table {
    fn find(&self, hash: u64, labels: RequestLabelsRef<'_>) -> Option<Arc<Series>> {
        self.by_hash.get(&hash)?.iter().find(|s| s.labels.borrow() == labels).cloned()
    }

    fn add(&mut self, hash: u64, labels: RequestLabelsRef<'_>) -> Arc<Series> {
        if let Some(series) = self.find(hash, labels) {
            return series;
        }
        let series = Arc::new(Series {
            labels: labels.to_owned(),
            used: AtomicU64::new(0),
            duration: Histogram::default(),
            request: Histogram::default(),
            response: Histogram::default(),
        });
        self.by_hash.entry(hash).or_default().push(series.clone());
        self.len += 1;
        series
    }

    fn retain(&mut self, keep: impl Fn(&Series) -> bool) -> u64 {
        let before = self.len;
        self.by_hash.retain(|_, list| {
            // A series that a worker holds right now is counted there once more; it is kept.
            list.retain(|series| keep(series) || Arc::strong_count(series) > 1);
            !list.is_empty()
        });
        self.len = self.by_hash.values().map(Vec::len).sum();
        (before - self.len) as u64
    }
}

/// Writes the metrics of a store.
#[derive(Debug)]
pub(crate) struct RequestMetrics(pub(crate) Arc<RequestStore>);

impl Collector for RequestMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.scrape(Instant::now());
        // A program without requests, such as the node proxy, does not tell of them.
        if all.is_empty() {
            return Ok(());
        }
        let help = "The total number of HTTP and gRPC requests";
        let mut metric = encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
        for series in &all {
            let (_, count, _) = series.duration.read(&BOUNDS);
            ConstCounter::new(count).encode(metric.encode_family(&series.labels)?)?;
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
                let mut member = metric.encode_family(&series.labels)?;
                member.encode_histogram::<RequestLabels>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
