//! TCP health per pair of identities, from `TCP_INFO` at close.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use mesh::{Direction, Identity};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::facts::{Facts, TcpHealth};
use crate::labels::{Pairs, UNKNOWN};
use crate::numbers::Counter;

/// Pairs kept at most: a node talks to hundreds of identities, not thousands; the rest shares the pair `unknown`.
const PAIRS: usize = 2_048;
/// Upper bounds in seconds: loopback (50 µs) to intercontinental (300 ms) and sick (1 s).
const BOUNDS: [f64; 10] = [0.000_05, 0.000_2, 0.000_5, 0.001, 0.005, 0.02, 0.05, 0.1, 0.3, 1.0];

/// TCP health of all pairs.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pairs: Mutex<HashMap<Key, Sums>>,
    /// Connections whose pair found no room of its own.
    pub(crate) overflowed: Counter,
}

type Key = (Direction, Option<Identity>, Option<Identity>);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    connections: u64,
    retransmits: u64,
    rtt: f64,
    buckets: [u64; BOUNDS.len()],
}

impl Health {
    /// Adds what the kernel said of one connection.
    pub(crate) fn add(&self, facts: &Facts, health: &TcpHealth) {
        let key = (facts.direction, facts.source_identity.clone(), facts.destination_principal());
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if pairs.len() < PAIRS || pairs.contains_key(&key) {
            key
        } else {
            self.overflowed.inc();
            (facts.direction, None, None)
        };
        pairs.entry(key).or_default().add(health);
    }

    /// Writes the two metrics.
    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let pairs: Vec<(Key, Sums)> = {
            let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
            pairs.iter().map(|(k, s)| (k.clone(), *s)).collect()
        };
        let mut metric = encoder.encode_descriptor(
            "culvert_tcp_retransmits",
            "TCP segments sent again on closed connections, by pair of identities",
            None,
            MetricType::Counter,
        )?;
        for (key, sums) in &pairs {
            labelled(key, |labels| ConstCounter::new(sums.retransmits).encode(metric.encode_family(labels)?))?;
        }
        let mut metric = encoder.encode_descriptor(
            "culvert_tcp_rtt_seconds",
            "Smoothed TCP round trip time at close, by pair of identities",
            None,
            MetricType::Histogram,
        )?;
        for (key, sums) in &pairs {
            let mut buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(sums.buckets).collect();
            buckets.push((f64::INFINITY, sums.connections - sums.buckets.iter().sum::<u64>()));
            labelled(key, |labels| {
                metric.encode_family(labels)?.encode_histogram::<Pairs<'_>>(sums.rtt, sums.connections, &buckets, None)
            })?;
        }
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, health: &TcpHealth) {
        let rtt = health.rtt.as_secs_f64();
        self.connections += 1;
        self.retransmits += u64::from(health.retransmits);
        self.rtt += rtt;
        if let Some(bucket) = BOUNDS.iter().position(|bound| rtt <= *bound) {
            self.buckets[bucket] += 1;
        }
    }
}

fn labelled(key: &Key, write: impl FnOnce(&Pairs<'_>) -> fmt::Result) -> fmt::Result {
    let name = |id: &Option<Identity>| id.as_ref().map_or_else(|| UNKNOWN.to_owned(), Identity::to_string);
    let (source, destination) = (name(&key.1), name(&key.2));
    write(&Pairs(&[
        ("reporter", key.0.reporter()),
        ("source_principal", &source),
        ("destination_principal", &destination),
    ]))
}
