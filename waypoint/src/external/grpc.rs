//! gRPC as far as one call needs it (grpc/doc/PROTOCOL-HTTP2.md): messages with a prefix of five bytes, status in trailers.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;

use super::{CallBody, MAX_ANSWER, Transport};

/// Flag and length.
const PREFIX: usize = 5;

/// The head of a call.
pub(super) fn head(path: &'static str, timeout: Duration, body: CallBody) -> Request<CallBody> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(path);
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static("culvert-waypoint"));
    // At most eight digits: whole milliseconds of a day fit.
    let milliseconds = timeout.as_millis().clamp(1, 86_400_000);
    if let Ok(value) = HeaderValue::from_str(&format!("{milliseconds}m")) {
        headers.insert("grpc-timeout", value);
    }
    request
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + len);
    out.put_u8(0);
    // What we send is bounded by the limits of heads and shown bodies, far below 4 GiB.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    out.extend_from_slice(&message.encode_to_vec());
    out.freeze()
}

/// One question, one answer.
pub(super) async fn unary<T: Transport, A: Message + Default>(
    transport: &T,
    path: &'static str,
    question: &impl Message,
    timeout: Duration,
) -> Result<A, String> {
    let response = transport.send(head(path, timeout, CallBody::Once(frame(question)))).await?;
    let mut messages = Messages::new(response)?;
    let message = messages.next().await?.ok_or("it ended its answer without a message")?;
    if messages.next::<A>().await?.is_some() {
        return Err("it sent two messages for an answer".to_owned());
    }
    Ok(message)
}

/// The messages of an answer.
#[derive(Debug)]
pub(super) struct Messages<B> {
    body: B,
    buffer: BytesMut,
    /// From the head, when there was nothing else.
    trailers: Option<HeaderMap>,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    /// Looks at the head.
    pub(super) fn new(response: Response<B>) -> Result<Self, String> {
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Err(format!("it answered {} to a gRPC call", parts.status));
        }
        let kind = parts.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !kind.starts_with(b"application/grpc") {
            return Err("it does not answer in gRPC".to_owned());
        }
        let trailers = parts.headers.contains_key("grpc-status").then_some(parts.headers);
        Ok(Self { body, buffer: BytesMut::new(), trailers })
    }

    /// The next message; `None` when the call ended well.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, String> {
        loop {
            if let Some(message) = self.take()? {
                return A::decode(message).map(Some).map_err(|e| format!("its message cannot be read: {e}"));
            }
            if self.trailers.is_some() {
                return self.end();
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(_)) => return Err("its answer broke off".to_owned()),
                None => return Err("its answer ended without a status".to_owned()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, String> {
        let Some((prefix, _)) = self.buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err("its message is compressed, which nobody asked for".to_owned());
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ANSWER {
            return Err(format!("its message of {length} bytes is longer than {MAX_ANSWER}"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    fn end<A>(&self) -> Result<Option<A>, String> {
        let text = |name: &str| {
            let value = self.trailers.as_ref().and_then(|t| t.get(name));
            value.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        };
        match text("grpc-status").as_deref() {
            Some("0") if self.buffer.is_empty() => Ok(None),
            Some("0") => Err("its last message is cut short".to_owned()),
            Some(status) => {
                let message: String = text("grpc-message").unwrap_or_default().chars().take(200).collect();
                Err(format!("it answered gRPC status {status} {message}").trim_end().to_owned())
            }
            None => Err("its answer ended without a status".to_owned()),
        }
    }
}
