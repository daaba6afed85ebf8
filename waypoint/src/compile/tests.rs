use http::Request;
use routing::model::{Filter, Kind, PathChange, PathMatch, Protocol, ValueMatch};
use routing::{Cause, Decision, Next, RequestView, Router, Routes, Scene, Scheme};

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn backend(service: &str, weight: u32) -> wire::Backend {
    wire::Backend { weight, service: service.into(), port: 80, ..wire::Backend::default() }
}

fn http(rules: Vec<wire::Rule>) -> wire::Table {
    let kind = wire::table::Kind::Http(wire::HttpTable { grpc: false, rules });
    wire::Table { port: 80, consumer_namespace: String::new(), kind: Some(kind) }
}

fn filter(kind: wire::filter::Kind) -> wire::Filter {
    wire::Filter { kind: Some(kind) }
}

fn rule() -> wire::Rule {
    wire::Rule { backends: vec![backend("shop/cart", 1)], ..wire::Rule::default() }
}

/// The rule as `routing` gets it.
fn read(rule: wire::Rule) -> model::Rule {
    match tables(&[http(vec![rule])]).remove(0).kind {
        Kind::Http(mut table) => table.rules.remove(0),
        other => panic!("{other:?}"),
    }
}

/// How a request is answered by one rule.
fn answered(rule: wire::Rule) -> Result<String, Cause> {
    let (router, _) = Router::new(&tables(&[http(vec![rule])]));
    let Some(Routes::Http(routes)) = router.routes(80, None) else { panic!() };
    let mut parts = Request::get("/a/b").header("host", "cart").body(()).unwrap().into_parts().0;
    let mut passage = match routes.route(&RequestView::from(&parts)) {
        Decision::Follow(passage) => passage,
        Decision::Answer(answer) => return Err(answer.cause),
    };
    let now = std::time::Instant::now();
    let scene = Scene { scheme: Scheme::Http, port: 80, identity: None, now };
    match passage.next(&mut parts, &scene, &mut || 0) {
        Next::Answer(answer) => Err(answer.cause),
        Next::Done => passage.pick().map(|t| t.service.to_string()).map_err(|a| a.cause),
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_of_a_rule_arrives() {
    let wire = wire::Rule {
        route: Some(wire::RouteName {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: "cart".into(),
            rule: "canary".into(),
        }),
        matches: vec![wire::Match {
            path: Some(wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix("/a".into())) }),
            headers: vec![wire::HeaderMatch {
                name: "x".into(),
                kind: Some(wire::header_match::Kind::Regex("v.*".into())),
            }],
            query: vec![wire::QueryMatch { name: "q".into(), kind: Some(wire::query_match::Kind::Exact("1".into())) }],
            method: "GET".into(),
            grpc: Some(wire::GrpcMatch { service: "s".into(), method: "m".into(), regex: true }),
        }],
        request_timeout: seconds(10),
        backend_timeout: seconds(2),
        retry: Some(wire::Retry { attempts: 3, codes: vec![503], backoff: seconds(1) }),
        session: Some(wire::SessionPersistence {
            cookie: "c".into(),
            header: "h".into(),
            lifetime: seconds(60),
            permanent: true,
        }),
        ..rule()
    };
    let got = read(wire);
    assert_eq!(got.route.to_string(), "HTTPRoute shop/cart rule canary");
    let m = &got.matches[0];
    assert_eq!(m.path, Some(PathMatch::Prefix("/a".into())));
    assert_eq!((m.headers[0].name.as_str(), &m.headers[0].value), ("x", &ValueMatch::Regex("v.*".into())));
    assert_eq!((m.query[0].name.as_str(), &m.query[0].value), ("q", &ValueMatch::Exact("1".into())));
    assert_eq!((m.method.as_str(), m.grpc.as_ref().unwrap().regex), ("GET", true));
    let time = Duration::from_secs;
    assert_eq!((got.request_timeout, got.backend_timeout), (Some(time(10)), Some(time(2))));
    let retry = got.retry.unwrap();
    assert_eq!((retry.attempts, retry.codes, retry.backoff), (3, vec![503], Some(time(1))));
    let session = got.session.unwrap();
    assert_eq!((session.cookie.as_str(), session.lifetime, session.permanent), ("c", Some(time(60)), true));
    assert_eq!((&*got.backends[0].service, got.backends[0].port, got.invalid), ("shop/cart", 80, None));
}

#[test]
fn every_filter_arrives() {
    use wire::filter::Kind as W;
    let header = wire::Header { name: "a".into(), value: "b".into() };
    let change = wire::HeaderChange { set: vec![header.clone()], add: vec![header], remove: vec!["c".into()] };
    let path = |kind| Some(wire::PathChange { kind: Some(kind) });
    let all = [
        W::RequestHeaders(change.clone()),
        W::ResponseHeaders(change),
        W::Redirect(wire::Redirect {
            scheme: "https".into(),
            hostname: "h".into(),
            path: path(wire::path_change::Kind::Full("/x".into())),
            port: 8443,
            status: 301,
        }),
        W::Rewrite(wire::Rewrite { hostname: "h".into(), path: path(wire::path_change::Kind::Prefix("/x".into())) }),
        W::Mirror(wire::Mirror { backend: Some(backend("shop/copy", 0)), numerator: 1, denominator: 10 }),
        W::Cors(wire::Cors { allow_origins: vec!["*".into()], max_age: 7, ..wire::Cors::default() }),
        W::ExternalAuth(wire::ExternalAuth {
            backend: Some(backend("shop/auth", 0)),
            timeout: seconds(1),
            status_on_error: 503,
            ..wire::ExternalAuth::default()
        }),
        W::Fault(wire::Fault { delay_share: 1, delay: seconds(1), abort_share: 2, abort_status: 500 }),
        W::ExternalProcessing(wire::ExternalProcessing {
            backend: Some(backend("shop/proc", 0)),
            request_headers: true,
            ..wire::ExternalProcessing::default()
        }),
        W::LocalRate(wire::LocalRate {
            requests: 5,
            per: seconds(1),
            burst: 2,
            per_identity: true,
            name: "shop/limits".into(),
        }),
        W::Invalid(wire::Invalid { reason: "no".into() }),
    ];
    let got = read(wire::Rule { filters: all.map(filter).to_vec(), ..rule() }).filters;
    let Filter::RequestHeaders(change) = &got[0] else { panic!() };
    assert_eq!((change.set[0].name.as_str(), change.add[0].value.as_str(), change.remove.len()), ("a", "b", 1));
    assert!(matches!(&got[1], Filter::ResponseHeaders(c) if c == change));
    let Filter::Redirect(redirect) = &got[2] else { panic!() };
    assert_eq!((redirect.scheme.as_deref(), redirect.hostname.as_deref()), (Some("https"), Some("h")));
    assert_eq!((redirect.port, redirect.status), (Some(8443), Some(301)));
    assert_eq!(redirect.path, Some(PathChange::Full("/x".into())));
    let Filter::Rewrite(rewrite) = &got[3] else { panic!() };
    assert_eq!((rewrite.hostname.as_deref(), &rewrite.path), (Some("h"), &Some(PathChange::Prefix("/x".into()))));
    assert!(
        matches!(&got[4], Filter::Mirror(m) if (m.numerator, m.denominator) == (1, 10) && &*m.backend.service == "shop/copy")
    );
    assert!(matches!(&got[5], Filter::Cors(c) if c.allow_origins == ["*"] && c.max_age == 7));
    assert!(
        matches!(&got[6], Filter::ExternalAuth(a) if a.timeout == Some(Duration::from_secs(1)) && a.status_on_error == Some(503))
    );
    assert!(matches!(&got[7], Filter::Fault(f) if (f.delay_share, f.abort_share, f.abort_status) == (1, 2, 500)));
    assert!(
        matches!(&got[8], Filter::ExternalProcessing(p) if p.request_headers && &*p.backend.service == "shop/proc")
    );
    assert!(
        matches!(&got[9], Filter::LocalRate(r) if (r.requests, r.burst, r.per_identity) == (5, 2, true) && r.name.as_deref() == Some("shop/limits"))
    );
    assert!(matches!(&got[10], Filter::Invalid(i) if &*i.reason == "no"));
    assert_eq!(got.len(), 11);
}

#[test]
fn what_is_not_known_refuses_in_its_place() {
    let matches = |m: wire::Match| wire::Rule { matches: vec![m], ..rule() };
    let headers = vec![wire::HeaderMatch { name: "x".into(), kind: None }];
    let query = vec![wire::QueryMatch { name: "x".into(), kind: None }];
    let filters = |f: wire::Filter| wire::Rule { filters: vec![f], ..rule() };
    let path = Some(wire::PathChange { kind: None });
    let late = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let cases = [
        matches(wire::Match { path: Some(wire::PathMatch { kind: None }), ..wire::Match::default() }),
        filters(wire::Filter { kind: None }),
        filters(filter(wire::filter::Kind::Redirect(wire::Redirect {
            path: path.clone(),
            ..wire::Redirect::default()
        }))),
        filters(filter(wire::filter::Kind::Redirect(wire::Redirect { port: 70_000, ..wire::Redirect::default() }))),
        filters(filter(wire::filter::Kind::Redirect(wire::Redirect { status: 65_838, ..wire::Redirect::default() }))),
        filters(filter(wire::filter::Kind::Rewrite(wire::Rewrite { hostname: String::new(), path }))),
        filters(filter(wire::filter::Kind::LocalRate(wire::LocalRate { requests: 1, ..wire::LocalRate::default() }))),
        filters(filter(wire::filter::Kind::Fault(wire::Fault { delay: late, ..wire::Fault::default() }))),
        wire::Rule { request_timeout: late, ..rule() },
        wire::Rule { backend_timeout: late, ..rule() },
        wire::Rule { retry: Some(wire::Retry { attempts: 1, codes: vec![], backoff: late }), ..rule() },
        wire::Rule { invalid: Some(wire::Invalid { reason: "of control".into() }), ..rule() },
        wire::Rule { backends: vec![wire::Backend { protocol: 99, ..backend("a/b", 1) }], ..rule() },
        wire::Rule { backends: vec![wire::Backend { port: 65_616, ..backend("a/b", 1) }], ..rule() },
    ];
    for wire in cases {
        assert!(answered(wire.clone()).is_err(), "{wire:?}");
    }
    // The condition counts as holding; a request without the header or parameter is not what was meant.
    for m in [wire::Match { headers, ..wire::Match::default() }, wire::Match { query, ..wire::Match::default() }] {
        assert_eq!(answered(matches(m)), Err(Cause::NoRoute));
    }
    assert_eq!(answered(rule()), Ok("shop/cart".into()));
    let unknown = wire::Table { port: 80, kind: None, consumer_namespace: String::new() };
    assert!(matches!(Router::new(&tables(&[unknown])).0.routes(80, None), Some(Routes::Invalid(_))));
}

#[test]
fn tables_of_ports_and_consumers() {
    let far = wire::Table { consumer_namespace: "far".into(), ..http(vec![rule()]) };
    let tcp = wire::table::Kind::Tcp(wire::TcpTable { route: None, backends: vec![backend("a/b", 1)] });
    let names = vec!["*.example".to_owned()];
    let tls = wire::table::Kind::Tls(wire::TlsTable {
        rules: vec![wire::TlsRule { route: None, server_names: names.clone(), backends: vec![backend("a/b", 1)] }],
    });
    let of = |port, kind| wire::Table { port, kind: Some(kind), consumer_namespace: String::new() };
    let got = tables(&[far, of(81, tcp), of(82, tls.clone()), of(70_000, tls)]);
    assert_eq!(got.iter().map(|t| t.port).collect::<Vec<_>>(), [80, 81, 82]);
    assert_eq!((got[0].consumer_namespace.as_deref(), got[1].consumer_namespace.as_deref()), (Some("far"), None));
    assert!(matches!(&got[1].kind, Kind::Tcp(t) if t.backends.len() == 1));
    assert!(matches!(&got[2].kind, Kind::Tls(t) if t.rules[0].server_names == names));
}

#[test]
fn protocols() {
    let of = |protocol: wire::Protocol| {
        let protocol = protocol as i32;
        read(wire::Rule { backends: vec![wire::Backend { protocol, ..backend("a/b", 1) }], ..rule() }).backends[0]
            .protocol
    };
    assert_eq!(of(wire::Protocol::Detect), Protocol::Detect);
    assert_eq!(of(wire::Protocol::Http), Protocol::Http);
    assert_eq!(of(wire::Protocol::Http2), Protocol::Http2);
    assert_eq!(of(wire::Protocol::Grpc), Protocol::Grpc);
    assert_eq!(of(wire::Protocol::Tcp), Protocol::Tcp);
    assert_eq!(of(wire::Protocol::Tls), Protocol::Tls);
}

#[test]
fn bounds() {
    let of = |bound| rate(&wire::RateLimit { rate: bound, ..wire::RateLimit::default() });
    let good = wire::LocalRate { requests: 1, per: seconds(1), ..wire::LocalRate::default() };
    assert!(of(None).is_err());
    assert!(of(Some(wire::LocalRate { per: None, ..good.clone() })).is_err());
    assert!(of(Some(wire::LocalRate { per: seconds(-1), ..good.clone() })).is_err());
    assert!(of(Some(good.clone())).is_ok());
    let invalid = Some(wire::Invalid { reason: "of control".into() });
    let refused = rate(&wire::RateLimit { rate: Some(good), invalid, ..wire::RateLimit::default() });
    assert_eq!(refused.unwrap_err(), "of control");
}

#[test]
fn times() {
    assert_eq!(duration(None), None);
    assert_eq!(duration(seconds(0).as_ref()), None);
    assert_eq!(duration(seconds(3).as_ref()), Some(Duration::from_secs(3)));
    assert_eq!(duration(seconds(-3).as_ref()), None);
}

#[test]
fn policies_arrive_whole_and_unknown_actions_refuse() {
    use policy::request::Action;
    let texts = |t: &str| vec![t.to_owned()];
    let wire = wire::Authorization {
        namespace: "shop".into(),
        name: "p".into(),
        action: wire::AuthorizationAction::Custom as i32,
        rules: vec![wire::AuthorizationRule {
            from: vec![wire::Source {
                principals: texts("a"),
                not_trust_domains: texts("b"),
                ..wire::Source::default()
            }],
            to: vec![wire::Operation { ports: vec![80], not_paths: texts("/x"), ..wire::Operation::default() }],
            when: vec![wire::Condition { key: "k".into(), values: texts("v"), not_values: texts("w") }],
        }],
        dry_run: true,
        ..wire::Authorization::default()
    };
    let unknown = wire::Authorization { action: 77, ..wire.clone() };
    let invalid = Some(wire::Invalid { reason: "bad".into() });
    let got = authorizations(&[wire.clone(), unknown, wire::Authorization { invalid, ..wire }]);
    let rule = &got[0].rules[0];
    assert_eq!((&*got[0].namespace, &*got[0].name, got[0].action), ("shop", "p", Action::Custom));
    assert!(got[0].dry_run && got[0].invalid.is_none());
    assert_eq!((&rule.from[0].principals, &rule.from[0].not_trust_domains), (&texts("a"), &texts("b")));
    assert_eq!((&rule.to[0].ports, &rule.to[0].not_paths), (&vec![80], &texts("/x")));
    assert_eq!((rule.when[0].key.as_str(), &rule.when[0].not_values), ("k", &texts("w")));
    assert_eq!(got[1].action, Action::Deny);
    assert!(got[1].invalid.as_ref().is_some_and(|r| r.contains("action")));
    assert_eq!(got[2].invalid.as_deref(), Some("bad"));
}
