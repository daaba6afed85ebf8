//! HTTP connections of callers: HTTP/1 and HTTP/2 share one path for requests and bodies.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::time::sleep;

use crate::config::Limits;
use crate::connection::{Client, Connection};
use crate::exchange::exchange;
use crate::here::Worker;
use crate::local::LocalExecutor;
use crate::upstream::USUAL_FIELDS;

/// Receive windows of HTTP/2 connections of clients, bytes: as towards the applications (`upstream`), with fewer streams that
/// may stall, because a client's own streams are few.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Serves a connection to its end.
pub(crate) async fn serve(connection: Rc<Connection>, client: Client, http2: bool) {
    let worker = connection.worker.clone();
    let peer = connection.tunnel.peer;
    let limits = &worker.shared.config.limits;
    let (io, heads) = match client.into_io() {
        io if http2 => (io.together(), None),
        io => {
            let (io, heads) = io.shown();
            (io, Some(heads))
        }
    };
    let answer = move |request| {
        let (connection, heads) = (connection.clone(), heads.clone());
        async move { Ok::<_, Infallible>(exchange(&connection, request, heads.as_ref()).await) }
    };
    let ended = if http2 {
        // Boxed: the library makes a task of each, and moves it several times on its way there. With HTTP/1 it has one place
        // on the heap for all of a connection.
        let service = service_fn(move |request| Box::pin(answer(request)));
        let served = http2_builder(limits).serve_connection(io, service);
        let mut served = pin!(served);
        tokio::select! {
            ended = &mut served => ended,
            () = worker.leaving() => {
                // Tells the client to open no more streams; those that it has opened meanwhile are still served.
                served.as_mut().graceful_shutdown();
                until_forced(&worker, served).await
            }
        }
    } else {
        let served = http1_builder(limits).serve_connection(io, service_fn(answer)).with_upgrades();
        let mut served = pin!(served);
        tokio::select! {
            ended = &mut served => ended,
            () = idle_in_drain(&worker) => {
                served.as_mut().graceful_shutdown();
                until_forced(&worker, served).await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "connection of a client ended");
    }
}

async fn until_forced(
    worker: &Worker,
    mut served: Pin<&mut impl Future<Output = hyper::Result<()>>>,
) -> hyper::Result<()> {
    tokio::select! {
        ended = &mut served => ended,
        () = worker.shared.drain.forced() => Ok(()),
    }
}

/// When an HTTP/1 connection that carries nothing is closed in a drain. Not at once: answers say `connection: close` first, and
/// a client that sends a request into a closing connection sees an error.
async fn idle_in_drain(worker: &Worker) {
    worker.leaving().await;
    sleep(worker.shared.config.drain.0 / 4).await;
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // A client that closes its direction after its request still wants the answer.
    builder.half_close(true).header_read_timeout(None).timer(TokioTimer::new());
    builder.max_buf_size(usize::try_from(limits.head_bytes).unwrap_or(usize::MAX));
    if limits.head_fields != USUAL_FIELDS {
        builder.max_headers(limits.head_fields);
    }
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.concurrent_streams)
        .max_header_list_size(limits.head_bytes)
        .enable_connect_protocol();
    builder
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;
    use hyper::body::Incoming;

    use super::*;
    use crate::ambiguity::Heads;

    fn bytes_of<'a, F>(_: impl FnOnce(&'a Rc<Connection>, Request<Incoming>, Option<&'a Arc<Heads>>) -> F) -> usize {
        size_of::<F>()
    }

    /// What an open request holds, and what is moved when it begins: 8.7 KB today, in which heads that are handed from step to
    /// step are most. A future that is awaited in two branches shows here at once.
    #[test]
    fn a_request_under_way_does_not_grow() {
        let bytes = bytes_of(exchange);
        assert!(bytes <= 9 * 1024, "{bytes}");
    }
}
