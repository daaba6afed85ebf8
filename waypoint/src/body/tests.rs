use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use telemetry::{Counters, Meter};
use tokio::sync::mpsc;

use super::*;
use crate::local::LocalExecutor;

/// The incoming body that a server sees of these chunks.
async fn incoming(chunks: &'static [&'static str]) -> Incoming {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (bodies, mut taken) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        let service = service_fn(move |request: http::Request<Incoming>| {
            bodies.send(request.into_body()).unwrap();
            std::future::pending::<Result<http::Response<Full<Bytes>>, std::convert::Infallible>>()
        });
        let io = hyper_util::rt::TokioIo::new(far);
        drop(hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service).await);
    });
    let io = hyper_util::rt::TokioIo::new(near);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io).await.unwrap();
    tokio::task::spawn_local(connection);
    let frames =
        chunks.iter().map(|chunk| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(chunk.as_bytes()))));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let request = http::Request::post("http://a/").body(body).unwrap();
    tokio::task::spawn_local(async move { sender.send_request(request).await });
    taken.recv().await.unwrap()
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

async fn text(body: RequestBody) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn a_body_that_fits_is_sent_again_and_a_copy_goes_elsewhere() {
    run(async {
        let counters = Arc::new(Counters::new());
        let source = Source::new(incoming(&["one ", "two ", "three"]).await, counters.clone(), 100);
        let copy = RequestBody::Copied(source.copy());
        // The first attempt reads a part, and breaks.
        let mut first = RequestBody::Replayed(source.replay());
        let frame = first.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one ");
        drop(first);
        assert!(source.is_whole());
        let second = RequestBody::Replayed(source.replay());
        assert!(!second.is_end_stream());
        assert_eq!(text(second).await, "one two three");
        let third = RequestBody::Replayed(source.replay());
        assert_eq!(third.size_hint().exact(), Some(13));
        assert_eq!(text(third).await, "one two three");
        assert_eq!(text(copy).await, "one two three");
        assert_eq!(counters.to_destination(), 13, "counted once");
    });
}

#[test]
fn a_body_that_does_not_fit_is_sent_once_and_nothing_is_kept() {
    run(async {
        let source = Source::new(incoming(&["0123456789", "0123456789"]).await, Arc::default(), 15);
        let whole = Rc::clone(&source);
        assert_eq!(text(RequestBody::Replayed(source.replay())).await.len(), 20);
        assert!(!whole.is_whole());
    });
}

#[test]
fn a_copy_whose_original_breaks_off_breaks_as_well() {
    run(async {
        let source = Source::new(incoming(&["0123"]).await, Arc::default(), 0);
        let copy = RequestBody::Copied(source.copy());
        drop(source);
        assert!(matches!(copy.collect().await, Err(BodyError::Dropped)));
    });
}
