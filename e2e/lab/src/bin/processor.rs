//! An external processor for tests: Envoy's ext_proc v3, headers only.
//!
//! A request for `/stop` is answered here with 418; others get header `x-processed` with the method and path that were shown,
//! and `x-choose: v2` when their path begins with `/choose`. Answers get header `x-seen-status`.

use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;

use anyhow::{Context, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::ext_proc::external_processor_server::{ExternalProcessor, ExternalProcessorServer};
use proto::ext_proc::processing_request::Request as Shown;
use proto::ext_proc::processing_response::Response as Said;
use proto::ext_proc::{
    CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption, HeadersResponse, HttpHeaders, HttpStatus,
    ImmediateResponse, ProcessingRequest, ProcessingResponse,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::Service;
use tonic::{Response, Status, Streaming};

struct Processor;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: e2e-processor PORT")?.parse()?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await?;
    let server = ExternalProcessorServer::new(Processor);
    loop {
        let (stream, _) = listener.accept().await?;
        let server = server.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let mut server = server.clone();
                async move { server.call(request.map(tonic::body::Body::new)).await }
            });
            let io = TokioIo::new(stream);
            // A client that goes away is nothing to tell of.
            drop(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await);
        });
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let answers = request.into_inner().map(|question| {
            let said = match question?.request {
                Some(Shown::RequestHeaders(headers)) => of_request(&headers),
                Some(Shown::ResponseHeaders(headers)) => {
                    Said::ResponseHeaders(set(&[("x-seen-status", &value(&headers, ":status"))]))
                }
                None => return Err(Status::invalid_argument("nothing was shown")),
            };
            Ok(ProcessingResponse { response: Some(said) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn of_request(headers: &HttpHeaders) -> Said {
    let (method, path) = (value(headers, ":method"), value(headers, ":path"));
    if path == "/stop" {
        let status = Some(HttpStatus { code: 418 });
        return Said::ImmediateResponse(ImmediateResponse { status, ..ImmediateResponse::default() });
    }
    let shown = format!("{method} {path}");
    let mut headers = vec![("x-processed", shown.as_str())];
    if path.starts_with("/choose") {
        headers.push(("x-choose", "v2"));
    }
    Said::RequestHeaders(set(&headers))
}

fn value(headers: &HttpHeaders, name: &str) -> String {
    let all = headers.headers.iter().flat_map(|h| &h.headers);
    all.filter(|h| h.key == name).map(|h| String::from_utf8_lossy(&h.raw_value).into_owned()).collect()
}

fn set(headers: &[(&str, &str)]) -> HeadersResponse {
    let option = |(key, value): &(&str, &str)| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*key).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    };
    let header_mutation =
        Some(HeaderMutation { set_headers: headers.iter().map(option).collect(), ..HeaderMutation::default() });
    HeadersResponse { response: Some(CommonResponse { status: 0, header_mutation }) }
}
