//! One CONNECT that came in and waits for its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Response, StatusCode};

use crate::authority::{Authority, BadRequest};
use crate::headers::{self, Headers, ResponseHeaders};
use crate::link::Seat;
use crate::stream::{Broken, TunnelStream};

/// A CONNECT without an answer. Dropped, it is answered with 503.
#[derive(Debug)]
pub struct Request {
    /// Where it wants to go, or why it cannot be served ([`BadRequest::status`] is the answer to give).
    pub authority: Result<Authority, BadRequest>,
    /// What else it says.
    pub headers: Headers,
    parts: Option<Parts>,
    handed_over: bool,
}

#[derive(Debug)]
struct Parts {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    seat: Arc<Seat>,
}

impl Request {
    pub(super) fn read(
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
        fields: usize,
        seat: Arc<Seat>,
    ) -> Self {
        let authority = headers::authority(&request, fields);
        // Of a request that will be refused anyway nothing more is read.
        let headers = if authority.is_ok() { Headers::read(request.headers()) } else { Headers::default() };
        let parts = Some(Parts { respond, body: request.into_body(), seat });
        Self { authority, headers, parts, handed_over: false }
    }

    pub(super) fn handed_over(mut self) -> Self {
        self.handed_over = true;
        self
    }

    /// Answers 200: the application's connection is up.
    ///
    /// # Errors
    /// When the peer has gone meanwhile, or the request was a [`BadRequest`], which is refused with its status.
    pub fn accept(mut self, headers: &ResponseHeaders) -> Result<TunnelStream, Broken> {
        if let Err(bad) = self.authority {
            self.refuse(bad.status());
            return Err(Broken::Reset);
        }
        let Some(Parts { mut respond, body, seat }) = self.parts.take() else { return Err(Broken::Lost) };
        if let Some(broken) = given_up(&mut respond, &seat) {
            return Err(broken);
        }
        let mut response = Response::new(());
        headers.write(response.headers_mut());
        match respond.send_response(response, false) {
            Ok(send) => Ok(TunnelStream::new(body, send, seat)),
            Err(_) => Err(given_up(&mut respond, &seat).unwrap_or(Broken::Lost)),
        }
    }

    /// Answers with another status and ends the stream with it (hbone.md 5). What is no status is sent as 503.
    pub fn refuse(mut self, status: u16) {
        self.answer(status);
    }

    /// Completes when the peer has given up waiting, by a reset of the stream or the end of the connection.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.poll_cancelled(cx)).await;
    }

    /// [`Request::cancelled`], to be polled.
    pub fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.parts {
            Some(parts) => parts.respond.poll_reset(cx).map(|_| ()),
            None => Poll::Ready(()),
        }
    }

    fn answer(&mut self, status: u16) {
        let Some(Parts { mut respond, seat, .. }) = self.parts.take() else { return };
        if given_up(&mut respond, &seat).is_some() {
            return;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status)
            .ok()
            .filter(|s| s.is_client_error() || s.is_server_error())
            .unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if let Err(error) = respond.send_response(response, true) {
            tracing::debug!(%error, status, "refusal not sent");
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.handed_over {
            self.answer(StatusCode::SERVICE_UNAVAILABLE.as_u16());
        } else if let Some(Parts { mut respond, seat, .. }) = self.parts.take()
            && given_up(&mut respond, &seat).is_none()
        {
            // Nobody has looked at it, so the client may try elsewhere (RFC 9113 8.7).
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    }
}

/// Whether the peer no longer waits; if so, that is counted against it.
fn given_up(respond: &mut SendResponse<Bytes>, seat: &Seat) -> Option<Broken> {
    match respond.poll_reset(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => None,
        Poll::Ready(_) if seat.link().is_dead() => Some(Broken::Lost),
        Poll::Ready(_) => {
            seat.link().reset_unanswered();
            Some(Broken::Reset)
        }
    }
}
