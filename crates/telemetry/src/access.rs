//! The access log: one line for each connection at its end, in the forms that Istio's users and Kiali read
//! (telemetry.md 3 and 7).

use std::sync::Arc;
use std::time::SystemTime;

use tracing::Level;

use crate::facts::Facts;
use crate::fields::{self, Fields, Json, Plain};
use crate::logging::{LogFormat, LogHandle, ScopeLevel};
use crate::request::RequestFacts;
use crate::timestamp::Timestamp;
use crate::writer::{Entry, LineWriter};

/// Scope (target) of the lines.
pub const TARGET: &str = "access";

/// Where access lines go, and in which form.
#[derive(Clone, Debug)]
pub struct AccessLog {
    writer: LineWriter,
    format: LogFormat,
    /// The level of scope `access` at the moment; `None` lets everything pass.
    level: Option<ScopeLevel>,
}

impl AccessLog {
    /// Lines in the stream and form of the program's log, which follow the level of scope `access` as it changes.
    pub fn new(log: &LogHandle) -> Self {
        Self { writer: log.writer(), format: log.format(), level: Some(log.scope_level(TARGET)) }
    }

    /// Lines whatever the level is, for programs that install no log.
    pub fn unfiltered(writer: LineWriter, format: LogFormat) -> Self {
        Self { writer, format, level: None }
    }

    /// The writer.
    pub fn writer(&self) -> &LineWriter {
        &self.writer
    }

    /// Notes that a connection opened (level DEBUG).
    pub(crate) fn opened(&self, facts: &Facts) {
        if self.wants(Level::DEBUG) {
            let line = render(SystemTime::now(), Level::DEBUG, "connection opened", self.format, |f| match f {
                Form::Plain(p) => fields::opened(facts, p),
                Form::Json(j) => fields::opened(facts, j),
            });
            self.writer.line(line.into_bytes());
        }
    }

    /// Hands the line of an ended connection over.
    pub(crate) fn complete(&self, facts: &Arc<Facts>) {
        if self.wants(level(facts)) {
            self.writer.send(Entry::Connection(facts.clone(), self.format));
        }
    }

    /// Hands the line of an ended request over.
    pub(crate) fn request(&self, facts: &Arc<RequestFacts>) {
        if facts.is_logged() && self.wants(Level::INFO) {
            self.writer.send(Entry::Request(facts.clone(), self.format));
        }
    }

    fn wants(&self, level: Level) -> bool {
        self.level.as_ref().is_none_or(|scope| scope.enables(level))
    }
}

/// The line of an ended connection, with its line end.
pub fn line(facts: &Facts, format: LogFormat) -> String {
    render(facts.started + facts.duration, level(facts), message(facts), format, |f| match f {
        Form::Plain(p) => fill(facts, p),
        Form::Json(j) => fill(facts, j),
    })
}

/// What an ended connection is called.
pub(crate) fn message(facts: &Facts) -> &'static str {
    if is_unknown(facts) { "connection failed" } else { "connection complete" }
}

/// Gives the fields of an ended connection.
pub(crate) fn fill(facts: &Facts, out: &mut impl Fields) {
    if is_unknown(facts) {
        fields::failed(facts, out);
    } else {
        fields::complete(facts, out);
    }
}

/// Whether it failed before anything was known of it.
fn is_unknown(facts: &Facts) -> bool {
    !facts.has_context() && !facts.outcome.is_ok()
}

pub(crate) fn level(facts: &Facts) -> Level {
    match (facts.outcome.is_ok(), facts.has_context()) {
        (true, _) => Level::INFO,
        (false, true) => Level::ERROR,
        (false, false) => Level::WARN,
    }
}

enum Form<'a> {
    Plain(&'a mut Plain),
    Json(&'a mut Json),
}

fn render(time: SystemTime, level: Level, message: &str, format: LogFormat, fill: impl FnOnce(Form<'_>)) -> String {
    let (time, level) = (Timestamp(time), level_name(level));
    match format {
        LogFormat::Plain => {
            let mut out = Plain::default();
            fill(Form::Plain(&mut out));
            format!("{time}\t{level}\t{TARGET}\t{message}\t{}\n", out.0)
        }
        LogFormat::Json => {
            let mut out = Json::default();
            out.text("level", level);
            out.bare("time", &time);
            out.text("scope", TARGET);
            out.text("message", message);
            fill(Form::Json(&mut out));
            format!("{}\n", serde_json::Value::Object(out.0))
        }
    }
}

/// Istio writes levels in small letters.
pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
