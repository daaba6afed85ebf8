//! What is recorded of the requests to a service where its owner wants something else than the usual.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::RequestFacts;
use super::labels::RequestLabelsRef;
use crate::labels::SideRef;

/// What is recorded of the requests to a service. The default is the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// No line in the access log.
    pub unlogged: bool,
    /// No spans. The contexts of traces are passed on all the same.
    pub no_spans: bool,
    /// Attributes of the spans.
    pub tags: Vec<Tag>,
    /// Metrics that do not count.
    pub silent: Vec<Metric>,
    /// Labels of the metrics that say `unknown` for every request.
    pub hidden: Vec<Label>,
}

/// An attribute of the spans of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: Arc<str>,
    /// Where its value comes from.
    pub value: TagValue,
}

/// Where the value of an attribute comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagValue {
    /// From a header of the request, or this text where it is not there; empty: then there is no attribute.
    Header(HeaderName, Arc<str>),
    /// From here.
    Literal(Arc<str>),
}

/// Istio's metrics of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `istio_requests_total`
    Count,
    /// `istio_request_duration_milliseconds`
    Duration,
    /// `istio_request_bytes`
    RequestSize,
    /// `istio_response_bytes`
    ResponseSize,
}

/// Labels that can be hidden, one for all labels of the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Of the client's end.
    Source(Part),
    /// Of the end that answered.
    Destination(Part),
    /// `destination_service`
    Service,
    /// `destination_service_name`
    ServiceName,
    /// `destination_service_namespace`
    ServiceNamespace,
}

/// A part of what is told of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `_app` and `_canonical_service`
    App,
    /// `_cluster`
    Cluster,
    /// `_workload_namespace`
    Namespace,
    /// `_principal`
    Principal,
    /// `_version` and `_canonical_revision`
    Version,
    /// `_workload`
    Workload,
}

impl Recording {
    /// Attributes of the spans of a request with these headers.
    pub(crate) fn attributes(&self, headers: &HeaderMap) -> Vec<(Arc<str>, String)> {
        let value = |tag: &Tag| match &tag.value {
            TagValue::Header(name, otherwise) => {
                let header = headers.get(name).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
                header.unwrap_or_else(|| otherwise.to_string())
            }
            TagValue::Literal(text) => text.to_string(),
        };
        let all = self.tags.iter().map(|tag| (tag.name.clone(), value(tag)));
        all.filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Whether a metric counts.
    pub(crate) fn counts(&self, metric: Metric) -> bool {
        !self.silent.contains(&metric)
    }
}

impl RequestFacts {
    /// The label set, with what is hidden left empty: requests that differ by nothing else are one series.
    pub(super) fn shown_labels(&self) -> RequestLabelsRef<'_> {
        let mut labels = self.labels();
        let hidden = self.recording.as_deref().map(|r| &r.hidden[..]).unwrap_or_default();
        let base = &mut labels.base;
        for label in hidden {
            match label {
                Label::Source(part) => hide(&mut base.source, *part),
                Label::Destination(part) => hide(&mut base.destination, *part),
                Label::Service => base.service.hostname = "",
                Label::ServiceName => base.service.name = "",
                Label::ServiceNamespace => base.service.namespace = "",
            }
        }
        labels
    }
}

fn hide(side: &mut SideRef<'_>, part: Part) {
    match part {
        Part::App => side.app = "",
        Part::Cluster => side.cluster = "",
        Part::Namespace => side.namespace = "",
        Part::Principal => side.principal = None,
        Part::Version => side.version = "",
        Part::Workload => side.workload = "",
    }
}
