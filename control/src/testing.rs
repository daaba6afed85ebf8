//! An API server for tests: a function from method, path and body to code and answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

type Answer = dyn Fn(&str, &str, Value) -> (u16, Value) + Send + Sync;

#[derive(Clone)]
struct Server(Arc<Answer>);

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.clone();
        Box::pin(async move {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
            let (code, answer) = answer(&method, &path, body);
            let body = Body::from(answer.to_string().into_bytes());
            Ok(Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap())
        })
    }
}

/// A client of an API server that answers by a function.
pub(crate) fn client(answer: impl Fn(&str, &str, Value) -> (u16, Value) + Send + Sync + 'static) -> Client {
    Client::new(Server(Arc::new(answer)), "default")
}

/// A failure as the API server tells it.
pub(crate) fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                        "message": "as the test wants it"});
    (code, status)
}
