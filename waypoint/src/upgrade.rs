//! Requests that turn their connection into something else: `Upgrade` of HTTP/1 (WebSocket and others), and the extended CONNECT
//! of HTTP/2 (RFC 8441), which becomes an `Upgrade` on its way to the endpoint. A plain CONNECT is refused.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use routing::Passage;
use telemetry::request::Flag;
use telemetry::{Counters, RequestRecord};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};

use crate::body::AnswerBody;
use crate::connection::Connection;
use crate::endpoints::Ticket;
use crate::heads;

/// Bytes that each direction reads at a time: messages of WebSocket are small, and two of these belong to each connection
/// for as long as it lives.
const BUFFER: usize = 8 * 1024;

/// A client that wants its connection to become something else.
pub(crate) struct Upgrading {
    client: OnUpgrade,
    kind: Kind,
}

enum Kind {
    /// HTTP/1 `Upgrade`, with what it asks for.
    Upgrade(HeaderValue),
    /// Extended CONNECT, with its protocol.
    Extended(HeaderValue),
}

/// Whether a request wants it. To be asked before anything is taken off the request.
pub(crate) fn wanted(request: &mut Request<Incoming>) -> Option<Upgrading> {
    let kind = if *request.method() == Method::CONNECT {
        Kind::Extended(HeaderValue::from_str(request.extensions().get::<Protocol>()?.as_str()).ok()?)
    } else if request.version() == Version::HTTP_11 {
        Kind::Upgrade(asked(request.headers())?)
    } else {
        return None;
    };
    Some(Upgrading { client: hyper::upgrade::on(request), kind })
}

/// What an HTTP/1 request asks to upgrade to. HTTP/2 is not upgraded to any more (RFC 9113 3.1): such a request is answered as
/// it is.
fn asked(headers: &http::HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let tokens = headers.get_all(CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let named = tokens.into_iter().any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let old = protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c");
    (named && !old).then(|| protocol.clone())
}

/// Says to the endpoint what the client wants.
pub(crate) fn prepare(upgrading: &Upgrading, parts: &mut Parts) {
    let protocol = match &upgrading.kind {
        Kind::Upgrade(protocol) => protocol.clone(),
        Kind::Extended(protocol) => {
            parts.method = Method::GET;
            // Only HTTP/1 wants a key; the answer to it is for us alone.
            if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") && !parts.headers.contains_key(SEC_WEBSOCKET_KEY)
            {
                let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
                if let Ok(key) = HeaderValue::from_str(&key) {
                    parts.headers.insert(SEC_WEBSOCKET_KEY, key);
                }
            }
            protocol.clone()
        }
    };
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol);
    parts.headers.remove(TRANSFER_ENCODING);
}

/// Whether the endpoint agreed.
pub(crate) fn is_accepted(status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS
}

/// Whether a request is a plain CONNECT, which is refused. Servers that know nothing of tunnels answer it like any other request
/// (200), and go on to read requests from what we would carry as a tunnel's bytes: past routes and policies.
pub(crate) fn refuses(request: &mut Request<Incoming>) -> bool {
    let refused = *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
    if refused && request.version() < Version::HTTP_2 {
        // The library gives such a connection away after any answer, and one that nobody takes is reset: the answer might not
        // arrive.
        let client = hyper::upgrade::on(request);
        tokio::task::spawn_local(async move {
            if let Ok(client) = client.await
                && let Err(error) = TokioIo::new(client).shutdown().await
            {
                tracing::debug!(%error, "cannot close a connection whose CONNECT was refused");
            }
        });
    }
    refused
}

/// Joins both ends, and gives what the client is answered.
pub(crate) fn join(
    upgrading: Upgrading,
    connection: &Rc<Connection>,
    mut response: Response<Incoming>,
    mut record: RequestRecord,
    passage: Option<Passage>,
    ticket: Ticket,
) -> Response<AnswerBody> {
    let server = hyper::upgrade::on(&mut response);
    let (mut head, _body) = response.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned();
    heads::strip_answer(&mut head.headers);
    head.version = Version::HTTP_11;
    match &upgrading.kind {
        Kind::Upgrade(asked) => {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, protocol.unwrap_or_else(|| asked.clone()));
        }
        Kind::Extended(_) => {
            head.status = StatusCode::OK;
            for name in [CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, HeaderName::from_static("date")] {
                head.headers.remove(name);
            }
            record.answered(StatusCode::OK.as_u16(), Flag::None, "via_upstream");
        }
    }
    if let Some(passage) = passage {
        passage.answer(&mut head.headers);
    }
    let (alive, connection, client) = (connection.worker.live.enter(), connection.clone(), upgrading.client);
    tokio::task::spawn_local(async move {
        let carried = async {
            let (client, server) = tokio::try_join!(client, server).map_err(|e| e.to_string())?;
            relay(client, server, record.counters()).await.map_err(|e| e.to_string())
        };
        let ended = tokio::select! {
            ended = carried => ended,
            () = connection.worker.shared.drain.forced() => Err("drained".to_owned()),
        };
        if let Err(error) = ended {
            record.transport_failure(error);
            record.broke(Flag::UpstreamReset, "upgraded_connection_broke");
        }
        drop((record, ticket, alive));
    });
    Response::from_parts(head, AnswerBody::nothing())
}

async fn relay(client: Upgraded, server: Upgraded, counters: Arc<Counters>) -> std::io::Result<()> {
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    let (up, down) = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    counters.add_to_destination(up);
    counters.add_to_source(down);
    Ok(())
}
