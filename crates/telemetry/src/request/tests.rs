//! One record in, every sink out.

use http::Request;
use mesh::Service;

use super::*;
use crate::access::AccessLog;
use crate::fixture::{Kept, address, identity, service, value, workload};
use crate::logging::LogFormat;
use crate::writer::LineWriter;
use crate::{Config, Telemetry};

fn record(telemetry: &Telemetry, uri: &str, headers: &[(&str, &str)]) -> RequestRecord {
    let mut request = Request::builder().method("GET").uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let mut record = RequestRecord::new(telemetry, &head, address("10.1.0.1:40000"), address("10.96.0.7:80"));
    record.source(workload("web", "one"));
    record.source_identity(identity("web"));
    record.service(service());
    record
}

fn answered(mut record: RequestRecord, status: u16) {
    record.attempt(address("10.2.0.2:8080"), Some(workload("api", "two")));
    record.attempted(status, None);
    record.counters().add_to_destination(100);
    record.counters().add_to_source(2_000);
    record.route("HTTPRoute/shop/canary/0".into(), Some("/api".into()));
    record.answered(status, Flag::None, "via_upstream");
}

#[test]
fn a_request_is_counted_with_istios_labels() {
    let telemetry = Telemetry::new(Config::default());
    assert!(!telemetry.render().contains("istio_requests"), "a program without requests does not tell of them");
    answered(record(&telemetry, "/api/x", &[]), 200);
    answered(record(&telemetry, "/api/y", &[]), 200);
    answered(record(&telemetry, "/grpc.S/M", &[("content-type", "application/grpc+proto")]), 200);
    let text = telemetry.render();
    let http = [
        "reporter=\"waypoint\"",
        "source_workload=\"web\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_workload=\"api\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/api\"",
        "destination_service=\"api.shop.svc.cluster.local\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "grpc_response_status=\"unknown\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    assert_eq!(value(&text, "istio_requests_total", &http), 2, "{text}");
    assert_eq!(value(&text, "istio_requests_total", &["request_protocol=\"grpc\""]), 1);
    assert_eq!(value(&text, "istio_request_duration_milliseconds_count", &http), 2);
    let bucket = |le| [&http[..], &[le]].concat();
    assert_eq!(value(&text, "istio_response_bytes_bucket", &bucket("le=\"1000.0\"")), 0);
    assert_eq!(value(&text, "istio_response_bytes_bucket", &bucket("le=\"2500.0\"")), 2);
    assert_eq!(value(&text, "istio_request_bytes_bucket", &bucket("le=\"100.0\"")), 2);
}

#[test]
fn series_are_bounded_and_a_full_store_drops_the_least_recently_used() {
    let telemetry = Telemetry::new(Config { series: 2, ..Config::default() });
    for name in ["a", "b", "c", "c", "d"] {
        let mut record = record(&telemetry, "/", &[]);
        record.service(std::sync::Arc::new(Service { hostname: name.into(), ..Service::default() }));
        answered(record, 200);
    }
    let text = telemetry.render();
    assert_eq!(text.matches("\nistio_requests_total{").count(), 2, "{text}");
    assert_eq!(value(&text, "istio_requests_total", &["destination_service=\"d\""]), 1);
    assert_eq!(value(&text, "culvert_telemetry_request_series_evicted_total", &[]), 2);
    assert_eq!(value(&text, "culvert_telemetry_request_series_overflowed_total", &[]), 0);
}

#[test]
fn the_access_line_is_istios_and_one_line_whatever_a_peer_writes() {
    let (kept, line) = logged(LogFormat::Plain);
    let fields = " \"GET /a%22?q=1 HTTP/1.1\" 503 UF upstream_connect_failed - \"refused \\\"now\\\"\" 0 0 ";
    assert!(line.contains(fields), "{line}");
    let end = " \"-\" \"curl \\\"x\\\"\" \"id-1\" \"api.shop\" \"10.2.0.2:8080\" \
               inbound-vip|80|http|api.shop.svc.cluster.local - 10.96.0.7:80 10.1.0.1:40000 - default\n";
    assert!(line.ends_with(end), "{line}");
    assert_eq!(kept.text().lines().count(), 1);
}

#[test]
fn the_json_line_has_istios_keys_and_the_explanation_of_a_denial() {
    let (_, line) = logged(LogFormat::Json);
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("{key}: {line}")).to_owned();
    assert_eq!((text("path"), text("response_flags")), ("/a%22?q=1".to_owned(), "UF".to_owned()));
    assert_eq!(line["response_code"], 503);
    assert_eq!(text("explanation"), "no rule allows it");
    assert!(line["x_forwarded_for"].is_null());
}

/// A request that policy and transport refused, in the log.
fn logged(format: LogFormat) -> (Kept, String) {
    let kept = Kept::default();
    let writer = LineWriter::new(kept.clone(), 8).unwrap();
    let access = Some(AccessLog::unfiltered(writer.clone(), format));
    let telemetry = Telemetry::new(Config { access, ..Config::default() });
    let headers = [("user-agent", "curl \"x\""), ("x-request-id", "id-1"), ("host", "api.shop")];
    let mut record = record(&telemetry, "/a%22?q=1", &headers);
    record.attempt(address("10.2.0.2:8080"), None);
    record.attempted(0, Some("connect"));
    record.transport_failure("refused \"now\"");
    record.denied(Denial { policy: None, explanation: "no rule allows it".to_owned(), nearest_miss: None });
    record.answered(503, Flag::ConnectFailed, "upstream connect failed");
    drop(record);
    assert!(writer.flush(std::time::Duration::from_secs(5)));
    let text = kept.text();
    (kept, text)
}

#[test]
fn a_record_that_is_dropped_without_a_word_says_that_the_client_left() {
    let telemetry = Telemetry::new(Config::default());
    drop(record(&telemetry, "/", &[]));
    let text = telemetry.render();
    assert_eq!(value(&text, "istio_requests_total", &["response_code=\"0\"", "response_flags=\"DC\""]), 1, "{text}");
}

#[test]
fn spans_follow_the_conventions() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, "/api/x?sig=secret", &[]);
    record.facts.trace = Some(TraceContext { trace_id: 7, span_id: 8, sampled: true });
    record.facts.parent_span = Some(9);
    let sent = record.attempt(address("10.2.0.2:8080"), None).unwrap();
    record.attempted(0, Some("connect"));
    record.attempt(address("10.2.0.3:8080"), None);
    record.attempted(200, None);
    record.route("HTTPRoute/shop/canary/0".into(), Some("/api".into()));
    record.answered(200, Flag::None, "via_upstream");
    let spans = spans(&record.facts);
    let names: Vec<_> = spans.iter().map(|s| (&*s.name, s.span_kind.clone())).collect();
    use opentelemetry::trace::SpanKind::{Client, Server};
    assert_eq!(names, [("GET /api", Server), ("GET", Client), ("GET", Client)]);
    assert_eq!(spans[1].span_context.span_id().to_bytes(), sent.span_id.to_be_bytes());
    let has = |i: usize, key: &str, wanted: &str| {
        let found = spans[i].attributes.iter().find(|a| a.key.as_str() == key);
        assert_eq!(found.map(|a| a.value.to_string()).as_deref(), Some(wanted), "{key} of span {i}");
    };
    has(0, "http.response.status_code", "200");
    has(0, "url.query", "sig=REDACTED");
    has(0, "http.route", "/api");
    has(1, "error.type", "connect");
    has(2, "http.request.resend_count", "1");
    has(2, "url.full", "http://api.shop.svc.cluster.local:80/api/x?sig=REDACTED");
}
