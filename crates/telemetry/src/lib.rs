//! What the mesh says about itself: one [`Record`] per connection feeds metrics, access log, flows and spans.
//!
//! A record is made when a connection is accepted, filled step by step, and written exactly once: when it is dropped,
//! whatever ends the connection. A task that vanishes without a word leaves a record with
//! [`Outcome::Abandoned`](mesh::Outcome::Abandoned). Because all four sinks read the same finished
//! [`Facts`](facts::Facts), they cannot disagree.
//!
//! What costs time is not done by the thread that carries connections: it resolves one series, moves a few integers and
//! hands an `Arc` to bounded queues. Formatting, writing and exporting happen on threads of this crate; a full queue
//! drops and counts, it never blocks.
//!
//! Names, labels and shapes are Istio's (telemetry.md 1, 3, 4); what Istio has no name for is called `culvert_*`.

pub mod access;
pub mod counters;
pub mod facts;
pub mod flow;
pub mod labels;
pub mod logging;
pub mod metrics;
pub mod otlp;
pub mod phase;
pub mod record;
pub mod request;
pub mod sampler;
pub mod timestamp;
pub mod writer;

mod catalogue;
mod export;
mod families;
mod fields;
mod handle;
mod health;
mod interned;
mod numbers;
mod outcomes;
mod records;
mod series;
mod spans;
mod spread;

#[cfg(test)]
mod fixture;

pub use access::AccessLog;
pub use catalogue::{DnsMetrics, WorkloadManagerMetrics, XdsMetrics};
pub use counters::{Counters, Meter};
pub use facts::{Denial, DryRun, TcpHealth};
pub use families::Histogram;
pub use flow::{Flow, Flows};
pub use handle::{Config, SERIES, Telemetry};
pub use labels::Side;
pub use logging::{LogConfig, LogFormat, LogHandle, init_logging};
pub use metrics::Metrics;
pub use otlp::{Collector, Tracing, TracingConfig};
pub use phase::{Mark, Phase};
pub use record::Record;
pub use request::{Recording, RequestRecord};
pub use sampler::Sampler;
pub use writer::LineWriter;
