//! Header fields of requests and responses (hbone.md 4, 5).

use std::net::SocketAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use mesh::TraceContext;

use crate::authority::{Authority, BadRequest};
use crate::baggage::Baggage;
use crate::forwarded::Forwarded;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const NETWORK: HeaderName = HeaderName::from_static("x-forwarded-network");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest network id taken (a Kubernetes label value has 63 bytes at most; ids may come from elsewhere).
const NETWORK_MAX: usize = 253;
/// Longest `traceparent` taken: 55 bytes, with room for a later version's fields (Trace Context 4.3).
const TRACEPARENT_MAX: usize = 256;

/// What a CONNECT says beside its authority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Who the source workload is, for telemetry.
    pub baggage: Baggage,
    /// The application's address, written into `forwarded`; **always empty on what was received** (hbone.md 4).
    pub forwarded_for: Option<SocketAddr>,
    /// The service that was addressed, for the label of inbound metrics.
    pub forwarded_host: Option<String>,
    /// Trace that this connection belongs to.
    pub traceparent: Option<TraceContext>,
    /// Network of the source; only on the inner request across networks.
    pub network: Option<String>,
}

/// What a response says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeaders {
    /// Who the destination workload is, for telemetry; empty = not said.
    pub baggage: Baggage,
}

/// A CONNECT to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `host:port`, IPv6 in brackets ([`Authority`] and `SocketAddr` display themselves so).
    pub authority: String,
    /// The rest.
    pub headers: Headers,
}

impl Headers {
    pub(crate) fn read(map: &HeaderMap) -> Self {
        Self {
            baggage: Baggage::parse(lines(map, &BAGGAGE)),
            forwarded_for: None,
            forwarded_host: Forwarded::parse(lines(map, &FORWARDED)).host,
            traceparent: single(map, &TRACEPARENT, TRACEPARENT_MAX).and_then(|t| t.parse().ok()),
            network: single(map, &NETWORK, NETWORK_MAX).map(str::to_owned),
        }
    }

    fn write(&self, map: &mut HeaderMap) {
        put(map, BAGGAGE, (!self.baggage.is_empty()).then(|| self.baggage.to_string()));
        let forwarded = Forwarded { source: self.forwarded_for, host: self.forwarded_host.clone() };
        put(map, FORWARDED, (!forwarded.is_empty()).then(|| forwarded.to_string()));
        put(map, TRACEPARENT, self.traceparent.map(|t| t.to_string()));
        put(map, NETWORK, self.network.clone().filter(|n| n.len() <= NETWORK_MAX));
    }
}

impl ResponseHeaders {
    pub(crate) fn read(map: &HeaderMap) -> Self {
        Self { baggage: Baggage::parse(lines(map, &BAGGAGE)) }
    }

    pub(crate) fn write(&self, map: &mut HeaderMap) {
        put(map, BAGGAGE, (!self.baggage.is_empty()).then(|| self.baggage.to_string()));
    }
}

impl Head {
    /// The request as it goes out; none when the authority is not one.
    pub(crate) fn request(&self) -> Option<http::Request<()>> {
        let mut parts = http::uri::Parts::default();
        parts.authority = Some(self.authority.parse().ok()?);
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::CONNECT;
        *request.uri_mut() = http::Uri::from_parts(parts).ok()?;
        *request.version_mut() = http::Version::HTTP_2;
        self.headers.write(request.headers_mut());
        Some(request)
    }
}

/// Judges the head of a request that came in.
///
/// An extended CONNECT (RFC 8441) does not come so far: it was not offered, so the library resets it as malformed, as it
/// does with a CONNECT that has a scheme or a path (RFC 9113 8.5).
pub(crate) fn authority<B>(request: &http::Request<B>, fields: usize) -> Result<Authority, BadRequest> {
    if request.headers().len() > fields {
        return Err(BadRequest::Fields);
    }
    if request.method() != http::Method::CONNECT {
        return Err(BadRequest::Method);
    }
    request.uri().authority().ok_or(BadRequest::NoAuthority)?.as_str().parse()
}

/// All lines of a field that are visible ASCII.
fn lines<'a>(map: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    map.get_all(name).iter().filter_map(|v| v.to_str().ok())
}

/// The value of a field that may stand only once; several are as good as none.
fn single<'a>(map: &'a HeaderMap, name: &HeaderName, max: usize) -> Option<&'a str> {
    let mut values = map.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && !value.is_empty() && value.len() <= max).then_some(value)
}

/// Writes a field; a value that HTTP does not allow is left out.
fn put(map: &mut HeaderMap, name: HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
        map.insert(name, value);
    }
}
