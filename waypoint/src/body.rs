//! Bodies: they stream through, chunk by chunk as they came, and are never gathered.

mod answer;
mod source;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use telemetry::Counters;

use crate::external::CallBody;

pub(crate) use answer::{AnswerBody, Tail, grpc_status};
pub(crate) use source::{Copied, Replayed, Source};

/// Why a body broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection that it came on.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// The time that the route allows for the whole of the request is over.
    #[error("the request took longer than its route allows")]
    TimedOut,
    /// A mirror that does not keep up, or whose original ended early.
    #[error("the copy was given up")]
    Dropped,
}

/// The body of a request on its way to an endpoint.
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// Passed on as it comes; the usual case.
    Passing(Incoming, Arc<Counters>),
    /// Passed on, and kept as far as it may have to be sent again or elsewhere as well.
    Replayed(Replayed),
    /// The copy of a body that goes to a mirror.
    Copied(Copied),
    /// A question to an external service.
    Call(CallBody),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Passing(body, counters) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if let Some(Ok(frame)) = &frame {
                    count(frame, counters);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Self::Replayed(replayed) => replayed.poll_frame(cx),
            Self::Copied(copied) => copied.poll_frame(cx),
            Self::Call(call) => Pin::new(call).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Passing(body, _) => body.is_end_stream(),
            Self::Replayed(replayed) => replayed.is_end_stream(),
            Self::Copied(_) => false,
            Self::Call(call) => call.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Passing(body, _) => body.size_hint(),
            Self::Replayed(replayed) => replayed.size_hint(),
            Self::Copied(copied) => copied.size_hint(),
            Self::Call(call) => call.size_hint(),
        }
    }
}

/// Counts what goes to the endpoint.
fn count(frame: &Frame<Bytes>, counters: &Counters) {
    if let Some(data) = frame.data_ref() {
        counters.add_to_destination(data.len() as u64);
    }
}
