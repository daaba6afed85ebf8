//! The access line of a request, in the forms that Istio's waypoints write (telemetry.md 3).

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::net::SocketAddr;

use http::HeaderValue;
use mesh::Service;
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
    let mut out = String::with_capacity(512);
    // Writing to a String cannot fail.
    fields(facts, &mut out).ok();
    out.push('\n');
    out
}

/// The line without its end. Nothing is made that is only copied: there is one for every request.
fn fields(facts: &RequestFacts, out: &mut String) -> fmt::Result {
    let f = Texts::new(facts);
    write!(out, "[{}] ", Timestamp(facts.started))?;
    write!(out, "\"{} {} {}\" ", Escaped(facts.method.as_str()), Escaped(f.path), facts.protocol())?;
    write!(out, "{} {} ", facts.status, facts.flag.as_str())?;
    write!(out, "{} {NOTHING} \"{}\" ", f.details, Escaped(f.failure))?;
    write!(out, "{} {} {} ", facts.request_bytes, facts.response_bytes, facts.duration.as_millis())?;
    write!(out, "{} ", f.upstream_time)?;
    for text in [&f.forwarded_for, &f.user_agent, &f.request_id, &f.authority] {
        write!(out, "\"{}\" ", Escaped(text))?;
    }
    write!(out, "\"{}\" {} {NOTHING} ", f.upstream, f.cluster)?;
    write!(out, "{} {} {NOTHING} {}", facts.local_address, facts.source_address, f.route)
}

/// The fields of an ended request.
pub(crate) fn json(facts: &RequestFacts) -> Map<String, Value> {
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
    put("upstream_service_time", json!(f.upstream_time.to_string()));
    put("x_forwarded_for", json!(f.forwarded_for));
    put("user_agent", json!(f.user_agent));
    put("request_id", json!(f.request_id));
    put("authority", json!(f.authority));
    put("upstream_host", json!(f.upstream.to_string()));
    put("upstream_cluster", json!(f.cluster.to_string()));
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
    details: Cow<'a, str>,
    failure: &'a str,
    upstream_time: Maybe<u128>,
    forwarded_for: Cow<'a, str>,
    user_agent: Cow<'a, str>,
    request_id: Cow<'a, str>,
    authority: Cow<'a, str>,
    upstream: Maybe<SocketAddr>,
    cluster: Maybe<Cluster<'a>>,
    route: &'a str,
}

impl<'a> Texts<'a> {
    fn new(facts: &'a RequestFacts) -> Self {
        let header = |value: &'a Option<HeaderValue>| match value {
            Some(value) => String::from_utf8_lossy(value.as_bytes()),
            None => Cow::Borrowed(NOTHING),
        };
        let details = if facts.details.is_empty() { NOTHING } else { &facts.details };
        Self {
            path: facts.uri.path_and_query().map_or("/", |p| p.as_str()),
            // Fields are split at blanks.
            details: match details.contains(char::is_whitespace) {
                true => Cow::Owned(details.replace(char::is_whitespace, "_")),
                false => Cow::Borrowed(details),
            },
            failure: facts.transport_failure.as_deref().unwrap_or(NOTHING),
            upstream_time: Maybe(facts.upstream_time.map(|t| t.as_millis())),
            forwarded_for: header(&facts.forwarded_for),
            user_agent: header(&facts.user_agent),
            request_id: header(&facts.request_id),
            authority: header(&facts.authority),
            upstream: Maybe(facts.upstream),
            cluster: Maybe(facts.service.as_deref().map(|service| Cluster(facts.local_address.port(), service))),
            route: facts.route.as_deref().unwrap_or("default"),
        }
    }
}

/// [`NOTHING`] where there is none.
struct Maybe<T>(Option<T>);

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(NOTHING),
        }
    }
}

/// A service and its port in the form of Istio's cluster names, which its dashboards split at the bars.
struct Cluster<'a>(u16, &'a Service);

impl Display for Cluster<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inbound-vip|{}|http|{}", self.0, self.1.hostname)
    }
}

/// Without quotes, line ends and other control characters: one request is one line whatever a peer writes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let special = |c: char| matches!(c, '"' | '\\') || c.is_control();
        // The usual case, in one piece.
        if !self.0.contains(special) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "{}", c.escape_default())?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
