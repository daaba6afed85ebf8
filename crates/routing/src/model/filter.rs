//! What is done to requests and answers (gateway-api.md 3.3).

use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Invalid};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Cross-origin rules of browsers.
    Cors(Cors),
    /// A service of the user's is asked about each request.
    ExternalAuth(ExternalAuth),
    /// A service of the user's may change requests and answers.
    ExternalProcessing(ExternalProcessing),
    /// Delays and refuses on purpose.
    Fault(Fault),
    /// Cannot be applied and must not be skipped: answers 500.
    Invalid(Invalid),
    /// A bound of requests.
    LocalRate(LocalRate),
    /// A copy of the request goes elsewhere, too.
    Mirror(Mirror),
    /// The request is answered with another address.
    Redirect(Redirect),
    /// Headers of the request.
    RequestHeaders(HeaderChange),
    /// Headers of the answer.
    ResponseHeaders(HeaderChange),
    /// Host and path that the backend sees.
    Rewrite(Rewrite),
}

/// Changes of headers; one change for each name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// In place of all values.
    pub set: Vec<Header>,
    /// Behind the values that are there.
    pub add: Vec<Header>,
    /// Names of which all values go.
    pub remove: Vec<String>,
}

/// One header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// In any case.
    pub name: String,
    /// Without line breaks.
    pub value: String,
}

/// The request is answered with another address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; `None` = the request's.
    pub scheme: Option<String>,
    /// `None` = the request's, without its port.
    pub hostname: Option<String>,
    /// `None` = the request's.
    pub path: Option<PathChange>,
    /// `None` = by the rules of the Gateway API.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; `None` = 302.
    pub status: Option<u16>,
}

/// Host and path that the backend sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `None` = as it is.
    pub hostname: Option<String>,
    /// `None` = as it is.
    pub path: Option<PathChange>,
}

/// How a path changes; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This path in place of the whole.
    Full(String),
    /// These elements in place of the prefix that the match names.
    Prefix(String),
    /// It could not be understood.
    Unknown,
}

/// A copy of the request goes elsewhere, too; what comes back is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// Where to; an invalid one is left out.
    pub backend: Backend,
    /// Share of requests: numerator of denominator.
    pub numerator: u32,
    /// 0 = all requests.
    pub denominator: u32,
}

/// Cross-origin rules of browsers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// `scheme://host[:port]`, the host with `*` for any text; or `*` alone for all.
    pub allow_origins: Vec<String>,
    /// Requests may carry cookies and the like.
    pub allow_credentials: bool,
    /// Methods, or `*` alone.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*` alone.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds for which a preflight answer holds; 0 = 5, the default.
    pub max_age: u32,
}

/// A check of each request by a service of the user's (Envoy's ext_authz v3 over gRPC, or plain HTTP).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalAuth {
    /// Who is asked.
    pub backend: Backend,
    /// By plain HTTP.
    pub http: bool,
    /// Put before the path that is asked for.
    pub path_prefix: String,
    /// Request headers that are shown; none = all for gRPC, the mandatory ones for HTTP.
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that are copied to the request.
    pub allowed_response_headers: Vec<String>,
    /// Bytes of the body that are shown; 0 = none.
    pub max_body: u32,
    /// How long it is waited for; `None` = the program's default.
    pub timeout: Option<Duration>,
    /// Requests pass while it does not answer.
    pub fail_open: bool,
    /// Answer while it does not answer; `None` = 403.
    pub status_on_error: Option<u16>,
}

/// A service of the user's may change requests and answers (Envoy's ext_proc v3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalProcessing {
    /// Who is asked.
    pub backend: Backend,
    /// How long it is waited for; `None` = the program's default.
    pub timeout: Option<Duration>,
    /// Requests pass while it does not answer.
    pub fail_open: bool,
    /// It is shown the request's headers.
    pub request_headers: bool,
    /// It is shown the answer's headers.
    pub response_headers: bool,
}

/// Delays and refuses on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Parts per million of the requests.
    pub delay_share: u32,
    /// By how much.
    pub delay: Duration,
    /// Parts per million of the requests.
    pub abort_share: u32,
    /// With which status.
    pub abort_status: u32,
}

/// A bound of requests, for each replica of the waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRate {
    /// So many …
    pub requests: u32,
    /// … in this time.
    pub per: Duration,
    /// So many at once; 0 = `requests`.
    pub burst: u32,
    /// Each caller's identity has a bound of its own.
    pub per_identity: bool,
    /// Bounds of one Service that have the same name count together; `None` = by itself.
    pub name: Option<Arc<str>>,
}
