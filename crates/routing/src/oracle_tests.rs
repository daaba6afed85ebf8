//! The compiled router against a second one that is nothing but the text of gateway-api.md 3.2 and 4: look at every match,
//! keep those that hold, take the first by the list of criteria.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use http::request::Parts;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::{GrpcMatch, Match, NameMatch, PathMatch, Rule, ValueMatch};
use crate::testing::*;

/// A request in words.
#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: &'static str,
    query: Vec<(&'static str, &'static str)>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Asked {
    fn parts(&self) -> Parts {
        let pairs: Vec<String> = self.query.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        with_method(self.method, &format!("{}{mark}{}", self.path, pairs.join("&")), &self.headers)
    }
}

/// The rule that wins; `None`: 404.
fn oracle(rules: &[Rule], asked: &Asked) -> Option<usize> {
    let mut holding = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let everything = vec![Match::default()];
        let matches = if rule.matches.is_empty() { &everything } else { &rule.matches };
        for m in matches.iter().filter(|m| holds(m, asked)) {
            holding.push((criteria(m), index));
        }
    }
    // `min_by_key` keeps the first of equals, which is the oldest rule.
    holding.into_iter().min_by_key(|(c, _)| *c).map(|(_, i)| i)
}

type Criteria = (u8, Reverse<(usize, usize)>, bool, Reverse<usize>, Reverse<usize>);

fn criteria(m: &Match) -> Criteria {
    let chars = |s: &str| s.chars().count();
    let (class, lengths) = match (&m.grpc, &m.path) {
        (Some(GrpcMatch { service, method, regex }), _) => match (service.is_empty(), method.is_empty(), regex) {
            (true, true, _) => (5, (0, 0)),
            (_, _, true) => (3, (chars(service), chars(method))),
            (true, false, _) => (4, (0, 0)),
            (false, true, _) => (2, (chars(service) + 1, 0)),
            (false, false, _) => (1, (0, 0)),
        },
        (None, None) => (5, (0, 0)),
        (None, Some(PathMatch::Exact(_))) => (1, (0, 0)),
        (None, Some(PathMatch::Prefix(p))) => match chars(p.trim_end_matches('/')) {
            0 => (5, (0, 0)),
            n => (2, (n, 0)),
        },
        (None, Some(PathMatch::Regex(r))) => (3, (chars(r), 0)),
        (None, Some(PathMatch::Unknown)) => unreachable!(),
    };
    (
        class,
        Reverse(lengths),
        m.method.is_empty(),
        Reverse(distinct(&m.headers, true)),
        Reverse(distinct(&m.query, false)),
    )
}

fn distinct(all: &[NameMatch], fold: bool) -> usize {
    let mut names: Vec<String> =
        all.iter().map(|m| if fold { m.name.to_lowercase() } else { m.name.clone() }).collect();
    names.sort();
    names.dedup();
    names.len()
}

fn holds(m: &Match, asked: &Asked) -> bool {
    let path = match (&m.grpc, &m.path) {
        (Some(call), _) => {
            let parts: Vec<&str> = asked.path.split('/').collect();
            let text = |want: &str, got: &str| match call.regex {
                true => whole(want, got),
                false => want == got,
            };
            match (call.service.as_str(), call.method.as_str(), &parts[..]) {
                ("", "", _) => true,
                // A service is a prefix: whatever is below it.
                (s, "", ["", service, ..]) if !call.regex => s == *service,
                (s, m, ["", service, method]) if !service.is_empty() && !method.is_empty() => {
                    (s.is_empty() || text(s, service)) && (m.is_empty() || text(m, method))
                }
                _ => false,
            }
        }
        (None, None) => true,
        (None, Some(PathMatch::Exact(p))) => p == asked.path,
        (None, Some(PathMatch::Prefix(p))) => {
            let p = p.strip_suffix('/').unwrap_or(p);
            asked.path == p || asked.path.starts_with(&format!("{p}/"))
        }
        (None, Some(PathMatch::Regex(r))) => whole(r, asked.path),
        (None, Some(PathMatch::Unknown)) => unreachable!(),
    };
    let first = |all: &[(&str, &str)], name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let joined = |name: &str| {
        let lines: Vec<&str> = asked.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    path && (m.method.is_empty() || m.method == asked.method)
        && all_hold(&m.headers, true, |n| joined(&n.to_lowercase()))
        && all_hold(&m.query, false, |n| first(&asked.query, n))
}

fn whole(pattern: &str, text: &str) -> bool {
    thread_local! {
        static MADE: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
    }
    MADE.with_borrow_mut(|made| {
        let new = || regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        made.entry(pattern.to_owned()).or_insert_with(new).is_match(text)
    })
}

fn all_hold(all: &[NameMatch], fold: bool, get: impl Fn(&str) -> Option<String>) -> bool {
    let same = |a: &str, b: &str| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
    all.iter().enumerate().all(|(i, m)| {
        let earlier = all[..i].iter().any(|e| same(&e.name, &m.name));
        earlier
            || get(&m.name).is_some_and(|got| match &m.value {
                ValueMatch::Exact(want) => *want == got,
                ValueMatch::Regex(want) => whole(want, &got),
                ValueMatch::Unknown => unreachable!(),
            })
    })
}

// A universe so small that most requests meet several matches.
const PATHS: [&str; 10] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/a/b/", "/b", "/b/b", "/c/b"];
const REGEXES: [&str; 5] = ["/a.*", "/[ab]", ".*", "/a/b|/b", "/(a|b)/?.*"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const VALUES: [&str; 3] = ["1", "2", "12"];
const METHODS: [&str; 3] = ["GET", "POST", ""];
const PARTS: [&str; 4] = ["", "", "a", "b"];

fn names(upper: bool) -> impl Strategy<Value = Vec<NameMatch>> {
    let one = (select(&NAMES[..]), select(&VALUES[..]), 0..5u8).prop_map(move |(name, value, kind)| {
        let name = if upper && kind == 0 { name.to_uppercase() } else { name.to_owned() };
        let value = if kind == 1 { ValueMatch::Regex(format!("{value}?.*")) } else { ValueMatch::Exact(value.into()) };
        NameMatch { name, value }
    });
    (vec(one, 0..4), prop::bool::ANY).prop_map(|(all, some)| if some { all } else { Vec::new() })
}

fn paths() -> impl Strategy<Value = (Option<PathMatch>, Option<GrpcMatch>)> {
    let call = (select(&PARTS[..]), select(&PARTS[..]), prop::bool::weighted(0.2))
        .prop_map(|(service, method, regex)| GrpcMatch { service: service.into(), method: method.into(), regex });
    (select(&PATHS[..]), select(&REGEXES[..]), call, 0..8u8).prop_map(|(path, regex, call, kind)| match kind {
        0..2 => (Some(PathMatch::Exact(path.into())), None),
        2..4 => (Some(PathMatch::Prefix(path.into())), None),
        4 => (Some(PathMatch::Regex(regex.into())), None),
        5..7 => (None, Some(call)),
        _ => (None, None),
    })
}

fn matches() -> impl Strategy<Value = Match> {
    (paths(), names(true), names(false), select(&METHODS[..]))
        .prop_map(|((path, grpc), headers, query, method)| Match { path, headers, query, method: method.into(), grpc })
}

fn rules(most: usize) -> impl Strategy<Value = Vec<Rule>> {
    vec(vec(matches(), 0..4), 0..most)
        .prop_map(|all| all.into_iter().enumerate().map(|(i, m)| rule(&i.to_string(), m)).collect())
}

fn asked() -> impl Strategy<Value = Asked> {
    let pairs = || vec((select(&NAMES[..]), select(&VALUES[..])), 0..4);
    (select(&METHODS[..2]), select(&PATHS[..]), pairs(), pairs()).prop_map(|(method, path, query, headers)| Asked {
        method,
        path,
        query,
        headers,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_router_and_the_oracle_agree(rules in rules(12), asked in vec(asked(), 8)) {
        let made = http(rules.clone());
        for asked in asked {
            let want = oracle(&rules, &asked).map_or("404".to_owned(), |i| i.to_string());
            prop_assert_eq!(made.meets(&asked.parts()), want, "{:?}", asked);
        }
    }
}

proptest! {
    // Enough matches of each path that slots have an index.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_agree_on_many_matches(rules in rules(150), asked in vec(asked(), 30)) {
        let made = http(rules.clone());
        for asked in asked {
            let want = oracle(&rules, &asked).map_or("404".to_owned(), |i| i.to_string());
            prop_assert_eq!(made.meets(&asked.parts()), want, "{:?}", asked);
        }
    }
}

#[test]
fn the_universe_is_small_enough_that_every_answer_comes_up() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut classes = [0; 6];
    for _ in 0..3000 {
        let (rules, asked) = (rules(12), asked()).new_tree(&mut runner).unwrap().current();
        let best = rules.iter().flat_map(|r| &r.matches).filter(|m| holds(m, &asked)).map(|m| criteria(m).0).min();
        classes[usize::from(best.unwrap_or(0))] += 1;
    }
    assert!(classes.iter().all(|n| *n > 20), "{classes:?}");
}
