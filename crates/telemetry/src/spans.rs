//! Finished connections as OpenTelemetry spans: one for the connection, one child for each phase.
//!
//! Attribute names are those of the semantic conventions where they exist (`network.*`, `client.*`, `server.*`,
//! `error.type`), Istio's where Istio's tools look for them (`istio.*`), and `culvert.*` otherwise.

use std::time::{Duration, SystemTime};

use mesh::{Direction, Workload};
use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use rand::RngCore;

use crate::export::Item;
use crate::facts::{Facts, SourceEnd, TcpHealth};
use crate::otlp::SCOPE;
use crate::phase::Mark;
use crate::request;

/// The spans of an item.
pub(crate) fn of(item: Item) -> Vec<SpanData> {
    match item {
        Item::Span(span) => vec![*span],
        Item::Connection(facts) => connection(&facts),
        Item::Request(facts) => request::spans(&facts),
    }
}

/// The connection's span and one child for each phase; none without a trace.
pub(crate) fn connection(facts: &Facts) -> Vec<SpanData> {
    let Some(trace) = facts.trace else { return Vec::new() };
    let frame = Frame::new(trace.trace_id);
    let mut events = SpanEvents::default();
    if let Some(after) = facts.first_byte {
        events.events.push(event(Mark::FirstByte, facts.started + after));
    }
    events.events.push(event(Mark::Close, facts.started + facts.duration));
    let name = match facts.direction {
        Direction::Inbound => "tcp inbound",
        Direction::Outbound => "tcp outbound",
    };
    let parent = facts.parent_span.unwrap_or(0);
    let mut spans = vec![SpanData {
        parent_span_is_remote: facts.parent_span.is_some(),
        span_kind: match facts.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        },
        attributes: attributes(facts),
        events,
        status: facts.error().map_or(Status::Unset, Status::error),
        ..frame.span(trace.span_id, parent, name.to_owned(), facts.started, facts.duration)
    }];
    let mut random = rand::rng();
    spans.extend(facts.timings.iter().map(|(phase, begin, length)| {
        let id = random.next_u64().max(1);
        frame.span(id, trace.span_id, phase.as_str().to_owned(), facts.started + begin, length)
    }));
    spans
}

/// What all spans of one trace have in common.
pub(crate) struct Frame {
    trace_id: TraceId,
    scope: InstrumentationScope,
}

impl Frame {
    pub(crate) fn new(trace_id: u128) -> Self {
        let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        Self { trace_id: TraceId::from_bytes(trace_id.to_be_bytes()), scope }
    }

    /// An internal span without attributes; `parent` 0 = none.
    pub(crate) fn span(&self, id: u64, parent: u64, name: String, start: SystemTime, length: Duration) -> SpanData {
        let id = SpanId::from_bytes(id.to_be_bytes());
        SpanData {
            span_context: SpanContext::new(self.trace_id, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: SpanId::from_bytes(parent.to_be_bytes()),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: start,
            end_time: start + length,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn event(mark: Mark, at: SystemTime) -> Event {
    Event::new(mark.as_str(), at, Vec::new(), 0)
}

fn attributes(facts: &Facts) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(32);
    let mut put = |key: &'static str, value: &str| {
        if !value.is_empty() {
            out.push(KeyValue::new(key, value.to_owned()));
        }
    };
    put("network.transport", "tcp");
    put("network.type", if facts.destination_address.is_ipv4() { "ipv4" } else { "ipv6" });
    put("client.address", &facts.source_address.ip().to_string());
    put("network.peer.address", &facts.destination_address.ip().to_string());
    match &facts.service {
        Some(service) => put("server.address", &service.hostname),
        None => put("server.address", &facts.destination_address.ip().to_string()),
    }
    put("istio.reporter", facts.reporter());
    put("culvert.outcome", facts.outcome.report().name);
    if !facts.outcome.is_ok() {
        put("error.type", facts.outcome.report().name);
    }
    if let Some(authority) = &facts.authority {
        put("culvert.hbone.authority", &authority.to_string());
    }
    match &facts.source {
        Some(SourceEnd::Workload(w)) => workload(&mut put, &SOURCE, w),
        Some(SourceEnd::Told(side)) => {
            let values = [&side.workload, &side.namespace, &side.cluster, &side.app, &side.version];
            SOURCE.iter().zip(values).for_each(|(key, value)| put(key, value));
        }
        None => {}
    }
    if let Some(w) = &facts.destination {
        workload(&mut put, &DESTINATION, w);
    }
    if let Some(identity) = &facts.source_identity {
        put("culvert.source.identity", &identity.to_string());
    }
    if let Some(identity) = facts.destination_principal() {
        put("culvert.destination.identity", &identity.to_string());
    }
    policy(facts, &mut put);
    numbers(facts, &mut out);
    out
}

/// Attributes of one end, in the order of [`workload`].
pub(crate) type Keys = [&'static str; 5];
pub(crate) const SOURCE: Keys = [
    "istio.source_workload",
    "istio.source_namespace",
    "istio.source_cluster_id",
    "istio.source_canonical_service",
    "istio.source_canonical_revision",
];
pub(crate) const DESTINATION: Keys = [
    "istio.destination_workload",
    "istio.destination_namespace",
    "istio.destination_cluster_id",
    "istio.destination_canonical_service",
    "istio.destination_canonical_revision",
];

pub(crate) fn workload(put: &mut dyn FnMut(&'static str, &str), keys: &Keys, w: &Workload) {
    let values = [&w.workload_name, &w.namespace, &w.cluster_id, &w.canonical_name, &w.canonical_revision];
    keys.iter().zip(values).for_each(|(key, value)| put(key, value));
}

fn policy(facts: &Facts, put: &mut dyn FnMut(&'static str, &str)) {
    if let Some(rule) = &facts.allowed_by {
        put("culvert.policy.rule", rule);
    }
    let Some(rare) = facts.rare.as_deref() else { return };
    if let Some(denial) = &rare.denial {
        put("culvert.policy.explanation", &denial.explanation);
        put("culvert.policy.rule", denial.policy.as_deref().unwrap_or_default());
    }
    // One attribute, whatever the number of policies: keys must be unique within a span.
    let denials: Vec<_> = rare.dry_run.iter().filter(|d| d.denies).map(|d| &*d.policy).collect();
    put("culvert.policy.dry_run_denials", &denials.join(","));
}

fn numbers(facts: &Facts, out: &mut Vec<KeyValue>) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    out.push(KeyValue::new("client.port", i64::from(facts.source_address.port())));
    out.push(KeyValue::new("network.peer.port", i64::from(facts.destination_address.port())));
    out.push(KeyValue::new("culvert.bytes_to_destination", number(facts.to_destination)));
    out.push(KeyValue::new("culvert.bytes_to_source", number(facts.to_source)));
    out.push(KeyValue::new("culvert.mutual_tls", facts.mutual_tls));
    if let Some(TcpHealth { rtt, rtt_var, retransmits, delivery_rate, lost }) = facts.health {
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        out.push(KeyValue::new("culvert.tcp.rtt_us", micros(rtt)));
        out.push(KeyValue::new("culvert.tcp.rtt_var_us", micros(rtt_var)));
        out.push(KeyValue::new("culvert.tcp.retransmits", i64::from(retransmits)));
        out.push(KeyValue::new("culvert.tcp.delivery_rate", number(delivery_rate)));
        out.push(KeyValue::new("culvert.tcp.lost", i64::from(lost)));
    }
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
