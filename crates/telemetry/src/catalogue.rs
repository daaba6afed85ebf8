//! Metrics with names that Istio's dashboards know, beside the traffic ones (telemetry.md 1).

use crate::families::Histogram;
use crate::metrics::{Counter, CounterFamily, Gauge, Metrics};

impl Metrics {
    /// `istio_build{component,tag}`: which program this is; dashboards find ztunnels by component `ztunnel`.
    pub fn build_info(&self, component: &str, tag: &str) {
        let labels = vec![("component", component.to_owned()), ("tag", tag.to_owned())];
        self.constant("istio_build", "Istio component build info", labels);
    }

    /// `process_open_fds`, read from the kernel at every scrape.
    pub fn process(&self) {
        self.gauge_fn("process_open_fds", "Number of open file descriptors", || {
            // Counting includes the descriptor of the listing itself.
            std::fs::read_dir("/proc/self/fd").map_or(0.0, |fds| (fds.count() as f64 - 1.0).max(0.0))
        });
    }
}

/// Metrics of a discovery client.
#[derive(Clone, Debug)]
pub struct XdsMetrics {
    terminations: CounterFamily,
    messages: CounterFamily,
    bytes: CounterFamily,
}

impl XdsMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            terminations: metrics.counters(
                "istio_xds_connection_terminations",
                "Connections to discovery that ended, by reason",
                &["reason"],
            ),
            messages: metrics.counters("istio_xds_message", "Messages received from discovery, by type", &["url"]),
            bytes: metrics.counters(
                "istio_xds_message_bytes",
                "Bytes of messages received from discovery, by type",
                &["url"],
            ),
        }
    }

    /// The stream ended. Istio's reasons: `ConnectionError`, `Error`, `Reconnect`, `Complete`.
    pub fn terminated(&self, reason: &'static str) {
        self.terminations.with(&[reason]).inc();
    }

    /// A message came.
    pub fn received(&self, type_url: &str, bytes: usize) {
        self.messages.with(&[type_url]).inc();
        self.bytes.with(&[type_url]).add(bytes as u64);
    }
}

/// Metrics of the pods that a node proxy serves.
#[derive(Clone, Debug)]
pub struct WorkloadManagerMetrics {
    /// Pods whose proxy runs.
    pub active: Gauge,
    /// Pods whose proxy has yet to start.
    pub pending: Gauge,
    /// Proxies started so far.
    pub started: Counter,
    /// Proxies stopped so far.
    pub stopped: Counter,
}

impl WorkloadManagerMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            active: metrics.gauge("workload_manager_active_proxy_count", "Pods whose proxy runs"),
            pending: metrics.gauge("workload_manager_pending_proxy_count", "Pods whose proxy has yet to start"),
            started: metrics.counter("workload_manager_proxies_started", "Proxies started"),
            stopped: metrics.counter("workload_manager_proxies_stopped", "Proxies stopped"),
        }
    }
}

/// Metrics of look-ups by name.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    /// Requests of applications.
    pub requests: Counter,
    /// Requests forwarded.
    pub upstream_requests: Counter,
    /// Forwarded requests that failed.
    pub upstream_failures: Counter,
    /// How long forwarded requests took.
    pub upstream_duration: Histogram,
    results: CounterFamily,
}

/// Upper bounds in seconds: a cache on the node (0.2 ms) to a resolver's own patience (5 s).
const LOOK_UPS: [f64; 9] = [0.000_2, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0];

impl DnsMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counter("istio_dns_requests", "DNS requests"),
            upstream_requests: metrics.counter("istio_dns_upstream_requests", "DNS requests forwarded"),
            upstream_failures: metrics.counter("istio_dns_upstream_failures", "DNS requests forwarded that failed"),
            upstream_duration: metrics.histogram(
                "istio_dns_upstream_request_duration_seconds",
                "Time until forwarded DNS requests were answered",
                &LOOK_UPS,
            ),
            results: metrics.counters("culvert_dns_results", "DNS requests by what became of them", &["result"]),
        }
    }

    /// Counts a request by what became of it; `result` is one of a closed set.
    pub fn ended(&self, result: &'static str) {
        self.results.with(&[result]).inc();
    }
}
