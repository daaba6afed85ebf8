//! The way to a service of the user's: one of its endpoints, as for any backend.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use routing::Target;
use routing::model::{self, Protocol};

use super::{Call, CallBody, Came, Transport};
use crate::body::RequestBody;
use crate::bound::{Bound, Traffic};
use crate::connection::Connection;
use crate::dispatch::{Pick, once};
use crate::endpoints::{Chosen, Wish};
use crate::tcp::on;
use crate::upstream::Lease;

/// A second endpoint is tried when the first one cannot be reached: what is asked does not change anything there.
const TRIES: usize = 2;

/// A service of the user's, seen from a connection.
pub(crate) struct Backend<'a> {
    connection: &'a Rc<Connection>,
    bound: Option<&'a Bound>,
    service: &'a str,
    port: u16,
    protocol: Protocol,
    invalid: Option<&'a str>,
}

/// The body of an answer, and the connection that it comes on.
pub(crate) struct Held {
    body: Incoming,
    lease: Option<Lease>,
}

impl<'a> Backend<'a> {
    /// The backend of a filter.
    pub(crate) fn of_filter(connection: &'a Rc<Connection>, bound: Option<&'a Bound>, target: &'a Target) -> Self {
        let Target { service, port, protocol, invalid, .. } = target;
        Self { connection, bound, service, port: *port, protocol: *protocol, invalid: invalid.as_deref() }
    }

    /// The backend of a policy.
    pub(crate) fn of_policy(
        connection: &'a Rc<Connection>,
        bound: Option<&'a Bound>,
        backend: &'a model::Backend,
    ) -> Self {
        let model::Backend { service, port, protocol, invalid, .. } = backend;
        let invalid = invalid.as_ref().map(|i| &*i.reason);
        Self { connection, bound, service, port: *port, protocol: *protocol, invalid }
    }
}

impl Transport for Backend<'_> {
    type Body = Held;

    async fn send(&self, request: Request<CallBody>) -> Result<Response<Held>, String> {
        if let Some(reason) = self.invalid {
            return Err(reason.to_owned());
        }
        let worker = &self.connection.worker;
        let set = on(worker, |view, all| all.of(view, self.service, self.port));
        let set = set.ok_or_else(|| format!("discovery does not know service {}", self.service))?;
        let traffic = self.bound.map_or(Traffic::usual(), |bound| bound.traffic(self.service));
        let grpc = request.version() == http::Version::HTTP_2;
        let http2 = grpc || traffic.http2 || matches!(self.protocol, Protocol::Grpc | Protocol::Http2);
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let mut tried = Chosen::default();
        let mut last = String::new();
        for _ in 0..TRIES {
            let wish = Wish { balance: traffic.balance, ..Wish::default() };
            let Some(endpoint) = set.pick(wish, &tried) else {
                return Err(format!("service {} has no usable endpoint for port {}", self.service, self.port));
            };
            tried.add(&endpoint);
            // What is fed message by message can be sent once.
            let now = match &body {
                Some(CallBody::Once(bytes)) => CallBody::Once(bytes.clone()),
                _ => match body.take() {
                    Some(fed) => fed,
                    None => break,
                },
            };
            let pick = Pick::new(endpoint, set.service.hostname.clone(), self.port, http2);
            match once(self.connection, &pick, traffic, parts.clone(), RequestBody::Call(now)).await {
                Ok((response, lease)) => {
                    return Ok(response.map(|body| Held { body, lease: Some(lease) }));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn told(&self, call: Call, came: Came) {
        self.connection.worker.shared.calls.with(&[call.label(), self.service, came.label()]).add(1);
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let ended = frame.is_none() || this.body.is_end_stream();
        if let (true, Some(lease)) = (ended, this.lease.take_if(|_| ended)) {
            // Read to its end: the connection is kept for the next check.
            lease.done();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
