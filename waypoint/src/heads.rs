//! The heads of requests and answers: what is refused, what belongs to one connection only, and what the mesh adds.

use std::str::FromStr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};
use mesh::TraceContext;
use policy::request::canonical::{self, Authority, Encoded};

use crate::answer::Own;

/// Certificates of those that a request passed (Envoy's header, which applications read to know who calls).
pub(crate) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Brings a request into the one form in which it is judged, matched and sent on: path and query as the target, the host in
/// `Host`. Gives the host back as policy compares it.
///
/// # Errors
/// The answer, when it can be read in more than one way.
pub(crate) fn canonicalise(parts: &mut Parts, fields: usize, encoded: Encoded) -> Result<Authority<'static>, Box<Own>> {
    if parts.headers.len() > fields {
        return Err(Own::bad(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_header_fields"));
    }
    let target = parts.uri.authority().map(http::uri::Authority::as_str);
    let authority = match canonical::authority(target, &parts.headers) {
        Ok(authority) => authority,
        Err(canonical::HostError::Missing) if parts.version == Version::HTTP_10 => {
            Authority { host: "".into(), port: None }
        }
        Err(error) => return Err(Own::bad(StatusCode::BAD_REQUEST, "invalid_host").with_reason(error.to_string())),
    };
    let authority = authority.into_owned();
    // CONNECT has no path, except for another protocol (RFC 8441), where it is one like any other.
    if parts.method != Method::CONNECT || parts.uri.path_and_query().is_some() {
        let path = canonical::path(parts.uri.path(), encoded);
        let path = path.map_err(|e| Own::bad(StatusCode::BAD_REQUEST, "invalid_path").with_reason(e.to_string()))?;
        let as_it_is = path == parts.uri.path() && parts.uri.authority().is_none() && parts.uri.scheme().is_none();
        if !as_it_is {
            parts.uri = origin_form(&path, parts.uri.query())?;
        }
    }
    let host = authority.to_string();
    let same = parts.headers.get(HOST).is_some_and(|value| value.as_bytes() == host.as_bytes());
    if !same && !host.is_empty() {
        let value = HeaderValue::from_str(&host).map_err(|_| Own::bad(StatusCode::BAD_REQUEST, "invalid_host"))?;
        parts.headers.insert(HOST, value);
    }
    Ok(authority)
}

/// A target without scheme and host.
///
/// # Errors
/// When it is none.
pub(crate) fn origin_form(path: &str, query: Option<&str>) -> Result<Uri, Box<Own>> {
    let bad = || Own::bad(StatusCode::BAD_REQUEST, "invalid_path");
    if path == "*" {
        return Ok(Uri::from_static("*"));
    }
    let text = match query {
        Some(query) => PathAndQuery::from_str(&format!("{path}?{query}")),
        None => PathAndQuery::from_str(path),
    };
    let mut pieces = http::uri::Parts::default();
    pieces.path_and_query = Some(text.map_err(|_| bad())?);
    Uri::from_parts(pieces).map_err(|_| bad())
}

/// Removes what belongs to one connection only (RFC 9110 7.6.1). `te: trailers` stays: it says that whoever asks can take
/// trailers, which is so on our side as well, and gRPC servers insist on it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .filter_map(|name| HeaderName::from_str(name.trim()).ok())
            // A client must not be able to take away what we or the rules put there.
            .filter(|name| *name != HOST && *name != TE && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().any(|v| v.to_str().is_ok_and(names_trailers));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

fn names_trailers(value: &str) -> bool {
    value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// What the mesh says of a request: who calls, and an id by which logs find it. What the client said of the first is gone.
pub(crate) fn add_of_mesh(headers: &mut HeaderMap, certificates: &HeaderValue) -> Option<HeaderValue> {
    headers.insert(FORWARDED_CLIENT_CERT, certificates.clone());
    // We have answered or will answer it ourselves: the library sends 100 when the body is asked for (RFC 9110 10.1.1).
    headers.remove(EXPECT);
    if headers.contains_key(&REQUEST_ID) {
        return None;
    }
    let id = HeaderValue::from_str(&request_id()).ok()?;
    headers.insert(REQUEST_ID, id.clone());
    Some(id)
}

/// A random UUID (RFC 9562 5.4), as Envoy makes them. Only to find lines of logs: nothing hangs on it being secret.
fn request_id() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The trace that an attempt belongs to.
pub(crate) fn set_trace(headers: &mut HeaderMap, trace: TraceContext) {
    if let Ok(value) = HeaderValue::from_str(&trace.to_string()) {
        headers.insert(TRACEPARENT, value);
    }
}

/// The value of [`FORWARDED_CLIENT_CERT`] for a caller.
pub(crate) fn client_certificates(own: &str, caller: &str) -> HeaderValue {
    // SPIFFE ids are made of characters that a header may hold.
    HeaderValue::from_str(&format!("By={own};URI={caller}")).unwrap_or_else(|_| HeaderValue::from_static("URI="))
}

/// Removes from an answer what belongs to one connection only.
pub(crate) fn strip_answer(headers: &mut HeaderMap) {
    let trailer = headers.remove(TRAILER);
    strip_hop_by_hop(headers);
    if let Some(trailer) = trailer {
        headers.insert(TRAILER, trailer);
    }
    // A challenge of a proxy is for whoever asked it as a proxy, which nobody did.
    headers.remove(PROXY_AUTHENTICATE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_form_for_every_way_to_write_a_request() {
        for (uri, host) in [("http://Web.Shop:80/a/../b//c?d=%41", None), ("/b/c?d=%41", Some("web.shop:80"))] {
            let mut builder = http::Request::get(uri);
            if let Some(host) = host {
                builder = builder.header(HOST, host);
            }
            let mut parts = parts(builder);
            let authority = canonicalise(&mut parts, 100, Encoded::Kept).unwrap();
            assert_eq!((authority.to_string().as_str(), parts.uri.to_string().as_str()), ("web.shop:80", "/b/c?d=%41"));
            assert_eq!(parts.headers[HOST], "web.shop:80");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let host = |b: http::request::Builder| b.header(HOST, "a");
        for (request, wanted) in [
            (host(http::Request::get("/")).header(HOST, "b"), 400),
            (host(http::Request::get("http://b/")), 400),
            (host(http::Request::get("/%zz")), 400),
            (http::Request::get("/"), 400),
        ] {
            let refused = canonicalise(&mut parts(request), 100, Encoded::Kept).unwrap_err();
            assert_eq!(refused.status().as_u16(), wanted);
        }
        let many = (0..5).fold(host(http::Request::get("/")), |b, i| b.header(format!("x-{i}"), "1"));
        assert_eq!(canonicalise(&mut parts(many), 4, Encoded::Kept).unwrap_err().status().as_u16(), 431);
    }

    #[test]
    fn what_belongs_to_a_connection_does_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine, host"),
            ("connection", "te"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("host", "a"),
            ("x-other", "2"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["host: a", "te: trailers", "x-other: 2"]);
    }

    #[test]
    fn the_mesh_says_who_calls_whatever_the_client_says() {
        let mut headers = HeaderMap::new();
        headers.append(FORWARDED_CLIENT_CERT, "URI=spiffe://a/ns/x/sa/admin".parse().unwrap());
        headers.append(FORWARDED_CLIENT_CERT, "URI=again".parse().unwrap());
        let id = add_of_mesh(&mut headers, &client_certificates("spiffe://o", "spiffe://c")).unwrap();
        let all: Vec<_> = headers.get_all(FORWARDED_CLIENT_CERT).iter().collect();
        assert_eq!(all, ["By=spiffe://o;URI=spiffe://c"]);
        let id = id.to_str().unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert!(add_of_mesh(&mut headers, &client_certificates("o", "c")).is_none(), "an id that is there stays");
    }
}
