//! The program's own log: events of the `tracing` crate as Istio-shaped lines, with a level that changes while it runs.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, filter, reload};

use crate::access::level_name;
use crate::fields::{Fields, Json, Plain};
use crate::otlp::Tracing;
use crate::timestamp::Timestamp;
use crate::writer::LineWriter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time TAB level TAB scope TAB message TAB key=value ...`
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Levels, such as `info` or `info,hbone=debug`.
    pub level: String,
    /// The form of lines.
    pub format: LogFormat,
}

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The format is neither of the two.
    #[error("LOG_FORMAT={0:?} is not known; use plain or json")]
    Format(String),
    /// The subscriber that the levels belong to is gone.
    #[error("the log is not installed any more")]
    Gone,
    /// A subscriber is installed already.
    #[error("a log is installed already")]
    Installed,
    /// The levels cannot be read.
    #[error("{text:?} is not a list of levels such as info,hbone=debug: {reason}")]
    Level {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Plain }
    }
}

impl LogConfig {
    /// Reads `RUST_LOG` (Istio's ztunnel reads the same) and `LOG_FORMAT` through `variable`.
    ///
    /// # Errors
    /// When the format is unknown.
    pub fn from_env(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, LogError> {
        let mut config = Self::default();
        if let Some(level) = variable("RUST_LOG").filter(|v| !v.trim().is_empty()) {
            config.level = level;
        }
        match variable("LOG_FORMAT").as_deref() {
            None | Some("" | "plain") => {}
            Some("json") => config.format = LogFormat::Json,
            Some(other) => return Err(LogError::Format(other.to_owned())),
        }
        Ok(config)
    }
}

/// Changes the level of a running program.
#[derive(Clone)]
pub struct LogHandle {
    initial: Arc<str>,
    current: Arc<Mutex<String>>,
    apply: Arc<dyn Fn(EnvFilter) -> Result<(), LogError> + Send + Sync>,
    scopes: Arc<Mutex<Vec<ScopeLevel>>>,
    writer: LineWriter,
    format: LogFormat,
}

/// The level of one scope, followed as it changes.
///
/// `tracing::enabled!` cannot say it: as soon as there is a second layer with a filter of its own (spans to a collector)
/// it answers "somebody may want it".
#[derive(Clone, Debug)]
pub(crate) struct ScopeLevel {
    scope: &'static str,
    /// How many of the levels ERROR to TRACE are enabled.
    enabled: Arc<AtomicUsize>,
}

const LEVELS: [Level; 5] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];

impl ScopeLevel {
    pub(crate) fn enables(&self, level: Level) -> bool {
        let enabled = self.enabled.load(Ordering::Relaxed);
        LEVELS[..enabled.min(LEVELS.len())].contains(&level)
    }

    /// Reads a list of levels. Parts that speak of spans or fields have no say over a scope.
    fn follow(&self, levels: &str) {
        let plain: Vec<_> = levels.split(',').filter(|part| !part.contains('[')).collect();
        let targets: filter::Targets = plain.join(",").parse().unwrap_or_default();
        let enabled = LEVELS.iter().filter(|level| targets.would_enable(self.scope, level)).count();
        self.enabled.store(enabled, Ordering::Relaxed);
    }
}

impl LogHandle {
    /// Sets the levels, such as `debug` or `info,hbone=debug`; `reset` goes back to those at start.
    ///
    /// # Errors
    /// When the text cannot be read; nothing changes then.
    pub fn set_level(&self, text: &str) -> Result<(), LogError> {
        let text = if text.trim() == "reset" { &*self.initial } else { text.trim() };
        let filter = parse(text)?;
        (self.apply)(filter)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
        for scope in &*self.scopes.lock().unwrap_or_else(PoisonError::into_inner) {
            scope.follow(text);
        }
        Ok(())
    }

    pub(crate) fn scope_level(&self, scope: &'static str) -> ScopeLevel {
        let level = ScopeLevel { scope, enabled: Arc::default() };
        level.follow(&self.level());
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).push(level.clone());
        level
    }

    /// The levels now.
    pub fn level(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The writer below, for the access log.
    pub fn writer(&self) -> LineWriter {
        self.writer.clone()
    }

    /// The form of lines, for the access log.
    pub fn format(&self) -> LogFormat {
        self.format
    }

    /// Waits until every line so far is written, at most `deadline`. Blocks the calling thread.
    pub fn flush(&self, deadline: Duration) -> bool {
        self.writer.flush(deadline)
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("level", &self.level()).finish_non_exhaustive()
    }
}

/// Installs the log of this process: lines to `writer`, and spans of level INFO and above to `tracing`, where given.
///
/// # Errors
/// When the levels cannot be read or a subscriber is installed already.
pub fn init_logging(config: &LogConfig, writer: LineWriter, tracing: Option<&Tracing>) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(config, writer, tracing)?;
    subscriber.try_init().map_err(|_| LogError::Installed)?;
    Ok(handle)
}

/// The subscriber of [`init_logging`] without installing it.
///
/// # Errors
/// When the levels cannot be read.
pub fn subscriber(
    config: &LogConfig,
    writer: LineWriter,
    tracing: Option<&Tracing>,
) -> Result<(impl Subscriber + Send + Sync + use<>, LogHandle), LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let lines = Lines { writer: writer.clone(), format: config.format };
    let spans = tracing.map(|tracing| {
        // Only what our programs do at their own level: no events, no chatter of libraries (whose spans are DEBUG and
        // TRACE), nothing of the exporter's own work.
        tracing_opentelemetry::layer()
            .with_tracer(tracing.tracer())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter::filter_fn(|meta| meta.is_span() && *meta.level() <= Level::INFO))
    });
    let subscriber = Registry::default().with(lines.with_filter(filter)).with(spans);
    let apply = move |filter| handle.reload(filter).map_err(|_| LogError::Gone);
    let handle = LogHandle {
        initial: config.level.as_str().into(),
        current: Arc::new(Mutex::new(config.level.clone())),
        apply: Arc::new(apply),
        scopes: Arc::default(),
        writer,
        format: config.format,
    };
    Ok((subscriber, handle))
}

fn parse(text: &str) -> Result<EnvFilter, LogError> {
    // Strict: a typing mistake must not silence the log.
    EnvFilter::builder().parse(text).map_err(|e| LogError::Level { text: text.to_owned(), reason: e.to_string() })
}

/// Writes events as lines.
#[derive(Debug)]
struct Lines {
    writer: LineWriter,
    format: LogFormat,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let (time, meta) = (Timestamp::now(), event.metadata());
        let level = level_name(*meta.level());
        let line = match self.format {
            LogFormat::Plain => {
                let mut out = Visitor::<Plain>::default();
                event.record(&mut out);
                let fields = out.fields.0;
                let tab = if fields.is_empty() { "" } else { "\t" };
                format!("{time}\t{level}\t{}\t{}{tab}{fields}\n", meta.target(), one_line(&out.message))
            }
            LogFormat::Json => {
                let mut out = Visitor::<Json>::default();
                out.fields.text("level", level);
                out.fields.bare("time", &time);
                out.fields.text("scope", meta.target());
                event.record(&mut out);
                out.fields.text("message", &out.message);
                format!("{}\n", serde_json::Value::Object(out.fields.0))
            }
        };
        self.writer.line(line.into_bytes());
    }
}

/// A message with line ends or tabs would break the columns; escape those alone.
fn one_line(message: &str) -> std::borrow::Cow<'_, str> {
    if message.contains(['\n', '\r', '\t']) {
        message.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t").into()
    } else {
        message.into()
    }
}

#[derive(Default)]
struct Visitor<F> {
    message: String,
    fields: F,
}

impl<F: Fields> Visit for Visitor<F> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.fields.text(field.name(), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.number(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.bare(field.name(), &format_args!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.fields.text(field.name(), &value.to_string());
    }
}

#[cfg(test)]
#[path = "logging_tests.rs"]
mod tests;
