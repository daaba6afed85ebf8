//! Short words for tests.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Request};

use crate::filter::redirect::Scheme;
use crate::model::{
    Backend, Filter, GrpcMatch, HttpTable, Kind, Match, NameMatch, PathMatch, RouteName, Rule, Table, ValueMatch,
};
use crate::{Answer, Decision, HttpRouter, Mistake, Next, Passage, RequestView, Router, Routes, Scene};

/// `GET http://host/path?query` without a scheme, with `Host` as HTTP/1 has it, and these headers.
pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Parts {
    with_method("GET", path, headers)
}

pub(crate) fn with_method(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
        request = request.header("host", "shop.example:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// A gRPC call as HTTP/2 has it.
pub(crate) fn call(path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut all = vec![("content-type", "application/grpc")];
    all.extend(headers);
    with_method("POST", path, &all)
}

pub(crate) fn name(rule: &str) -> RouteName {
    RouteName { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "r".into(), rule: rule.into() }
}

pub(crate) fn rule(name_of_it: &str, matches: Vec<Match>) -> Rule {
    Rule { route: name(name_of_it), matches, backends: vec![backend("a", 1)], ..Rule::default() }
}

pub(crate) fn filtered(filters: Vec<Filter>) -> Rule {
    Rule { filters, ..rule("0", Vec::new()) }
}

pub(crate) fn backend(service: &str, weight: u32) -> Backend {
    Backend { weight, service: format!("shop/{service}").into(), port: 80, ..Backend::default() }
}

pub(crate) fn exact(path: &str) -> Match {
    Match { path: Some(PathMatch::Exact(path.into())), ..Match::default() }
}

pub(crate) fn prefix(path: &str) -> Match {
    Match { path: Some(PathMatch::Prefix(path.into())), ..Match::default() }
}

pub(crate) fn regex(path: &str) -> Match {
    Match { path: Some(PathMatch::Regex(path.into())), ..Match::default() }
}

pub(crate) fn grpc(service: &str, method: &str, regex: bool) -> Match {
    let call = GrpcMatch { service: service.into(), method: method.into(), regex };
    Match { grpc: Some(call), ..Match::default() }
}

pub(crate) fn is(name: &str, value: &str) -> NameMatch {
    NameMatch { name: name.into(), value: ValueMatch::Exact(value.into()) }
}

pub(crate) fn like(name: &str, value: &str) -> NameMatch {
    NameMatch { name: name.into(), value: ValueMatch::Regex(value.into()) }
}

pub(crate) fn table(rules: Vec<Rule>, grpc: bool) -> Table {
    Table { port: 80, consumer_namespace: None, kind: Kind::Http(HttpTable { grpc, rules }) }
}

/// The compiled rules, and what is wrong with them.
pub(crate) fn compiled(rules: Vec<Rule>, grpc: bool) -> (Compiled, Vec<String>) {
    let (router, mistakes) = Router::new(&[table(rules, grpc)]);
    (Compiled(router), mistakes.iter().map(Mistake::to_string).collect())
}

/// The compiled rules, which must have nothing wrong.
pub(crate) fn http(rules: Vec<Rule>) -> Compiled {
    let (made, mistakes) = compiled(rules, false);
    assert_eq!(mistakes, [""; 0]);
    made
}

pub(crate) struct Compiled(Router);

impl Compiled {
    pub(crate) fn router(&self) -> &HttpRouter {
        match self.0.routes(80, None) {
            Some(Routes::Http(router)) => router,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn follow(&self, parts: &Parts) -> Passage {
        match self.router().route(&RequestView::from(parts)) {
            Decision::Follow(passage) => passage,
            Decision::Answer(answer) => panic!("{answer:?}"),
        }
    }

    pub(crate) fn refused(&self, parts: &Parts) -> Answer {
        match self.router().route(&RequestView::from(parts)) {
            Decision::Answer(answer) => answer,
            Decision::Follow(passage) => panic!("{passage:?}"),
        }
    }

    /// Name of the rule that a request meets; the status when it is answered at once.
    pub(crate) fn meets(&self, parts: &Parts) -> String {
        match self.router().route(&RequestView::from(parts)) {
            Decision::Follow(passage) => passage.route().name.rule.to_string(),
            Decision::Answer(answer) => answer.status().as_str().to_owned(),
        }
    }

    /// The first thing that the filters of the rule want.
    pub(crate) fn first(&self, parts: &mut Parts) -> Next {
        self.follow(parts).next(parts, &scene(), &mut || 0)
    }
}

pub(crate) fn scene() -> Scene<'static> {
    Scene { scheme: Scheme::Http, port: 8080, identity: None, now: Instant::now() }
}

pub(crate) fn answer(next: Next) -> Answer {
    match next {
        Next::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
}

pub(crate) fn arc(text: &str) -> Arc<str> {
    text.into()
}
