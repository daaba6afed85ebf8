//! Tokens, policies and external services, through the whole of a request.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use proto::{ext_authz, ext_proc, routing as wire};
use serde_json::json;
use wire::filter::Kind;
use xds::Change;

use super::harness::*;
use crate::io::TunnelIo;
use crate::local::LocalExecutor;

/// A gRPC service as a workload of a Service of its own.
async fn grpc<S>(lab: &Lab, name: &str, service: S)
where
    S: tonic::codegen::Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + 'static,
{
    lab.raw(name, &format!("{name}-1"), move |stream| {
        let service = service.clone();
        async move {
            let (recv, send) = stream.split();
            let io = TunnelIo::new(recv, send, Bytes::new());
            let answer = service_fn(move |request: Request<Incoming>| {
                let mut service = service.clone();
                async move { service.call(request.map(tonic::body::Body::new)).await }
            });
            // How a connection ends is seen by the other end.
            drop(hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, answer).await);
        }
    })
    .await;
}

/// The Services of a test beside `api`.
async fn lab(others: &[&str]) -> Lab {
    let lab = Lab::new().await;
    let services = others.iter().zip(2..).map(|(name, last)| service(name, [10, 96, 0, last].into(), &[(80, 8080)]));
    lab.apply(Change { services: services.collect(), ..Change::default() });
    lab.workload("api", "api-1", echo("api-1")).await;
    lab
}

fn key(name: &str) -> String {
    format!("shop/{name}")
}

fn policy(name: &str, action: wire::AuthorizationAction, paths: &[&str]) -> wire::Authorization {
    let paths = paths.iter().map(ToString::to_string).collect();
    let to = vec![wire::Operation { paths, ..Default::default() }];
    wire::Authorization {
        namespace: "shop".into(),
        name: name.into(),
        action: action.into(),
        rules: vec![wire::AuthorizationRule { to, ..Default::default() }],
        ..Default::default()
    }
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path).header("host", "api.shop")
}

fn post(path: &str) -> http::request::Builder {
    Request::post(path).header("host", "api.shop")
}

#[test]
fn a_token_is_checked_told_and_taken_out() {
    run(async {
        let lab = lab(&[]).await;
        let pair = Ed25519KeyPair::generate().unwrap();
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let token = |expires: u64| {
            let head = b64(br#"{"alg":"EdDSA"}"#);
            let claims = json!({"iss": "https://i.example", "sub": "me", "exp": expires, "roles": ["staff"]});
            let message = format!("{head}.{}", b64(claims.to_string().as_bytes()));
            format!("{message}.{}", b64(pair.sign(message.as_bytes()).as_ref()))
        };
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())}]});
        let rule = wire::JwtRule {
            issuer: "https://i.example".into(),
            jwks: keys.to_string(),
            output_claim_to_headers: vec![wire::ClaimHeader { header: "x-user".into(), claim: "sub".into() }],
            ..Default::default()
        };
        let jwt = wire::Authentication {
            namespace: "shop".into(),
            name: "jwt".into(),
            rules: vec![rule],
            ..Default::default()
        };
        let staff = wire::Condition {
            key: "request.auth.claims[roles]".into(),
            values: vec!["staff".into()],
            ..Default::default()
        };
        let mut only = policy("staff", wire::AuthorizationAction::Deny, &["/staff/*"]);
        only.rules[0].when = vec![wire::Condition { values: vec![], not_values: staff.values, ..staff }];
        lab.bind(wire::Service { authentications: vec![jwt], authorizations: vec![only], ..plain() });
        let mut caller = lab.http1().await;
        let bearer = |path: &str, token: &str| get(path).header("authorization", format!("Bearer {token}"));
        let answer = caller.send(bearer("/staff/a", &token(now + 60)).header("x-user", "root"), "").await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("x-user: me") && !answer.body.contains("root"), "{}", answer.body);
        assert!(!answer.body.contains("authorization"), "{}", answer.body);
        let query = format!("/open?a=1&access_token={}&b=2", token(now + 60));
        assert!(caller.send(get(&query), "").await.body.starts_with("api-1 GET /open?a=1&b=2 "));
        let forged = caller.send(get("/open").header("x-user", "root"), "").await;
        assert!(forged.status == 200 && !forged.body.contains("x-user"), "{forged:?}");
        assert_eq!(caller.send(get("/staff/a"), "").await.status, 403);
        let expired = caller.send(bearer("/open", &token(now - 100)), "").await;
        assert_eq!((expired.status, expired.body.as_str()), (401, "Jwt is not valid"));
        assert_eq!(expired.headers["www-authenticate"], "Bearer realm=\"api.shop\", error=\"invalid_token\"");
        let grpc = post("/a.B/C").header("content-type", "application/grpc").header("authorization", "Bearer x.y.z");
        assert_eq!(caller.send(grpc, "").await.headers["grpc-status"], "16");
    });
}

#[test]
fn a_web_socket_over_http2_has_one_form_of_path_too() {
    run(async {
        let lab = lab(&[]).await;
        let deny = policy("lock", wire::AuthorizationAction::Deny, &["/admin", "/admin/*"]);
        lab.bind(wire::Service { authorizations: vec![deny], ..plain() });
        let io = io(lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io).await.unwrap();
        tokio::task::spawn_local(connection);
        // The server's settings come with the first answer.
        let first = Request::get("http://api.shop/").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(sender.send_request(first).await.unwrap().status(), 200);
        for (path, status) in [("/admin", 403), ("/open/../admin", 403), ("/%61dmin/x", 403), ("/..%2fadmin", 400)] {
            let request = Request::connect(format!("http://api.shop{path}"))
                .extension(hyper::ext::Protocol::from_static("websocket"))
                .body(Empty::new())
                .unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), status, "{path}");
        }
    });
}

#[derive(Clone)]
struct Checker(Arc<Mutex<Vec<ext_authz::attribute_context::HttpRequest>>>);

#[tonic::async_trait]
impl ext_authz::authorization_server::Authorization for Checker {
    async fn check(
        &self,
        request: tonic::Request<ext_authz::CheckRequest>,
    ) -> Result<tonic::Response<ext_authz::CheckResponse>, tonic::Status> {
        use ext_authz::check_response::HttpResponse as Http;
        let attributes = request.into_inner().attributes.unwrap();
        assert_eq!(attributes.source.unwrap().principal, "spiffe://cluster.local/ns/shop/sa/web");
        let Some(http) = attributes.request.unwrap().http else {
            let status = Some(ext_authz::Status { code: 7, message: "not over TCP".into() });
            return Ok(tonic::Response::new(ext_authz::CheckResponse { status, http_response: None }));
        };
        let header = |key: &str, value: &str| ext_authz::HeaderValueOption {
            header: Some(ext_authz::HeaderValue { key: key.into(), value: value.into(), raw_value: vec![] }),
            ..Default::default()
        };
        let pass = http.headers.get("x-pass").is_some_and(|v| v == "yes");
        self.0.lock().unwrap().push(http);
        let (code, http_response) = if pass {
            let headers = vec![header("x-user", "me"), header("host", "evil")];
            let response_headers_to_add = vec![header("x-checked", "1")];
            (0, Http::OkResponse(ext_authz::OkHttpResponse { headers, response_headers_to_add, ..Default::default() }))
        } else {
            let status = Some(ext_authz::HttpStatus { code: 302 });
            let headers = vec![header("location", "/login")];
            (16, Http::DeniedResponse(ext_authz::DeniedHttpResponse { status, headers, body: "log in".into() }))
        };
        let status = Some(ext_authz::Status { code, message: String::new() });
        Ok(tonic::Response::new(ext_authz::CheckResponse { status, http_response: Some(http_response) }))
    }
}

fn ask(service: &str) -> wire::ExternalAuth {
    wire::ExternalAuth { backend: Some(backend(service, 1)), timeout: seconds(5.0), ..Default::default() }
}

#[test]
fn a_custom_policy_asks_and_what_is_said_counts() {
    run(async {
        let lab = lab(&["auth"]).await;
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let checker = ext_authz::authorization_server::AuthorizationServer::new(Checker(seen.clone()));
        grpc(&lab, "auth", checker).await;
        let mut custom = policy("ask", wire::AuthorizationAction::Custom, &["/ask/*"]);
        custom.external = Some(wire::ExternalAuth { max_body: 10, ..ask("auth") });
        // Judged after the check, with what it said.
        let mut deny = policy("lock", wire::AuthorizationAction::Deny, &["/ask/locked"]);
        deny.rules[0].when = vec![wire::Condition {
            key: "request.headers[x-user]".into(),
            values: vec!["me".into()],
            not_values: vec![],
        }];
        let bound = wire::Service { authorizations: vec![custom, deny], follows: vec![key("auth")], ..plain() };
        lab.bind(bound.clone());
        let mut caller = lab.http1().await;
        let passed =
            caller.send(post("/ask//x?q=1").header("x-pass", "yes").header("x-user", "root"), "0123456789").await;
        assert_eq!((passed.status, passed.headers["x-checked"].as_bytes()), (200, &b"1"[..]));
        assert!(passed.body.contains("x-user: me") && passed.body.contains("host: api.shop"), "{}", passed.body);
        assert!(passed.body.ends_with("body: 0123456789"), "{}", passed.body);
        let shown = seen.lock().unwrap().pop().unwrap();
        assert_eq!(
            (shown.path.as_str(), shown.body.as_str(), shown.host.as_str()),
            ("/ask/x?q=1", "0123456789", "api.shop")
        );
        let refused = caller.send(get("/ask/x"), "").await;
        assert_eq!(
            (refused.status, refused.body.as_str(), &refused.headers["location"]),
            (302, "log in", &"/login".parse().unwrap())
        );
        assert_eq!(caller.send(post("/ask/x").header("x-pass", "yes"), "0123456789a").await.status, 413);
        assert_eq!(caller.send(get("/ask/locked").header("x-pass", "yes"), "").await.status, 403);
        let asked = seen.lock().unwrap().len();
        assert_eq!(caller.get("/free").await.status, 200);
        assert_eq!(seen.lock().unwrap().len(), asked, "who is not asked about is not shown");
        let grpc = post("/ask/a").header("content-type", "application/grpc");
        let answer = caller.send(grpc, "").await;
        assert_eq!((answer.status, answer.headers["grpc-status"].as_bytes()), (200, &b"2"[..]));
        assert_eq!(answer.headers["content-type"], "application/grpc");
        // Nobody to ask: it is refused, or passes where the user said so.
        for (external, status) in [
            (Some(ask("gone")), 403),
            (Some(wire::ExternalAuth { status_on_error: 503, ..ask("gone") }), 503),
            (Some(wire::ExternalAuth { fail_open: true, ..ask("gone") }), 200),
            (None, 403),
        ] {
            let mut changed = bound.clone();
            changed.authorizations[0].external = external;
            lab.bind(changed);
            assert_eq!(caller.send(get("/ask/x").header("x-pass", "yes"), "").await.status, status);
        }
        let denied = ["response_flags=\"UAEX\"", "response_code=\"503\""];
        assert_eq!(lab.metric("istio_requests_total", &denied), 1);
    });
}

#[test]
fn a_connection_that_is_not_http_is_asked_about_too() {
    run(async {
        let lab = Lab::new().await;
        let auth = service("auth", [10, 96, 0, 2].into(), &[(80, 8080)]);
        lab.apply(Change { services: vec![auth], ..Change::default() });
        let greeting = |stream: hbone::TunnelStream| async {
            let (mut recv, mut send) = stream.split();
            send.send_all(Bytes::from_static(b"220 hello")).await.unwrap();
            while let Ok(Some(_)) = recv.data().await {}
        };
        lab.raw("api", "api-1", greeting).await;
        let checker = ext_authz::authorization_server::AuthorizationServer::new(Checker(Arc::default()));
        grpc(&lab, "auth", checker).await;
        let tcp = wire::Port { number: 80, name: String::new(), protocol: wire::Protocol::Tcp.into() };
        let open = wire::Service { ports: vec![tcp], ..plain() };
        let mut custom = policy("ask", wire::AuthorizationAction::Custom, &["/only/http"]);
        custom.external = Some(ask("auth"));
        let closed = wire::Service { authorizations: vec![custom], follows: vec![key("auth")], ..open.clone() };
        for (service, passes) in [(open, true), (closed, false)] {
            lab.bind(service);
            let stream = lab.connect(&identity("shop", "web"), "10.96.0.1:80").await.unwrap();
            let (mut recv, _send) = stream.split();
            let first = recv.data().await;
            let greeted = matches!(&first, Ok(Some(bytes)) if bytes.starts_with(b"220"));
            assert_eq!(greeted, passes, "{first:?}");
        }
    });
}

#[test]
fn a_filter_asks_by_http_and_paths_cannot_walk_around_it() {
    run(async {
        let lab = lab(&["auth", "copy"]).await;
        let app: App = Rc::new(|request| {
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let status = if head.headers.contains_key("x-pass") { 200 } else { 418 };
                let seen = format!("{} {}", head.method, head.uri.path());
                let body = body.collect().await.unwrap().to_bytes();
                Response::builder().status(status).header("x-seen", seen).body(Full::new(body)).unwrap()
            })
        });
        lab.workload("auth", "auth-1", app).await;
        let (copies, mut copied) = tokio::sync::mpsc::unbounded_channel();
        let mirror: App = Rc::new(move |request| {
            let copies = copies.clone();
            Box::pin(async move {
                copies.send(request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                Response::new(Full::default())
            })
        });
        lab.workload("copy", "copy-1", mirror).await;
        let check = wire::ExternalAuth {
            http: true,
            path_prefix: "/check".into(),
            allowed_headers: vec!["x-pass".into()],
            max_body: 100,
            ..ask("auth")
        };
        let mirror = wire::Mirror { backend: Some(backend("copy", 1)), ..Default::default() };
        let guarded = wire::Rule {
            filters: vec![filter(Kind::ExternalAuth(check)), filter(Kind::Mirror(mirror))],
            ..rule("/admin", vec![backend("api", 1)])
        };
        let follows = vec![key("auth"), key("copy")];
        lab.bind(wire::Service { follows, ..routed(vec![guarded, rule("/", vec![backend("api", 1)])]) });
        let mut caller = lab.http1().await;
        let passed = caller.send(post("/admin/x").header("x-pass", "1"), "shown and sent").await;
        assert!(passed.status == 200 && passed.body.ends_with("body: shown and sent"), "{passed:?}");
        assert!(passed.body.contains("x-seen: POST /check/admin/x"), "{}", passed.body);
        assert_eq!(copied.recv().await.unwrap(), "shown and sent", "the mirror gets all of it, too");
        let refused = caller.send(post("/admin/x"), "why").await;
        assert_eq!((refused.status, refused.body.as_str()), (418, "why"));
        for (path, status) in [("/x/..%2fadmin", 400), ("/%2fadmin", 400), ("/x/../admin", 418), ("/x", 200)] {
            assert_eq!(caller.send(get(path), "").await.status, status, "{path}");
        }
    });
}

struct Processor;

#[tonic::async_trait]
impl ext_proc::external_processor_server::ExternalProcessor for Processor {
    type ProcessStream =
        std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<ext_proc::ProcessingResponse, tonic::Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ext_proc::ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, tonic::Status> {
        use ext_proc::processing_request::Request as Q;
        use ext_proc::processing_response::Response as A;
        let mut path = String::new();
        let answers = request.into_inner().map(move |question| {
            let set = |key: &str, value: &str| {
                let raw_value = value.as_bytes().to_vec();
                let header = ext_proc::HeaderValue { key: key.into(), raw_value, ..Default::default() };
                let set_headers = vec![ext_proc::HeaderValueOption { header: Some(header), ..Default::default() }];
                let header_mutation = Some(ext_proc::HeaderMutation { set_headers, ..Default::default() });
                let response = Some(ext_proc::CommonResponse { status: 0, header_mutation });
                ext_proc::HeadersResponse { response }
            };
            let response = match question?.request.unwrap() {
                Q::RequestHeaders(headers) => {
                    let headers = headers.headers.unwrap().headers;
                    let all: BTreeMap<_, _> = headers.into_iter().map(|h| (h.key, h.raw_value)).collect();
                    path = String::from_utf8(all[":path"].clone()).unwrap();
                    if path == "/stop" {
                        let status = Some(ext_proc::HttpStatus { code: 429 });
                        A::ImmediateResponse(ext_proc::ImmediateResponse { status, ..Default::default() })
                    } else {
                        A::RequestHeaders(set("x-processed", "in"))
                    }
                }
                Q::ResponseHeaders(_) => A::ResponseHeaders(set("x-answer-to", &path)),
            };
            Ok(ext_proc::ProcessingResponse { response: Some(response) })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

#[test]
fn a_processor_changes_requests_and_answers() {
    run(async {
        let lab = lab(&["proc"]).await;
        grpc(&lab, "proc", ext_proc::external_processor_server::ExternalProcessorServer::from_arc(Arc::new(Processor)))
            .await;
        let filter_of = |service: &str, fail_open: bool| {
            filter(Kind::ExternalProcessing(wire::ExternalProcessing {
                backend: Some(backend(service, 1)),
                timeout: seconds(5.0),
                fail_open,
                request_headers: true,
                response_headers: true,
            }))
        };
        let processed = |prefix: &str, f| wire::Rule { filters: vec![f], ..rule(prefix, vec![backend("api", 1)]) };
        let beside = wire::Backend { filters: vec![filter_of("proc", false)], ..backend("api", 1) };
        lab.bind(wire::Service {
            follows: vec![key("proc")],
            ..routed(vec![
                processed("/strict", filter_of("gone", false)),
                processed("/open", filter_of("gone", true)),
                rule("/beside", vec![beside]),
                processed("/", filter_of("proc", false)),
            ])
        });
        for mut caller in [lab.http1().await, lab.http2().await] {
            for path in ["/a?b", "/beside"] {
                let answer = caller.get(path).await;
                assert!(answer.body.contains("x-processed: in"), "{}", answer.body);
                assert_eq!(answer.headers["x-answer-to"], path);
            }
            assert_eq!(caller.get("/stop").await.status, 429);
            assert_eq!(caller.get("/strict").await.status, 500);
            let open = caller.get("/open").await;
            assert!(open.status == 200 && !open.body.contains("x-processed"), "{open:?}");
        }
    });
}
