//! ext_authz over gRPC: what a check is shown, and what its answer means.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE};
use http::{HeaderMap, StatusCode, Version};
use proto::ext_authz as wire;
use routing::model::ExternalAuth;
use wire::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use wire::check_response::HttpResponse;

use super::changes::{Changes, Manner};
use super::{Asked, AskedHttp, Decision, Passed, Refusal, final_status};

/// The method of the service.
pub(super) const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What is asked.
pub(super) fn question(asked: &Asked<'_>, settings: &ExternalAuth) -> wire::CheckRequest {
    let source = Peer { address: address(asked.source), principal: asked.principal.to_owned(), ..Peer::default() };
    let destination =
        Peer { address: address(asked.destination), service: asked.service.to_owned(), ..Peer::default() };
    let http = asked.http.as_ref().map(|http| http_request(http, settings));
    let attributes = wire::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(Request { time: Some(asked.time.into()), http }),
        context_extensions: BTreeMap::new(),
        tls_session: asked.server_name.map(|sni| TlsSession { sni: sni.to_owned() }),
    };
    wire::CheckRequest { attributes: Some(attributes) }
}

fn address(at: SocketAddr) -> Option<wire::Address> {
    let socket = wire::SocketAddress { address: at.ip().to_string(), port_value: at.port().into() };
    Some(wire::Address { socket_address: Some(socket) })
}

fn http_request(asked: &AskedHttp<'_>, settings: &ExternalAuth) -> HttpRequest {
    let AskedHttp { parts, host, body } = *asked;
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let shown = |name: &str| {
        settings.allowed_headers.is_empty() || settings.allowed_headers.iter().any(|h| h.eq_ignore_ascii_case(name))
    };
    let mut headers = joined(&parts.headers, shown);
    for (name, value) in
        [(":authority", host), (":method", parts.method.as_str()), (":path", path), (":scheme", "http")]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let size = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    // A body that is no text goes as bytes: a field of text cannot hold it.
    let (body, raw_body) = match body.map(|b| (std::str::from_utf8(b), b)) {
        None => (String::new(), Vec::new()),
        Some((Ok(text), _)) => (text.to_owned(), Vec::new()),
        Some((Err(_), bytes)) => (String::new(), bytes.to_vec()),
    };
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: parts.method.to_string(),
        headers,
        path: path.to_owned(),
        host: host.to_owned(),
        scheme: "http".to_owned(),
        size: size.unwrap_or(-1),
        protocol: protocol(parts.version).to_owned(),
        body,
        raw_body,
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// Headers by name; several of one name joined as HTTP says (RFC 9110 5.3, RFC 9113 8.2.3).
fn joined(headers: &HeaderMap, shown: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| shown(name.as_str())) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let glue = if *name == COOKIE { "; " } else { "," };
        all.entry(name.as_str().to_owned())
            .and_modify(|known| {
                known.push_str(glue);
                known.push_str(&text);
            })
            .or_insert_with(|| text.into_owned());
    }
    all
}

/// What the answer means. Only status OK lets the request pass.
pub(super) fn decision(answer: wire::CheckResponse) -> Decision {
    let status = answer.status.unwrap_or(wire::Status { code: -1, message: "no status".to_owned() });
    match (status.code, answer.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => {
            let mut request = changes(&ok.headers);
            ok.headers_to_remove.iter().for_each(|name| request.remove(name));
            Decision::Pass(Passed { request, response: changes(&ok.response_headers_to_add) })
        }
        (0, None) => Decision::Pass(Passed::default()),
        (0, Some(HttpResponse::DeniedResponse(denied))) => {
            Decision::Refuse(refused(denied, "it said OK and gave an answer for a refusal"))
        }
        (code, Some(HttpResponse::DeniedResponse(denied))) => {
            Decision::Refuse(refused(denied, &said(code, &status.message)))
        }
        (code, _) => Decision::Refuse(Refusal::silent(StatusCode::FORBIDDEN, said(code, &status.message))),
    }
}

fn said(code: i32, message: &str) -> String {
    let message: String = message.chars().take(200).collect();
    format!("it refused with status {code} {message}").trim_end().to_owned()
}

fn refused(denied: wire::DeniedHttpResponse, reason: &str) -> Refusal {
    Refusal {
        status: final_status(denied.status.map_or(0, |s| s.code.into())),
        headers: changes(&denied.headers).alone(),
        body: Bytes::from(denied.body),
        grpc: None,
        reason: reason.to_owned(),
    }
}

fn changes(options: &[wire::HeaderValueOption]) -> Changes {
    let mut changes = Changes::default();
    for option in options {
        let Some(header) = &option.header else { continue };
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        changes.set(&header.key, value, Manner::of(option.append, option.append_action));
    }
    changes
}
