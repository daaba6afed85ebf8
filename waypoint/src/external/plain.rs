//! A check by plain HTTP: the request's head is asked for at the service, and 200 means yes.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::response::Parts;
use http::{Request, StatusCode, Uri};
use routing::model::ExternalAuth;

use super::changes::{Changes, Manner, is_of_message};
use super::{AskedHttp, CallBody, Decision, Passed, Refusal};

/// What the service lists headers in that shall be taken from the request (Envoy's name for it).
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// The request that is asked: same method, path behind the prefix, and the headers that always go (Host, Authorization,
/// Content-Length; gateway-api.md 3.3) and those that are listed.
///
/// # Errors
/// When the prefix and the path are no path together.
pub(super) fn question(asked: &AskedHttp<'_>, settings: &ExternalAuth) -> Result<Request<CallBody>, String> {
    let AskedHttp { parts, host, body } = *asked;
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let target = format!("{}{path}", settings.path_prefix.trim_end_matches('/'));
    let uri: Uri = target.parse().map_err(|_| format!("path prefix {:?} makes no path", settings.path_prefix))?;
    let body = body.cloned().unwrap_or_default();
    let length = body.len();
    let mut request = Request::new(CallBody::Once(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    let listed = |name: &HeaderName| settings.allowed_headers.iter().any(|h| h.eq_ignore_ascii_case(name.as_str()));
    for (name, value) in &parts.headers {
        let content_type = name.as_str() == "content-type" && length > 0;
        if *name == AUTHORIZATION || content_type || (listed(name) && !is_of_message(name)) {
            request.headers_mut().append(name.clone(), value.clone());
        }
    }
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(request)
}

/// What the answer means. 5xx means that there is none (as for Envoy).
///
/// `all`: without a list every header of the answer is copied to the request (an ExternalAuth filter); otherwise none is (a
/// CUSTOM policy).
///
/// # Errors
/// When it is no verdict.
pub(super) fn decision(head: Parts, body: Bytes, settings: &ExternalAuth, all: bool) -> Result<Decision, String> {
    if head.status.is_server_error() {
        return Err(format!("it answered {}", head.status));
    }
    if head.status == StatusCode::OK {
        let mut request = Changes::default();
        let list = &settings.allowed_response_headers;
        for (name, value) in &head.headers {
            let listed = list.iter().any(|h| h.eq_ignore_ascii_case(name.as_str()));
            if (listed || (list.is_empty() && all)) && !is_of_message(name) && name.as_str() != TO_REMOVE {
                let first = head.headers.get(name) == Some(value);
                request.set(name.as_str(), value.as_bytes(), if first { Manner::Overwrite } else { Manner::Append });
            }
        }
        for names in head.headers.get_all(TO_REMOVE) {
            names.to_str().unwrap_or_default().split(',').map(str::trim).filter(|n| !n.is_empty()).for_each(|name| {
                request.remove(name);
            });
        }
        return Ok(Decision::Pass(Passed { request, response: Changes::default() }));
    }
    let mut headers = head.headers;
    let own: Vec<HeaderName> =
        headers.keys().filter(|n| is_of_message(n) && n.as_str() != "content-type").cloned().collect();
    for name in own {
        headers.remove(name);
    }
    let status = super::final_status(head.status.as_u16().into());
    let reason = format!("it answered {}", head.status);
    Ok(Decision::Refuse(Refusal { status, headers, body, grpc: None, reason }))
}
