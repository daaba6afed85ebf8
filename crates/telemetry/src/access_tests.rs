use mesh::{Direction, Outcome, PeerAddr, TraceContext};

use super::*;
use crate::facts::{Authority, Denial, Rare};
use crate::fixture::{Kept, address, facts, record};
use crate::{Config, Telemetry};

const TIME: &str = "2026-01-01T00:00:00.012346Z";

#[test]
fn the_plain_line_is_istios() {
    let wanted = format!(
        "{TIME}\tinfo\taccess\tconnection complete\t{}\n",
        concat!(
            "src.addr=10.1.0.1:40000 src.workload=\"web-5d7\" src.namespace=\"shop\" ",
            "src.identity=\"spiffe://cluster.local/ns/shop/sa/web\" src.cluster=\"one\" ",
            "dst.addr=10.2.0.2:15008 dst.hbone_addr=10.2.0.2:8080 dst.service=\"api.shop.svc.cluster.local\" ",
            "dst.workload=\"api-5d7\" dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/api\" ",
            "dst.cluster=\"two\" direction=\"outbound\" bytes_sent=100 bytes_recv=2000 duration=\"12ms\"",
        )
    );
    assert_eq!(line(&facts(Direction::Outbound, Outcome::Closed), LogFormat::Plain), wanted);
}

#[test]
fn bytes_are_in_the_reporters_own_sense() {
    let text = line(&facts(Direction::Inbound, Outcome::Closed), LogFormat::Plain);
    assert!(text.contains("direction=\"inbound\" bytes_sent=2000 bytes_recv=100 "), "{text}");
}

#[test]
fn a_failure_is_an_error_with_text_policy_and_outcome() {
    let mut facts = facts(Direction::Inbound, Outcome::PolicyDenied);
    facts.mutual_tls = false;
    facts.trace = Some(TraceContext { trace_id: 0xab, span_id: 1, sampled: true });
    facts.rare = Some(Box::new(Rare {
        denial: Some(Denial {
            policy: Some("shop/deny".into()),
            explanation: "denied by shop/deny rule 0".to_owned(),
            nearest_miss: None,
        }),
        ..Rare::default()
    }));
    let text = line(&facts, LogFormat::Plain);
    assert!(text.starts_with(&format!("{TIME}\terror\taccess\tconnection complete\t")), "{text}");
    assert!(text.ends_with(
        "duration=\"12ms\" error=\"denied by shop/deny rule 0\" outcome=\"policy_denied\" policy=\"shop/deny\" \
         trace_id=000000000000000000000000000000ab\n"
    ));
    assert!(!text.contains("identity"), "no identity without mutual TLS: {text}");
}

#[test]
fn an_early_failure_is_a_warning_with_addresses_only() {
    let mut facts =
        crate::facts::Facts::new(Direction::Inbound, PeerAddr(address("10.1.0.1:1")), address("[fd00::2]:15008"));
    facts.started = std::time::UNIX_EPOCH;
    facts.outcome = Outcome::TlsFailed;
    facts.rare = Some(Box::new(Rare { error: Some("bad certificate".to_owned()), ..Rare::default() }));
    assert_eq!(
        line(&facts, LogFormat::Plain),
        "1970-01-01T00:00:00.000000Z\twarn\taccess\tconnection failed\tsrc.addr=10.1.0.1:1 \
         dst.addr=[fd00::2]:15008 direction=\"inbound\" \
         error=\"TLS handshake of the tunnel failed: bad certificate\" outcome=\"tls_failed\"\n"
    );
}

#[test]
fn whatever_a_peer_writes_one_connection_is_one_line_of_five_tab_fields() {
    let mut facts = facts(Direction::Inbound, Outcome::ConnectRefused);
    facts.authority = Some(Authority::Name("a\tb\nc\" d=e:80".into()));
    facts.rare = Some(Box::new(Rare { error: Some("x\ty\nz\"".to_owned()), ..Rare::default() }));
    let text = line(&facts, LogFormat::Plain);
    assert_eq!((text.matches('\n').count(), text.matches('\t').count()), (1, 4), "{text}");
    assert!(text.contains(r#"dst.hbone_addr="a\tb\nc\" d=e:80" "#), "{text}");
    let json: serde_json::Value = serde_json::from_str(&line(&facts, LogFormat::Json)).unwrap();
    assert_eq!(json["dst.hbone_addr"], "a\tb\nc\" d=e:80");
}

#[test]
fn json_has_the_same_fields() {
    let text = line(&facts(Direction::Outbound, Outcome::Closed), LogFormat::Json);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, wanted) in [
        ("level", "info"),
        ("time", TIME),
        ("scope", "access"),
        ("message", "connection complete"),
        ("src.addr", "10.1.0.1:40000"),
        ("dst.service", "api.shop.svc.cluster.local"),
        ("duration", "12ms"),
    ] {
        assert_eq!(json[key], wanted, "{key}");
    }
    assert_eq!(json["bytes_sent"], 100);
    assert_eq!(json["bytes_recv"], 2_000);
}

#[test]
fn records_write_opened_and_complete() {
    let kept = Kept::default();
    let writer = LineWriter::new(kept.clone(), 16).unwrap();
    let access = Some(AccessLog::unfiltered(writer.clone(), LogFormat::Plain));
    let telemetry = Telemetry::new(Config { access, ..Config::default() });
    let mut record = record(&telemetry, Direction::Outbound);
    record.opened();
    record.finish(Outcome::Closed);
    assert!(writer.flush(std::time::Duration::from_secs(10)));
    let text = kept.text();
    let messages: Vec<_> = text.lines().map(|l| l.split('\t').nth(3).unwrap()).collect();
    assert_eq!(messages, ["connection opened", "connection complete"]);
}
