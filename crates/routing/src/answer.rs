//! What the proxy answers by itself.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::model::RouteName;
use crate::request::RequestView;

/// An answer of the proxy's own, without a body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Why.
    pub cause: Cause,
    /// To a gRPC call: errors are a gRPC status instead of an HTTP one.
    pub grpc: bool,
    /// The rule that it comes from.
    pub route: Option<Arc<RouteName>>,
}

/// Why the proxy answers by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A fault filter said so.
    Aborted(StatusCode),
    /// The backend that was chosen by weight is not usable, and why.
    BackendInvalid(Arc<str>),
    /// A filter cannot be applied and must not be skipped, and why.
    FilterInvalid(Arc<str>),
    /// The rule has no backend, or none with a weight.
    NoBackend,
    /// No rule matches.
    NoRoute,
    /// A preflight question of a browser, with the headers that answer it.
    Preflight(HeaderMap),
    /// Above a bound of requests; one more is allowed after this time.
    RateLimited(Duration),
    /// Look there.
    Redirected {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// Where.
        location: HeaderValue,
    },
    /// The rule cannot be followed, and why.
    RuleInvalid(Arc<str>),
}

/// gRPC status codes that are answered here (grpc/statuscodes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
}

impl Answer {
    /// To this request.
    pub fn new(cause: Cause, request: &RequestView<'_>, route: Option<Arc<RouteName>>) -> Self {
        Self { cause, grpc: request.is_grpc(), route }
    }

    /// The HTTP status of the cause (gateway-api.md 3.3 and 3.5), which logs and metrics show for gRPC, too.
    pub fn status(&self) -> StatusCode {
        match &self.cause {
            Cause::Aborted(status) | Cause::Redirected { status, .. } => *status,
            Cause::BackendInvalid(_) | Cause::FilterInvalid(_) | Cause::NoBackend | Cause::RuleInvalid(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Cause::NoRoute => StatusCode::NOT_FOUND,
            // 204 and 200 are both right; some old clients want 200.
            Cause::Preflight(_) => StatusCode::OK,
            Cause::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The gRPC status, when the answer goes to a gRPC call and is one that gRPC has a status of its own for
    /// (gateway-api.md 4: an invalid backend is UNAVAILABLE, no match is UNIMPLEMENTED).
    pub fn grpc_status(&self) -> Option<u8> {
        self.code().map(|c| c as u8)
    }

    fn code(&self) -> Option<Code> {
        if !self.grpc {
            return None;
        }
        match &self.cause {
            // Clients map what is plain HTTP by themselves (grpc/http-grpc-status-mapping.md).
            Cause::Aborted(_) | Cause::Preflight(_) | Cause::Redirected { .. } => None,
            Cause::BackendInvalid(_) | Cause::FilterInvalid(_) | Cause::NoBackend | Cause::RuleInvalid(_) => {
                Some(Code::Unavailable)
            }
            Cause::NoRoute => Some(Code::Unimplemented),
            Cause::RateLimited(_) => Some(Code::ResourceExhausted),
        }
    }

    /// One sentence for logs.
    pub fn reason(&self) -> String {
        match &self.cause {
            Cause::Aborted(status) => format!("aborted with {status} by a fault filter"),
            Cause::BackendInvalid(reason) => format!("the chosen backend cannot be used: {reason}"),
            Cause::FilterInvalid(reason) => format!("a filter cannot be applied: {reason}"),
            Cause::NoBackend => "the rule has no backend with a weight".to_owned(),
            Cause::NoRoute => "no rule matches".to_owned(),
            Cause::Preflight(_) => "preflight question answered".to_owned(),
            Cause::RateLimited(_) => "above the bound of requests".to_owned(),
            Cause::Redirected { location, .. } => {
                format!("redirected to {}", String::from_utf8_lossy(location.as_bytes()))
            }
            Cause::RuleInvalid(reason) => format!("the rule cannot be followed: {reason}"),
        }
    }

    /// Status and headers. gRPC's own errors are an answer that is nothing but trailers: status 200, and the gRPC status in
    /// the header frame, which ends the stream (gRPC over HTTP/2, "Trailers-Only").
    ///
    /// The reason of an error is not told to the client: it names objects of the cluster.
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        if let Some(code) = self.code() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(code as u16));
            headers.insert("grpc-message", HeaderValue::from_static(self.told()));
            return response;
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        match &self.cause {
            Cause::Preflight(found) => {
                headers.extend(found.clone());
            }
            Cause::RateLimited(wait) => {
                // Whole seconds, never too early (RFC 9110 10.2.3).
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            }
            Cause::Redirected { location, .. } => {
                headers.insert(LOCATION, location.clone());
            }
            _ => {}
        }
        *response.status_mut() = self.status();
        response
    }

    fn told(&self) -> &'static str {
        match &self.cause {
            Cause::NoRoute => "no route matches",
            Cause::RateLimited(_) => "above the bound of requests",
            _ => "the route has no usable backend",
        }
    }
}
