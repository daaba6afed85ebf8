//! Our own metrics of closed sets: how connections ended, and how long their phases took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh::{Direction, Outcome};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::facts::Facts;
use crate::labels::Pairs;
use crate::phase::Phase;
use crate::spread::Spread;

/// Upper bounds of phases in milliseconds: a look-up (10 µs) to a held connection (5 s, design.md 4 rule 3).
const BOUNDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 5.0, 20.0, 100.0, 1_000.0, 5_000.0];
const REPORTERS: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

/// Counts that need no look-up: arrays of atomics.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    ends: [[AtomicU64; Outcome::ALL.len()]; 2],
    phases: [[Spread<{ BOUNDS.len() }>; Phase::ALL.len()]; 2],
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
            let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
            self.phases[reporter][phase as usize].add(micros, &BOUNDS);
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
                let (sum, count, mut buckets) = self.phases[reporter as usize][phase as usize].read(&BOUNDS);
                // Kept in milliseconds, told in seconds.
                buckets.iter_mut().for_each(|(bound, _)| *bound /= 1e3);
                let sum = sum / 1e3;
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
