//! Asks an admin server that listens inside a pod, through the API server (as `kubectl port-forward`).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::request::Builder;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;

/// A picture of a large mesh: 70 000 workloads of some 600 bytes of JSON are 42 MB.
const MAX_ANSWER: usize = 256 << 20;

/// An admin server answers at once, a picture of a large mesh takes a few seconds to carry.
const LIMIT: Duration = Duration::from_secs(30);

/// The body of `GET path` on a port of a pod.
///
/// # Errors
/// When the pod cannot be reached, or does not answer 200.
pub(crate) async fn get(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Bytes> {
    ask(client, namespace, pod, port, Request::get(path)).await
}

/// Posts nothing to `path`: an order.
///
/// # Errors
/// As [`get`].
pub(crate) async fn post(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> Result<Bytes> {
    ask(client, namespace, pod, port, Request::post(path)).await
}

async fn ask(client: &Client, namespace: &str, pod: &str, port: u16, request: Builder) -> Result<Bytes> {
    let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
    let answer = tokio::time::timeout(LIMIT, exchange(client, namespace, pod, port, request)).await;
    answer.context("no answer in time").flatten().with_context(|| format!("{path} on port {port} of {namespace}/{pod}"))
}

async fn exchange(client: &Client, namespace: &str, pod: &str, port: u16, request: Builder) -> Result<Bytes> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarder = pods.portforward(pod, &[port]).await?;
    let stream = forwarder.take_stream(port).context("the API server opened no stream")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = request.header("host", "localhost").header("connection", "close").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok((status, body.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let (status, body) = tokio::select! {
        done = &mut exchange => done?,
        // With the answer complete the connection may be the first to end; what it read is there.
        ended = connection => match ended {
            Ok(()) => exchange.await?,
            Err(error) => return Err(error).context("the connection broke"),
        },
    };
    if status != StatusCode::OK {
        bail!("answered {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}
