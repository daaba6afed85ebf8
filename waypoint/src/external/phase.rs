//! What the phases of a request ask of external services, and what is left of it for the answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::{Body, Incoming};
use routing::model::ExternalAuth;
use telemetry::request::Flag;

use super::reach::{Backend, Held};
use super::{Asked, AskedHttp, Changes, Conversation, Decision, Processed, Refusal, Shown, authorize};
use crate::answer::Own;
use crate::bound::Bound;
use crate::connection::Connection;
use crate::exchange::KeptBody;

/// Most bytes of a body that a check is shown, whatever is asked for: they are held in memory until it has answered.
const MAX_SHOWN: usize = 1 << 20;

/// What external services have asked for and the answer has yet to get.
#[derive(Default)]
pub(crate) struct Left {
    changes: Changes,
    conversations: Vec<(Arc<routing::ExternalProcessing>, Conversation<Held>)>,
}

/// Where a request stands.
#[derive(Clone, Copy)]
pub(crate) struct Here<'a> {
    pub(crate) connection: &'a Rc<Connection>,
    pub(crate) bound: Option<&'a Bound>,
}

impl Here<'_> {
    fn asked<'b>(&'b self, server_name: Option<&'b str>, http: Option<AskedHttp<'b>>) -> Asked<'b> {
        let Connection { tunnel, target, .. } = &**self.connection;
        Asked {
            source: tunnel.peer.0,
            principal: &tunnel.caller_text,
            destination: target.named,
            service: target.key().map_or("", |key| key),
            server_name,
            time: SystemTime::now(),
            http,
        }
    }
}

/// The check that a CUSTOM policy asks for.
///
/// # Errors
/// What the request is answered; the reason for the record is its reason.
pub(crate) async fn check(
    here: Here<'_>,
    settings: &ExternalAuth,
    parts: &mut Parts,
    body: &mut KeptBody,
    left: &mut Left,
) -> Result<(), Box<Own>> {
    let backend = Backend::of_policy(here.connection, here.bound, &settings.backend);
    asked(here, &backend, settings, false, parts, body, left).await
}

/// The check that a filter asks for.
///
/// # Errors
/// What the request is answered.
pub(crate) async fn check_of_filter(
    here: Here<'_>,
    filter: &routing::ExternalAuth,
    parts: &mut Parts,
    body: &mut KeptBody,
    left: &mut Left,
) -> Result<(), Box<Own>> {
    let backend = Backend::of_filter(here.connection, here.bound, &filter.target);
    asked(here, &backend, &filter.settings, true, parts, body, left).await
}

async fn asked(
    here: Here<'_>,
    backend: &Backend<'_>,
    settings: &ExternalAuth,
    of_filter: bool,
    parts: &mut Parts,
    body: &mut KeptBody,
    left: &mut Left,
) -> Result<(), Box<Own>> {
    let limit = usize::try_from(settings.max_body).unwrap_or(MAX_SHOWN).min(MAX_SHOWN);
    let shown = if limit == 0 { None } else { Some(body.shown(limit).await?) };
    let host = host_of(parts);
    let http = AskedHttp { parts, host: &host, body: shown.as_ref() };
    match authorize(backend, settings, of_filter, &here.asked(None, Some(http))).await {
        Decision::Pass(passed) => {
            passed.request.apply(&mut parts.headers);
            left.changes.extend(passed.response);
            Ok(())
        }
        Decision::Refuse(refusal) => Err(own(refusal, Flag::ExternalAuth, "ext_authz_denied")),
    }
}

/// The check of a connection that is not HTTP.
///
/// # Errors
/// Why it may not pass.
pub(crate) async fn check_connection(
    here: Here<'_>,
    settings: &ExternalAuth,
    server_name: Option<&str>,
) -> Result<(), String> {
    let backend = Backend::of_policy(here.connection, here.bound, &settings.backend);
    match authorize(&backend, settings, false, &here.asked(server_name, None)).await {
        Decision::Pass(_) => Ok(()),
        Decision::Refuse(refusal) => Err(refusal.reason),
    }
}

/// Lets a processor see and change the request.
///
/// # Errors
/// What the request is answered.
pub(crate) async fn process(
    here: Here<'_>,
    filter: &Arc<routing::ExternalProcessing>,
    parts: &mut Parts,
    no_body: bool,
    left: &mut Left,
) -> Result<(), Box<Own>> {
    let backend = Backend::of_filter(here.connection, here.bound, &filter.target);
    let mut conversation = Conversation::new(filter.settings.clone());
    let host = host_of(parts);
    let half = Shown::Request { http: AskedHttp { parts, host: &host, body: None }, no_body };
    match conversation.show(&backend, half).await {
        Processed::GoOn(changes) => changes.apply(&mut parts.headers),
        Processed::Answer(refusal) => return Err(own(refusal, Flag::ExternalAuth, "ext_proc_answered")),
    }
    if conversation.wants_response() {
        left.conversations.push((filter.clone(), conversation));
    }
    Ok(())
}

/// Lets those who want to see the answer see it, the last one first, and makes the changes that were asked for.
///
/// # Errors
/// What is answered instead.
pub(crate) async fn answer(
    here: Here<'_>,
    left: &mut Left,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, Box<Own>> {
    // An answer that turns the connection into another protocol is not one to be changed.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let (mut head, body) = response.into_parts();
    while let Some((filter, mut conversation)) = left.conversations.pop() {
        let backend = Backend::of_filter(here.connection, here.bound, &filter.target);
        let half = Shown::Response { head: &head, no_body: body.is_end_stream() };
        match conversation.show(&backend, half).await {
            Processed::GoOn(changes) => changes.apply(&mut head.headers),
            Processed::Answer(refusal) => return Err(own(refusal, Flag::ExternalAuth, "ext_proc_answered")),
        }
    }
    std::mem::take(&mut left.changes).apply(&mut head.headers);
    Ok(Response::from_parts(head, body))
}

impl Left {
    /// Whether the answer can go as it is.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.conversations.is_empty()
    }
}

/// The host in its canonical form, as the phase *accept* wrote it.
fn host_of(parts: &Parts) -> String {
    let host = parts.headers.get(http::header::HOST);
    host.map(|h| String::from_utf8_lossy(h.as_bytes()).into_owned()).unwrap_or_default()
}

fn own(refusal: Refusal, flag: Flag, details: &'static str) -> Box<Own> {
    let Refusal { status, headers, body, grpc, reason } = refusal;
    Own::in_words(status, flag, details, headers, body, grpc).with_reason(reason)
}

/// What a service says of a body that is too long for its check.
pub(crate) fn too_long(limit: usize) -> Box<Own> {
    let made = Own::bad(StatusCode::PAYLOAD_TOO_LARGE, "request_payload_too_large");
    made.with_reason(format!("the body is longer than the {limit} bytes that its check is shown"))
}

/// The bytes of a body, as far as they came.
pub(crate) async fn gather<B>(mut body: B, limit: usize) -> Result<Bytes, Box<Own>>
where
    B: Body<Data = Bytes> + Unpin,
{
    use http_body_util::BodyExt;
    let mut all = bytes::BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Own::bad(StatusCode::BAD_REQUEST, "request_body_broke_off"));
        };
        if let Some(data) = frame.data_ref() {
            if all.len() + data.len() > limit {
                return Err(too_long(limit));
            }
            all.extend_from_slice(data);
        }
    }
    Ok(all.freeze())
}
