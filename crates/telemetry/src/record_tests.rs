use std::time::Duration;

use mesh::{Direction, Outcome, PeerAddr, TraceContext};

use super::*;
use crate::facts::Denial;
use crate::fixture::{address, record, value, workload};
use crate::{Config, Flows};

const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";
const FAILED: &str = "istio_tcp_connections_failed_total";
const SENT: &str = "istio_tcp_sent_bytes_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";

fn outcomes(flows: &Flows) -> Vec<String> {
    flows.since(0, 100).flows.into_iter().map(|f| f.outcome).collect()
}

#[test]
fn all_labels_of_a_known_connection_are_istios() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Outbound);
    record.opened();
    record.finish(Outcome::Closed);
    let wanted = concat!(
        "istio_tcp_connections_opened_total{reporter=\"source\",",
        "source_workload=\"web\",source_canonical_service=\"web\",source_canonical_revision=\"v2\",",
        "source_workload_namespace=\"shop\",source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",",
        "source_app=\"web\",source_version=\"v2\",source_cluster=\"one\",",
        "destination_service=\"api.shop.svc.cluster.local\",destination_service_namespace=\"shop\",",
        "destination_service_name=\"api\",",
        "destination_workload=\"api\",destination_canonical_service=\"api\",destination_canonical_revision=\"v2\",",
        "destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/api\",",
        "destination_app=\"api\",destination_version=\"v2\",destination_cluster=\"two\",",
        "request_protocol=\"tcp\",response_flags=\"-\",connection_security_policy=\"mutual_tls\",",
        "source_region=\"eu\",source_zone=\"eu-1\",destination_region=\"eu\",destination_zone=\"eu-1\"} 1",
    );
    let text = telemetry.render();
    assert!(text.lines().any(|l| l == wanted), "{text}");
}

#[test]
fn what_is_not_known_is_unknown_and_never_empty() {
    let telemetry = Telemetry::new(Config::default());
    let mut record =
        Record::new(&telemetry, Direction::Inbound, PeerAddr(address("10.1.0.1:1")), address("10.2.0.2:80"));
    record.destination(workload("api", "two"));
    record.opened();
    record.finish(Outcome::Closed);
    let text = telemetry.render();
    assert!(!text.contains("=\"\""), "{text}");
    let parts = [
        "reporter=\"destination\"",
        "source_workload=\"unknown\"",
        "source_principal=\"unknown\"",
        "destination_service=\"unknown\"",
        "connection_security_policy=\"unknown\"",
    ];
    assert_eq!(value(&text, OPENED, &parts), 1);
}

#[test]
fn bytes_are_in_the_servers_sense_on_both_reporters_and_move_while_open() {
    for direction in [Direction::Inbound, Direction::Outbound] {
        let telemetry = Telemetry::new(Config::default());
        let mut record = record(&telemetry, direction);
        let counters = record.counters();
        record.opened();
        counters.add_to_destination(100);
        let seen = |name| value(&telemetry.render(), name, &[]);
        assert_eq!((seen(RECEIVED), seen(SENT), seen(CLOSED)), (100, 0, 0));
        let reporter = format!("reporter=\"{}\"", direction.reporter());
        assert_eq!(value(&telemetry.render(), "istio_tcp_sockets_open", &[&reporter]), 1);
        counters.add_to_source(2_000);
        counters.add_to_destination(1);
        assert_eq!((seen(RECEIVED), seen(SENT)), (101, 2_000));
        assert_eq!((seen(RECEIVED), seen(SENT)), (101, 2_000), "a second scrape counts nothing twice");
        record.finish(Outcome::Closed);
        assert_eq!((seen(RECEIVED), seen(SENT), seen(OPENED), seen(CLOSED)), (101, 2_000, 1, 1));
    }
}

#[test]
fn a_meter_set_late_loses_and_doubles_nothing() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Outbound);
    record.opened();
    let first = record.counters();
    first.add_to_source(5);
    let second = record.counters();
    second.add_to_source(7);
    assert_eq!(value(&telemetry.render(), SENT, &[]), 12);
    record.finish(Outcome::Closed);
    assert_eq!(value(&telemetry.render(), SENT, &[]), 12);
}

#[test]
fn opened_counts_without_a_flag_and_closed_with_the_flag() {
    let telemetry = Telemetry::new(Config::default());
    let mut tls = record(&telemetry, Direction::Outbound);
    tls.opened();
    tls.opened();
    tls.finish(Outcome::TlsFailed);
    // Denied before anybody called it open.
    record(&telemetry, Direction::Outbound).finish(Outcome::PolicyDenied);
    let text = telemetry.render();
    assert_eq!(value(&text, OPENED, &["response_flags=\"-\""]), 2);
    assert_eq!(value(&text, CLOSED, &["response_flags=\"-\""]), 0);
    for flag in ["TLS_FAILURE", "DENY"] {
        let part = format!("response_flags=\"{flag}\"");
        assert_eq!(value(&text, CLOSED, &[&part]), 1);
        assert_eq!(value(&text, FAILED, &[&part]), 1);
        assert_eq!(value(&text, OPENED, &[&part]), 0);
    }
    let ends = ["reporter=\"source\"", "outcome=\"policy_denied\"", "response_flags=\"DENY\""];
    assert_eq!(value(&text, "culvert_connections_total", &ends), 1);
}

#[test]
fn a_failure_without_any_context_only_counts_as_failed() {
    let telemetry = Telemetry::new(Config::default());
    let source = PeerAddr(address("10.1.0.1:1"));
    Record::new(&telemetry, Direction::Inbound, source, address("10.2.0.2:15008")).finish(Outcome::BadRequest);
    let text = telemetry.render();
    assert_eq!((value(&text, OPENED, &[]), value(&text, FAILED, &[])), (0, 1));
}

#[test]
fn a_record_is_written_once_when_it_is_dropped_without_a_word() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Inbound);
    record.opened();
    drop(record);
    assert_eq!(outcomes(telemetry.flows()), ["abandoned"]);
    assert_eq!(value(&telemetry.render(), CLOSED, &[]), 1);
}

#[test]
fn a_record_is_written_once_when_its_task_panics() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Inbound);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        record.opened();
        panic!("in the middle of a connection");
    }));
    assert!(result.is_err());
    assert_eq!(outcomes(telemetry.flows()), ["abandoned"]);
    assert_eq!(value(&telemetry.render(), CLOSED, &[]), 1);
}

#[tokio::test]
async fn a_record_is_written_once_when_its_task_is_cancelled() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Inbound);
    record.otherwise(Outcome::PodGone);
    let (started, running) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move {
        let mut record = record;
        record.opened();
        started.send(()).unwrap();
        std::future::pending::<()>().await;
        record.finish(Outcome::Closed);
    });
    running.await.unwrap();
    assert_eq!(telemetry.flows().head(), 0);
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(outcomes(telemetry.flows()), ["pod_gone"]);
}

#[test]
fn a_denial_reaches_flow_and_error_with_its_nearest_miss() {
    let telemetry = Telemetry::new(Config::default());
    let mut record = record(&telemetry, Direction::Inbound);
    record.denied(Denial {
        policy: Some("shop/deny-all".into()),
        explanation: "denied by shop/deny-all rule 0".to_owned(),
        nearest_miss: Some("principals want a, got b".to_owned()),
    });
    record.finish(Outcome::PolicyDenied);
    let flow = telemetry.flows().since(0, 1).flows.remove(0);
    assert_eq!(flow.rule.as_deref(), Some("shop/deny-all"));
    assert_eq!(flow.error.as_deref(), Some("denied by shop/deny-all rule 0"));
    assert_eq!(flow.nearest_miss.as_deref(), Some("principals want a, got b"));
}

#[test]
fn without_tracing_the_context_is_random_unsampled_and_stable() {
    let telemetry = Telemetry::new(Config::default());
    let (mut a, mut b) = (record(&telemetry, Direction::Outbound), record(&telemetry, Direction::Outbound));
    let (first, again, other) = (a.trace_context(), a.trace_context(), b.trace_context());
    assert_eq!(first, again);
    assert_ne!(first.trace_id, other.trace_id);
    assert!(!first.sampled);
    let parent = TraceContext { trace_id: 7, span_id: 8, sampled: true };
    let mut inbound = record(&telemetry, Direction::Inbound);
    inbound.continue_trace(parent);
    let own = inbound.trace_context();
    assert_eq!((own.trace_id, own.sampled, inbound.facts().parent_span), (7, false, Some(8)));
    assert_ne!(own.span_id, 8);
}

#[test]
fn tcp_health_is_summed_by_pair_of_identities() {
    let telemetry = Telemetry::new(Config::default());
    for rtt in [3, 30_000, 2_000_000] {
        let mut record = record(&telemetry, Direction::Outbound);
        let rtt = Duration::from_micros(rtt);
        record.health(TcpHealth { rtt, retransmits: 2, ..TcpHealth::default() });
        record.finish(Outcome::Closed);
    }
    let text = telemetry.render();
    let pair = [
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/api\"",
    ];
    assert_eq!(value(&text, "culvert_tcp_retransmits_total", &pair), 6);
    assert_eq!(value(&text, "culvert_tcp_rtt_seconds_count", &pair), 3);
    let bucket = |le: &str| value(&text, "culvert_tcp_rtt_seconds_bucket", &[&format!("le=\"{le}\"")]);
    assert_eq!((bucket("0.00005"), bucket("0.05"), bucket("1.0"), bucket("+Inf")), (1, 2, 2, 3), "{text}");
}

#[test]
fn a_record_stays_small() {
    // One for each live connection: 64 bytes more are 64 MB at a million connections.
    let size = size_of::<Record>();
    assert!(size <= 640, "{size}");
}
