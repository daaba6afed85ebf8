//! `grpc.health.v1.Health/Check` (gRPC Health Checking Protocol), which the kubelet asks for a gRPC probe: always SERVING.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

/// Five bytes of prefix (not compressed, two bytes long), then field 1, an enum, is 1: SERVING.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

/// Answers until it is killed.
pub(crate) fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address).await.with_context(|| format!("port {port}"))?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let connection = Builder::new(TokioExecutor::new());
                if let Err(error) = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await {
                    eprintln!("connection ended: {error}");
                }
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let known = request.uri().path() == "/grpc.health.v1.Health/Check";
    // UNIMPLEMENTED is 12.
    let status = HeaderValue::from_static(if known { "0" } else { "12" });
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)]);
    let message = Bytes::from_static(if known { SERVING } else { &[] });
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
