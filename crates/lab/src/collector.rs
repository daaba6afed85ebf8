//! A real OpenTelemetry collector: `rotel`, from PyPI, in a virtual environment in the cache.
//!
//! It receives OTLP over gRPC and has no exporter that writes files, but it prints each span and each log record it receives
//! in a form of lines (`--debug-log`), which the lab keeps as its log and reads back here.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::error::{Doing, LabError};
use crate::lab::Lab;
use crate::plan::Plan;
use crate::process::Launch;
use crate::programs::{OTLP_PORT, in_host};
use crate::tools::{self, PYTHON};
use crate::wait;

const VERSION: &str = "0.0.1a15";
/// Name of its process.
pub(crate) const COLLECTOR: &str = "collector";

/// A span as the collector printed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The span it belongs under; empty for a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// Its kind, as in `SPAN_KIND_SERVER`.
    pub kind: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes of the process it comes from.
    pub resource: BTreeMap<String, String>,
    /// Its own attributes.
    pub attributes: BTreeMap<String, String>,
    /// Names of its events.
    pub events: Vec<String>,
}

/// A log record as the collector printed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// Severity in words.
    pub severity: String,
    /// What it says.
    pub body: String,
    /// Attributes of the process it comes from.
    pub resource: BTreeMap<String, String>,
    /// Its own attributes.
    pub attributes: BTreeMap<String, String>,
}

/// Installs the collector into the cache where it is not there yet, and gives back its executable.
///
/// # Errors
/// When Python or the package cannot be had.
pub fn ensure_collector() -> Result<PathBuf, LabError> {
    let folder = cache()?.join(format!("rotel-{VERSION}"));
    if let Some(there) = agent_in(&folder) {
        return Ok(there);
    }
    // Beside its final place and renamed when complete: an interrupted installation is never taken for a whole one.
    let building = folder.with_extension(format!("building-{}", std::process::id()));
    let installed = install(&building)
        .and_then(|()| fs::rename(&building, &folder).doing(|| format!("cannot rename {}", building.display())));
    if let Err(error) = installed {
        // Another one may have been faster.
        if let Err(left) = fs::remove_dir_all(&building) {
            tracing::debug!(error = %left, "nothing to clean up");
        }
        return agent_in(&folder).ok_or(error);
    }
    agent_in(&folder).ok_or_else(|| LabError::Unfit(format!("the package rotel {VERSION} holds no rotel-agent")))
}

fn install(folder: &Path) -> Result<(), LabError> {
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).doing(|| format!("cannot make {}", parent.display()))?;
    let mut venv = Command::new(PYTHON.path()?);
    venv.args(["-m", "venv"]).arg(folder);
    tools::run(venv, "")?;
    // Only the package itself: of its dependencies the executable needs none.
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", &format!("rotel=={VERSION}")]);
    tools::run(pip, "").map(drop)
}

// <folder>/lib/python3.<n>/site-packages/rotel/rotel-agent
fn agent_in(folder: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(folder.join("lib")).ok()?.flatten();
    let agent = pythons.map(|p| p.path().join("site-packages/rotel/rotel-agent")).find(|p| p.is_file())?;
    make_executable(&agent).ok()?;
    Some(agent)
}

// The package's own launcher does the same at its first start.
fn make_executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn cache() -> Result<PathBuf, LabError> {
    if let Some(folder) = env::var_os("CULVERT_CACHE") {
        return Ok(folder.into());
    }
    let home = env::var_os("HOME")
        .ok_or_else(|| LabError::Unfit("HOME is not set; set CULVERT_CACHE to a folder".to_owned()))?;
    Ok(PathBuf::from(home).join(".cache/culvert"))
}

/// Starts the collector in the infra namespace.
pub(crate) fn start(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    let agent = ensure_collector()?;
    let ips = plan.infra();
    let Some(ip) = ips.first() else { return Ok(()) };
    let mut argv = vec![agent.display().to_string()];
    argv.extend(["--log-format", "json", "start"].map(str::to_owned));
    argv.extend(["--otlp-grpc-endpoint".to_owned(), format!("{ip}:{OTLP_PORT}")]);
    argv.extend(["--otlp-http-endpoint".to_owned(), format!("{ip}:{}", OTLP_PORT + 1)]);
    argv.extend(["--exporter", "blackhole", "--debug-log-verbosity", "detailed"].map(str::to_owned));
    argv.extend(["--debug-log", "traces", "--debug-log", "logs"].map(str::to_owned));
    let enter = in_host(lab, lab.tree.infra(), &lab.paths.netns("infra"));
    let log = lab.paths.log(COLLECTOR);
    let launch = Launch { name: COLLECTOR.to_owned(), argv, enter, env: BTreeMap::new(), log };
    let record = lab.start(launch)?;
    wait::until_listening(lab, &record, &lab.paths.netns("infra"), &ips[..1], OTLP_PORT)
}

impl Lab {
    /// The spans that the lab's collector has received so far.
    ///
    /// # Errors
    /// When the lab has no collector.
    pub fn spans(&self) -> Result<Vec<Span>, LabError> {
        Ok(parse(&self.printed()?).0)
    }

    /// The log records that the lab's collector has received so far.
    ///
    /// # Errors
    /// When the lab has no collector.
    pub fn log_records(&self) -> Result<Vec<LogRecord>, LabError> {
        Ok(parse(&self.printed()?).1)
    }

    fn printed(&self) -> Result<String, LabError> {
        let path = self.log_path(COLLECTOR)?;
        let text = fs::read(&path).doing(|| format!("cannot read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Attributes,
    Events,
    Head,
    Resource,
}

// "ResourceSpans #0", then "Resource attributes:", then spans, each "Span #0", fields, "Attributes:", "Events:". The same for
// logs: "ResourceLog #0", "LogRecord #0". Attributes are "     -> key: Str(value)".
fn parse(text: &str) -> (Vec<Span>, Vec<LogRecord>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut records: Vec<LogRecord> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut part = Part::Head;
    let mut logs = false;
    for line in text.lines() {
        let attribute = line.strip_prefix("     -> ").and_then(|l| l.split_once(": "));
        if line.starts_with("ResourceSpans #") || line.starts_with("ResourceLog #") {
            logs = line.starts_with("ResourceLog #");
            resource = BTreeMap::new();
            part = Part::Head;
        } else if line == "Resource attributes:" {
            part = Part::Resource;
        } else if line.starts_with("Span #") {
            spans.push(Span { resource: resource.clone(), ..Span::default() });
            part = Part::Head;
        } else if line.starts_with("LogRecord #") {
            records.push(LogRecord { resource: resource.clone(), ..LogRecord::default() });
            part = Part::Head;
        } else if line == "Attributes:" {
            part = Part::Attributes;
        } else if line == "Events:" {
            part = Part::Events;
        } else if let Some((key, value)) = attribute {
            let attributes = match logs {
                true => records.last_mut().map(|record| &mut record.attributes),
                false => spans.last_mut().map(|span| &mut span.attributes),
            };
            match (part, attributes) {
                (Part::Resource, _) => drop(resource.insert(key.to_owned(), bare(value))),
                (Part::Attributes, Some(attributes)) => drop(attributes.insert(key.to_owned(), bare(value))),
                (Part::Events, _) if key == "Name" => events(&mut spans, value),
                _ => {}
            }
        } else if let (Part::Head, Some((key, value))) = (part, line.split_once(':')) {
            match (logs, spans.last_mut(), records.last_mut()) {
                (true, _, Some(record)) => record_head(record, key.trim(), value.trim()),
                (false, Some(span), _) => head(span, key.trim(), value.trim()),
                _ => {}
            }
        }
    }
    (spans, records)
}

fn events(spans: &mut [Span], name: &str) {
    if let Some(span) = spans.last_mut() {
        span.events.push(name.to_owned());
    }
}

fn record_head(record: &mut LogRecord, key: &str, value: &str) {
    match key {
        "SeverityText" => record.severity = value.to_owned(),
        "Body" => record.body = bare(value),
        _ => {}
    }
}

fn head(span: &mut Span, key: &str, value: &str) {
    match key {
        "Trace ID" => span.trace = value.to_owned(),
        "Parent ID" => span.parent = value.to_owned(),
        "ID" => span.id = value.to_owned(),
        "Name" => span.name = value.to_owned(),
        "Kind" => span.kind = value.to_owned(),
        "Start time" => span.start = value.parse().unwrap_or_default(),
        "End time" => span.end = value.parse().unwrap_or_default(),
        _ => {}
    }
}

// "Str(ztunnel)" -> "ztunnel"
fn bare(value: &str) -> String {
    let inner = value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // As rotel 0.0.1a15 prints it.
    const PRINTED: &str = r#"{"msg":"Starting Rotel."}
ResourceSpans #0
Resource SchemaURL: 
Resource attributes:
     -> service.name: Str(ztunnel)
ScopeSpans #0
ScopeSpans SchemaURL: 
InstrumentationScope x 
Span #0
    Trace ID       : 4bf92f3577b34da6a3ce929d0e0e4736
    Parent ID      : 00f067aa0ba902b8
    ID             : 00f067aa0ba902b7
    Name           : outbound cart
    Kind           : SPAN_KIND_CLIENT
Start time: 1700000000000000000
End time: 1700000001000000000
    Status code    : STATUS_CODE_UNSET
    Status message : 
Attributes:
     -> a.b: Str(c (d): e)
     -> n: Int(5)
Events:
SpanEvent #0
     -> Name: capture
     -> Timestamp: 1700000000500000000
     -> DroppedAttributesCount: 0
ResourceLog #0
Resource SchemaURL: 
Resource attributes:
     -> service.name: Str(wp)
ScopeLogs #0
ScopeLogs SchemaURL: 
InstrumentationScope culvert 
LogRecord #0
ObservedTimestamp: 0
Timestamp: 1
SeverityText: info
SeverityNumber: SEVERITY_NUMBER_INFO(9)
EventName: culvert.access
Body: Str(connection complete)
Attributes:
     -> path: Str(/a)
    Trace ID       : 4bf92f3577b34da6a3ce929d0e0e4736
    Span ID        : 00f067aa0ba902b7
Flags: 0
"#;

    #[test]
    fn printed_spans_are_read_back() {
        let (spans, records) = parse(&PRINTED.repeat(2));
        assert_eq!((spans.len(), records.len()), (2, 2));
        let record = &records[1];
        assert_eq!((record.body.as_str(), record.severity.as_str()), ("connection complete", "info"));
        assert_eq!((record.attributes["path"].as_str(), record.resource["service.name"].as_str()), ("/a", "wp"));
        let span = &spans[0];
        assert_eq!((span.id.as_str(), span.parent.as_str()), ("00f067aa0ba902b7", "00f067aa0ba902b8"));
        assert_eq!((span.name.as_str(), span.end - span.start), ("outbound cart", 1_000_000_000));
        assert_eq!((span.attributes["a.b"].as_str(), span.attributes["n"].as_str()), ("c (d): e", "5"));
        assert_eq!(
            (span.resource["service.name"].as_str(), span.events.as_slice()),
            ("ztunnel", &["capture".to_owned()][..])
        );
    }
}
