//! Services of the user's that are asked about requests: checks (Envoy's ext_authz v3 over gRPC, or plain HTTP) and
//! processors (Envoy's ext_proc v3, headers only).
//!
//! ```text
//! request ─▶ what is shown of it ─▶ call, within a time ─▶ answer ─▶ pass, with changes │ refuse, in its words
//!                                          └─ none, late, broken ─▶ refuse (or pass, where the user said so)
//! ```
//! What is shown and what an answer means are plain functions (`check`, `plain`, `process`, `changes`); how the service is
//! reached is handed in as a [`Transport`]. Changes never touch what was judged and routed by, or what the mesh vouches
//! for: path, method, host, framing, and the headers that name the caller.

mod authorize;
mod changes;
mod check;
mod grpc;
mod phase;
mod plain;
mod process;
mod reach;

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use telemetry::metrics::{CounterFamily, Metrics};
use tokio::sync::mpsc;

pub(crate) use authorize::authorize;
pub(crate) use changes::Changes;
pub(crate) use phase::{Here, Left, answer, check, check_connection, check_of_filter, gather, process};
pub(crate) use process::{Conversation, Processed, Shown};

/// Bytes of an answer that are read: a page that explains a refusal, or a list of headers, fits many times.
const MAX_ANSWER: usize = 256 * 1024;

/// How a service is reached.
pub(crate) trait Transport {
    /// Body of its answers.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin;

    /// Sends a request to one endpoint of it.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    fn send(&self, request: Request<CallBody>) -> impl Future<Output = Result<Response<Self::Body>, String>>;

    /// Hears how a call came out, for whoever counts them.
    fn told(&self, call: Call, came: Came);
}

/// What an external service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Whether a request may pass.
    Check,
    /// What is to be changed in one half of it.
    Process,
}

/// How a call came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// There was no answer that counts, and the request is refused.
    Failed,
    /// The request goes on.
    Passed,
    /// The service answers it.
    Refused,
    /// There was no answer that counts, and the request goes on, as configured.
    Skipped,
}

impl Call {
    /// Value of the label.
    fn label(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Process => "process",
        }
    }
}

impl Came {
    /// Value of the label.
    fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
        }
    }
}

/// Counters of calls: by what was asked, the service, and how it came out.
pub(crate) fn counters(metrics: &Metrics) -> CounterFamily {
    let labels = &["call", "destination_service", "result"];
    metrics.counters(
        "culvert_external_calls",
        "Calls to external services about requests, by what came of them",
        labels,
    )
}

/// What is sent to a service.
#[derive(Debug)]
pub(crate) enum CallBody {
    /// Message by message, as they come.
    Fed(mpsc::UnboundedReceiver<Bytes>),
    /// All of it.
    Once(Bytes),
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Fed(messages) => Poll::Ready(ready!(messages.poll_recv(cx)).map(|m| Ok(Frame::data(m)))),
            Self::Once(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Once(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Once(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Fed(_) => SizeHint::default(),
            Self::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// What a check is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Who calls.
    pub(crate) source: SocketAddr,
    /// SPIFFE id of the caller.
    pub(crate) principal: &'a str,
    /// The address that was called.
    pub(crate) destination: SocketAddr,
    /// Key of the service that was called; empty for a workload.
    pub(crate) service: &'a str,
    /// Server name of a TLS connection that passes unopened.
    pub(crate) server_name: Option<&'a str>,
    /// When the request came.
    pub(crate) time: SystemTime,
    /// `None` for a TCP connection.
    pub(crate) http: Option<AskedHttp<'a>>,
}

/// The HTTP part of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedHttp<'a> {
    /// The request, in its canonical form.
    pub(crate) parts: &'a Parts,
    /// Its host.
    pub(crate) host: &'a str,
    /// Its body, where the check is shown it.
    pub(crate) body: Option<&'a Bytes>,
}

/// What came of a check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may go on, changed.
    Pass(Passed),
    /// It is answered here.
    Refuse(Refusal),
}

/// Changes that a check asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// To the request.
    pub(crate) request: Changes,
    /// To the answer.
    pub(crate) response: Changes,
}

/// An answer in the words of a service of the user's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// For gRPC clients, when it was said.
    pub(crate) grpc: Option<u8>,
    /// For the log.
    pub(crate) reason: String,
}

impl Refusal {
    /// A refusal without words.
    fn silent(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), grpc: None, reason: reason.into() }
    }
}

/// A status that may end a request; anything else becomes 403.
fn final_status(code: i64) -> StatusCode {
    let code = u16::try_from(code).ok().filter(|c| (200..600).contains(c));
    code.and_then(|c| StatusCode::from_u16(c).ok()).unwrap_or(StatusCode::FORBIDDEN)
}

#[cfg(test)]
mod tests;
