//! gRPC calls with small messages: a server, and a client that calls as fast as answers come or at a fixed rate.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::latency::told;

/// Bytes of a call's message.
const ASKED: usize = 16;
/// Bytes of an answer's message.
const ANSWERED: usize = 1024;
/// Before each message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// How to call.
#[derive(Args)]
pub(crate) struct Calls {
    ip: IpAddr,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    connections: usize,
    /// Calls under way at one time, over all connections.
    #[arg(long)]
    lanes: usize,
    /// Calls a second over all lanes; as fast as answers come when not given.
    #[arg(long)]
    rate: Option<u64>,
    #[arg(long)]
    seconds: u64,
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")
}

fn message(bytes: usize) -> Bytes {
    let mut all = BytesMut::with_capacity(PREFIX + bytes);
    all.extend_from_slice(&[0, 0, 0]);
    all.extend_from_slice(&(bytes as u16).to_be_bytes());
    all.resize(PREFIX + bytes, b'x');
    all.freeze()
}

pub(super) fn serve(port: u16) -> Result<()> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
        let answer = message(ANSWERED);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            let service = service_fn(move |request| one_answer(request, answer.clone()));
            tokio::spawn(async move {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                if let Err(error) = served.serve_connection(TokioIo::new(stream), service).await {
                    eprintln!("a connection ended: {error}");
                }
            });
        }
    })
}

async fn one_answer(
    request: Request<Incoming>,
    answer: Bytes,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(answer).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

pub(super) fn run(calls: &Calls) -> Result<()> {
    ensure!(calls.connections > 0 && calls.lanes > 0, "connections and lanes are needed");
    let time = Duration::from_secs(calls.seconds);
    let times = runtime()?.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..calls.connections {
            senders.push(connection(SocketAddr::new(calls.ip, calls.port)).await?);
        }
        let mut lanes = JoinSet::new();
        let every = calls.rate.map(|rate| Duration::from_secs_f64(calls.lanes as f64 / rate as f64));
        for (lane, sender) in (0..calls.lanes).zip(senders.iter().cycle()) {
            // Spread evenly, so that the calls of all lanes are not due at once.
            let offset = every.unwrap_or_default().mul_f64(lane as f64 / calls.lanes as f64);
            lanes.spawn(one_lane(sender.clone(), every, Instant::now() + offset, time));
        }
        let mut times = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            times.extend(lane.context("a lane panicked")??);
        }
        anyhow::Ok(times)
    })?;
    println!("{}", told(times, time)?);
    Ok(())
}

async fn connection(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("the connection ended: {error}");
        }
    });
    Ok(sender)
}

/// Calls one after the other. When a call is late because of the one before, its time begins when it was due.
async fn one_lane(
    mut sender: SendRequest<Full<Bytes>>,
    every: Option<Duration>,
    first: Instant,
    time: Duration,
) -> Result<Vec<Duration>> {
    // The first answer pays for the connections and the tunnels.
    call(&mut sender).await?;
    let mut times = Vec::new();
    let mut due = first.max(Instant::now());
    let end = due + time;
    while due < end && Instant::now() < end {
        let late = Instant::now() > due;
        if every.is_some() && !late {
            tokio::time::sleep_until(due.into()).await;
        }
        let began = if every.is_some() && late { due } else { Instant::now() };
        call(&mut sender).await?;
        times.push(began.elapsed());
        match every {
            Some(every) => due += every,
            None => due = Instant::now(),
        }
    }
    Ok(times)
}

async fn call(sender: &mut SendRequest<Full<Bytes>>) -> Result<()> {
    sender.ready().await?;
    let request = Request::post("http://bench/bench.Echo/Say")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(message(ASKED)))?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status() == 200, "status {}", answer.status());
    let whole = answer.into_body().collect().await?;
    let ended = whole.trailers().and_then(|t| t.get("grpc-status")).is_some_and(|status| status == "0");
    ensure!(ended, "the call failed: {:?}", whole.trailers());
    let length = whole.to_bytes().len();
    ensure!(length == PREFIX + ANSWERED, "{length} bytes of an answer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_before_it() {
        let made = message(ANSWERED);
        assert_eq!((&made[..PREFIX], made.len()), (&[0, 0, 0, 4, 0][..], PREFIX + ANSWERED));
    }
}
