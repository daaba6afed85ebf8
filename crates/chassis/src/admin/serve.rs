//! Listening and answering.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::{Body, Query, Reply, Request};
use super::router::Router;
use super::{MAX_BODY, MAX_CONNECTIONS};

/// How long a client may take to send a request: it is on this machine or in this cluster.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A listening server that does not answer yet.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{name} port {address}: {source}; {remedy}")]
pub struct BindError {
    /// What the port is for.
    pub name: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What to do.
    pub remedy: &'static str,
    /// What the kernel says.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Listens, so that a port which is taken stops the program before it does anything else.
    ///
    /// # Errors
    /// When the port cannot be had; the text names the port and a remedy.
    pub fn bind(name: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let bound = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { name, listener, address })
        });
        bound.map_err(|source| BindError { name, address, remedy: remedy(&source), source })
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `end` resolves. Connections then have [`GRACE`](crate::drain::GRACE) to end.
    ///
    /// # Errors
    /// When the listener cannot be used on this runtime.
    pub async fn serve(self, router: Router, end: impl Future<Output = ()>) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let router = Arc::new(router);
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (stop, stopped) = tokio::sync::watch::channel(());
        tracing::info!(name = self.name, address = %self.address, "listening");
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                accepted = accept(&listener, &room) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    let (router, stopped) = (router.clone(), stopped.clone());
                    tokio::spawn(async move {
                        connection(stream, router, stopped).await;
                        drop(place);
                    });
                }
                // EMFILE and its like: wait for something to be closed rather than spin.
                Err(error) => {
                    tracing::warn!(name = self.name, %error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        drop(stop);
        // All places back = all connections ended; those that are not may go with the runtime.
        timeout(crate::drain::GRACE, room.acquire_many(MAX_CONNECTIONS as u32)).await.map(drop).ok();
        Ok(())
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// Accepts when there is room for one more connection.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, Place)> {
    let place = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Arc<Router>, mut stopped: tokio::sync::watch::Receiver<()>) {
    let service = service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(respond(&router, request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).max_buf_size(64 * 1024);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = &mut connection => result,
        // The sender is dropped at the end of serving.
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn respond(router: &Router, request: http::Request<Incoming>) -> Response<Body> {
    let head = request.method() == http::Method::HEAD;
    let reply = match read(request).await {
        Ok(request) => router.answer(request).await,
        Err(reply) => reply,
    };
    let mut response = Response::new(if head { Body::Whole(None) } else { reply.body });
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(reply.content_type));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

async fn read(request: http::Request<Incoming>) -> Result<Request, Reply> {
    let (head, body) = request.into_parts();
    let body = match timeout(READ_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let text = format!("the body is longer than {MAX_BODY} bytes, or broken");
            return Err(Reply::error(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Err(_) => return Err(Reply::error(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    Ok(Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        headers: head.headers,
        body,
    })
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has it: find it with `ss -ltnp`, stop it or configure another port"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE: configure another port",
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address: configure another one",
        _ => "configure another address",
    }
}
