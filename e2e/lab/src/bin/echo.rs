//! An HTTP server for tests: says what it was asked, as JSON, and does what the path says. HTTP/1, HTTP/2 by prior knowledge and
//! gRPC on one port.
//!
//! | Path | Does |
//! |---|---|
//! | `/count` | says how many requests it had so far, by path, without counting this one |
//! | `/status/503` | answers so |
//! | `/fail/2/503/key` | answers 503 to the first two requests with this key, then 200 |
//! | `/delay/300` | answers after 300 ms |
//! | `/bytes/1000` | answers with so many bytes, in pieces |
//! | `/drip/5/100` | five lines, one each 100 ms |
//! | `/upgrade` | takes any `upgrade`, and echoes bytes from then on |
//! | anything else | says method, path, version, headers and length of the body |
//!
//! A call with `content-type: application/grpc` is answered with the same JSON in a gRPC message and `grpc-status: 0`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;

type Body = BoxBody<Bytes, Infallible>;

#[derive(Default)]
struct Seen {
    name: String,
    requests: Mutex<BTreeMap<String, u64>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context("usage: e2e-echo NAME PORT")?;
    let port: u16 = arguments.next().context("usage: e2e-echo NAME PORT")?.parse()?;
    let seen = Arc::new(Seen { name, ..Seen::default() });
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let seen = seen.clone();
        tokio::spawn(serve(stream, seen));
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>) {
    let service = service_fn(move |request| answer(request, seen.clone()));
    let served = Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        // Peers that go away in the middle are part of tests.
        eprintln!("connection ended: {error}");
    }
}

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if parts == ["count"] {
        let counts = seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        return Ok(full(StatusCode::OK, json!(counts).to_string()));
    }
    let times = {
        let mut requests = seen.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let times = requests.entry(path.clone()).or_default();
        *times += 1;
        *times
    };
    let number = |i: usize| parts.get(i).and_then(|p| p.parse::<u64>().ok()).unwrap_or_default();
    let status = |code: u64| {
        u16::try_from(code).ok().and_then(|c| StatusCode::from_u16(c).ok()).unwrap_or(StatusCode::BAD_REQUEST)
    };
    Ok(match parts.first().copied() {
        Some("status") => full(status(number(1)), format!("{} says {}", seen.name, number(1))),
        Some("fail") if times <= number(1) => full(status(number(2)), format!("{} fails, {times}", seen.name)),
        Some("bytes") => pieces(number(1)),
        Some("drip") => drip(number(1), Duration::from_millis(number(2))),
        Some("upgrade") => upgrade(request),
        other => {
            if other == Some("delay") {
                tokio::time::sleep(Duration::from_millis(number(1))).await;
            }
            said(request, &seen.name, times).await
        }
    })
}

/// What was asked, as JSON, or in a gRPC message.
async fn said(request: Request<Incoming>, name: &str, times: u64) -> Response<Body> {
    let (head, mut body) = request.into_parts();
    let (mut length, mut whole) = (0_u64, true);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => length += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => whole = false,
        }
        if !whole {
            break;
        }
    }
    let mut headers = BTreeMap::<&str, Vec<String>>::new();
    for (key, value) in &head.headers {
        headers.entry(key.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let said = json!({
        "name": name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |p| p.as_str()),
        "authority": head.uri.authority().map(ToString::to_string),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "bodyBytes": length,
        "bodyWhole": whole,
        "times": times,
    });
    let grpc = head.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    if grpc { grpc_message(&said) } else { full(StatusCode::OK, said.to_string()) }
}

fn full(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text + "\n")).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert("x-from-backend", HeaderValue::from_static("yes"));
    response
}

/// A message without compression, and good trailers.
fn grpc_message(said: &Value) -> Response<Body> {
    let text = said.to_string();
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    message.put_slice(text.as_bytes());
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    let frames = [Frame::data(message.freeze()), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn pieces(mut left: u64) -> Response<Body> {
    const PIECE: u64 = 16 * 1024;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while left > 0 {
            let now = left.min(PIECE);
            left -= now;
            let piece = Bytes::from(vec![b'x'; usize::try_from(now).unwrap_or_default()]);
            if sender.send(Ok(Frame::data(piece))).await.is_err() {
                return;
            }
        }
    });
    Response::new(BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver))))
}

fn drip(lines: u64, pause: Duration) -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for line in 0..lines {
            tokio::time::sleep(pause).await;
            if sender.send(Ok(Frame::data(Bytes::from(format!("{line}\n"))))).await.is_err() {
                return;
            }
        }
    });
    Response::new(BodyExt::boxed(StreamBody::new(ReceiverStream::new(receiver))))
}

fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        return full(StatusCode::UPGRADE_REQUIRED, "say what to upgrade to".to_owned());
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
        if let Err(error) = tokio::io::copy(&mut read, &mut write).await {
            eprintln!("upgraded connection ended: {error}");
        }
    });
    let mut response = full(StatusCode::SWITCHING_PROTOCOLS, String::new());
    *response.body_mut() = Full::new(Bytes::new()).boxed();
    response.headers_mut().insert(UPGRADE, protocol);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
}
