//! What is recorded of requests. A word that is not known changes nothing: more is recorded than was asked for.

use proto::routing as wire;
use telemetry::Recording;
use telemetry::request::{Label, Metric, Part, Tag, TagValue};

/// What a service's owner wants recorded.
pub(crate) fn recording(of: &wire::Telemetry) -> Recording {
    let silent = of.no_metrics.iter().filter_map(|metric| {
        Some(match wire::Metric::try_from(*metric).ok()? {
            wire::Metric::RequestCount => Metric::Count,
            wire::Metric::RequestDuration => Metric::Duration,
            wire::Metric::RequestSize => Metric::RequestSize,
            wire::Metric::ResponseSize => Metric::ResponseSize,
        })
    });
    Recording {
        unlogged: of.no_access_log,
        no_spans: of.no_spans,
        tags: of.span_tags.iter().filter_map(tag).collect(),
        silent: silent.collect(),
        hidden: labels(&of.no_labels),
    }
}

fn tag(of: &wire::SpanTag) -> Option<Tag> {
    let value = match of.value.as_ref()? {
        wire::span_tag::Value::Literal(text) => TagValue::Literal(text.as_str().into()),
        wire::span_tag::Value::Header(name) => TagValue::Header(name.parse().ok()?, of.default_value.as_str().into()),
    };
    Some(Tag { name: of.name.as_str().into(), value })
}

/// Labels whose every name is to be hidden: two may say the same.
fn labels(names: &[String]) -> Vec<Label> {
    let all = |wanted: &[&str]| wanted.iter().all(|name| names.iter().any(|n| n == name));
    let ends: [(&[&str], Label); 15] = [
        (&["source_app", "source_canonical_service"], Label::Source(Part::App)),
        (&["source_cluster"], Label::Source(Part::Cluster)),
        (&["source_workload_namespace"], Label::Source(Part::Namespace)),
        (&["source_principal"], Label::Source(Part::Principal)),
        (&["source_version", "source_canonical_revision"], Label::Source(Part::Version)),
        (&["source_workload"], Label::Source(Part::Workload)),
        (&["destination_app", "destination_canonical_service"], Label::Destination(Part::App)),
        (&["destination_cluster"], Label::Destination(Part::Cluster)),
        (&["destination_workload_namespace"], Label::Destination(Part::Namespace)),
        (&["destination_principal"], Label::Destination(Part::Principal)),
        (&["destination_version", "destination_canonical_revision"], Label::Destination(Part::Version)),
        (&["destination_workload"], Label::Destination(Part::Workload)),
        (&["destination_service"], Label::Service),
        (&["destination_service_name"], Label::ServiceName),
        (&["destination_service_namespace"], Label::ServiceNamespace),
    ];
    ends.into_iter().filter(|(wanted, _)| all(wanted)).map(|(_, label)| label).collect()
}
