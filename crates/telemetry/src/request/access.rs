//! The access line of a request, in the forms that Istio's waypoints write (telemetry.md 3).

use std::fmt::Write;

use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::RequestFacts;
use crate::logging::LogFormat;
use crate::timestamp::Timestamp;

/// The line of an ended request, with its line end.
pub(crate) fn line(facts: &RequestFacts, format: LogFormat) -> String {
    match format {
        LogFormat::Plain => plain(facts),
        LogFormat::Json => format!("{}\n", Value::Object(json(facts))),
    }
}

/// What the reader finds where nothing is known.
const NOTHING: &str = "-";

fn plain(facts: &RequestFacts) -> String {
    let f = Texts::new(facts);
    let mut out = String::with_capacity(512);
    let quoted = |text: &str| format!("\"{}\"", escaped(text));
    let line = [
        format!("[{}]", Timestamp(facts.started)),
        quoted(&format!("{} {} {}", facts.method, f.path, facts.protocol())),
        facts.status.to_string(),
        facts.flag.as_str().to_owned(),
        f.details.clone(),
        NOTHING.to_owned(),
        quoted(f.failure),
        facts.request_bytes.to_string(),
        facts.response_bytes.to_string(),
        facts.duration.as_millis().to_string(),
        f.upstream_time.clone(),
        quoted(&f.forwarded_for),
        quoted(&f.user_agent),
        quoted(&f.request_id),
        quoted(&f.authority),
        quoted(&f.upstream),
        f.cluster.clone(),
        NOTHING.to_owned(),
        facts.local_address.to_string(),
        facts.source_address.to_string(),
        NOTHING.to_owned(),
        f.route.to_owned(),
    ];
    for (i, part) in line.iter().enumerate() {
        // Writing to a String cannot fail.
        write!(out, "{}{part}", if i == 0 { "" } else { " " }).ok();
    }
    out.push('\n');
    out
}

fn json(facts: &RequestFacts) -> Map<String, Value> {
    let f = Texts::new(facts);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        let nothing = value.as_str() == Some(NOTHING);
        out.insert(key.to_owned(), if nothing { Value::Null } else { value });
    };
    put("start_time", json!(Timestamp(facts.started)));
    put("route_name", json!(f.route));
    put("method", json!(facts.method.as_str()));
    put("path", json!(f.path));
    put("protocol", json!(facts.protocol()));
    put("response_code", json!(facts.status));
    put("response_flags", json!(facts.flag.as_str()));
    put("response_code_details", json!(f.details));
    put("connection_termination_details", Value::Null);
    put("bytes_received", json!(facts.request_bytes));
    put("bytes_sent", json!(facts.response_bytes));
    put("duration", json!(u64::try_from(facts.duration.as_millis()).unwrap_or(u64::MAX)));
    put("upstream_service_time", json!(f.upstream_time));
    put("x_forwarded_for", json!(f.forwarded_for));
    put("user_agent", json!(f.user_agent));
    put("request_id", json!(f.request_id));
    put("authority", json!(f.authority));
    put("upstream_host", json!(f.upstream));
    put("upstream_cluster", json!(f.cluster));
    put("upstream_local_address", Value::Null);
    put("downstream_local_address", json!(facts.local_address.to_string()));
    put("downstream_remote_address", json!(facts.source_address.to_string()));
    put("requested_server_name", Value::Null);
    put("upstream_transport_failure_reason", json!(f.failure));
    // Ours, after Istio's: who called, and why policy refused.
    if let Some(identity) = &facts.source_identity {
        put("source_principal", json!(identity.to_string()));
    }
    if let Some(denial) = &facts.denial {
        put("policy", json!(denial.policy));
        put("explanation", json!(denial.explanation));
    }
    if let Some(trace) = &facts.trace {
        put("trace_id", json!(format!("{:032x}", trace.trace_id)));
    }
    out
}

/// The values that need making.
struct Texts<'a> {
    path: &'a str,
    details: String,
    failure: &'a str,
    upstream_time: String,
    forwarded_for: String,
    user_agent: String,
    request_id: String,
    authority: String,
    upstream: String,
    cluster: String,
    route: &'a str,
}

impl<'a> Texts<'a> {
    fn new(facts: &'a RequestFacts) -> Self {
        let header = |value: &Option<HeaderValue>| match value {
            Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            None => NOTHING.to_owned(),
        };
        let details = if facts.details.is_empty() { NOTHING } else { &facts.details };
        Self {
            path: facts.uri.path_and_query().map_or("/", |p| p.as_str()),
            // Fields are split at blanks.
            details: details.replace(char::is_whitespace, "_"),
            failure: facts.transport_failure.as_deref().unwrap_or(NOTHING),
            upstream_time: facts.upstream_time.map_or(NOTHING.to_owned(), |t| t.as_millis().to_string()),
            forwarded_for: header(&facts.forwarded_for),
            user_agent: header(&facts.user_agent),
            request_id: header(&facts.request_id),
            authority: header(&facts.authority),
            upstream: facts.upstream.map_or(NOTHING.to_owned(), |a| a.to_string()),
            // The form of Istio's cluster names, which its dashboards split at the bars.
            cluster: match &facts.service {
                Some(service) => format!("inbound-vip|{}|http|{}", facts.local_address.port(), service.hostname),
                None => NOTHING.to_owned(),
            },
            route: facts.route.as_deref().unwrap_or("default"),
        }
    }
}

/// Without quotes, line ends and other control characters: one request is one line whatever a peer writes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
