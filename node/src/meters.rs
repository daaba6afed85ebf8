//! The agent's own metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use telemetry::Metrics;
use telemetry::metrics::{Counter, CounterFamily, Gauge};

/// States of pods; each is always shown.
const STATES: [&str; 6] = ["announced", "captured", "failed", "leaving", "left_out", "waiting"];

/// What is counted on this node.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    /// Pods by state.
    pods: Arc<Mutex<BTreeMap<&'static str, i64>>>,
    /// Whether the CNI plug-in is in the node's chain.
    pub(crate) chained: Gauge,
    /// Proxies that are connected.
    pub(crate) proxies: Gauge,
    /// Pods captured late.
    pub(crate) late: Counter,
    /// What audits found missing.
    pub(crate) repairs: CounterFamily,
    /// What the plug-in was told.
    pub(crate) adds: CounterFamily,
    /// Calls to the API server that failed.
    pub(crate) failures: CounterFamily,
}

impl Meters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let pods: Arc<Mutex<BTreeMap<&'static str, i64>>> = Arc::default();
        let shown = pods.clone();
        metrics.gauges_fn("culvert_node_pods", "Pods of this node by state of their capture", "state", move || {
            let counts = shown.lock().unwrap_or_else(PoisonError::into_inner);
            STATES.iter().map(|state| (*state, counts.get(state).copied().unwrap_or(0) as f64)).collect()
        });
        Self {
            pods,
            chained: metrics.gauge("culvert_node_cni_chained", "1 while the CNI plug-in is in the node's chain"),
            proxies: metrics.gauge("culvert_node_proxies", "Node proxies that are connected"),
            late: metrics.counter(
                "culvert_node_late_captures",
                "Pods that should have been captured from birth and were captured later",
            ),
            repairs: metrics.counters(
                "culvert_node_repairs",
                "Missing pieces of capture that an audit put back",
                &["what"],
            ),
            adds: metrics.counters("culvert_node_cni_adds", "Pods brought by the CNI plug-in", &["result"]),
            failures: metrics.counters("culvert_node_api_failures", "Calls to the API server that failed", &["call"]),
        }
    }

    /// Notes the states of all pods.
    pub(crate) fn count(&self, states: impl Iterator<Item = &'static str>) {
        let mut counts = BTreeMap::new();
        states.for_each(|state| *counts.entry(state).or_default() += 1);
        *self.pods.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}
