//! Flows: what happened lately on this node, in a bounded ring that says exactly how much it lost.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh::{Direction, Identity, Outcome};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::facts::{Facts, SourceEnd};
use crate::timestamp::Timestamp;

/// Flows kept unless configured: some megabytes, and at 1000 connections a second the last eight seconds.
pub const CAPACITY: usize = 8_192;

/// What became of a connection, in Hubble's words (telemetry.md 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Allowed, but a policy in dry run would have refused it.
    Audit,
    /// Refused on purpose.
    Dropped,
    /// It failed.
    Error,
    /// Allowed and carried.
    Forwarded,
    /// Carried to a waypoint.
    Redirected,
}

/// Which end reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The destination's node.
    Inbound,
    /// The source's node.
    Outbound,
}

/// One end of a flow. Unknown fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct End {
    /// Address of the application's end, or of the next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `spiffe://...`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Pod (or entry) name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Name of the owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// One ended connection, as `culvert observe` shows it; one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Place in the ring's sequence; the cursor after it is one more.
    pub sequence: u64,
    /// When it ended.
    pub time: Timestamp,
    /// What became of it.
    pub verdict: Verdict,
    /// Which end reports.
    pub direction: Way,
    /// The application that dialled.
    pub source: End,
    /// What it was carried to.
    pub destination: End,
    /// `namespace/hostname` of the service that was asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<String>,
    /// `:authority` of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub authority: Option<String>,
    /// Whether it was under mutual TLS.
    pub encrypted: bool,
    /// Bytes from source to destination.
    pub bytes_to_destination: u64,
    /// Bytes from destination to source.
    pub bytes_to_source: u64,
    /// From accept to close, in microseconds.
    pub duration_us: u64,
    /// From accept to the first byte from the destination, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte_us: Option<u64>,
    /// Smoothed round trip time at close, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_us: Option<u64>,
    /// Segments sent again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retransmits: Option<u32>,
    /// How it ended: the name of an [`Outcome`].
    pub outcome: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<String>,
    /// For a denial: the rule that was nearest to allowing it, and what was missing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nearest_miss: Option<String>,
    /// Policies in dry run that would have refused it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub dry_run_denials: Vec<String>,
    /// Trace id as 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<String>,
}

/// One line of a stream of flows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A flow.
    Flow(Box<Flow>),
    /// So many flows were overwritten before they could be read, here.
    Lost(u64),
}

/// A part of the ring, from a cursor on.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The flows, oldest first.
    pub flows: Vec<Flow>,
    /// The cursor for the next call. Always: `next - cursor = lost + flows.len()`.
    pub next: u64,
    /// Flows between the cursor and the first of these that were overwritten before anybody read them.
    pub lost: u64,
}

/// The ring. Clones share it.
#[derive(Clone, Debug)]
pub struct Flows(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    ring: Mutex<Ring>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sequence number of the next flow.
    next: u64,
    kept: VecDeque<Arc<Facts>>,
}

impl Flows {
    /// A ring of the given size; 0 keeps nothing and only counts.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared { capacity, ring: Mutex::default(), changed: Notify::new() }))
    }

    /// At most `max` flows from `cursor` on. Begin with [`Flows::head`] for new flows only, or with 0 for all that is
    /// kept (what was overwritten before counts as lost). A cursor from a future (an earlier life of the program) is
    /// taken as the head.
    pub fn since(&self, cursor: u64, max: usize) -> Page {
        let (taken, first, lost) = {
            let ring = self.lock();
            let cursor = cursor.min(ring.next);
            let oldest = ring.next - ring.kept.len() as u64;
            let first = cursor.max(oldest);
            // Fits: the difference is at most the ring's length.
            let skip = (first - oldest) as usize;
            let taken: Vec<_> = ring.kept.iter().skip(skip).take(max).cloned().collect();
            (taken, first, first - cursor)
        };
        let flows: Vec<Flow> = taken.iter().zip(first..).map(|(facts, sequence)| Flow::new(sequence, facts)).collect();
        Page { next: first + flows.len() as u64, flows, lost }
    }

    /// The cursor after the newest flow.
    pub fn head(&self) -> u64 {
        self.lock().next
    }

    /// Waits until there is a flow at or after `cursor`.
    pub async fn wait(&self, cursor: u64) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.head() > cursor {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn push(&self, facts: Arc<Facts>) {
        let overwritten = {
            let mut ring = self.lock();
            ring.next += 1;
            let full = ring.kept.len() >= self.0.capacity;
            let overwritten = if full { ring.kept.pop_front() } else { None };
            if self.0.capacity > 0 {
                ring.kept.push_back(facts);
            }
            overwritten
        };
        // Freed outside of the lock.
        drop(overwritten);
        self.0.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    /// The page as lines, the loss first.
    pub fn lines(self) -> impl Iterator<Item = Line> {
        let lost = (self.lost > 0).then_some(Line::Lost(self.lost));
        lost.into_iter().chain(self.flows.into_iter().map(|flow| Line::Flow(Box::new(flow))))
    }
}

impl Flow {
    fn new(sequence: u64, facts: &Facts) -> Self {
        let rare = facts.rare.as_deref();
        let denial = rare.and_then(|r| r.denial.as_ref());
        let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Self {
            sequence,
            time: Timestamp(facts.started + facts.duration),
            verdict: Verdict::of(facts),
            direction: match facts.direction {
                Direction::Inbound => Way::Inbound,
                Direction::Outbound => Way::Outbound,
            },
            source: source(facts),
            destination: destination(facts),
            service: facts.service.as_deref().map(|s| s.key().to_string()),
            authority: facts.authority.as_ref().map(ToString::to_string),
            encrypted: facts.mutual_tls,
            bytes_to_destination: facts.to_destination,
            bytes_to_source: facts.to_source,
            duration_us: micros(facts.duration),
            first_byte_us: facts.first_byte.map(micros),
            rtt_us: facts.health.map(|h| micros(h.rtt)),
            retransmits: facts.health.map(|h| h.retransmits),
            outcome: facts.outcome.report().name.to_owned(),
            error: facts.error(),
            rule: denial.and_then(|d| d.policy.as_deref()).or(facts.allowed_by.as_deref()).map(str::to_owned),
            nearest_miss: denial.and_then(|d| d.nearest_miss.clone()),
            dry_run_denials: rare
                .map(|r| r.dry_run.iter().filter(|d| d.denies).map(|d| d.policy.to_string()).collect())
                .unwrap_or_default(),
            trace_id: facts.trace.map(|t| format!("{:032x}", t.trace_id)),
        }
    }
}

impl Verdict {
    fn of(facts: &Facts) -> Self {
        let audited = facts.rare.as_deref().is_some_and(|r| r.dry_run.iter().any(|d| d.denies));
        match facts.outcome {
            Outcome::BudgetExhausted
            | Outcome::CertRevoked
            | Outcome::IllegalDestination
            | Outcome::PolicyDenied
            | Outcome::PolicyWithdrawn
            | Outcome::UnknownDestination
            | Outcome::UnknownSource => Self::Dropped,
            outcome if !outcome.is_ok() => Self::Error,
            _ if audited => Self::Audit,
            _ if facts.via_waypoint => Self::Redirected,
            _ => Self::Forwarded,
        }
    }
}

fn source(facts: &Facts) -> End {
    let identity = facts.source_identity.as_ref().map(Identity::to_string);
    let address = Some(facts.source_address.0);
    match &facts.source {
        Some(SourceEnd::Workload(w)) => End {
            address,
            identity,
            namespace: w.namespace.to_string(),
            pod: w.name.to_string(),
            workload: w.workload_name.to_string(),
            cluster: w.cluster_id.to_string(),
        },
        Some(SourceEnd::Told(side)) => End {
            address,
            identity,
            namespace: side.namespace.to_string(),
            pod: String::new(),
            workload: side.workload.to_string(),
            cluster: side.cluster.to_string(),
        },
        None => End { address, identity, ..End::default() },
    }
}

fn destination(facts: &Facts) -> End {
    let end = End {
        address: Some(facts.destination_address),
        identity: facts.destination_principal().map(|i| i.to_string()),
        ..End::default()
    };
    match facts.destination.as_deref() {
        Some(w) => End {
            namespace: w.namespace.to_string(),
            pod: w.name.to_string(),
            workload: w.workload_name.to_string(),
            cluster: w.cluster_id.to_string(),
            ..end
        },
        None => end,
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
