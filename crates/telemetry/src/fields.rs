//! The fields of an access line, once, for both of its forms (telemetry.md 3).

use std::fmt::{self, Display, Write};

use mesh::{Direction, Outcome};

use crate::facts::Facts;

/// Takes fields one by one.
pub(crate) trait Fields {
    /// A text: quoted in both forms.
    fn text(&mut self, key: &str, value: &str);
    /// An address or something alike: bare in the plain form, a string in JSON.
    fn bare(&mut self, key: &str, value: &dyn Display);
    /// A number.
    fn number(&mut self, key: &str, value: u64);
}

/// Fields of "connection complete", Istio's first in Istio's order, ours after them.
pub(crate) fn complete(facts: &Facts, out: &mut impl Fields) {
    opened(facts, out);
    // Metrics speak in the server's sense, the log in the reporter's own (telemetry.md 1 and 3).
    let (sent, received) = match facts.direction {
        Direction::Outbound => (facts.to_destination, facts.to_source),
        Direction::Inbound => (facts.to_source, facts.to_destination),
    };
    out.number("bytes_sent", sent);
    out.number("bytes_recv", received);
    out.text("duration", &format!("{}ms", facts.duration.as_millis()));
    if let Some(error) = facts.error() {
        out.text("error", &error);
    }
    if facts.outcome != Outcome::Closed {
        out.text("outcome", facts.outcome.report().name);
    }
    if let Some(policy) = facts.rare.as_deref().and_then(|r| r.denial.as_ref()).and_then(|d| d.policy.as_deref()) {
        out.text("policy", policy);
    }
    if let Some(trace) = facts.trace {
        out.bare("trace_id", &Hex(trace.trace_id));
    }
}

/// Fields of "connection opened".
pub(crate) fn opened(facts: &Facts, out: &mut impl Fields) {
    out.bare("src.addr", &facts.source_address);
    optional(out, "src.workload", facts.source_name());
    optional(out, "src.namespace", facts.source_namespace());
    let identity = facts.source_identity.as_ref().filter(|_| facts.mutual_tls).map(ToString::to_string);
    optional(out, "src.identity", identity.as_deref());
    optional(out, "src.cluster", facts.source_cluster());

    out.bare("dst.addr", &facts.destination_address);
    if let Some(authority) = &facts.authority {
        out.bare("dst.hbone_addr", authority);
    }
    optional(out, "dst.service", facts.service.as_deref().map(|s| &*s.hostname));
    optional(out, "dst.workload", facts.destination_name());
    optional(out, "dst.namespace", facts.destination.as_deref().map(|w| &*w.namespace));
    let identity = facts.destination_principal().filter(|_| facts.mutual_tls).map(|i| i.to_string());
    optional(out, "dst.identity", identity.as_deref());
    optional(out, "dst.cluster", facts.destination.as_deref().map(|w| &*w.cluster_id));
    out.text("direction", facts.direction.as_str());
}

/// Fields of "connection failed": nothing is known but the addresses.
pub(crate) fn failed(facts: &Facts, out: &mut impl Fields) {
    out.bare("src.addr", &facts.source_address);
    out.bare("dst.addr", &facts.destination_address);
    out.text("direction", facts.direction.as_str());
    if let Some(error) = facts.error() {
        out.text("error", &error);
    }
    out.text("outcome", facts.outcome.report().name);
}

fn optional(out: &mut impl Fields, key: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|v| !v.is_empty()) {
        out.text(key, value);
    }
}

/// A trace id as 32 hex digits.
struct Hex(u128);

impl Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// `key=value key="text"`, separated by blanks. Quotes, tabs and line ends inside texts are escaped, so that one
/// connection is one line of five tab fields whatever a peer writes.
#[derive(Debug, Default)]
pub(crate) struct Plain(pub(crate) String);

impl Plain {
    fn key(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(key);
        self.0.push('=');
    }

    fn push(&mut self, arguments: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        self.0.write_fmt(arguments).ok();
    }
}

impl Fields for Plain {
    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        self.push(format_args!("{value:?}"));
    }

    fn bare(&mut self, key: &str, value: &dyn Display) {
        self.key(key);
        let begin = self.0.len();
        self.push(format_args!("{value}"));
        // A host name from a peer's CONNECT is the one bare value that we did not write ourselves.
        if self.0[begin..].contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=') {
            let quoted = format!("{:?}", &self.0[begin..]);
            self.0.truncate(begin);
            self.0.push_str(&quoted);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.push(format_args!("{value}"));
    }
}

/// A JSON object.
#[derive(Debug, Default)]
pub(crate) struct Json(pub(crate) serde_json::Map<String, serde_json::Value>);

impl Fields for Json {
    fn text(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.into());
    }

    fn bare(&mut self, key: &str, value: &dyn Display) {
        self.0.insert(key.to_owned(), value.to_string().into());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0.insert(key.to_owned(), value.into());
    }
}
