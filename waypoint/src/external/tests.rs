//! Checks and processors against scripted services, over real HTTP.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use proto::{ext_authz, ext_proc};
use routing::model::{ExternalAuth, ExternalProcessing};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Asked, AskedHttp, Call, CallBody, Came, Changes, Conversation, Decision, Passed, Processed, Refusal, Shown,
    Transport, authorize,
};

/// One connection for each call; and how all of them came out.
struct Dial(SocketAddr, RefCell<Vec<(Call, Came)>>);

impl Transport for Dial {
    type Body = Incoming;

    async fn send(&self, mut request: Request<CallBody>) -> Result<Response<Incoming>, String> {
        let io = TokioIo::new(TcpStream::connect(self.0).await.map_err(|e| e.to_string())?);
        let path = request.uri().path_and_query().unwrap().clone();
        if request.version() == Version::HTTP_2 {
            *request.uri_mut() = format!("http://service{path}").parse().unwrap();
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            return sender.send_request(request).await.map_err(|e| e.to_string());
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|e| e.to_string())
    }

    fn told(&self, call: Call, came: Came) {
        self.1.borrow_mut().push((call, came));
    }
}

/// Serves every connection with one function.
async fn serve<F, R, B>(answer: F) -> Dial
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answered = answer(request);
                    async move { Ok::<_, std::convert::Infallible>(answered.await) }
                });
                // Ends when the client has what it wants.
                drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    Dial(at, RefCell::default())
}

/// A gRPC service of tonic's.
async fn tonic<S>(service: S) -> Dial
where
    S: tonic::codegen::Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    serve(move |request: Request<Incoming>| {
        let mut service = service.clone();
        async move { service.call(request.map(tonic::body::Body::new)).await.unwrap() }
    })
    .await
}

type Scripted<Q, A> = Arc<dyn Fn(Q) -> Result<A, tonic::Status> + Send + Sync>;

struct Checker(Scripted<ext_authz::CheckRequest, ext_authz::CheckResponse>);

#[tonic::async_trait]
impl ext_authz::authorization_server::Authorization for Checker {
    async fn check(
        &self,
        request: tonic::Request<ext_authz::CheckRequest>,
    ) -> Result<tonic::Response<ext_authz::CheckResponse>, tonic::Status> {
        (self.0)(request.into_inner()).map(tonic::Response::new)
    }
}

async fn checker(
    script: impl Fn(ext_authz::CheckRequest) -> Result<ext_authz::CheckResponse, tonic::Status> + Send + Sync + 'static,
) -> Dial {
    tonic(ext_authz::authorization_server::AuthorizationServer::new(Checker(Arc::new(script)))).await
}

fn parts() -> Parts {
    let request = Request::post("/pay?x=1")
        .header("host", "cart.shop")
        .header("x-role", "a")
        .header("x-role", "b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("authorization", "Bearer t")
        .header("content-length", "4")
        .header("x-request-id", "id-1");
    request.body(()).unwrap().into_parts().0
}

fn asked<'a>(parts: Option<&'a Parts>, body: Option<&'a Bytes>) -> Asked<'a> {
    Asked {
        source: ([10, 1, 0, 1], 4000).into(),
        principal: "spiffe://cluster.local/ns/shop/sa/web",
        destination: ([10, 96, 0, 1], 80).into(),
        service: "shop/cart.shop.svc.cluster.local",
        server_name: None,
        time: UNIX_EPOCH + Duration::from_secs(5),
        http: parts.map(|parts| AskedHttp { parts, host: "cart.shop", body }),
    }
}

fn settings() -> ExternalAuth {
    ExternalAuth { timeout: Some(Duration::from_secs(5)), ..ExternalAuth::default() }
}

fn status(code: i32) -> Option<ext_authz::Status> {
    Some(ext_authz::Status { code, message: "because".into() })
}

fn header(key: &str, value: &str, append: Option<bool>, action: i32) -> ext_authz::HeaderValueOption {
    let value = ext_authz::HeaderValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
    ext_authz::HeaderValueOption { header: Some(value), append, append_action: action }
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes()))).collect();
    lines.sort();
    lines
}

fn passed(decision: Decision) -> Passed {
    match decision {
        Decision::Pass(passed) => passed,
        Decision::Refuse(refusal) => panic!("refused: {refusal:?}"),
    }
}

fn refused(decision: Decision) -> Refusal {
    match decision {
        Decision::Refuse(refusal) => refusal,
        Decision::Pass(passed) => panic!("passed: {passed:?}"),
    }
}

#[tokio::test]
async fn a_check_is_shown_the_request_and_changes_it() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = checker(move |request| {
        log.lock().unwrap().push(request);
        let ok = ext_authz::OkHttpResponse {
            headers: vec![
                header("X-User", "me", None, 0),
                header("x-role", "c", Some(true), 0),
                header("x-request-id", "other", None, 1),
                header("x-absent", "no", None, 3),
                header("host", "evil", None, 2),
                header("x-forwarded-client-cert", "URI=spiffe://forged", None, 2),
                header(":path", "/admin", None, 2),
                header("content-length", "0", None, 2),
                header("bad", "a\nb", None, 2),
            ],
            headers_to_remove: vec!["authorization".into(), "Host".into(), ":method".into()],
            response_headers_to_add: vec![header("x-checked", "yes", None, 0)],
        };
        let http_response = Some(ext_authz::check_response::HttpResponse::OkResponse(ok));
        Ok(ext_authz::CheckResponse { status: status(0), http_response })
    })
    .await;
    let (mut parts, body) = (parts(), Bytes::from_static(b"text"));
    let done = passed(authorize(&service, &settings(), false, &asked(Some(&parts), Some(&body))).await);
    done.request.apply(&mut parts.headers);
    assert_eq!(
        lines(&parts.headers),
        [
            "content-length: 4",
            "cookie: a=1",
            "cookie: b=2",
            "host: cart.shop",
            "x-request-id: id-1",
            "x-role: a",
            "x-role: b",
            "x-role: c",
            "x-user: me"
        ]
    );
    let mut answer = HeaderMap::new();
    done.response.apply(&mut answer);
    assert_eq!(lines(&answer), ["x-checked: yes"]);
    let attributes = seen.lock().unwrap().pop().unwrap().attributes.unwrap();
    let source = attributes.source.unwrap();
    let socket = source.address.unwrap().socket_address.unwrap();
    assert_eq!((socket.address.as_str(), socket.port_value), ("10.1.0.1", 4000));
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");
    let request = attributes.request.unwrap();
    assert_eq!(request.time.unwrap().seconds, 5);
    let http = request.http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("POST", "/pay?x=1", "cart.shop"));
    assert_eq!((http.size, http.protocol.as_str(), http.id.as_str()), (4, "HTTP/1.1", "id-1"));
    assert_eq!((http.body.as_str(), http.raw_body.len()), ("text", 0));
    assert_eq!((http.headers["x-role"].as_str(), http.headers["cookie"].as_str()), ("a,b", "a=1; b=2"));
    assert_eq!((http.headers[":path"].as_str(), http.headers["authorization"].as_str()), ("/pay?x=1", "Bearer t"));
}

#[tokio::test]
async fn only_listed_headers_are_shown_and_bytes_stay_bytes() {
    let service = checker(|request| {
        let http = request.attributes.unwrap().request.unwrap().http.unwrap();
        assert_eq!(http.headers.keys().collect::<Vec<_>>(), [":authority", ":method", ":path", ":scheme", "x-role"]);
        assert_eq!((http.body.len(), http.raw_body.as_slice()), (0, &[0xff, 0][..]));
        Ok(ext_authz::CheckResponse { status: status(0), http_response: None })
    })
    .await;
    let settings = ExternalAuth { allowed_headers: vec!["X-Role".into()], ..settings() };
    let (parts, body) = (parts(), Bytes::from_static(&[0xff, 0]));
    passed(authorize(&service, &settings, true, &asked(Some(&parts), Some(&body))).await);
}

#[tokio::test]
async fn a_refusal_is_given_in_the_words_of_the_service() {
    let denied = |code: Option<i32>| ext_authz::DeniedHttpResponse {
        status: code.map(|code| ext_authz::HttpStatus { code }),
        headers: vec![header("location", "/login", None, 0), header("content-length", "9", None, 0)],
        body: "go away".into(),
    };
    let answer = move |http: Option<i32>| Some(ext_authz::check_response::HttpResponse::DeniedResponse(denied(http)));
    for (grpc, http_response, code, body) in [
        (Some(7), answer(Some(302)), 302, "go away"),
        (Some(16), answer(Some(401)), 401, "go away"),
        (Some(7), answer(None), 403, "go away"),
        (Some(7), answer(Some(101)), 403, "go away"),
        (Some(7), answer(Some(99_999)), 403, "go away"),
        // Contradictions refuse.
        (Some(0), answer(Some(200)), 200, "go away"),
        (
            Some(7),
            Some(ext_authz::check_response::HttpResponse::OkResponse(ext_authz::OkHttpResponse::default())),
            403,
            "",
        ),
        (Some(7), None, 403, ""),
        (None, None, 403, ""),
    ] {
        let response = ext_authz::CheckResponse { status: grpc.and_then(status), http_response };
        let service = checker(move |_| Ok(response.clone())).await;
        let parts = parts();
        let refusal = refused(authorize(&service, &settings(), false, &asked(Some(&parts), None)).await);
        assert_eq!((refusal.status.as_u16(), refusal.body.as_ref()), (code, body.as_bytes()));
        assert_eq!(lines(&refusal.headers).len(), usize::from(!body.is_empty()), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_tcp_connection_can_be_asked_about_by_grpc_only() {
    let service = checker(|request| {
        let attributes = request.attributes.unwrap();
        assert!(attributes.request.unwrap().http.is_none());
        assert_eq!(attributes.tls_session.unwrap().sni, "a.example");
        Ok(ext_authz::CheckResponse { status: status(0), http_response: None })
    })
    .await;
    let tcp = Asked { server_name: Some("a.example"), ..asked(None, None) };
    passed(authorize(&service, &settings(), false, &tcp).await);
    let http = ExternalAuth { http: true, ..settings() };
    let refusal = refused(authorize(&service, &http, false, &tcp).await);
    assert!(refusal.reason.contains("cannot be asked about a TCP connection"), "{}", refusal.reason);
}

/// Services that do not answer as they should, and what is said of them.
async fn broken_services() -> Vec<(Dial, bool, &'static str)> {
    let grpc = |status: u16, kind: &'static str, body: Vec<u8>| {
        serve(move |_| {
            let response = Response::builder().status(status).header("content-type", kind);
            let response = response.body(Full::new(Bytes::from(body.clone()))).unwrap();
            async move { response }
        })
    };
    let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nobody = Dial(free.local_addr().unwrap(), RefCell::default());
    drop(free);
    let silent = serve(|_| std::future::pending::<Response<Full<Bytes>>>());
    let unavailable = checker(|_| Err(tonic::Status::unavailable("down")));
    let huge = [&[0u8][..], &u32::MAX.to_be_bytes()].concat();
    vec![
        (nobody, false, "refused"),
        (silent.await, false, "did not answer within 300ms"),
        (unavailable.await, false, "gRPC status 14 down"),
        (grpc(200, "text/html", vec![]).await, false, "does not answer in gRPC"),
        (grpc(503, "application/grpc", vec![]).await, false, "answered 503"),
        (grpc(200, "application/grpc", vec![]).await, false, "ended without a status"),
        (grpc(200, "application/grpc", vec![0, 0, 0, 0, 9, 1]).await, false, "ended without a status"),
        (grpc(200, "application/grpc", vec![1, 0, 0, 0, 0]).await, false, "compressed"),
        (grpc(200, "application/grpc", huge).await, false, "longer than"),
        (grpc(200, "application/grpc", vec![0, 0, 0, 0, 1, 0xff]).await, false, "cannot be read"),
        (grpc(500, "text/html", vec![]).await, true, "answered 500"),
        (grpc(200, "text/html", vec![b'x'; super::MAX_ANSWER + 1]).await, true, "longer than"),
    ]
}

#[tokio::test]
async fn without_a_clear_yes_it_is_refused_unless_the_user_says_otherwise() {
    let parts = parts();
    for (service, http, said) in broken_services().await {
        let strict = ExternalAuth {
            http,
            timeout: Some(Duration::from_millis(300)),
            status_on_error: Some(503),
            ..ExternalAuth::default()
        };
        let refusal = refused(authorize(&service, &strict, false, &asked(Some(&parts), None)).await);
        assert_eq!((refusal.status.as_u16(), refusal.body.len()), (503, 0));
        assert!(refusal.reason.contains(said), "{} is not {said}", refusal.reason);
        let usual = ExternalAuth { status_on_error: None, ..strict.clone() };
        assert_eq!(refused(authorize(&service, &usual, false, &asked(Some(&parts), None)).await).status, 403);
        let open = ExternalAuth { fail_open: true, ..strict };
        assert_eq!(passed(authorize(&service, &open, false, &asked(Some(&parts), None)).await), Passed::default());
        assert_eq!(service.1.take(), [Came::Failed, Came::Failed, Came::Skipped].map(|came| (Call::Check, came)));
    }
}

/// Answers with what it saw, in headers.
async fn plain(status: u16) -> Dial {
    serve(move |request: Request<Incoming>| async move {
        let (parts, body) = request.into_parts();
        let names: Vec<&str> = parts.headers.keys().map(http::HeaderName::as_str).collect();
        let mut names = names.join(",");
        names = names
            .split(',')
            .fold(Vec::new(), |mut v: Vec<&str>, n| {
                v.push(n);
                v.sort_unstable();
                v
            })
            .join(",");
        let seen = format!("{} {} {}", parts.method, parts.uri, parts.headers["host"].to_str().unwrap());
        let body = body.collect().await.unwrap().to_bytes();
        Response::builder()
            .status(status)
            .header("x-seen", seen)
            .header("x-names", names)
            .header("x-twice", "1")
            .header("x-twice", "2")
            .header("x-envoy-auth-headers-to-remove", "authorization, x-role")
            .header("connection", "close")
            .header("server", "scripted")
            .body(Full::new(body))
            .unwrap()
    })
    .await
}

#[tokio::test]
async fn a_check_by_http_sees_little_and_copies_what_is_listed() {
    let settings = ExternalAuth { http: true, path_prefix: "/check/".into(), ..settings() };
    let service = plain(200).await;
    let mut parts = parts();
    let done = passed(authorize(&service, &settings, true, &asked(Some(&parts), None)).await);
    let mut made = HeaderMap::new();
    done.request.apply(&mut made);
    assert_eq!(
        lines(&made),
        [
            "x-names: authorization,content-length,host",
            "x-seen: POST /check/pay?x=1 cart.shop",
            "x-twice: 1",
            "x-twice: 2"
        ]
    );
    done.request.apply(&mut parts.headers);
    assert!(!parts.headers.contains_key("authorization") && !parts.headers.contains_key("x-role"));
    // A policy copies only what it lists.
    let listed = ExternalAuth {
        allowed_headers: vec!["x-role".into(), "connection".into()],
        allowed_response_headers: vec!["X-Names".into(), "server".into()],
        ..settings.clone()
    };
    let again = self::parts();
    let body = Bytes::from_static(b"body");
    let done = passed(authorize(&service, &listed, false, &asked(Some(&again), Some(&body))).await);
    let mut made = HeaderMap::new();
    done.request.apply(&mut made);
    assert_eq!(lines(&made), ["x-names: authorization,content-length,host,x-role"]);
    let none = passed(authorize(&service, &settings, false, &asked(Some(&again), None)).await);
    let mut made = HeaderMap::new();
    none.request.apply(&mut made);
    assert_eq!(lines(&made), Vec::<String>::new());
    for status in [201, 204, 301, 401, 403, 404, 429] {
        let service = plain(status).await;
        let refusal = refused(authorize(&service, &settings, true, &asked(Some(&again), Some(&body))).await);
        assert_eq!(refusal.status.as_u16(), status);
        assert!(refusal.headers.contains_key("x-seen"), "{refusal:?}");
        assert!(!refusal.headers.contains_key("connection") && !refusal.headers.contains_key("server"));
        assert_eq!(refusal.body, if status == 204 { "" } else { "body" });
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ext_proc::ProcessingResponse, tonic::Status>> + Send>>;
type Script = Scripted<ext_proc::ProcessingRequest, Option<ext_proc::ProcessingResponse>>;

struct Processor(Script);

#[tonic::async_trait]
impl ext_proc::external_processor_server::ExternalProcessor for Processor {
    type ProcessStream = Answers;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ext_proc::ProcessingRequest>>,
    ) -> Result<tonic::Response<Answers>, tonic::Status> {
        let script = self.0.clone();
        let answers = request.into_inner().map(move |question| question.and_then(|q| script(q)).transpose());
        // `None` ends the stream well.
        let answers = answers.take_while(|a| std::future::ready(a.is_some())).filter_map(std::future::ready);
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

async fn processor(
    script: impl Fn(ext_proc::ProcessingRequest) -> Result<Option<ext_proc::ProcessingResponse>, tonic::Status>
    + Send
    + Sync
    + 'static,
) -> Dial {
    tonic(ext_proc::external_processor_server::ExternalProcessorServer::new(Processor(Arc::new(script)))).await
}

fn processing() -> ExternalProcessing {
    ExternalProcessing {
        timeout: Some(Duration::from_millis(500)),
        request_headers: true,
        response_headers: true,
        ..ExternalProcessing::default()
    }
}

fn set(key: &str, value: &str) -> ext_proc::HeaderValueOption {
    let value = ext_proc::HeaderValue { key: key.into(), value: String::new(), raw_value: value.into() };
    ext_proc::HeaderValueOption { header: Some(value), append: None, append_action: 0 }
}

fn common(set_headers: Vec<ext_proc::HeaderValueOption>, remove: &[&str], status: i32) -> ext_proc::HeadersResponse {
    let remove_headers = remove.iter().map(ToString::to_string).collect();
    let mutation = ext_proc::HeaderMutation { set_headers, remove_headers };
    let response = ext_proc::CommonResponse { status, header_mutation: Some(mutation) };
    ext_proc::HeadersResponse { response: Some(response) }
}

fn says(answer: ext_proc::processing_response::Response) -> Option<ext_proc::ProcessingResponse> {
    Some(ext_proc::ProcessingResponse { response: Some(answer) })
}

fn answer_parts() -> http::response::Parts {
    Response::builder().status(201).header("x-secret", "1").body(()).unwrap().into_parts().0
}

fn goes_on(processed: Processed) -> Changes {
    match processed {
        Processed::GoOn(changes) => changes,
        Processed::Answer(refusal) => panic!("answered: {refusal:?}"),
    }
}

fn request_of(parts: &Parts) -> Shown<'_> {
    Shown::Request { http: AskedHttp { parts, host: "cart.shop", body: None }, no_body: true }
}

#[tokio::test]
async fn a_processor_sees_both_halves_on_one_stream_and_changes_them() {
    use ext_proc::processing_request::Request as Q;
    use ext_proc::processing_response::Response as A;
    let count = Arc::new(Mutex::new(0));
    let streams = count.clone();
    let service = processor(move |question| {
        let first = |h: &ext_proc::HttpHeaders| {
            let all = &h.headers.as_ref().unwrap().headers;
            all.iter().map(|h| format!("{}={}", h.key, String::from_utf8_lossy(&h.raw_value))).collect::<Vec<_>>()
        };
        Ok(match question.request.unwrap() {
            Q::RequestHeaders(h) => {
                *streams.lock().unwrap() += 1;
                assert!(h.end_of_stream);
                let seen = first(&h);
                assert_eq!(seen[..4], [":authority=cart.shop", ":method=POST", ":path=/pay?x=1", ":scheme=http"]);
                says(A::RequestHeaders(common(vec![set("x-new", "1"), set("host", "evil")], &["cookie", "host"], 0)))
            }
            Q::ResponseHeaders(h) => {
                assert!(!h.end_of_stream);
                assert_eq!(first(&h), [":status=201", "x-secret=1"]);
                says(A::ResponseHeaders(common(vec![set("x-out", "2")], &["x-secret"], 0)))
            }
        })
    })
    .await;
    let mut parts = parts();
    let mut conversation = Conversation::new(processing());
    goes_on(conversation.show(&service, request_of(&parts)).await).apply(&mut parts.headers);
    assert_eq!((parts.headers["x-new"].as_bytes(), parts.headers["host"].as_bytes()), (&b"1"[..], &b"cart.shop"[..]));
    assert!(!parts.headers.contains_key("cookie"));
    assert!(conversation.wants_response());
    let mut head = answer_parts();
    let shown = Shown::Response { head: &head, no_body: false };
    goes_on(conversation.show(&service, shown).await).apply(&mut head.headers);
    assert_eq!(lines(&head.headers), ["x-out: 2"]);
    assert_eq!(*count.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_processor_may_answer_itself_or_leave() {
    use ext_proc::processing_response::Response as A;
    let service = processor(|_| {
        Ok(says(A::ImmediateResponse(ext_proc::ImmediateResponse {
            status: Some(ext_proc::HttpStatus { code: 429 }),
            headers: common(vec![set("retry-after", "9")], &[], 0).response.unwrap().header_mutation,
            body: b"slow down".to_vec(),
            grpc_status: Some(ext_proc::GrpcStatus { status: 8 }),
            details: "quota".into(),
        })))
    })
    .await;
    let parts = parts();
    let mut conversation = Conversation::new(processing());
    let Processed::Answer(answer) = conversation.show(&service, request_of(&parts)).await else { panic!("no answer") };
    assert_eq!((answer.status.as_u16(), answer.body.as_ref(), answer.grpc), (429, &b"slow down"[..], Some(8)));
    assert_eq!(lines(&answer.headers), ["retry-after: 9"]);
    assert!(!conversation.wants_response());
    // One that ends the stream well is not asked again.
    let service = processor(|_| Ok(None)).await;
    let mut conversation = Conversation::new(processing());
    assert!(goes_on(conversation.show(&service, request_of(&parts)).await).is_empty());
    assert!(!conversation.wants_response());
    // What it does not want to see is not shown.
    let blind = ExternalProcessing { request_headers: false, ..processing() };
    let mut conversation = Conversation::new(blind);
    let nowhere = Dial(([127, 0, 0, 1], 1).into(), RefCell::default());
    assert!(goes_on(conversation.show(&nowhere, request_of(&parts)).await).is_empty());
}

#[tokio::test]
async fn a_processor_that_fails_ends_the_request_unless_the_user_says_otherwise() {
    use ext_proc::processing_response::Response as A;
    let parts = parts();
    let wrong_half = processor(|_| Ok(says(A::ResponseHeaders(common(vec![], &[], 0))))).await;
    let replaces = processor(|_| Ok(says(A::RequestHeaders(common(vec![], &[], 1))))).await;
    let fails = processor(|_| Err(tonic::Status::internal("broken"))).await;
    let silent = processor(|_| Ok(Some(ext_proc::ProcessingResponse { response: None }))).await;
    for (service, said) in [
        (wrong_half, "not asked"),
        (replaces, "replace the body"),
        (fails, "gRPC status 13 broken"),
        (silent, "did not answer within 500ms"),
    ] {
        let Processed::Answer(refusal) = Conversation::new(processing()).show(&service, request_of(&parts)).await
        else {
            panic!("{said}: it went on");
        };
        assert_eq!(refusal.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(refusal.reason.contains(said), "{} is not {said}", refusal.reason);
        let open = ExternalProcessing { fail_open: true, ..processing() };
        let mut conversation = Conversation::new(open);
        assert!(goes_on(conversation.show(&service, request_of(&parts)).await).is_empty());
        assert!(!conversation.wants_response());
        assert_eq!(service.1.take(), [Came::Failed, Came::Skipped].map(|came| (Call::Process, came)));
    }
}
