//! One attempt to get an answer from one endpoint.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use mesh::{Outcome, TraceContext};
use proxy::dial::CONNECT;
use routing::Ending;
use telemetry::request::Flag;

use super::{Got, Pick};
use crate::answer::Own;
use crate::body::{RequestBody, grpc_status};
use crate::bound::{HashBy, Traffic};
use crate::connection::Connection;
use crate::endpoints::{Ticket, Wish};
use crate::heads;
use crate::session::cookie;
use crate::upgrade::{self, Upgrading};
use crate::upstream::{self, Fault, Lease, Settings};

/// What an attempt needs to know.
pub(super) struct Attempt<'a> {
    pub(super) connection: &'a Rc<Connection>,
    pub(super) chosen: &'a Pick,
    pub(super) traffic: &'a Traffic,
    pub(super) trace: Option<TraceContext>,
    pub(super) upgrading: Option<&'a Upgrading>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) ending: Ending,
    flag: Flag,
    /// For the log.
    pub(super) details: &'static str,
    /// For people.
    pub(super) text: Arc<str>,
}

impl Failed {
    fn new(ending: Ending, flag: Flag, details: &'static str, text: impl Into<Arc<str>>) -> Self {
        Self { ending, flag, details, text: text.into() }
    }

    /// The attempt took longer than it may.
    pub(super) fn timed_out() -> Self {
        Self::new(Ending::TimedOut, Flag::TimedOut, "upstream_per_try_timeout", "no answer within the attempt's time")
    }

    /// The status that stands for it.
    pub(super) fn status(&self) -> u16 {
        if self.ending == Ending::TimedOut { 504 } else { 503 }
    }

    pub(super) fn into_own(self) -> Box<Own> {
        if self.flag == Flag::Overflow {
            return Own::overflow(Flag::Overflow).with_reason(&*self.text);
        }
        Own::upstream(self.flag, self.details).with_reason(&*self.text)
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        let details = match fault.outcome {
            Outcome::ConnectTimedOut => "connection_timeout",
            Outcome::PolicyDenied => "denied_by_destination",
            Outcome::TlsFailed => "tls_error",
            _ => "connection_failure",
        };
        Self::new(Ending::NotConnected, Flag::ConnectFailed, details, fault.text)
    }
}

/// How an attempt ended that has an answer.
pub(super) fn ending(response: &Response<Incoming>) -> Ending {
    use hyper::body::Body;
    match grpc_status(response.headers()) {
        // Trailers alone: nothing of an answer was given yet.
        Some(status) if response.body().is_end_stream() => Ending::Grpc(u8::try_from(status).unwrap_or(u8::MAX)),
        _ => Ending::Status(response.status().as_u16()),
    }
}

/// How an endpoint is chosen for this request.
pub(super) fn wish<'a>(
    traffic: &Traffic,
    parts: &Parts,
    connection: &Connection,
    stay_with: Option<&'a str>,
) -> Wish<'a> {
    let hash = match &traffic.hash {
        HashBy::Nothing => None,
        HashBy::Header(name) => parts.headers.get(name).map(|value| hash_of(value.as_bytes())),
        HashBy::Cookie(name) => cookie(&parts.headers, name).map(|value| hash_of(value.as_bytes())),
        HashBy::Source => Some(hash_of(connection.tunnel.peer.ip().to_string().as_bytes())),
    };
    Wish { balance: traffic.balance, hash, stay_with }
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Attempt<'_> {
    pub(super) async fn send(self, mut parts: Parts, body: RequestBody) -> Result<Got, Failed> {
        let place = match &self.traffic.requests {
            None => None,
            Some(room) => Some(room.take().ok_or_else(|| {
                let text = "the bound of requests to the service is reached";
                Failed::new(Ending::NotConnected, Flag::Overflow, "overflow", text)
            })?),
        };
        if let Some(Err(reason)) = self.traffic.tls(self.chosen.port) {
            // Never in clear (gateway-api.md 7).
            return Err(Failed::new(Ending::Reset, Flag::ConnectFailed, "tls_not_available", reason.clone()));
        }
        let ticket = self.chosen.endpoint.enter();
        if let Some(trace) = self.trace {
            heads::set_trace(&mut parts.headers, trace);
        }
        if let Some(upgrading) = self.upgrading {
            upgrade::prepare(upgrading, &mut parts);
        }
        match self.carried(parts, body, &ticket).await {
            Ok((response, lease)) => {
                ticket.answered();
                Ok(Got { response, lease, ticket, place })
            }
            Err(failed) => {
                ticket.failed();
                Err(failed)
            }
        }
    }

    /// On a connection that was kept, or on a new one.
    async fn carried(
        &self,
        parts: Parts,
        body: RequestBody,
        ticket: &Ticket,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        let Pick { endpoint, host, http2, .. } = self.chosen;
        let limits = &self.connection.worker.shared.config.limits;
        let settings = Settings {
            tls: self.traffic.tls(self.chosen.port).and_then(|tls| tls.as_ref().ok().cloned()),
            connect_timeout: self.traffic.connect_timeout.unwrap_or(CONNECT),
            head_bytes: limits.head_bytes,
            head_fields: limits.head_fields,
        };
        let worker = &self.connection.worker;
        let mut lease = upstream::lease(worker, endpoint, host, *http2, &settings).await?;
        // A server may close a connection at the moment that it is used again. What is safe to repeat then is, without
        // anybody hearing of it (RFC 9110 9.2.2).
        let spare =
            (lease.reused && matches!(body, RequestBody::Empty) && parts.method.is_idempotent()).then(|| parts.clone());
        let mut request = self.request(parts, body)?;
        loop {
            ticket.sent();
            let mut error = match lease.send(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            if !lease.reused {
                return Err(failed(error.error()));
            }
            request = match (error.take_message(), &spare) {
                (Some(unsent), _) => unsent,
                (None, Some(parts)) if closed(error.error()) => self.request(parts.clone(), RequestBody::Empty)?,
                (None, _) => return Err(failed(error.error())),
            };
            // Boxed: rare, and large.
            lease = if *http2 {
                Box::pin(upstream::lease(worker, endpoint, host, true, &settings)).await?
            } else {
                Box::pin(upstream::fresh(worker, endpoint, host, &settings)).await?
            };
        }
    }

    /// The request in the form of the protocol.
    fn request(&self, mut parts: Parts, body: RequestBody) -> Result<Request<RequestBody>, Failed> {
        let host = &self.chosen.host;
        if self.chosen.http2 {
            parts.version = Version::HTTP_2;
            let scheme = if self.traffic.tls(self.chosen.port).is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            parts.uri = with_authority(&parts, host, scheme).ok_or_else(|| {
                Failed::new(Ending::Reset, Flag::ClientProtocol, "invalid_host", "the host is not one of HTTP/2")
            })?;
            parts.headers.remove(HOST);
        } else {
            parts.version = Version::HTTP_11;
            join_cookies(&mut parts.headers);
            // HTTP/1.0 may name no host.
            if !parts.headers.contains_key(HOST)
                && let Ok(value) = http::HeaderValue::from_str(host)
            {
                parts.headers.insert(HOST, value);
            }
        }
        // What the library noted of the other connection means nothing on this one.
        parts.extensions = http::Extensions::new();
        Ok(Request::from_parts(parts, body))
    }
}

/// HTTP/2 may send a cookie in crumbs; HTTP/1 knows one line only (RFC 9113 8.2.3).
fn join_cookies(headers: &mut http::HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(http::HeaderValue::as_bytes).collect();
    // Parts of good values and a good separator are a good value.
    if let Ok(whole) = http::HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

fn with_authority(parts: &Parts, host: &str, scheme: Scheme) -> Option<Uri> {
    let named = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or(host);
    let mut pieces = http::uri::Parts::default();
    pieces.authority = Some(named.parse::<Authority>().ok()?);
    if parts.method != Method::CONNECT {
        pieces.scheme = Some(scheme);
        pieces.path_and_query = parts.uri.path_and_query().cloned();
    }
    Uri::from_parts(pieces).ok()
}

/// Whether the connection was closed before a byte of an answer.
fn closed(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// What an error in place of an answer means.
fn failed(error: &hyper::Error) -> Failed {
    let text = described(error);
    if refused(error) {
        return Failed::new(Ending::Refused, Flag::UpstreamReset, "upstream_refused_stream", text);
    }
    if error.is_parse() {
        return Failed::new(Ending::Reset, Flag::UpstreamProtocol, "protocol_error", text);
    }
    Failed::new(Ending::Reset, Flag::UpstreamReset, "upstream_reset_before_response_started", text)
}

/// Whether an HTTP/2 server said that it did nothing with the request.
fn refused(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(hbone::is_unprocessed)
}

fn described(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
