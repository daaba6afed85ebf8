//! A request as routes see it.

use std::borrow::Cow;

use http::header::{CONTENT_TYPE, HOST, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method};

/// The parts of a request that matching looks at, borrowed. Path and headers are those before any filter changed them.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Method.
    pub method: &'a Method,
    /// `:authority`, or the `Host` header.
    pub authority: Option<&'a str>,
    /// Path without its query. It is compared as it is: whoever normalises paths does so before.
    pub path: &'a str,
    /// What is behind the `?`.
    pub query: Option<&'a str>,
    /// Headers.
    pub headers: &'a HeaderMap,
}

impl<'a> From<&'a Parts> for RequestView<'a> {
    fn from(parts: &'a Parts) -> Self {
        let host = || parts.headers.get(HOST).and_then(|h| h.to_str().ok());
        Self {
            method: &parts.method,
            authority: parts.uri.authority().map(http::uri::Authority::as_str).or_else(host),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }
}

impl<'a> RequestView<'a> {
    /// The value of a header. Several lines of one name are one value, joined by commas (RFC 9110 5.3, to which the Gateway
    /// API refers); `host` is the authority.
    pub fn header(&self, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
        if name == HOST
            && let Some(authority) = self.authority
        {
            return Some(Cow::Borrowed(authority.as_bytes()));
        }
        let mut lines = self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let first = lines.next()?;
        let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for line in std::iter::once(second).chain(lines) {
            joined.push(b',');
            joined.extend_from_slice(line);
        }
        Some(Cow::Owned(joined))
    }

    /// The value of the first parameter of this name in the query.
    pub fn parameter(&self, name: &[u8]) -> Option<Cow<'a, [u8]>> {
        self.parameters().find(|(n, _)| **n == *name).map(|(_, v)| v)
    }

    /// All parameters of the query, in order. Names and values are read as forms are
    /// (`application/x-www-form-urlencoded`): `%41` is `A`, `+` is a blank, and a name without `=` has an empty value.
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'a, [u8]>, Cow<'a, [u8]>)> + use<'a> {
        self.query.unwrap_or_default().split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
    }

    /// Service and method of a gRPC call: `/service/method`.
    pub(crate) fn grpc_call(&self) -> Option<(&'a str, &'a str)> {
        let (service, method) = self.path.strip_prefix('/')?.split_once('/')?;
        (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
    }

    /// Whether it says that it is gRPC; then answers of our own are gRPC's, too.
    pub fn is_grpc(&self) -> bool {
        self.headers.get(CONTENT_TYPE).is_some_and(|v| {
            let rest = v.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|r| matches!(r.first(), None | Some(b'+' | b';')))
        })
    }
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text.as_bytes());
    }
    Cow::Owned(percent_encoding::percent_decode_str(&text.replace('+', " ")).collect())
}
