//! What the waypoint answers by itself, in HTTP and in gRPC.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use routing::{Answer, Cause};
use telemetry::RequestRecord;
use telemetry::request::Flag;

use crate::body::AnswerBody;

/// An answer of the waypoint's own. Boxed wherever it travels: it is large and rare.
#[derive(Debug)]
pub(crate) struct Own {
    status: StatusCode,
    flag: Flag,
    /// For the log, in Envoy's words where it has one; no blanks.
    details: Cow<'static, str>,
    /// For people, beyond the details.
    reason: Option<String>,
    /// Told to the client.
    body: &'static str,
    /// In its place, what an external service says.
    words: Option<Bytes>,
    headers: HeaderMap,
    /// The status for gRPC clients; `None`: as the HTTP status maps.
    grpc: Option<u8>,
    /// As a route made it, ready to be sent.
    made: Option<Response<()>>,
}

impl Own {
    fn new(status: StatusCode, flag: Flag, details: impl Into<Cow<'static, str>>, body: &'static str) -> Box<Self> {
        let (details, headers) = (details.into(), HeaderMap::new());
        Box::new(Self { status, flag, details, reason: None, body, words: None, headers, grpc: None, made: None })
    }

    /// The request is not one that can be passed on.
    pub(crate) fn bad(status: StatusCode, details: &'static str) -> Box<Self> {
        Self::new(status, Flag::ClientProtocol, details, "")
    }

    /// Policy says no.
    pub(crate) fn denied(policy: Option<&str>) -> Box<Self> {
        let details = format!("rbac_access_denied_matched_policy[{}]", policy.unwrap_or("none"));
        // Envoy's words, which people know (waypoint-api.md 5).
        Self::new(StatusCode::FORBIDDEN, Flag::None, details, "RBAC: access denied")
    }

    /// The token is missing or not valid.
    pub(crate) fn unauthenticated(challenge: HeaderValue) -> Box<Self> {
        let mut made = Self::new(StatusCode::UNAUTHORIZED, Flag::None, "jwt_authn_access_denied", "Jwt is not valid");
        made.headers.insert(http::header::WWW_AUTHENTICATE, challenge);
        made
    }

    /// In the words of an external service.
    pub(crate) fn in_words(
        status: StatusCode,
        flag: Flag,
        details: &'static str,
        headers: HeaderMap,
        words: Bytes,
        grpc: Option<u8>,
    ) -> Box<Self> {
        let mut made = Self::new(status, flag, details, "");
        (made.headers, made.words, made.grpc) = (headers, Some(words), grpc);
        made
    }

    /// More requests than a limit allows.
    pub(crate) fn rate_limited(wait: std::time::Duration) -> Box<Self> {
        let mut made = Self::new(StatusCode::TOO_MANY_REQUESTS, Flag::RateLimited, "request_rate_limited", "");
        // Whole seconds, never too early (RFC 9110 10.2.3).
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        made.headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        made
    }

    /// The service is not bound to this waypoint any more.
    pub(crate) fn unbound() -> Box<Self> {
        Self::new(StatusCode::NOT_FOUND, Flag::NoRoute, "service_not_bound", "")
    }

    /// There is no endpoint.
    pub(crate) fn no_endpoint() -> Box<Self> {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Flag::NoHealthyUpstream,
            "no_healthy_upstream",
            "no healthy upstream",
        )
    }

    /// Something that this version cannot do, and that must not be skipped.
    pub(crate) fn unsupported(details: &'static str) -> Box<Self> {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Flag::NoBackend, details, "")
    }

    /// A bound of the backend is reached.
    pub(crate) fn overflow(flag: Flag) -> Box<Self> {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, flag, "overflow", "upstream connect error: overflow")
    }

    /// No answer came from the endpoint.
    pub(crate) fn upstream(flag: Flag, details: &'static str) -> Box<Self> {
        let status = if flag == Flag::TimedOut { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = match flag {
            Flag::TimedOut => "upstream request timeout",
            Flag::ConnectFailed => "upstream connect error or disconnect before headers",
            _ => "upstream connect error or disconnect/reset before headers",
        };
        Self::new(status, flag, details, body)
    }

    /// As a route says.
    pub(crate) fn of_route(answer: &Answer) -> Box<Self> {
        let (flag, details) = match &answer.cause {
            Cause::Aborted(_) => (Flag::FaultInjected, "fault_filter_abort"),
            Cause::BackendInvalid(_) => (Flag::NoBackend, "cluster_not_found"),
            Cause::FilterInvalid(_) => (Flag::NoBackend, "filter_cannot_be_applied"),
            Cause::NoBackend => (Flag::NoBackend, "route_without_backend"),
            Cause::NoRoute => (Flag::NoRoute, "route_not_found"),
            Cause::Preflight(_) => (Flag::None, "cors_preflight"),
            Cause::RateLimited(_) => (Flag::RateLimited, "request_rate_limited"),
            Cause::Redirected { .. } => (Flag::None, "direct_response"),
            Cause::RuleInvalid(_) => (Flag::NoBackend, "route_cannot_be_followed"),
        };
        let mut made = Self::new(answer.status(), flag, details, "");
        let failed = matches!(
            answer.cause,
            Cause::BackendInvalid(_) | Cause::FilterInvalid(_) | Cause::NoBackend | Cause::RuleInvalid(_)
        );
        made.reason = failed.then(|| answer.reason());
        made.grpc = answer.grpc_status();
        made.made = Some(answer.response());
        made
    }

    /// Says more, for people.
    pub(crate) fn with_reason(mut self: Box<Self>, reason: impl Into<String>) -> Box<Self> {
        self.reason = Some(reason.into());
        self
    }

    /// What was said for people.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(&self.details)
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Answers, and writes the record.
    pub(crate) fn send(self: Box<Self>, mut record: RequestRecord) -> Response<AnswerBody> {
        let grpc = record.facts().grpc;
        let Self { status, flag, details, reason, mut body, mut words, mut headers, grpc: code, made } = *self;
        if let Some(reason) = reason {
            record.transport_failure(reason);
        }
        record.answered(status.as_u16(), flag, details);
        let mut response = match made {
            Some(made) => {
                if let Some(code) = code {
                    record.grpc_status(u16::from(code));
                }
                made
            }
            None if grpc => {
                let code = code.unwrap_or_else(|| grpc_code(status));
                record.grpc_status(u16::from(code));
                let response = trailers_only(code, body);
                (body, words) = ("", None);
                headers.remove(CONTENT_TYPE);
                response
            }
            None => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                if !body.is_empty() {
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                }
                response
            }
        };
        response.headers_mut().extend(headers);
        let body = words.unwrap_or_else(|| Bytes::from_static(body.as_bytes()));
        response.map(|()| AnswerBody::own(body, record))
    }
}

/// An error of gRPC is an answer that is nothing but trailers (gRPC over HTTP/2, "Trailers-Only").
fn trailers_only(code: u8, message: &'static str) -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    if !message.is_empty() {
        headers.insert("grpc-message", HeaderValue::from_static(message));
    }
    response
}

/// The gRPC status that says the same (grpc/statuscodes.md).
fn grpc_code(status: StatusCode) -> u8 {
    match status.as_u16() {
        // INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, RESOURCE_EXHAUSTED.
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 431 => 8,
        // DEADLINE_EXCEEDED, UNAVAILABLE.
        504 => 4,
        502 | 503 => 14,
        // INTERNAL, UNKNOWN.
        500 => 13,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Body;
    use telemetry::Telemetry;

    use super::*;

    fn record(content_type: &str) -> RequestRecord {
        let request = http::Request::get("/").header("host", "a").header(CONTENT_TYPE, content_type);
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let at = ([127, 0, 0, 1], 1).into();
        RequestRecord::new(&Telemetry::new(telemetry::Config::default()), &parts, at, at)
    }

    #[test]
    fn refusals_have_the_form_of_the_protocol() {
        let response = Own::denied(Some("shop/p")).send(record("text/html"));
        assert_eq!((response.status().as_u16(), response.body().size_hint().exact()), (403, Some(19)));
        let response = Own::denied(None).send(record("application/grpc"));
        assert_eq!((response.status().as_u16(), response.headers()["grpc-status"].as_bytes()), (200, &b"7"[..]));
        assert_eq!(response.headers()["grpc-message"], "RBAC: access denied");
        assert!(response.body().is_end_stream());
        let response = Own::upstream(Flag::TimedOut, "response_timeout").send(record("text/html"));
        assert_eq!(response.status().as_u16(), 504);
        let response = Own::rate_limited(std::time::Duration::from_millis(1100)).send(record("text/html"));
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
