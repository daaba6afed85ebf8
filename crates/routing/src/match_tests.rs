//! gateway-api.md 2, 3.1, 3.2, 3.5 and 4, row by row.

use crate::model::{Invalid, Kind, Match, Rule, Table};
use crate::testing::*;
use crate::{Cause, Router, Routes};

#[test]
fn paths() {
    let cases = [
        (exact("/abc"), "/abc", true),
        (exact("/abc"), "/abc?x=1", true),
        (exact("/abc"), "/abc/", false),
        (exact("/abc"), "/ABC", false),
        (exact("/"), "/", true),
        (exact("/"), "/a", false),
        (prefix("/abc"), "/abc", true),
        (prefix("/abc"), "/abc/", true),
        (prefix("/abc"), "/abc/d", true),
        (prefix("/abc"), "/abcd", false),
        (prefix("/abc"), "/Abc", false),
        (prefix("/abc"), "/", false),
        (prefix("/abc/"), "/abc", true),
        (prefix("/abc/"), "/abc/d", true),
        (prefix("/abc/"), "/abcd", false),
        (prefix("/a/b"), "/a", false),
        (prefix("/a/b"), "/a/b//c", true),
        (prefix("/"), "/", true),
        (prefix("/"), "/x/y", true),
        (regex("/v[12]/.*"), "/v1/x", true),
        (regex("/v[12]/.*"), "/v3/x", false),
        (regex("/v1"), "/v1/x", false),
        (regex("/v1"), "/x/v1", false),
        (regex("/a|/b"), "/b", true),
        (regex("/a|/b"), "/ab", false),
        (regex("(?i)/abc"), "/ABC", true),
        (regex("/\\w+"), "/é", false),
        (regex("(?u)/\\w+"), "/é", true),
        (regex("/[^/]+"), "/é", true),
        (regex("/é"), "/é", true),
        (regex("/a?.*"), "/a?x", true),
        (Match::default(), "/anything", true),
    ];
    for (m, path, want) in cases {
        let got = http(vec![rule("hit", vec![m.clone()])]).meets(&get(path, &[]));
        assert_eq!(got, if want { "hit" } else { "404" }, "{m:?} {path}");
    }
}

#[test]
fn paths_that_do_not_begin_with_a_slash_meet_only_what_matches_everything() {
    let rules = vec![rule("p", vec![prefix("/a")]), rule("all", vec![])];
    assert_eq!(http(rules).meets(&with_method("OPTIONS", "*", &[])), "all");
    let only = http(vec![rule("p", vec![prefix("/a")])]);
    assert_eq!(only.meets(&with_method("OPTIONS", "*", &[])), "404");
    assert_eq!(only.meets(&with_method("CONNECT", "shop.example:443", &[])), "404");
}

#[test]
fn headers_methods_and_parameters() {
    let with = |headers: Vec<_>, query: Vec<_>, method: &str| Match {
        headers,
        query,
        method: method.into(),
        ..Match::default()
    };
    let cases = [
        (with(vec![is("X-Env", "Prod")], vec![], ""), get("/", &[("x-env", "Prod")]), true),
        (with(vec![is("x-env", "Prod")], vec![], ""), get("/", &[("X-ENV", "Prod")]), true),
        (with(vec![is("x-env", "Prod")], vec![], ""), get("/", &[("x-env", "prod")]), false),
        (with(vec![is("x-env", "")], vec![], ""), get("/", &[]), false),
        (with(vec![is("x", "a,b")], vec![], ""), get("/", &[("x", "a"), ("x", "b")]), true),
        (with(vec![is("x", "a")], vec![], ""), get("/", &[("x", "a"), ("x", "b")]), false),
        // Only the first entry of a name counts.
        (with(vec![is("X", "a"), is("x", "b")], vec![], ""), get("/", &[("x", "a")]), true),
        (with(vec![is("X", "a"), is("x", "b")], vec![], ""), get("/", &[("x", "b")]), false),
        (with(vec![is("a", "1"), is("b", "2")], vec![], ""), get("/", &[("a", "1")]), false),
        (with(vec![like("x", "v[0-9]+")], vec![], ""), get("/", &[("x", "v12")]), true),
        (with(vec![like("x", "v[0-9]+")], vec![], ""), get("/", &[("x", "v12b")]), false),
        (with(vec![is("Host", "a.example")], vec![], ""), get("/", &[("host", "a.example")]), true),
        (with(vec![is("host", "a.example")], vec![], ""), get("http://a.example/", &[("host", "b")]), true),
        (with(vec![], vec![is("a", "1")], ""), get("/?a=1", &[]), true),
        (with(vec![], vec![is("a", "1")], ""), get("/?A=1", &[]), false),
        (with(vec![], vec![is("a", "1")], ""), get("/?b=2&a=1", &[]), true),
        // The first value counts.
        (with(vec![], vec![is("a", "1")], ""), get("/?a=2&a=1", &[]), false),
        (with(vec![], vec![is("a", "1"), is("a", "2")], ""), get("/?a=1", &[]), true),
        (with(vec![], vec![is("a", "")], ""), get("/?a", &[]), true),
        (with(vec![], vec![is("a", "")], ""), get("/", &[]), false),
        (with(vec![], vec![is("a b", "c&d")], ""), get("/?a+b=c%26d", &[]), true),
        (with(vec![], vec![is("a", "c%26d")], ""), get("/?a=c%26d", &[]), false),
        (with(vec![], vec![like("a", "[0-9]+")], ""), get("/?a=12", &[]), true),
        (with(vec![], vec![like("a", "[0-9]+")], ""), get("/?a=x12", &[]), false),
        (with(vec![], vec![], "GET"), get("/", &[]), true),
        (with(vec![], vec![], "POST"), get("/", &[]), false),
        (with(vec![], vec![], "PURGE"), with_method("PURGE", "/", &[]), true),
    ];
    for (m, parts, want) in cases {
        let got = http(vec![rule("hit", vec![m.clone()])]).meets(&parts);
        assert_eq!(got, if want { "hit" } else { "404" }, "{m:?} {parts:?}");
    }
}

#[test]
fn precedence() {
    let plain = |path: &str| Match { ..prefix(path) };
    let with = |base: Match, headers: usize, query: usize, method: bool| Match {
        headers: (0..headers).map(|i| is(&format!("h{i}"), "1")).collect(),
        query: (0..query).map(|i| is(&format!("q{i}"), "1")).collect(),
        method: if method { "GET".into() } else { String::new() },
        ..base
    };
    // The first of each pair comes second on the wire, and wins.
    let pairs = [
        (exact("/a/b"), with(plain("/a/b"), 9, 9, true)),
        (plain("/a/b"), with(plain("/a"), 9, 9, true)),
        (plain("/a"), with(regex("/a/.*"), 9, 9, true)),
        (regex("/a/.*"), with(plain("/"), 9, 9, true)),
        (regex("/a/b.*"), with(regex("/a/.*"), 9, 9, true)),
        (with(plain("/a"), 0, 0, true), with(plain("/a"), 9, 9, false)),
        (with(plain("/a"), 3, 0, false), with(plain("/a"), 2, 9, false)),
        (with(plain("/a"), 2, 3, false), with(plain("/a"), 2, 2, false)),
    ];
    let headers: Vec<(String, &str)> = (0..9).map(|i| (format!("h{i}"), "1")).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let query: Vec<String> = (0..9).map(|i| format!("q{i}=1")).collect();
    let parts = get(&format!("/a/b?{}", query.join("&")), &headers);
    for (winner, loser) in pairs {
        let made = http(vec![rule("loser", vec![loser.clone()]), rule("winner", vec![winner.clone()])]);
        assert_eq!(made.meets(&parts), "winner", "{winner:?} {loser:?}");
    }
    // Equals: the first on the wire.
    for m in [exact("/a/b"), plain("/a"), regex("/a.*"), plain("/"), Match::default()] {
        let made = http(vec![rule("first", vec![m.clone()]), rule("second", vec![m])]);
        assert_eq!(made.meets(&parts), "first");
    }
    // `/` and no path at all are the same.
    let made = http(vec![rule("first", vec![]), rule("second", vec![plain("/")])]);
    assert_eq!(made.meets(&parts), "first");
}

#[test]
fn every_match_is_an_entry_of_its_own() {
    let made = http(vec![
        rule("wide", vec![prefix("/"), exact("/only")]),
        rule("narrow", vec![prefix("/a"), prefix("/a/b/c")]),
        rule("middle", vec![prefix("/a/b")]),
    ]);
    for (path, want) in [
        ("/only", "wide"),
        ("/x", "wide"),
        ("/a", "narrow"),
        ("/a/b", "middle"),
        ("/a/b/c/d", "narrow"),
        ("/a/bc", "narrow"),
    ] {
        assert_eq!(made.meets(&get(path, &[])), want, "{path}");
    }
}

#[test]
fn an_invalid_rule_still_wins() {
    let broken = Rule { invalid: Some(Invalid::new("no such thing")), ..rule("broken", vec![prefix("/a")]) };
    let made = http(vec![broken, rule("all", vec![])]);
    let answer = made.refused(&get("/a/b", &[]));
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.cause, Cause::RuleInvalid(arc("no such thing")));
    assert_eq!(answer.route.unwrap().rule, arc("broken"));
    assert_eq!(made.meets(&get("/b", &[])), "all");
}

#[test]
fn grpc_calls() {
    let rules = |matches: Vec<(&str, Match)>| matches.into_iter().map(|(n, m)| rule(n, vec![m])).collect::<Vec<_>>();
    let all = rules(vec![
        ("any", Match::default()),
        ("method", grpc("", "Get", false)),
        ("pattern", grpc("shop\\..*", "", true)),
        ("longer pattern", grpc("shop\\.Cart.*", "", true)),
        ("service", grpc("shop.Cart", "", false)),
        ("both", grpc("shop.Cart", "Get", false)),
        ("both and header", Match { headers: vec![is("x", "1")], ..grpc("shop.Cart", "Get", false) }),
    ]);
    let (made, mistakes) = compiled(all, true);
    assert_eq!(mistakes, [""; 0]);
    let cases = [
        (call("/shop.Cart/Get", &[("x", "1")]), "both and header"),
        (call("/shop.Cart/Get", &[]), "both"),
        (call("/shop.Cart/Put", &[]), "service"),
        (call("/shop.Carts/Get", &[]), "longer pattern"),
        (call("/shop.User/Get", &[]), "pattern"),
        (call("/other/Get", &[]), "method"),
        (call("/other/get", &[]), "any"),
        (call("/other/Get/x", &[]), "any"),
        (call("/Get", &[]), "any"),
    ];
    for (parts, want) in cases {
        assert_eq!(made.meets(&parts), want, "{parts:?}");
    }
    let (both, _) = compiled(rules(vec![("m", grpc("s.*", "G.*", true))]), true);
    assert_eq!((both.meets(&call("/shop/Get", &[])), both.meets(&call("/shop/Put", &[]))), ("m".into(), "404".into()));
}

#[test]
fn answers_to_grpc_are_trailers_only() {
    let (made, _) = compiled(vec![rule("0", vec![grpc("a", "b", false)])], true);
    let response = made.refused(&call("/a/c", &[])).response();
    assert_eq!(response.status(), 200);
    assert_eq!(values(response.headers(), "grpc-status"), ["12"]);
    assert_eq!(values(response.headers(), "content-type"), ["application/grpc"]);
    // A browser that came astray is told in HTTP.
    assert_eq!(made.refused(&get("/a/c", &[])).response().status(), 404);
    for content_type in ["application/grpc+proto", "application/grpc;v=1", "application/grpc"] {
        let parts = with_method("POST", "/a/c", &[("content-type", content_type)]);
        assert_eq!(made.refused(&parts).grpc_status(), Some(12), "{content_type}");
    }
    let web = with_method("POST", "/a/c", &[("content-type", "application/grpc-web")]);
    assert_eq!(made.refused(&web).grpc_status(), None);
}

#[test]
fn consumer_routes_replace_producer_routes() {
    let table = |port, namespace: Option<&str>, name: &str| Table {
        port,
        consumer_namespace: namespace.map(arc),
        ..table(vec![rule(name, vec![prefix(&format!("/{name}"))])], false)
    };
    let (router, mistakes) =
        Router::new(&[table(80, None, "producer"), table(80, Some("far"), "consumer"), table(81, Some("far"), "only")]);
    assert!(mistakes.is_empty());
    let rule_of = |port, namespace| match router.routes(port, namespace) {
        Some(Routes::Http(http)) => http.routes()[0].name.rule.to_string(),
        Some(other) => panic!("{other:?}"),
        None => "plain".to_owned(),
    };
    assert_eq!(rule_of(80, None), "producer");
    assert_eq!(rule_of(80, Some("near")), "producer");
    assert_eq!(rule_of(80, Some("far")), "consumer");
    assert_eq!(rule_of(81, Some("far")), "only");
    assert_eq!(rule_of(81, Some("near")), "plain");
    assert_eq!(rule_of(82, None), "plain");
}

#[test]
fn two_tables_for_the_same_callers_are_neither() {
    let (router, mistakes) =
        Router::new(&[table(vec![rule("a", vec![])], false), table(vec![rule("b", vec![])], false)]);
    assert!(matches!(router.routes(80, None), Some(Routes::Invalid(_))));
    assert_eq!(mistakes.len(), 1);
    let unknown = Table { port: 80, consumer_namespace: None, kind: Kind::Invalid(Invalid::new("new kind")) };
    assert!(matches!(Router::new(&[unknown]).0.routes(80, None), Some(Routes::Invalid(r)) if **r == *"new kind"));
}

#[test]
fn many_entries_of_one_path_are_found_by_header_and_by_parameter() {
    let mut rules: Vec<Rule> = (0..200)
        .map(|i| Match { headers: vec![is("env", "prod"), is("tenant", &i.to_string())], ..prefix("/a") })
        .chain((0..200).map(|i| Match { query: vec![is("tenant", &i.to_string())], ..prefix("/a") }))
        .enumerate()
        .map(|(i, m)| rule(&i.to_string(), vec![m]))
        .collect();
    rules.push(rule("rest", vec![prefix("/a")]));
    let made = http(rules);
    assert_eq!(made.meets(&get("/a", &[("env", "prod"), ("tenant", "77")])), "77");
    assert_eq!(made.meets(&get("/a?tenant=77", &[])), "277");
    assert_eq!(made.meets(&get("/a?tenant=77", &[("env", "prod"), ("tenant", "78")])), "78");
    assert_eq!(made.meets(&get("/a", &[("env", "prod"), ("tenant", "200")])), "rest");
    assert_eq!(made.meets(&get("/a", &[("env", "test"), ("tenant", "77")])), "rest");
}

#[test]
fn a_snapshot_of_services_does_not_change() {
    // What is held need not be clonable.
    struct Held(u32);
    let mut services = crate::Services::default();
    services.insert("shop/a", Held(1));
    services.insert("shop/b", Held(2));
    let before = services.clone();
    assert_eq!(services.insert("shop/a", Held(3)).map(|h| h.0), Some(1));
    assert_eq!(services.remove("shop/b").map(|h| h.0), Some(2));
    let of = |s: &crate::Services<Held>| s.iter().map(|(k, h)| format!("{k}={}", h.0)).collect::<Vec<_>>().join(" ");
    assert_eq!((of(&services), of(&before)), ("shop/a=3".into(), "shop/a=1 shop/b=2".into()));
    assert_eq!((services.len(), services.is_empty(), services.get("shop/b").is_none()), (1, false, true));
}
