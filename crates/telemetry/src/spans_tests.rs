use mesh::{Outcome, TraceContext};
use opentelemetry::Value;

use super::*;
use crate::facts::{Denial, DryRun, Rare};
use crate::fixture;
use crate::phase::Phase;

fn facts(direction: Direction, outcome: Outcome) -> Facts {
    let mut facts = fixture::facts(direction, outcome);
    facts.trace = Some(TraceContext { trace_id: 0xa1, span_id: 0xb2, sampled: true });
    facts
}

fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    let found: Vec<_> = span.attributes.iter().filter(|a| a.key.as_str() == key).collect();
    assert!(found.len() <= 1, "{key} is there {} times", found.len());
    found.first().map(|a| a.value.clone())
}

#[test]
fn a_connection_is_one_span_with_a_child_for_each_phase_at_its_own_time() {
    let us = Duration::from_micros;
    let mut facts = facts(Direction::Outbound, Outcome::Closed);
    facts.first_byte = Some(us(900));
    facts.timings.measured(Phase::Resolve, us(10), us(5));
    facts.timings.measured(Phase::Handshake, us(100), us(700));
    let spans = connection(&facts);
    let root = &spans[0];
    assert_eq!((root.name.as_ref(), root.span_kind.clone()), ("tcp outbound", SpanKind::Client));
    assert_eq!((root.start_time, root.end_time), (facts.started, facts.started + facts.duration));
    assert_eq!(root.span_context.span_id().to_string(), "00000000000000b2");
    assert_eq!(root.parent_span_id, SpanId::INVALID);
    assert_eq!(root.status, Status::Unset);
    let events: Vec<_> = root.events.iter().map(|e| (e.name.as_ref(), e.timestamp)).collect();
    assert_eq!(events, [("first_byte", facts.started + us(900)), ("close", facts.started + facts.duration)]);
    let children: Vec<_> = spans[1..].iter().map(|s| (s.name.as_ref(), s.start_time, s.end_time)).collect();
    assert_eq!(
        children,
        [
            ("resolve", facts.started + us(10), facts.started + us(15)),
            ("handshake", facts.started + us(100), facts.started + us(800)),
        ]
    );
    for child in &spans[1..] {
        assert_eq!(child.parent_span_id, root.span_context.span_id());
        assert_eq!(child.span_context.trace_id(), root.span_context.trace_id());
    }
}

#[test]
fn attributes_follow_the_conventions_and_istio() {
    let mut facts = facts(Direction::Inbound, Outcome::PolicyDenied);
    facts.health = Some(TcpHealth { rtt: Duration::from_micros(250), retransmits: 3, ..TcpHealth::default() });
    facts.rare = Some(Box::new(Rare {
        denial: Some(Denial { policy: Some("shop/x".into()), explanation: "because".to_owned(), nearest_miss: None }),
        dry_run: ["shop/y", "shop/z"].map(|p| DryRun { policy: p.into(), denies: true }).to_vec(),
        ..Rare::default()
    }));
    let spans = connection(&facts);
    let get = |key: &str| attribute(&spans[0], key).map(|v| v.to_string());
    for (key, wanted) in [
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("client.address", "10.1.0.1"),
        ("client.port", "40000"),
        ("network.peer.port", "15008"),
        ("server.address", "api.shop.svc.cluster.local"),
        ("error.type", "policy_denied"),
        ("istio.source_workload", "web"),
        ("istio.destination_cluster_id", "two"),
        ("culvert.source.identity", "spiffe://cluster.local/ns/shop/sa/web"),
        ("culvert.policy.rule", "shop/x"),
        ("culvert.policy.dry_run_denials", "shop/y,shop/z"),
        ("culvert.tcp.rtt_us", "250"),
        ("culvert.tcp.retransmits", "3"),
    ] {
        assert_eq!(get(key).as_deref(), Some(wanted), "{key}");
    }
    assert_eq!(spans[0].status, Status::error("because"));
    assert_eq!(spans[0].span_kind, SpanKind::Server);
}

#[test]
fn a_good_connection_has_no_error_type() {
    let spans = connection(&facts(Direction::Inbound, Outcome::Reset));
    assert_eq!(attribute(&spans[0], "error.type"), None);
    assert_eq!(attribute(&spans[0], "culvert.outcome").unwrap().to_string(), "reset");
}
