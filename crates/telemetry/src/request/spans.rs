//! A request as OpenTelemetry spans: a SERVER span for the request as the client sees it, and a CLIENT span for each
//! attempt at a workload (semantic conventions of HTTP and gRPC, telemetry.md 4).

use std::time::SystemTime;

use http::Method;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::SpanData;

use super::{Attempt, RequestFacts, is_server_error};
use crate::spans::{DESTINATION, Frame, SOURCE, workload};

/// Methods that the conventions name; others are `_OTHER`.
const KNOWN: [Method; 9] = [
    Method::CONNECT,
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

/// Query parameters whose values are credentials (semantic conventions, `url.query`).
const SECRET: [&str; 4] = ["AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature"];

/// The spans of a request; none without a trace.
pub(crate) fn spans(facts: &RequestFacts) -> Vec<SpanData> {
    let Some(trace) = facts.trace else { return Vec::new() };
    let frame = Frame::new(trace.trace_id);
    let mut spans = vec![SpanData {
        parent_span_is_remote: facts.parent_span.is_some(),
        span_kind: SpanKind::Server,
        attributes: server(facts),
        status: status(facts),
        ..frame.span(trace.span_id, facts.parent_span.unwrap_or(0), name(facts), facts.started, facts.duration)
    }];
    for (again, attempt) in facts.attempts.iter().enumerate() {
        let begin: SystemTime = facts.started + attempt.begin;
        spans.push(SpanData {
            span_kind: SpanKind::Client,
            attributes: client(facts, attempt, again),
            status: match attempt.error {
                Some(word) => Status::error(word),
                None if attempt.status >= 400 => Status::error(""),
                None => Status::Unset,
            },
            ..frame.span(attempt.span, trace.span_id, attempt_name(facts), begin, attempt.length)
        });
    }
    spans
}

/// `{method} {route}`; never the path, which has too many values. A gRPC call has its method's name.
fn name(facts: &RequestFacts) -> String {
    if facts.grpc {
        return rpc_method(facts).to_owned();
    }
    match &facts.route_path {
        Some(route) => format!("{} {route}", method(facts)),
        None => method(facts).to_owned(),
    }
}

fn attempt_name(facts: &RequestFacts) -> String {
    if facts.grpc { rpc_method(facts).to_owned() } else { method(facts).to_owned() }
}

/// The conventions' own word for a method that they do not name, in a span's name.
fn method(facts: &RequestFacts) -> &str {
    if KNOWN.contains(&facts.method) { facts.method.as_str() } else { "HTTP" }
}

fn rpc_method(facts: &RequestFacts) -> &str {
    facts.uri.path().trim_start_matches('/')
}

fn status(facts: &RequestFacts) -> Status {
    // A 4xx is the client's fault: no error of a server span. What policy says stands in an attribute.
    if facts.is_failure() { Status::error(facts.details.clone().into_owned()) } else { Status::Unset }
}

fn common(facts: &RequestFacts, out: &mut Vec<KeyValue>) {
    if KNOWN.contains(&facts.method) {
        out.push(KeyValue::new("http.request.method", facts.method.as_str().to_owned()));
    } else {
        out.push(KeyValue::new("http.request.method", "_OTHER"));
        out.push(KeyValue::new("http.request.method_original", facts.method.as_str().to_owned()));
    }
    out.push(KeyValue::new("network.protocol.name", "http"));
    let version = facts.protocol().trim_start_matches("HTTP/");
    out.push(KeyValue::new("network.protocol.version", version));
    if facts.grpc {
        out.push(KeyValue::new("rpc.system.name", "grpc"));
        out.push(KeyValue::new("rpc.method", rpc_method(facts).to_owned()));
    }
    if let Some(service) = &facts.service {
        out.push(KeyValue::new("server.address", service.hostname.to_string()));
    }
    out.push(KeyValue::new("server.port", i64::from(facts.local_address.port())));
}

fn server(facts: &RequestFacts) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(40);
    common(facts, &mut out);
    out.extend(facts.tags.iter().map(|(name, value)| KeyValue::new(name.to_string(), value.clone())));
    let mut text = |key: &'static str, value: &str| {
        if !value.is_empty() {
            out.push(KeyValue::new(key, value.to_owned()));
        }
    };
    text("url.path", facts.uri.path());
    text("url.query", &redacted(facts.uri.query().unwrap_or_default()));
    text("url.scheme", facts.uri.scheme_str().unwrap_or("http"));
    text("client.address", &facts.source_address.ip().to_string());
    text("network.peer.address", &facts.source_address.ip().to_string());
    text("user_agent.original", &lossy(facts.user_agent.as_ref()));
    text("culvert.request_id", &lossy(facts.request_id.as_ref()));
    text("http.route", facts.route_path.as_deref().unwrap_or_default());
    text("culvert.route", facts.route.as_deref().unwrap_or_default());
    text("response_flags", facts.flag.as_str());
    text("istio.reporter", "waypoint");
    text("culvert.policy.rule", facts.allowed_by.as_deref().unwrap_or_default());
    if let Some(denial) = &facts.denial {
        text("culvert.policy.explanation", &denial.explanation);
        text("culvert.policy.denied_by", denial.policy.as_deref().unwrap_or_default());
    }
    if let Some(identity) = &facts.source_identity {
        text("culvert.source.identity", &identity.to_string());
    }
    if let Some(source) = &facts.source {
        workload(&mut text, &SOURCE, source);
    }
    if let Some(destination) = &facts.destination {
        workload(&mut text, &DESTINATION, destination);
    }
    out.push(KeyValue::new("network.peer.port", i64::from(facts.source_address.port())));
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    out.push(KeyValue::new("http.request.body.size", number(facts.request_bytes)));
    out.push(KeyValue::new("http.response.body.size", number(facts.response_bytes)));
    answer(facts.status, facts.grpc_status, &mut out);
    if facts.is_failure() {
        out.push(KeyValue::new("error.type", error_type(facts)));
    }
    out
}

fn client(facts: &RequestFacts, attempt: &Attempt, again: usize) -> Vec<KeyValue> {
    let mut out = Vec::with_capacity(16);
    common(facts, &mut out);
    out.push(KeyValue::new("network.peer.address", attempt.upstream.ip().to_string()));
    out.push(KeyValue::new("network.peer.port", i64::from(attempt.upstream.port())));
    let path = facts.uri.path_and_query().map_or("/", |p| p.as_str());
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query = if query.is_empty() { String::new() } else { format!("?{}", redacted(query)) };
    let host = facts.service.as_ref().map_or_else(|| attempt.upstream.ip().to_string(), |s| s.hostname.to_string());
    out.push(KeyValue::new("url.full", format!("http://{host}:{}{path}{query}", facts.local_address.port())));
    if again > 0 {
        out.push(KeyValue::new("http.request.resend_count", i64::try_from(again).unwrap_or(i64::MAX)));
    }
    answer(attempt.status, None, &mut out);
    if let Some(word) = attempt.error {
        out.push(KeyValue::new("error.type", word));
    } else if attempt.status >= 400 {
        out.push(KeyValue::new("error.type", attempt.status.to_string()));
    }
    out
}

fn answer(status: u16, grpc: Option<u16>, out: &mut Vec<KeyValue>) {
    if status != 0 {
        out.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    if let Some(grpc) = grpc {
        out.push(KeyValue::new("rpc.response.status_code", grpc_name(grpc)));
    }
}

fn error_type(facts: &RequestFacts) -> String {
    match facts.grpc_status.filter(|s| is_server_error(*s)) {
        Some(status) => grpc_name(status).to_owned(),
        None if facts.status >= 500 => facts.status.to_string(),
        None => facts.flag.as_str().to_owned(),
    }
}

/// The name of a gRPC status (grpc/doc/statuscodes.md).
fn grpc_name(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).copied().unwrap_or("UNKNOWN")
}

fn lossy(value: Option<&http::HeaderValue>) -> String {
    value.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
}

fn redacted(query: &str) -> String {
    let one = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if SECRET.contains(&key) => format!("{key}=REDACTED"),
        _ => pair.to_owned(),
    };
    query.split('&').map(one).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_queries_are_not_told() {
        assert_eq!(redacted("a=1&sig=xyz&Signature=q&b"), "a=1&sig=REDACTED&Signature=REDACTED&b");
        assert_eq!(redacted(""), "");
    }
}
