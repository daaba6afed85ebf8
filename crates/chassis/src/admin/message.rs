//! Requests and replies of the admin servers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc;

/// A request, its body read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// The query.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, at most [`MAX_BODY`](super::MAX_BODY) bytes.
    pub body: Bytes,
}

/// The parameters behind the `?`, percent-decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=x%20y`; a name without `=` has an empty value.
    pub fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(key), decoded(value))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `application/x-www-form-urlencoded`: `+` is a blank, `%xx` a byte; what is not valid stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a handler answers.
#[derive(Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Body,
}

/// The body of a reply.
#[derive(Debug)]
pub enum Body {
    /// All of it; `None` once it is sent.
    Whole(Option<Bytes>),
    /// Pieces as they come, until the sender is dropped.
    Stream(mpsc::Receiver<Bytes>),
}

impl Reply {
    /// A text with status 200.
    pub fn text(text: impl Into<String>) -> Self {
        Self::with(StatusCode::OK, "text/plain; charset=utf-8", text.into())
    }

    /// A value as JSON with status 200.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(bytes) => Self::with(StatusCode::OK, "application/json", bytes),
            Err(error) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, format!("not written as JSON: {error}")),
        }
    }

    /// A text that says what is wrong and what to do.
    pub fn error(status: StatusCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self::with(status, "text/plain; charset=utf-8", text)
    }

    /// Pieces as they come; the connection stays until the sender is dropped or the client leaves (which the sender sees
    /// as a closed channel).
    pub fn stream(content_type: &'static str, pieces: mpsc::Receiver<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: Body::Stream(pieces) }
    }

    /// Any reply.
    pub fn with(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: Body::Whole(Some(body.into())) }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(|b| Ok(Frame::data(b)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}
