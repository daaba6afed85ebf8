//! The body of an answer: responses as gRPC messages, then a status.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::http::HeaderMap;

use super::response::{Pieces, Response};

/// What the task of a stream says.
pub(super) type Said = Result<Response, Status>;

/// Takes responses from the task of the stream and hands them to the transport piece by piece.
#[derive(Debug)]
pub(super) struct Replies {
    from: mpsc::Receiver<Said>,
    pieces: Option<Pieces>,
    ended: bool,
}

impl Replies {
    pub(super) fn new(from: mpsc::Receiver<Said>) -> Self {
        Self { from, pieces: None, ended: false }
    }
}

impl http_body::Body for Replies {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = this.pieces.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            this.pieces = None;
            let status = match ready!(this.from.poll_recv(cx)) {
                Some(Ok(response)) => {
                    this.pieces = Some(response.into_pieces());
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            this.ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::new();
    if status.add_header(&mut map).is_err() {
        // A text that cannot be a header; the code alone always can.
        map.clear();
        map.insert(Status::GRPC_STATUS, i32::from(status.code()).into());
    }
    map
}
