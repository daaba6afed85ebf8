//! Our own metrics of closed sets: how connections ended, and how long their phases took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh::{Direction, Outcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::facts::Facts;
use crate::labels::Pairs;
use crate::phase::Phase;

/// Upper bounds of phases in seconds: a look-up (10 µs) to a held connection (5 s, design.md 4 rule 3).
const BOUNDS: [f64; 9] = [0.000_01, 0.000_1, 0.000_5, 0.001, 0.005, 0.02, 0.1, 1.0, 5.0];
const REPORTERS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// Counts that need no look-up: arrays of atomics.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    ends: [[AtomicU64; Outcome::ALL.len()]; 2],
    phases: [[Spread; Phase::ALL.len()]; 2],
}

#[derive(Debug, Default)]
struct Spread {
    micros: AtomicU64,
    count: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
}

impl Outcomes {
    /// Counts an ended connection.
    pub(crate) fn add(&self, facts: &Facts) {
        let reporter = facts.direction as usize;
        let outcome = Outcome::ALL.iter().position(|o| *o == facts.outcome);
        if let Some(count) = outcome.and_then(|i| self.ends[reporter].get(i)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        for (phase, _, length) in facts.timings.iter() {
            self.phases[reporter][phase as usize].add(length);
        }
    }

    fn encode_ends(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "culvert_connections",
            "Ended connections by outcome",
            None,
            MetricType::Counter,
        )?;
        for reporter in REPORTERS {
            for (outcome, count) in Outcome::ALL.iter().zip(&self.ends[reporter as usize]) {
                let report = outcome.report();
                let pairs =
                    [("reporter", reporter.reporter()), ("outcome", report.name), ("response_flags", report.flag)];
                ConstCounter::new(count.load(Ordering::Relaxed)).encode(metric.encode_family(&Pairs(&pairs))?)?;
            }
        }
        Ok(())
    }

    fn encode_phases(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(
            "culvert_phase_duration_seconds",
            "Time that each step of a connection took",
            None,
            MetricType::Histogram,
        )?;
        for reporter in REPORTERS {
            for phase in Phase::ALL {
                let pairs = [("reporter", reporter.reporter()), ("phase", phase.as_str())];
                let (sum, count, buckets) = self.phases[reporter as usize][phase as usize].read();
                metric.encode_family(&Pairs(&pairs))?.encode_histogram::<Pairs<'_>>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Outcomes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_ends(&mut encoder)?;
        self.encode_phases(&mut encoder)
    }
}

impl Spread {
    fn add(&self, length: Duration) {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        let seconds = length.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Sum in seconds, count, and buckets with the rest above the last bound.
    fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let count = self.count.load(Ordering::Relaxed);
        let mut buckets: Vec<_> =
            BOUNDS.into_iter().zip(self.buckets.iter().map(|b| b.load(Ordering::Relaxed))).collect();
        let below: u64 = buckets.iter().map(|(_, n)| n).sum();
        // Read without a lock: a bucket may be ahead of the count for a moment.
        buckets.push((f64::INFINITY, count.saturating_sub(below)));
        (self.micros.load(Ordering::Relaxed) as f64 / 1e6, count.max(below), buckets)
    }
}
