use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use mesh::Direction;

use super::*;
use crate::export::Exporter;
use crate::fixture::{address, record};
use crate::request::{Flag, Recording, RequestRecord};
use crate::{Config, Telemetry, Tracing, TracingConfig};

type Kept = Arc<Mutex<Vec<SdkLogRecord>>>;

/// Keeps what is exported.
#[derive(Clone, Debug, Default)]
struct Memory(Kept);

impl LogExporter for Memory {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch.iter().map(|(record, _)| record.clone()));
        Ok(())
    }
}

fn attribute(record: &SdkLogRecord, key: &str) -> Option<String> {
    let found = record.attributes_iter().find(|(k, _)| k.as_str() == key);
    found.map(|(_, value)| match value {
        AnyValue::String(text) => text.to_string(),
        AnyValue::Int(n) => n.to_string(),
        other => format!("{other:?}"),
    })
}

fn request(telemetry: &Telemetry, path: &str) -> RequestRecord {
    let head = Request::get(path).header("host", "cart.shop").body(()).unwrap().into_parts().0;
    RequestRecord::new(telemetry, &head, address("10.0.0.1:40000"), address("10.96.0.1:80"))
}

#[tokio::test]
async fn connections_and_requests_are_records_with_the_fields_of_their_lines() {
    let memory = Memory::default();
    let config = TracingConfig::new("memory", "test");
    let access = memory.clone();
    let access = Exporter::run(&config, move || Ok(Records::new(access))).unwrap();
    let spans = Exporter::run(&config, move || Ok(Records::new(Memory::default()))).unwrap();
    let tracing = Tracing::with(&config, spans).and_access(access);
    let telemetry = Telemetry::new(Config { tracing: Some(tracing.clone()), ..Config::default() });

    record(&telemetry, Direction::Inbound).finish(mesh::Outcome::PolicyDenied);
    let mut failed = request(&telemetry, "/x?q=1");
    failed.answered(503, Flag::NoHealthyUpstream, "no_healthy_upstream");
    drop(failed);
    let mut quiet = request(&telemetry, "/quiet");
    quiet.recording(&Arc::new(Recording { unlogged: true, ..Recording::default() }), &http::HeaderMap::new());
    drop(quiet);
    assert!(tracing.flush(Duration::from_secs(10)).await);

    let kept = memory.0.lock().unwrap();
    let [connection, request] = &kept[..] else { panic!("{kept:?}") };
    assert!(kept.iter().all(|record| record.observed_timestamp() >= record.timestamp()), "{kept:?}");
    assert_eq!(connection.body(), Some(&"connection complete".into()));
    assert_eq!(connection.severity_number(), Some(Severity::Error));
    assert_eq!(attribute(connection, "direction").as_deref(), Some("inbound"));
    assert_eq!(attribute(connection, "outcome").as_deref(), Some("policy_denied"));
    assert_eq!(request.body(), Some(&"request complete".into()));
    assert_eq!((request.severity_text(), request.event_name()), (Some("error"), Some("culvert.access")));
    assert_eq!(attribute(request, "response_code").as_deref(), Some("503"));
    assert_eq!(attribute(request, "path").as_deref(), Some("/x?q=1"));
    assert_eq!(attribute(request, "upstream_host"), None, "what is not known is left out");
    let trace = request.trace_context().unwrap();
    assert_eq!(attribute(request, "trace_id"), Some(trace.trace_id.to_string()));
}
