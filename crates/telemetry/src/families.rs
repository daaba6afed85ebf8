//! Gauges by label values, and histograms of times and sizes, for programs without connections.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::labels::Pairs;
use crate::metrics::Metrics;

impl Metrics {
    /// Registers gauges that are asked for at every scrape, one a label value. Values come from a closed set.
    pub fn gauges_fn(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl Fn() -> Vec<(&'static str, f64)> + Send + Sync + 'static,
    ) {
        self.add(Box::new(Gauges { name, help, label, values: Box::new(values) }));
    }

    /// Registers a histogram with these upper bounds, which ascend.
    pub fn histogram(&self, name: &'static str, help: &'static str, bounds: &'static [f64]) -> Histogram {
        let sums = Sums { buckets: vec![0; bounds.len()], ..Sums::default() };
        let histogram = Histogram(Arc::new(Kept { name, help, bounds, sums: Mutex::new(sums) }));
        self.add(Box::new(histogram.clone()));
        histogram
    }
}

struct Gauges {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: Box<dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gauges").field(&self.name).finish()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (value, number) in (self.values)() {
            ConstGauge::new(number).encode(metric.encode_family(&Pairs(&[(self.label, value)]))?)?;
        }
        Ok(())
    }
}

/// How often values fell below which bounds. Clones share it.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    sums: Mutex<Sums>,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    count: u64,
    sum: f64,
    /// Not cumulative; the text is.
    buckets: Vec<u64>,
}

impl Histogram {
    /// Adds a value.
    pub fn observe(&self, value: f64) {
        let mut sums = self.0.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.count += 1;
        sums.sum += value;
        if let Some(at) = self.0.bounds.iter().position(|bound| value <= *bound) {
            sums.buckets[at] += 1;
        }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.0.sums.lock().unwrap_or_else(PoisonError::into_inner).count
    }
}

impl Collector for Histogram {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sums = self.0.sums.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut metric = encoder.encode_descriptor(self.0.name, self.0.help, None, MetricType::Histogram)?;
        let mut buckets: Vec<(f64, u64)> = self.0.bounds.iter().copied().zip(sums.buckets.iter().copied()).collect();
        buckets.push((f64::INFINITY, sums.count - sums.buckets.iter().sum::<u64>()));
        metric.encode_histogram::<Pairs<'_>>(sums.sum, sums.count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_and_histograms_are_written_as_openmetrics() {
        let metrics = Metrics::new();
        metrics.gauges_fn("culvert_g", "By kind", "kind", || vec![("Pod", 2.0), ("Node", 1.0)]);
        let histogram = metrics.histogram("culvert_h", "Times", &[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 7.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.count(), 4);
        let text = metrics.render();
        for line in [
            "culvert_g{kind=\"Pod\"} 2",
            "culvert_g{kind=\"Node\"} 1",
            "culvert_h_bucket{le=\"0.1\"} 2",
            "culvert_h_bucket{le=\"1.0\"} 3",
            "culvert_h_bucket{le=\"+Inf\"} 4",
            "culvert_h_count 4",
            "culvert_h_sum 7.65",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line} is not in\n{text}");
        }
    }
}
