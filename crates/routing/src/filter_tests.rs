//! gateway-api.md 3.3, row by row, through a rule with the filter.

use http::StatusCode;

use crate::Cause;
use crate::model::{Cors, Filter, Header, HeaderChange, PathChange, Redirect, Rewrite, Rule};
use crate::testing::*;

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn change(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderChange {
    let all = |from: &[(&str, &str)]| from.iter().map(|(n, v)| header(n, v)).collect();
    HeaderChange { set: all(set), add: all(add), remove: remove.iter().map(|n| (*n).to_owned()).collect() }
}

#[test]
fn request_headers() {
    let filter = change(&[("X-Set", "new"), ("x-create", "1")], &[("X-Add", "b,c")], &["X-Gone"]);
    let made = http(vec![filtered(vec![Filter::RequestHeaders(filter)])]);
    let mut parts = get(
        "/",
        &[("x-set", "old"), ("x-set", "older"), ("x-add", "a"), ("x-gone", "1"), ("x-gone", "2"), ("x-stay", "1")],
    );
    assert!(matches!(made.first(&mut parts), crate::Next::Done));
    let all = |n| values(&parts.headers, n);
    assert_eq!((all("x-set"), all("x-create")), (vec!["new".into()], vec!["1".into()]));
    assert_eq!((all("x-add").join(","), all("x-gone"), all("x-stay")), ("a,b,c".into(), vec![], vec!["1".into()]));
}

#[test]
fn setting_host_changes_the_authority() {
    let made = http(vec![filtered(vec![Filter::RequestHeaders(change(&[("HOST", "other.example:81")], &[], &[]))])]);
    let mut one = get("/", &[]);
    made.first(&mut one);
    assert_eq!((values(&one.headers, "host"), one.uri.authority()), (vec!["other.example:81".into()], None));
    let mut two = get("http://shop.example/x?y", &[]);
    two.headers.remove("host");
    made.first(&mut two);
    assert_eq!((two.uri.to_string(), two.headers.len()), ("http://other.example:81/x?y".into(), 0));
}

#[test]
fn header_changes_that_are_not_valid() {
    let cases = [
        (change(&[("a b", "1")], &[], &[]), "set[0]"),
        (change(&[("a", "1\r\nb: 2")], &[], &[]), "set[0]"),
        (change(&[("a", "1")], &[("A", "2")], &[]), "add[0]"),
        (change(&[], &[("a", "1")], &["a"]), "remove[0]"),
        (change(&[], &[], &["a", "a"]), "remove[1]"),
        (change(&[("Content-Length", "0")], &[], &[]), "set[0]"),
        (change(&[], &[("transfer-encoding", "chunked")], &[]), "add[0]"),
        (change(&[], &[], &["Connection"]), "remove[0]"),
        (change(&[("host", "a/b")], &[], &[]), "set"),
        (change(&[("host", "user@a")], &[], &[]), "set"),
        (change(&[], &[("host", "a")], &[]), "Host can only be set"),
        (change(&[], &[], &["host"]), "Host can only be set"),
    ];
    for (filter, place) in cases {
        let (made, mistakes) = compiled(vec![filtered(vec![Filter::RequestHeaders(filter.clone())])], false);
        assert_eq!(made.meets(&get("/", &[])), "500", "{filter:?}");
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].contains("filters[0]") && mistakes[0].contains(place), "{mistakes:?}");
    }
    // All of them at once.
    let filter = change(&[("a b", "1"), ("c", "\n")], &[("d e", "")], &["f g"]);
    assert_eq!(compiled(vec![filtered(vec![Filter::RequestHeaders(filter)])], false).1.len(), 4);
}

#[test]
fn answers_headers() {
    let filter = change(&[("x-set", "new")], &[("set-cookie", "b=2")], &["server"]);
    let made = http(vec![filtered(vec![Filter::ResponseHeaders(filter)])]);
    let mut headers = get("/", &[("x-set", "old"), ("set-cookie", "a=1"), ("server", "x")]).headers;
    made.follow(&get("/", &[])).answer(&mut headers);
    assert_eq!(values(&headers, "x-set"), ["new"]);
    assert_eq!(values(&headers, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(values(&headers, "server"), [""; 0]);
}

fn location(
    matches: Vec<crate::model::Match>,
    redirect: Redirect,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let made = http(vec![Rule { filters: vec![Filter::Redirect(redirect)], backends: vec![], ..rule("0", matches) }]);
    let response = answer(made.first(&mut get(path, headers))).response();
    (response.status().as_u16(), values(response.headers(), "location").concat())
}

#[test]
fn redirects() {
    let text = |t: &str| Some(t.to_owned());
    let none = Redirect::default;
    // The caller used http and the Service port 8080.
    let cases = [
        (none(), "/a?x=1", 302, "http://shop.example:8080/a?x=1"),
        (Redirect { hostname: text("new.example"), ..none() }, "/a", 302, "http://new.example:8080/a"),
        (Redirect { scheme: text("https"), ..none() }, "/a", 302, "https://shop.example/a"),
        (Redirect { scheme: text("http"), ..none() }, "/a", 302, "http://shop.example/a"),
        (Redirect { scheme: text("https"), port: Some(8443), ..none() }, "/a", 302, "https://shop.example:8443/a"),
        (Redirect { scheme: text("https"), port: Some(443), ..none() }, "/a", 302, "https://shop.example/a"),
        (Redirect { scheme: text("https"), port: Some(80), ..none() }, "/a", 302, "https://shop.example:80/a"),
        (Redirect { port: Some(80), ..none() }, "/a", 302, "http://shop.example/a"),
        (Redirect { port: Some(443), ..none() }, "/a", 302, "http://shop.example:443/a"),
        (Redirect { status: Some(301), ..none() }, "/a", 301, "http://shop.example:8080/a"),
        (Redirect { status: Some(303), ..none() }, "/a", 303, "http://shop.example:8080/a"),
        (Redirect { status: Some(307), ..none() }, "/a", 307, "http://shop.example:8080/a"),
        (Redirect { status: Some(308), ..none() }, "/a", 308, "http://shop.example:8080/a"),
        (
            Redirect { path: Some(PathChange::Full("/x/y".into())), ..none() },
            "/a?q",
            302,
            "http://shop.example:8080/x/y?q",
        ),
        (Redirect { path: Some(PathChange::Full("x".into())), ..none() }, "/a", 302, "http://shop.example:8080/x"),
        (Redirect { path: Some(PathChange::Prefix("/x".into())), ..none() }, "/a", 302, "http://shop.example:8080/x/a"),
    ];
    for (redirect, path, status, want) in cases {
        assert_eq!(location(vec![], redirect.clone(), path, &[]), (status, want.into()), "{redirect:?}");
    }
    let with = |host: &str| location(vec![], none(), "/", &[("host", host)]).1;
    assert_eq!(with("[::1]:80"), "http://[::1]:8080/");
    assert_eq!(with("[::1]"), "http://[::1]:8080/");
    assert_eq!(with(""), "/");
    let prefixed = Redirect { path: Some(PathChange::Prefix("/new".into())), ..none() };
    assert_eq!(location(vec![prefix("/old")], prefixed, "/old/a?b", &[]).1, "http://shop.example:8080/new/a?b");
}

#[test]
fn redirects_and_rewrites_that_are_not_valid() {
    let full = |t: &str| Some(PathChange::Full(t.into()));
    let cases = [
        Filter::Redirect(Redirect { scheme: Some("ftp".into()), ..Redirect::default() }),
        Filter::Redirect(Redirect { status: Some(200), ..Redirect::default() }),
        Filter::Redirect(Redirect { hostname: Some("a:80".into()), ..Redirect::default() }),
        Filter::Redirect(Redirect { path: Some(PathChange::Unknown), ..Redirect::default() }),
        Filter::Rewrite(Rewrite { hostname: Some("http://a".into()), path: None }),
        Filter::Rewrite(Rewrite { hostname: None, path: full("/a b") }),
        Filter::Rewrite(Rewrite { hostname: None, path: full("/a?b") }),
        Filter::Rewrite(Rewrite { hostname: None, path: full("/a\r\nx: y") }),
    ];
    for filter in cases {
        let (made, mistakes) = compiled(vec![filtered(vec![filter.clone()])], false);
        assert_eq!((made.meets(&get("/", &[])), mistakes.len()), ("500".into(), 1), "{filter:?} {mistakes:?}");
    }
    let many =
        Redirect { scheme: Some("ftp".into()), status: Some(1), hostname: Some("/".into()), ..Redirect::default() };
    assert_eq!(compiled(vec![filtered(vec![Filter::Redirect(many)])], false).1.len(), 3);
    // The prefix that is replaced must be known for every match.
    let change = Filter::Rewrite(Rewrite { hostname: None, path: Some(PathChange::Prefix("/x".into())) });
    for m in [exact("/a"), regex("/a"), grpc("a", "", false)] {
        let (made, mistakes) =
            compiled(vec![Rule { matches: vec![prefix("/b"), m], ..filtered(vec![change.clone()]) }], false);
        assert_eq!((made.meets(&get("/b", &[])), mistakes.len()), ("500".into(), 1));
    }
}

#[test]
fn path_rewrites() {
    let cases = [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
        ("/foo/bar", "/foo/bar", "/a/b/c", "/a/b/c"),
        ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ("/foo/%2Fbar", "/foo", "/xyz", "/xyz/%2Fbar"),
    ];
    for (path, matched, replacement, want) in cases {
        let path_change = Some(PathChange::Prefix(replacement.into()));
        let filters = vec![Filter::Rewrite(Rewrite { hostname: None, path: path_change })];
        let made = http(vec![Rule { matches: vec![prefix(matched)], ..filtered(filters) }]);
        for (query, authority) in [("", ""), ("?a=%20&b", "http://shop.example")] {
            let mut parts = get(&format!("{authority}{path}{query}"), &[]);
            made.first(&mut parts);
            assert_eq!(parts.uri.to_string(), format!("{authority}{want}{query}"), "{path} {matched} {replacement}");
        }
    }
    let full = Filter::Rewrite(Rewrite { hostname: None, path: Some(PathChange::Full("/one".into())) });
    let made = http(vec![Rule { matches: vec![exact("/a")], ..filtered(vec![full]) }]);
    let mut parts = get("/a?b", &[]);
    made.first(&mut parts);
    assert_eq!(parts.uri.to_string(), "/one?b");
}

#[test]
fn host_rewrites() {
    let rewrite = Rewrite { hostname: Some("new.example".into()), path: None };
    let made = http(vec![filtered(vec![Filter::Rewrite(rewrite)])]);
    let mut one = get("/a", &[]);
    made.first(&mut one);
    assert_eq!(values(&one.headers, "host"), ["new.example"]);
    let mut two = get("http://shop.example:8080/a?b", &[]);
    made.first(&mut two);
    assert_eq!(
        (two.uri.to_string(), values(&two.headers, "host")),
        ("http://new.example/a?b".into(), vec!["new.example".into()])
    );
}

fn cors(change: impl FnOnce(&mut Cors)) -> Compiled {
    let mut filter = Cors { allow_origins: vec!["https://a.example".into()], ..Cors::default() };
    change(&mut filter);
    http(vec![filtered(vec![Filter::Cors(filter)])])
}

/// What a browser that wants to PUT with X-A sees of the answer to its preflight question.
fn preflight(made: &Compiled, origin: &str) -> Vec<(String, String)> {
    let asked =
        [("origin", origin), ("access-control-request-method", "PUT"), ("access-control-request-headers", "x-a,x-b")];
    let answer = answer(made.first(&mut with_method("OPTIONS", "/", &asked)));
    assert!(matches!(answer.cause, Cause::Preflight(_)));
    let response = answer.response();
    assert_eq!(response.status(), StatusCode::OK);
    shown(response.headers())
}

fn shown(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let ours = headers.iter().filter_map(|(n, v)| Some((n.as_str().strip_prefix("access-control-")?, v)));
    let mut all: Vec<_> = ours.map(|(n, v)| (n.to_owned(), v.to_str().unwrap().to_owned())).collect();
    all.sort();
    all
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn preflight_questions() {
    let made = cors(|c| {
        c.allow_methods = vec!["GET".into(), "PUT".into()];
        c.allow_headers = vec!["X-A".into(), "X-B".into()];
        c.max_age = 60;
    });
    let all = [
        ("allow-headers", "X-A, X-B"),
        ("allow-methods", "GET, PUT"),
        ("allow-origin", "https://a.example"),
        ("max-age", "60"),
    ];
    assert_eq!(preflight(&made, "https://a.example"), pairs(&all));
    assert_eq!(preflight(&made, "https://b.example"), []);
    assert_eq!(preflight(&made, "null"), []);
    // Default age; lists that are not there are left out.
    assert_eq!(
        preflight(&cors(|_| {}), "https://a.example"),
        pairs(&[("allow-origin", "https://a.example"), ("max-age", "5")])
    );
}

#[test]
fn wildcards_and_credentials() {
    let stars = |c: &mut Cors| {
        for list in [&mut c.allow_origins, &mut c.allow_methods, &mut c.allow_headers, &mut c.expose_headers] {
            *list = vec!["*".into()];
        }
    };
    let all = [("allow-headers", "*"), ("allow-methods", "*"), ("allow-origin", "*"), ("max-age", "5")];
    assert_eq!(preflight(&cors(stars), "https://b.example"), pairs(&all));
    let secret = cors(|c| {
        stars(c);
        c.allow_credentials = true;
    });
    let echoed = [
        ("allow-credentials", "true"),
        ("allow-headers", "x-a,x-b"),
        ("allow-methods", "PUT"),
        ("allow-origin", "https://b.example"),
        ("max-age", "5"),
    ];
    assert_eq!(preflight(&secret, "https://b.example"), pairs(&echoed));
    // Nothing asked for, nothing echoed.
    let asked = [("origin", "https://b.example"), ("access-control-request-method", "PUT")];
    let got = answer(secret.first(&mut with_method("OPTIONS", "/", &asked))).response();
    assert_eq!(values(got.headers(), "access-control-allow-headers"), [""; 0]);
    // Answers.
    let of = |made: &Compiled| {
        let mut headers = http::HeaderMap::new();
        made.follow(&get("/", &[("origin", "https://b.example")])).answer(&mut headers);
        (shown(&headers), values(&headers, "vary"))
    };
    assert_eq!(of(&cors(stars)), (pairs(&[("allow-origin", "*"), ("expose-headers", "*")]), vec![]));
    let secret_answer = pairs(&[("allow-credentials", "true"), ("allow-origin", "https://b.example")]);
    assert_eq!(of(&secret), (secret_answer, vec!["Origin".into()]));
}

#[test]
fn answers_to_other_origins_pass_without_the_headers() {
    let made = cors(|c| c.expose_headers = vec!["x-a".into(), "x-b".into()]);
    let of = |headers: &[(&str, &str)]| {
        let mut answer = get("/", &[("access-control-allow-origin", "*"), ("vary", "Accept")]).headers;
        made.follow(&get("/", headers)).answer(&mut answer);
        (shown(&answer), values(&answer, "vary"))
    };
    let allowed = pairs(&[("allow-origin", "https://a.example"), ("expose-headers", "x-a, x-b")]);
    let vary: Vec<String> = vec!["Accept".into(), "Origin".into()];
    assert_eq!(of(&[("origin", "https://a.example")]), (allowed, vary.clone()));
    assert_eq!(of(&[("origin", "https://b.example")]), (vec![], vary.clone()));
    assert_eq!(of(&[]), (vec![], vary));
}

#[test]
fn only_preflight_questions_are_answered() {
    let made = cors(|_| {});
    let method = ("access-control-request-method", "PUT");
    let origin = ("origin", "https://a.example");
    for (verb, headers) in [("OPTIONS", vec![origin]), ("OPTIONS", vec![method]), ("GET", vec![origin, method])] {
        assert!(matches!(made.first(&mut with_method(verb, "/", &headers)), crate::Next::Done), "{verb} {headers:?}");
    }
}

#[test]
fn origins() {
    let cases = [
        ("https://a.example", "https://a.example", true),
        ("https://a.example", "https://A.EXAMPLE", true),
        ("https://a.example", "https://a.example:443", true),
        ("https://a.example:443", "https://a.example", true),
        ("http://a.example", "http://a.example:80", true),
        ("https://a.example", "http://a.example", false),
        ("https://a.example", "https://a.example:8443", false),
        ("https://a.example:8443", "https://a.example:8443", true),
        ("https://*.example", "https://a.example", true),
        ("https://*.example", "https://a.b.example", true),
        ("https://*.example", "https://example", false),
        ("https://*.example", "https://a.example.evil", false),
        ("https://*.example:8443", "https://a.example", false),
        ("https://*", "https://anything.at.all", true),
        ("https://*", "http://anything.at.all", false),
        ("https://a*c.example", "https://abbc.example", true),
        ("https://a.*.b.*.c", "https://a.x.b.y.z.c", true),
        ("https://a.*.b.*.c", "https://a.x.y.z.c", false),
        ("https://[::1]:8443", "https://[::1]:8443", true),
        ("https://[::1]", "https://[::1]", true),
        ("*", "null", true),
        ("*", "app://x", true),
        ("https://*", "null", false),
    ];
    for (allowed, origin, want) in cases {
        let made = cors(|c| c.allow_origins = vec![allowed.into()]);
        assert_eq!(!preflight(&made, origin).is_empty(), want, "{allowed} {origin}");
    }
}

#[test]
fn cross_origin_rules_that_are_not_valid() {
    let list = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let cases = [
        Cors { allow_origins: list(&["*", "https://a"]), ..Cors::default() },
        Cors { allow_origins: list(&["a.example"]), ..Cors::default() },
        Cors { allow_origins: list(&["ftp://a"]), ..Cors::default() },
        Cors { allow_origins: list(&["https://a:b"]), ..Cors::default() },
        Cors { allow_origins: list(&["https://a/b"]), ..Cors::default() },
        Cors { allow_methods: list(&["*", "GET"]), ..Cors::default() },
        Cors { allow_methods: list(&["A B"]), ..Cors::default() },
        Cors { allow_headers: list(&["a b"]), ..Cors::default() },
        Cors { expose_headers: list(&["\n"]), ..Cors::default() },
    ];
    for filter in cases {
        let (made, mistakes) = compiled(vec![filtered(vec![Filter::Cors(filter.clone())])], false);
        assert_eq!((made.meets(&get("/", &[])), mistakes.len()), ("500".into(), 1), "{filter:?} {mistakes:?}");
    }
}
