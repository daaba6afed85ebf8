//! The record of one connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh::{Direction, Identity, Outcome, PeerAddr, Service, TraceContext, Workload};

use crate::counters::{Counters, Meter};
use crate::facts::{Authority, Denial, DryRun, Facts, Rare, SourceEnd, TcpHealth};
use crate::handle::{Telemetry, rbac};
use crate::labels::Side;
use crate::otlp::Tracing;
use crate::phase::{Phase, Timings, since};
use crate::sampler;
use crate::series::Place;

/// The record of one connection: made at accept, filled step by step, written exactly once when it is dropped, whatever
/// ends the connection (return, cancellation, panic). Without [`Record::finish`] the outcome is `Abandoned`.
///
/// Setters move a few words or take an `Arc`; only what failed or denied connections have is allocated.
#[derive(Debug)]
pub struct Record {
    telemetry: Telemetry,
    start: Instant,
    meter: Option<Arc<dyn Meter>>,
    place: Option<Place>,
    facts: Facts,
}

impl Record {
    /// A record for a connection accepted now. `destination` is what is known of it: the original destination of an
    /// application's connection, or the local address of a tunnel.
    pub fn new(telemetry: &Telemetry, direction: Direction, source: PeerAddr, destination: SocketAddr) -> Self {
        let start = Instant::now();
        let mut timings = Timings::default();
        timings.enter(Phase::Capture, Duration::ZERO);
        Self {
            telemetry: telemetry.clone(),
            start,
            meter: None,
            place: None,
            facts: Facts { timings, ..Facts::new(direction, source, destination) },
        }
    }

    /// Byte counters for a relay that has none of its own; they take the place of an earlier meter.
    pub fn counters(&mut self) -> Arc<Counters> {
        let counters = Arc::new(Counters::new());
        self.meter(counters.clone());
        counters
    }

    /// Where to read the bytes of this connection while it lives and when it ends. Set it before [`Record::opened`].
    pub fn meter(&mut self, meter: Arc<dyn Meter>) {
        if let Some(place) = &self.place {
            self.telemetry.swap(place, meter.clone());
        }
        self.meter = Some(meter);
    }

    /// When the connection was accepted.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// What is known so far.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The source, as discovery knows it.
    pub fn source(&mut self, workload: Arc<Workload>) {
        self.facts.source = Some(SourceEnd::Workload(workload));
    }

    /// The source, as its own proxy describes it (baggage); has no effect once discovery knows it.
    pub fn source_told(&mut self, side: Side) {
        if self.facts.source.is_none() {
            self.facts.source = Some(SourceEnd::Told(Box::new(side)));
        }
    }

    /// The identity of the source: from the TLS handshake, or the one whose certificate we use.
    pub fn source_identity(&mut self, identity: Identity) {
        self.facts.source_identity = Some(identity);
    }

    /// The workload that the connection goes to: the waypoint, where the client's proxy goes there.
    pub fn destination(&mut self, workload: Arc<Workload>) {
        self.facts.destination = Some(workload);
    }

    /// The identity that the destination proved.
    pub fn destination_identity(&mut self, identity: Identity) {
        self.facts.destination_identity = Some(identity);
    }

    /// The service that was asked for.
    pub fn service(&mut self, service: Arc<Service>) {
        self.facts.service = Some(service);
    }

    /// The next hop: where the connection really goes.
    pub fn next_hop(&mut self, address: SocketAddr) {
        self.facts.destination_address = address;
    }

    /// `:authority` of the CONNECT, as an address.
    pub fn authority(&mut self, address: SocketAddr) {
        self.facts.authority = Some(Authority::Address(address));
    }

    /// `:authority` of the CONNECT, as a host name with a port.
    pub fn authority_name(&mut self, name: impl Into<Arc<str>>) {
        self.facts.authority = Some(Authority::Name(name.into()));
    }

    /// The connection is under mutual TLS.
    pub fn mutual_tls(&mut self) {
        self.facts.mutual_tls = true;
    }

    /// The connection goes to a waypoint.
    pub fn via_waypoint(&mut self) {
        self.facts.via_waypoint = true;
    }

    /// A waypoint reports it, not a node proxy.
    pub fn at_waypoint(&mut self) {
        self.facts.at_waypoint = true;
    }

    /// The labels are known and the connection goes on: counts it as opened and makes its bytes move in the metrics.
    /// Call it once, after source, destination, service and security are set; later calls have no effect.
    pub fn opened(&mut self) {
        // Whatever was done to get here is done.
        self.leave();
        if self.place.is_none() {
            let meter = self.meter.get_or_insert_with(|| Arc::new(Counters::new())).clone();
            self.place = Some(self.telemetry.open(&self.facts, meter));
        }
    }

    /// Begins a phase and ends the one before it.
    pub fn enter(&mut self, phase: Phase) {
        self.facts.timings.enter(phase, self.start.elapsed());
    }

    /// Ends the running phase.
    pub fn leave(&mut self) {
        self.facts.timings.leave(self.start.elapsed());
    }

    /// Notes a phase that somebody else measured (the pool: connect and handshake).
    pub fn measured(&mut self, phase: Phase, begin: Instant, length: Duration) {
        self.facts.timings.measured(phase, since(self.start, begin), length);
    }

    /// The rule by which policy allowed it: an `Arc` of the policy's own, so that allowing allocates nothing.
    pub fn allowed(&mut self, rule: Arc<str>) {
        rbac!(self.telemetry, policy = &*rule, src.addr = %self.facts.source_address, "allowed");
        self.facts.allowed_by = Some(rule);
    }

    /// Policy refused it: says why, to the flow, the access line and scope `rbac`. The outcome is still to be told by
    /// [`Record::finish`].
    pub fn denied(&mut self, denial: Denial) {
        let policy = denial.policy.as_deref().unwrap_or("none");
        let (source, destination) = (self.facts.source_address, self.facts.destination_address);
        let why = &*denial.explanation;
        rbac!(self.telemetry, policy, src.addr = %source, dst.addr = %destination, why, "denied");
        self.rare().denial = Some(denial);
    }

    /// What a policy in dry run would have done.
    pub fn dry_run(&mut self, policy: impl Into<Arc<str>>, denies: bool) {
        self.rare().dry_run.push(DryRun { policy: policy.into(), denies });
    }

    /// More than the outcome says of what went wrong.
    pub fn error(&mut self, detail: impl Into<String>) {
        self.rare().error = Some(detail.into());
    }

    /// State of the TCP connection at its end.
    pub fn health(&mut self, health: TcpHealth) {
        self.facts.health = Some(health);
    }

    /// The trace context to send along: the id of this connection's own span, made at the first call.
    ///
    /// Without tracing the ids are random and unsampled, as Istio's are (telemetry.md 4).
    pub fn trace_context(&mut self) -> TraceContext {
        match self.facts.trace {
            Some(context) => context,
            None => self.trace(None),
        }
    }

    /// Joins the trace that the other end of the tunnel began. Call it before [`Record::trace_context`]; later it has no
    /// effect.
    pub fn continue_trace(&mut self, parent: TraceContext) {
        if self.facts.trace.is_none() {
            self.trace(Some(parent));
        }
    }

    /// Says how the connection ended and writes the record.
    pub fn finish(mut self, outcome: Outcome) {
        self.facts.outcome = outcome;
    }

    /// Says how the connection would end if nobody said more: for a task that may be dropped at any time
    /// (drain, deletion of the pod).
    pub fn otherwise(&mut self, outcome: Outcome) {
        self.facts.outcome = outcome;
    }

    fn trace(&mut self, parent: Option<TraceContext>) -> TraceContext {
        let context = sampler::begin(self.telemetry.tracing().map(Tracing::sampler), parent);
        self.facts.trace = Some(context);
        self.facts.parent_span = parent.map(|p| p.span_id);
        context
    }

    fn rare(&mut self) -> &mut Rare {
        self.facts.rare.get_or_insert_default()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let facts = &mut self.facts;
        facts.duration = self.start.elapsed();
        facts.timings.leave(facts.duration);
        if let Some(meter) = &self.meter {
            facts.to_destination = meter.to_destination();
            facts.to_source = meter.to_source();
            facts.first_byte = meter.first_byte().map(|at| since(self.start, at));
        }
        let (direction, source, destination) = (facts.direction, facts.source_address, facts.destination_address);
        let facts = std::mem::replace(facts, Facts::new(direction, source, destination));
        self.telemetry.write(facts, self.place.take());
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
