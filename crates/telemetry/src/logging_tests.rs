use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::fixture::{Kept, record};
use crate::{AccessLog, Config, Telemetry};

const SOON: Duration = Duration::from_secs(10);

fn log(level: &str, format: LogFormat) -> (impl Subscriber + Send + Sync, LogHandle, Kept) {
    let kept = Kept::default();
    let writer = LineWriter::new(kept.clone(), 1_000).unwrap();
    let (subscriber, handle) = subscriber(&LogConfig { level: level.to_owned(), format }, writer, None).unwrap();
    (subscriber, handle, kept)
}

#[test]
fn plain_lines_have_tab_columns() {
    let (subscriber, handle, kept) = log("info", LogFormat::Plain);
    tracing::subscriber::with_default(subscriber, || {
        tracing::warn!(target: "xds", url = "a b", count = 3, who = %"10.0.0.1:5", "two\nlines");
        tracing::info!(target: "xds", "bare");
        tracing::debug!(target: "xds", "not shown");
    });
    assert!(handle.flush(SOON));
    let text = kept.text();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0][0].parse::<Timestamp>().is_ok());
    assert_eq!(lines[0][1..], ["warn", "xds", "two\\nlines", "url=\"a b\" count=3 who=10.0.0.1:5"]);
    assert_eq!(lines[1][1..], ["info", "xds", "bare"]);
}

#[test]
fn json_lines_have_istios_keys() {
    let (subscriber, handle, kept) = log("info", LogFormat::Json);
    tracing::subscriber::with_default(subscriber, || tracing::error!(target: "ca", pod = "web", "no key"));
    assert!(handle.flush(SOON));
    let value: serde_json::Value = serde_json::from_str(&kept.text()).unwrap();
    assert_eq!(value["level"], "error");
    assert_eq!(value["scope"], "ca");
    assert_eq!(value["message"], "no key");
    assert_eq!(value["pod"], "web");
}

#[test]
fn the_level_changes_while_it_runs_and_a_mistake_changes_nothing() {
    let (subscriber, handle, kept) = log("info", LogFormat::Plain);
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug!(target: "hbone", "one");
        handle.set_level("info,hbone=debug").unwrap();
        assert_eq!(handle.level(), "info,hbone=debug");
        tracing::debug!(target: "hbone", "two");
        assert!(handle.set_level("hbone=loud").is_err());
        assert_eq!(handle.level(), "info,hbone=debug");
        handle.set_level("reset").unwrap();
        tracing::debug!(target: "hbone", "three");
    });
    assert!(handle.flush(SOON));
    let text = kept.text();
    assert_eq!(text.lines().map(|l| l.rsplit('\t').next().unwrap()).collect::<Vec<_>>(), ["two"]);
}

#[test]
fn access_lines_follow_the_level_of_their_scope() {
    let (subscriber, handle, kept) = log("info", LogFormat::Plain);
    let access = Some(AccessLog::new(&handle));
    let telemetry = Telemetry::new(Config { access, ..Config::default() });
    let run = |outcome| {
        let mut record = record(&telemetry, mesh::Direction::Outbound);
        record.opened();
        record.finish(outcome);
    };
    tracing::subscriber::with_default(subscriber, || {
        run(mesh::Outcome::Closed);
        handle.set_level("info,access=error").unwrap();
        run(mesh::Outcome::Closed);
        run(mesh::Outcome::TlsFailed);
        handle.set_level("access=debug").unwrap();
        run(mesh::Outcome::Closed);
    });
    assert!(handle.flush(SOON));
    let text = kept.text();
    let seen: Vec<String> = text.lines().map(|l| l.split('\t').skip(1).take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        seen,
        [
            "info access connection complete",
            "error access connection complete",
            "debug access connection opened",
            "info access connection complete"
        ]
    );
}

#[test]
fn the_level_of_a_scope_is_read_from_the_list() {
    let scope = ScopeLevel { scope: "access", enabled: Arc::default() };
    for (levels, wanted) in [
        ("info", 3),
        ("off", 0),
        ("access=debug", 4),
        ("warn,access=trace,hbone=off", 5),
        ("debug,access=off", 0),
        ("info,hbone[span]=trace", 3),
        ("hbone=debug", 0),
    ] {
        scope.follow(levels);
        let enabled = LEVELS.iter().filter(|l| scope.enables(**l)).count();
        assert_eq!(enabled, wanted, "{levels}");
    }
}

#[test]
fn variables_are_read_through_the_caller() {
    let read = |level: Option<&str>, format: Option<&str>| {
        let (level, format) = (level.map(str::to_owned), format.map(str::to_owned));
        LogConfig::from_env(&move |name| match name {
            "RUST_LOG" => level.clone(),
            "LOG_FORMAT" => format.clone(),
            _ => None,
        })
    };
    assert_eq!(read(None, None).unwrap(), LogConfig::default());
    assert_eq!(
        read(Some("debug"), Some("json")).unwrap(),
        LogConfig { level: "debug".to_owned(), format: LogFormat::Json }
    );
    assert!(read(None, Some("xml")).is_err());
}

/// A stream that is stuck until it is told otherwise, and tells when somebody writes.
struct Stuck(Receiver<()>, std::sync::mpsc::Sender<()>);

impl std::io::Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.send(()).ok();
        // A closed channel means "not stuck any more".
        self.0.recv().ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_stream_drops_and_counts_but_never_blocks() {
    let (release, stuck) = channel();
    let (entered, writing) = channel();
    let writer = LineWriter::new(Stuck(stuck, entered), 4).unwrap();
    writer.line(b"first\n".to_vec());
    writing.recv().unwrap();
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        writer.line(b"more\n".to_vec());
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    // One is being written, four wait.
    assert_eq!(writer.dropped().get(), 96);
    assert!(!writer.flush(Duration::from_millis(20)));
    drop(release);
    assert!(writer.flush(SOON));
}
