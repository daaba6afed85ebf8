//! The registry of a program's metrics and their OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::labels::Pairs;
pub use crate::numbers::{Counter, Gauge};

/// Content type of [`Metrics::render`] (OpenMetrics 1.0, "Content-Type").
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Label values kept at most in one [`CounterFamily`]. Values come from closed sets, so this is a fence against a
/// mistake, not a working limit.
const FAMILY_LIMIT: usize = 1_000;

/// All metrics of one program. Names are given without the suffix `_total`, which the text adds to counters.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

impl Metrics {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a counter.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        let counter = Counter::default();
        let value = counter.clone();
        self.collector(name, help, MetricType::Counter, move || Sample::Counter(value.get()));
        counter
    }

    /// Registers a gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        let gauge = Gauge::default();
        let value = gauge.clone();
        self.collector(name, help, MetricType::Gauge, move || Sample::Gauge(value.get() as f64));
        gauge
    }

    /// Registers a gauge whose value is asked for at every scrape.
    pub fn gauge_fn(&self, name: &'static str, help: &'static str, value: impl Fn() -> f64 + Send + Sync + 'static) {
        self.collector(name, help, MetricType::Gauge, move || Sample::Gauge(value()));
    }

    /// Registers a counter whose value is asked for at every scrape; it must never shrink.
    pub fn counter_fn(&self, name: &'static str, help: &'static str, value: impl Fn() -> u64 + Send + Sync + 'static) {
        self.collector(name, help, MetricType::Counter, move || Sample::Counter(value()));
    }

    /// Registers a family of counters. Values of the labels come from closed sets.
    pub fn counters(&self, name: &'static str, help: &'static str, labels: &'static [&'static str]) -> CounterFamily {
        let family = CounterFamily(Arc::new(Family { name, help, labels, members: Mutex::default() }));
        self.add(Box::new(family.clone()));
        family
    }

    /// Registers a gauge of value 1 that carries facts as labels, such as `istio_build`.
    pub fn constant(&self, name: &'static str, help: &'static str, labels: Vec<(&'static str, String)>) {
        self.add(Box::new(Constant { name, help, labels }));
    }

    /// The OpenMetrics text of everything.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String cannot fail; what an encoder refuses (a broken label) must not take the rest with it.
        if encode(&mut text, &registry).is_err() {
            tracing::warn!("a metric could not be written; the text ends early");
        }
        text
    }

    pub(crate) fn add(&self, collector: Box<dyn Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }

    fn collector(
        &self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
        value: impl Fn() -> Sample + Send + Sync + 'static,
    ) {
        self.add(Box::new(One { name, help, kind, value: Box::new(value) }));
    }
}

/// Counters that differ by label values. Clones share them.
#[derive(Clone, Debug)]
pub struct CounterFamily(Arc<Family>);

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    members: Mutex<BTreeMap<Vec<String>, Counter>>,
}

impl CounterFamily {
    /// The counter of these label values, in the order in which the labels were registered. Keep it where it is used
    /// often. A missing value counts as unknown; a superfluous one is ignored.
    pub fn with(&self, values: &[&str]) -> Counter {
        let mut members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        let value = |i: usize| values.get(i).copied().unwrap_or_default().to_owned();
        let key: Vec<String> = (0..self.0.labels.len()).map(value).collect();
        if members.len() >= FAMILY_LIMIT && !members.contains_key(&key) {
            return members.entry(vec!["other".to_owned(); self.0.labels.len()]).or_default().clone();
        }
        members.entry(key).or_default().clone()
    }
}

impl Collector for CounterFamily {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.0.name, self.0.help, None, MetricType::Counter)?;
        let members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (values, counter) in &members {
            let pairs: Vec<_> = self.0.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            ConstCounter::new(counter.get()).encode(metric.encode_family(&Pairs(&pairs))?)?;
        }
        Ok(())
    }
}

enum Sample {
    Counter(u64),
    Gauge(f64),
}

struct One {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: Box<dyn Fn() -> Sample + Send + Sync>,
}

impl fmt::Debug for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("One").field(&self.name).finish()
    }
}

impl Collector for One {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        match (self.value)() {
            Sample::Counter(value) => ConstCounter::new(value).encode(metric),
            Sample::Gauge(value) => ConstGauge::new(value).encode(metric),
        }
    }
}

#[derive(Debug)]
struct Constant {
    name: &'static str,
    help: &'static str,
    labels: Vec<(&'static str, String)>,
}

impl Collector for Constant {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        let pairs: Vec<_> = self.labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        ConstGauge::new(1_i64).encode(metric.encode_family(&Pairs(&pairs))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_families_and_constants_are_written_as_openmetrics() {
        let metrics = Metrics::new();
        metrics.counter("culvert_a", "Things").add(3);
        metrics.gauge("culvert_b", "Level").set(-2);
        metrics.counter_fn("culvert_c", "Asked", || 7);
        metrics.gauge_fn("culvert_d", "Asked", || 0.5);
        let family = metrics.counters("culvert_e", "By reason", &["reason", "where"]);
        family.with(&["x", ""]).inc();
        family.with(&["x", ""]).inc();
        metrics.constant("istio_build", "Build", vec![("component", "ztunnel".to_owned()), ("tag", "1\"2".to_owned())]);
        let text = metrics.render();
        for line in [
            "culvert_a_total 3",
            "culvert_b -2",
            "culvert_c_total 7",
            "culvert_d 0.5",
            "culvert_e_total{reason=\"x\",where=\"unknown\"} 2",
            "istio_build{component=\"ztunnel\",tag=\"1\\\"2\"} 1",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_family_never_grows_beyond_its_fence() {
        let metrics = Metrics::new();
        let family = metrics.counters("culvert_f", "By text", &["text"]);
        for i in 0..FAMILY_LIMIT + 50 {
            family.with(&[&i.to_string()]).inc();
        }
        assert_eq!(family.with(&["other"]).get(), 50);
        assert_eq!(metrics.render().lines().filter(|l| l.starts_with("culvert_f_total{")).count(), FAMILY_LIMIT + 1);
    }
}
