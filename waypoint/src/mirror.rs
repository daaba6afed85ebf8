//! Mirrors: a copy of a request goes elsewhere as well. What comes back is dropped, and nothing of it delays or fails the
//! request itself.

use std::rc::Rc;

use http::request::Parts;
use http_body_util::BodyExt;
use routing::Target;
use routing::model::Protocol;
use tokio::time::timeout;

use crate::body::RequestBody;
use crate::bound::{Bound, Traffic};
use crate::connection::Connection;
use crate::dispatch::{Pick, once};
use crate::endpoints::{Chosen, Wish};
use crate::tcp::on;

/// How long a mirror may take: longer than most routes wait for the real answer, and not for ever.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Sends the copy, and returns at once.
pub(crate) fn send(
    connection: &Rc<Connection>,
    bound: Option<&Bound>,
    target: &Target,
    parts: &Parts,
    body: RequestBody,
) {
    let worker = &connection.worker;
    let Some(set) = on(worker, |view, all| all.of(view, &target.service, target.port)) else {
        tracing::debug!(service = %target.service, "a mirror's service is not known");
        return;
    };
    let traffic = bound.map_or(Traffic::usual(), |bound| bound.traffic(&target.service));
    let Some(endpoint) = set.pick(Wish { balance: traffic.balance, ..Wish::default() }, &Chosen::default()) else {
        tracing::debug!(service = %target.service, "a mirror has no endpoint");
        return;
    };
    let http2 = match target.protocol {
        Protocol::Grpc | Protocol::Http2 => true,
        Protocol::Detect | Protocol::Http | Protocol::Tcp | Protocol::Tls => {
            traffic.http2 || parts.version == http::Version::HTTP_2 && is_grpc(parts)
        }
    };
    let pick = Pick::new(endpoint, set.service.hostname.clone(), target.port, http2);
    let (parts, connection, alive) = (parts.clone(), connection.clone(), worker.live.enter());
    // The body of a copy that is not sent in time is dropped with the task.
    let key = target.service.clone();
    tokio::task::spawn_local(async move {
        let bound = connection.bound();
        let traffic = bound.as_deref().map_or(Traffic::usual(), |bound| bound.traffic(&key));
        let sent = async {
            let got = once(&connection, &pick, traffic, parts, body).await?;
            let (response, lease) = got;
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame.map_err(|e| e.to_string())?;
            }
            lease.done();
            Ok::<_, String>(())
        };
        match timeout(PATIENCE, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(service = %key, error, "mirror failed"),
            Err(_) => tracing::debug!(service = %key, "mirror took too long"),
        }
        drop(alive);
    });
}

fn is_grpc(parts: &Parts) -> bool {
    let kind = parts.headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
