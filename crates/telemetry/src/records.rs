//! Records of the access log for a collector: the same fields as in its JSON form, as attributes (OTLP logs).

use std::fmt;
use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::trace::TraceFlags;
use opentelemetry::{InstrumentationScope, SpanId, TraceId};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use serde_json::{Map, Value};
use tracing::Level;

use crate::access::{self, TARGET};
use crate::export::{Item, Sends};
use crate::facts::Facts;
use crate::fields::Json;
use crate::otlp::SCOPE;
use crate::request::{self, RequestFacts};

/// An exporter of access records.
pub(crate) struct Records<E> {
    exporter: E,
    /// Makes records, and nothing else: it has no processor.
    logger: SdkLogger,
    scope: InstrumentationScope,
}

impl<E> Records<E> {
    pub(crate) fn new(exporter: E) -> Self {
        let scope = InstrumentationScope::builder(SCOPE).build();
        let logger = SdkLoggerProvider::builder().build().logger_with_scope(scope.clone());
        Self { exporter, logger, scope }
    }

    fn record(&self, item: &Item) -> Option<SdkLogRecord> {
        let mut record = self.logger.create_log_record();
        match item {
            Item::Connection(facts) => connection(facts, &mut record),
            Item::Request(facts) => of_request(facts, &mut record),
            Item::Span(_) => return None,
        }
        // The exporter takes no record without it.
        record.set_observed_timestamp(SystemTime::now());
        record.set_event_name("culvert.access");
        record.set_target(TARGET);
        Some(record)
    }
}

impl<E> fmt::Debug for Records<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}

impl<E: LogExporter + 'static> Sends for Records<E> {
    const WHAT: &'static str = "access records";

    fn resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }

    async fn send(&self, items: Vec<Item>) -> OTelSdkResult {
        let records: Vec<SdkLogRecord> = items.iter().filter_map(|item| self.record(item)).collect();
        let batch: Vec<_> = records.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.export(LogBatch::new(&batch)).await
    }
}

fn connection(facts: &Facts, record: &mut SdkLogRecord) {
    let mut fields = Json::default();
    access::fill(facts, &mut fields);
    record.set_timestamp(facts.started + facts.duration);
    severity(access::level(facts), record);
    record.set_body(access::message(facts).into());
    attributes(fields.0, record);
    if let Some(trace) = facts.trace {
        context(trace, record);
    }
}

fn of_request(facts: &RequestFacts, record: &mut SdkLogRecord) {
    record.set_timestamp(facts.started + facts.duration);
    severity(if facts.is_failure() { Level::ERROR } else { Level::INFO }, record);
    record.set_body("request complete".into());
    attributes(request::fields(facts), record);
    if let Some(trace) = facts.trace {
        context(trace, record);
    }
}

fn severity(level: Level, record: &mut SdkLogRecord) {
    record.set_severity_number(match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    });
    record.set_severity_text(access::level_name(level));
}

/// What is not known is left out.
fn attributes(fields: Map<String, Value>, record: &mut SdkLogRecord) {
    for (key, value) in fields {
        let value = match value {
            Value::Null => continue,
            Value::Bool(b) => AnyValue::Boolean(b),
            Value::Number(n) => match n.as_i64() {
                Some(n) => AnyValue::Int(n),
                None => AnyValue::Double(n.as_f64().unwrap_or_default()),
            },
            Value::String(text) => AnyValue::String(text.into()),
            other => AnyValue::String(other.to_string().into()),
        };
        record.add_attribute(key, value);
    }
}

fn context(trace: mesh::TraceContext, record: &mut SdkLogRecord) {
    let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (id, span) =
        (TraceId::from_bytes(trace.trace_id.to_be_bytes()), SpanId::from_bytes(trace.span_id.to_be_bytes()));
    record.set_trace_context(id, span, Some(flags));
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
