//! One request and what becomes of it.

use std::rc::Rc;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use proto::routing as wire;
use wire::filter::Kind;

use super::harness::*;
use xds::Change;

#[test]
fn a_service_without_routes_is_passed_through_and_told_who_calls() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.bind(plain());
        for mut caller in [lab.http1().await, lab.http2().await] {
            let request = match &caller {
                Caller::Http1(_) => Request::post("/a//b/../c?q=1").header("host", "api.shop"),
                Caller::Http2(_) => Request::post("http://api.shop/a//b/../c?q=1"),
            };
            let request = request
                .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")
                .header("connection-like", "kept");
            let answer = caller.send(request, "hello").await;
            assert_eq!(answer.status, 200);
            let version = if matches!(caller, Caller::Http1(_)) { "HTTP/1.1" } else { "HTTP/2.0" };
            let first = answer.body.lines().next().unwrap();
            assert!(first.starts_with("api-1 POST ") && first.ends_with(version), "{first}");
            assert!(first.contains("/a/c?q=1"), "one form of the path: {first}");
            let told = "x-forwarded-client-cert: By=spiffe://cluster.local/ns/shop/sa/waypoint;\
                        URI=spiffe://cluster.local/ns/shop/sa/web";
            assert!(answer.body.contains(told) && !answer.body.contains("admin"), "{}", answer.body);
            assert!(answer.body.contains("x-request-id: ") && answer.body.contains("connection-like: kept"));
            assert!(answer.body.ends_with("body: hello"), "{}", answer.body);
        }
        let parts = [
            "reporter=\"waypoint\"",
            "response_code=\"200\"",
            "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        ];
        assert_eq!(lab.metric("istio_requests_total", &parts), 2);
    });
}

#[test]
fn routes_decide_by_path_and_weight_and_unusable_shares_fail() {
    run(async {
        let lab = Lab::new().await;
        lab.apply(Change {
            services: vec![service("cart", [10, 96, 0, 2].into(), &[(80, 8080)])],
            ..Change::default()
        });
        lab.workload("api", "api-1", echo("api-1")).await;
        lab.workload("cart", "cart-1", echo("cart-1")).await;
        let invalid = wire::Backend {
            weight: 1,
            invalid: Some(wire::Invalid { reason: "no such Service".into() }),
            ..Default::default()
        };
        let moved =
            Kind::Redirect(wire::Redirect { hostname: "new.example".into(), status: 301, ..Default::default() });
        let set = wire::HeaderChange {
            set: vec![wire::Header { name: "x-set".into(), value: "1".into() }],
            ..Default::default()
        };
        let changed = wire::Rule {
            filters: vec![filter(Kind::RequestHeaders(set.clone())), filter(Kind::ResponseHeaders(set))],
            ..rule("/cart", vec![backend("cart", 1)])
        };
        lab.bind(wire::Service {
            follows: vec!["shop/cart".into()],
            ..routed(vec![
                changed,
                rule("/own", vec![backend("api", 1)]),
                rule("/half", vec![backend("api", 1), invalid]),
                rule("/none", vec![]),
                rule("/empty", vec![backend("gone", 1)]),
                wire::Rule { filters: vec![filter(moved)], ..rule("/moved", vec![]) },
            ])
        });
        let mut caller = lab.http1().await;
        let answer = caller.get("/cart/1").await;
        assert!(answer.body.starts_with("cart-1 GET /cart/1") && answer.body.contains("x-set: 1"), "{answer:?}");
        assert_eq!(answer.headers["x-set"], "1");
        assert!(caller.get("/own").await.body.starts_with("api-1"));
        assert_eq!(caller.get("/elsewhere").await.status, 404);
        assert_eq!(caller.get("/none").await.status, 500);
        assert_eq!(caller.get("/empty").await.status, 503);
        let answer = caller.get("/moved?a=b").await;
        assert_eq!(
            (answer.status, answer.headers["location"].to_str().unwrap()),
            (301, "http://new.example/moved?a=b")
        );
        let mut statuses = Vec::new();
        for _ in 0..10 {
            statuses.push(caller.get("/half").await.status);
        }
        assert_eq!(statuses.iter().filter(|s| **s == 500).count(), 5, "{statuses:?}");
        // The routes of another namespace's callers are the producer's, until there are some of their own.
        let mut other = lab.http1_as(&identity("else", "web"), "10.96.0.1:80").await;
        assert_eq!(other.get("/elsewhere").await.status, 404);
        assert_eq!(
            lab.metric("istio_requests_total", &["response_code=\"404\"", "response_flags=\"NR\"", "ns/shop/"]),
            1
        );
    });
}

#[test]
fn policies_refuse_in_the_form_of_the_protocol() {
    run(async {
        let lab = Lab::new().await;
        lab.workload("api", "api-1", echo("api-1")).await;
        let rule = wire::AuthorizationRule {
            from: vec![wire::Source { namespaces: vec!["shop".into()], ..Default::default() }],
            to: vec![wire::Operation {
                methods: vec!["GET".into()],
                paths: vec!["/open/*".into()],
                ..Default::default()
            }],
            when: vec![],
        };
        let allow = wire::Authorization {
            namespace: "shop".into(),
            name: "readers".into(),
            action: wire::AuthorizationAction::Allow.into(),
            rules: vec![rule],
            ..Default::default()
        };
        lab.bind(wire::Service { authorizations: vec![allow], ..plain() });
        let mut caller = lab.http1().await;
        assert_eq!(caller.get("/open/a").await.status, 200);
        let answer = caller.get("/open/../closed").await;
        assert_eq!((answer.status, answer.body.as_str()), (403, "RBAC: access denied"));
        assert_eq!(caller.send(Request::post("/open/a").header("host", "a"), "").await.status, 403);
        // Where policies name paths, what can be read in two ways is refused.
        assert_eq!(caller.get("/open/..%2fclosed").await.status, 400);
        let grpc = Request::post("/open.Svc/Call").header("host", "a").header("content-type", "application/grpc");
        let answer = caller.send(grpc, "").await;
        assert_eq!((answer.status, answer.headers["grpc-status"].to_str().unwrap()), (200, "7"));
        let mut stranger = lab.http1_as(&identity("else", "web"), "10.96.0.1:80").await;
        assert_eq!(stranger.get("/open/a").await.status, 403);
    });
}

#[test]
fn trailers_pass_and_tell_the_status_of_grpc() {
    run(async {
        let lab = Lab::new().await;
        // An answer with trailers, by hand: the library's own body for it.
        lab.raw("api", "api-1", |stream| async {
            let service = hyper::service::service_fn(|_| async {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "5".parse().unwrap());
                let body = Full::new(bytes::Bytes::from_static(b"\0\0\0\0\0"));
                let body = body.with_trailers(std::future::ready(Some(Ok::<_, std::convert::Infallible>(trailers))));
                let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            });
            let builder = hyper::server::conn::http2::Builder::new(crate::local::LocalExecutor);
            drop(builder.serve_connection(io(stream), service).await);
        })
        .await;
        lab.bind(plain());
        let mut caller = lab.http2().await;
        let request = Request::post("http://api.shop/pkg.Svc/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = caller.send(request, "").await;
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "5");
        let parts = ["request_protocol=\"grpc\"", "grpc_response_status=\"5\""];
        assert_eq!(lab.metric("istio_requests_total", &parts), 1);
    });
}

#[test]
fn a_mirror_gets_a_copy_and_never_decides() {
    run(async {
        let lab = Lab::new().await;
        lab.apply(Change {
            services: vec![service("shadow", [10, 96, 0, 3].into(), &[(80, 8080)])],
            ..Change::default()
        });
        lab.workload("api", "api-1", echo("api-1")).await;
        let (seen, mut copies) = tokio::sync::mpsc::unbounded_channel();
        let shadow: App = Rc::new(move |request| {
            let seen = seen.clone();
            Box::pin(async move {
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                seen.send((path, String::from_utf8(body.to_vec()).unwrap())).unwrap();
                Response::builder().status(500).body(Full::default()).unwrap()
            })
        });
        lab.workload("shadow", "shadow-1", shadow).await;
        let mirror = |service| Kind::Mirror(wire::Mirror { backend: Some(backend(service, 1)), ..Default::default() });
        let rule = wire::Rule {
            filters: vec![filter(mirror("shadow")), filter(mirror("nobody"))],
            ..rule("/", vec![backend("api", 1)])
        };
        lab.bind(wire::Service { follows: vec!["shop/shadow".into()], ..routed(vec![rule]) });
        let mut caller = lab.http1().await;
        let answer = caller.send(Request::put("/x").header("host", "a"), "the body").await;
        assert!(answer.status == 200 && answer.body.ends_with("body: the body"), "{answer:?}");
        assert_eq!(copies.recv().await.unwrap(), ("/x".to_owned(), "the body".to_owned()));
    });
}
