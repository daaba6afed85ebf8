//! The body of an answer on its way to the client, and what ends with it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use telemetry::request::Flag;
use telemetry::{Counters, RequestRecord};
use tokio::time::Sleep;

use super::BodyError;
use crate::ambiguity::Heads;
use crate::endpoints::Ticket;
use crate::here::Place;
use crate::upstream::Lease;

/// The body of an answer.
pub(crate) struct AnswerBody {
    inner: Inner,
    tail: Option<Box<Tail>>,
    /// Who waits for the next head on an HTTP/1 connection.
    heads: Option<Arc<Heads>>,
}

enum Inner {
    Empty,
    /// None, and no request comes after it on the connection.
    Last,
    Whole(Bytes),
    Passing(Incoming),
}

/// What ends with the body: the record is written, the connection goes back to those that are kept.
pub(crate) struct Tail {
    pub(crate) record: RequestRecord,
    pub(crate) counters: Arc<Counters>,
    /// The connection that the answer comes on.
    pub(crate) lease: Option<Lease>,
    /// Counts as under way at the endpoint as long as this lives.
    pub(crate) _ticket: Ticket,
    /// When the request must be over.
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    /// The same of the bounds of the service.
    pub(crate) _place: Option<Place>,
}

impl AnswerBody {
    /// An answer of our own.
    pub(crate) fn own(body: Bytes, record: RequestRecord) -> Self {
        record.counters().add_to_source(body.len() as u64);
        // The record is written now: nothing more comes.
        drop(record);
        Self { inner: if body.is_empty() { Inner::Empty } else { Inner::Whole(body) }, tail: None, heads: None }
    }

    /// No body, and somebody else writes the record.
    pub(crate) fn nothing() -> Self {
        Self { inner: Inner::Last, tail: None, heads: None }
    }

    /// The answer of an endpoint.
    pub(crate) fn passing(body: Incoming, tail: Tail) -> Self {
        let mut made = Self { inner: Inner::Passing(body), tail: Some(Box::new(tail)), heads: None };
        if made.is_end_stream() {
            made.finish();
        }
        made
    }

    /// Tells when the next request may come.
    pub(crate) fn tell(&mut self, heads: Option<Arc<Heads>>) {
        if !matches!(self.inner, Inner::Last) {
            self.heads = heads;
        }
    }

    /// The end came in order.
    fn finish(&mut self) {
        if let Some(lease) = self.tail.take().and_then(|mut tail| tail.lease.take()) {
            lease.done();
        }
    }

    fn broke(&mut self, flag: Flag, details: &'static str) {
        if let Some(mut tail) = self.tail.take() {
            tail.record.broke(flag, details);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let body = match &mut this.inner {
            Inner::Empty | Inner::Last => return Poll::Ready(None),
            Inner::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.inner = Inner::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Inner::Passing(body) => body,
        };
        if let Some(deadline) = this.tail.as_mut().and_then(|tail| tail.deadline.as_mut())
            && deadline.as_mut().poll(cx).is_ready()
        {
            this.broke(Flag::TimedOut, "response_timeout");
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(tail) = &mut this.tail {
                    tail.note(&frame);
                }
                // The library does not ask again when the length said that this was the last.
                if body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.broke(Flag::UpstreamReset, "upstream_reset_after_response_started");
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty | Inner::Last => true,
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Passing(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty | Inner::Last => SizeHint::with_exact(0),
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Passing(body) => body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.broke(Flag::ClientGone, "downstream_remote_disconnect");
        if let Some(heads) = &self.heads {
            heads.answered();
        }
    }
}

impl Tail {
    fn note(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.counters.add_to_source(data.len() as u64);
        }
        if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
            self.record.grpc_status(status);
        }
    }
}

/// `grpc-status` of headers or trailers (gRPC over HTTP/2, "Responses").
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
