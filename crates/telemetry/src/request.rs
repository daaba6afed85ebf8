//! The record of one HTTP request at a waypoint: as for connections, one record feeds metrics, access log and spans.

mod access;
mod flag;
mod labels;
mod record;
mod recording;
mod series;
mod spans;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Uri, Version};
use mesh::{Identity, Service, TraceContext, Workload};

use crate::facts::{Denial, DryRun, WAYPOINT};
use crate::labels::{LabelsRef, ServiceRef, SideRef};

pub use flag::Flag;
pub use record::RequestRecord;
pub use recording::{Label, Metric, Part, Recording, Tag, TagValue};

pub(crate) use access::{json as fields, line};
pub(crate) use labels::RequestLabelsRef;
pub(crate) use series::{RequestMetrics, RequestStore};
pub(crate) use spans::spans;

/// Everything about one request when it has ended; every sink reads this and nothing else. Texts are shared with the
/// request's own head, so that keeping them costs no copy.
#[derive(Clone, Debug)]
pub struct RequestFacts {
    /// When its head was read.
    pub started: SystemTime,
    /// From then to the end of the answer.
    pub duration: Duration,
    /// As it came.
    pub version: Version,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Its method.
    pub method: Method,
    /// Its target as it came.
    pub uri: Uri,
    /// Host or `:authority`, as it came.
    pub authority: Option<HeaderValue>,
    /// Header `user-agent`.
    pub user_agent: Option<HeaderValue>,
    /// Header `x-request-id`.
    pub request_id: Option<HeaderValue>,
    /// Header `x-forwarded-for`.
    pub forwarded_for: Option<HeaderValue>,
    /// The client, as discovery knows it.
    pub source: Option<Arc<Workload>>,
    /// The client's identity, from its certificate.
    pub source_identity: Option<Identity>,
    /// The client's address.
    pub source_address: SocketAddr,
    /// What the client connected to: an address of the service.
    pub local_address: SocketAddr,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// The workload that answered.
    pub destination: Option<Arc<Workload>>,
    /// Where that is.
    pub upstream: Option<SocketAddr>,
    /// Whether the client came by mutual TLS.
    pub mutual_tls: bool,
    /// Status of the answer; 0 = none was sent.
    pub status: u16,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u16>,
    /// What went wrong, in Envoy's letters.
    pub flag: Flag,
    /// More of that, for people; no blanks (telemetry.md 3, `response_code_details`).
    pub details: Cow<'static, str>,
    /// Why the transport to the workload failed.
    pub transport_failure: Option<String>,
    /// The route's rule, `kind/namespace/name/rule`.
    pub route: Option<Arc<str>>,
    /// The path of the match, which has few values: `http.route` of spans.
    pub route_path: Option<Arc<str>>,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// From the beginning of the last attempt to the head of its answer.
    pub upstream_time: Option<Duration>,
    /// Attempts to get an answer; kept only for traced requests.
    pub attempts: Vec<Attempt>,
    /// How many attempts there were.
    pub tries: u32,
    /// Trace id and the id of the request's own span.
    pub trace: Option<TraceContext>,
    /// Span of the client, where it sent one.
    pub parent_span: Option<u64>,
    /// The rule that allowed it.
    pub allowed_by: Option<Arc<str>>,
    /// Why policy refused it.
    pub denial: Option<Box<Denial>>,
    /// What policies in dry run would have done.
    pub dry_run: Vec<DryRun>,
    /// What is recorded of it; absent = the usual.
    pub recording: Option<Arc<Recording>>,
    /// Attributes of its spans that the recording asks for.
    pub tags: Vec<(Arc<str>, String)>,
}

/// One attempt to get an answer from a workload.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began, after the request's beginning.
    pub begin: Duration,
    /// How long it took to the head of the answer, or to its failure.
    pub length: Duration,
    /// Where it went.
    pub upstream: SocketAddr,
    /// Id of its span.
    pub span: u64,
    /// Status of its answer; 0 = none.
    pub status: u16,
    /// What went wrong, as a word.
    pub error: Option<&'static str>,
}

impl RequestFacts {
    /// `http/1.1` and so on, in Envoy's letters.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_3 => "HTTP/3",
            _ => "HTTP/1.1",
        }
    }

    /// Whether it has a line in the access log.
    pub(crate) fn is_logged(&self) -> bool {
        self.recording.as_ref().is_none_or(|r| !r.unlogged)
    }

    /// Whether its spans are reported.
    pub(crate) fn is_traced(&self) -> bool {
        self.trace.is_some_and(|t| t.sampled) && self.recording.as_ref().is_none_or(|r| !r.no_spans)
    }

    /// Whether operators should look at it.
    pub(crate) fn is_failure(&self) -> bool {
        self.status >= 500 || self.status == 0 || self.grpc_status.is_some_and(is_server_error)
    }

    fn labels(&self) -> RequestLabelsRef<'_> {
        let source = self.source.as_deref().map(SideRef::from_workload).unwrap_or_default();
        let destination = self.destination.as_deref().map(SideRef::from_workload).unwrap_or_default();
        RequestLabelsRef {
            base: LabelsRef {
                reporter: WAYPOINT,
                source: source.with_principal(self.source_identity.as_ref().map(Into::into)),
                destination: destination.with_principal(self.destination.as_deref().map(Into::into)),
                service: self.service.as_deref().map(ServiceRef::from).unwrap_or_default(),
                mutual_tls: self.mutual_tls,
                flag: self.flag.as_str(),
            },
            protocol: if self.grpc { "grpc" } else { "http" },
            status: self.status,
            grpc_status: self.grpc_status,
        }
    }
}

/// Whether a gRPC status is the server's fault (OpenTelemetry, semantic conventions of gRPC: server spans).
pub(crate) fn is_server_error(status: u16) -> bool {
    // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    matches!(status, 2 | 4 | 12 | 13 | 14 | 15)
}
