//! What is wrong is reported, all of it, and the rule stays in its place.

use crate::model::{HttpTable, Invalid, Kind, Match, NameMatch, PathMatch, Rule, Table, ValueMatch};
use crate::testing::*;
use crate::{Mistake, Router};

fn unknown(name: &str) -> NameMatch {
    NameMatch { name: name.into(), value: ValueMatch::Unknown }
}

#[test]
fn all_mistakes_of_all_rules_at_once() {
    let bad = Match {
        path: Some(PathMatch::Prefix("x".into())),
        headers: vec![is(":path", "1"), is("a b", "1"), like("c", "("), unknown("d")],
        query: vec![like("e", "[")],
        method: "A B".into(),
        grpc: None,
    };
    let rules = vec![rule("0", vec![prefix("/"), bad]), rule("1", vec![regex("*")]), rule("2", vec![])];
    let (_, mistakes) = compiled(rules, false);
    let places = [
        "rule 0: matches[1].method: ",
        "rule 0: matches[1].headers[0]: \":path\" is not the name of a header; match Host",
        "rule 0: matches[1].headers[1]: ",
        "rule 0: matches[1].headers[2]: \"(\" is not a regular expression: unclosed group",
        "rule 0: matches[1].headers[3]: ",
        "rule 0: matches[1].queryParams[0]: ",
        "rule 0: matches[1].path: \"x\" does not begin with a slash",
        "rule 1: matches[0].path: ",
    ];
    assert_eq!(mistakes.len(), places.len(), "{mistakes:#?}");
    for place in places {
        assert!(
            mistakes.iter().any(|m| m.starts_with("HTTPRoute shop/r ") && m.contains(place)),
            "{place} {mistakes:#?}"
        );
    }
}

#[test]
fn what_was_meant_for_a_broken_rule_goes_to_no_other() {
    // A condition that cannot be understood counts as holding.
    let broken = |m: Match| compiled(vec![rule("broken", vec![m]), rule("all", vec![])], false).0;
    let header = broken(Match { headers: vec![like("x", "("), is("y", "1")], ..prefix("/a") });
    assert_eq!(header.meets(&get("/a", &[("x", "1"), ("y", "1")])), "500");
    assert_eq!(header.meets(&get("/a", &[("x", "1"), ("y", "2")])), "all");
    assert_eq!(header.meets(&get("/b", &[("x", "1"), ("y", "1")])), "all");
    // Of a path that cannot be understood, what it begins with is.
    let path = broken(regex("/api/v[0-9"));
    assert_eq!(path.meets(&get("/api/v1", &[])), "500");
    assert_eq!(path.meets(&get("/api", &[])), "500");
    assert_eq!(path.meets(&get("/apis", &[])), "all");
    let unknown = broken(Match { path: Some(PathMatch::Unknown), method: "POST".into(), ..Match::default() });
    assert_eq!(unknown.meets(&with_method("POST", "/x", &[])), "500");
    assert_eq!(unknown.meets(&get("/x", &[])), "all");
    let call = broken(grpc("shop.(", "Get", true));
    assert_eq!((call.meets(&get("/x/Get", &[])), call.meets(&get("/x/Put", &[]))), ("500".into(), "all".into()));
}

#[test]
fn the_owners_reason_comes_first() {
    let rule = Rule { invalid: Some(Invalid::new("of control")), ..rule("0", vec![regex("(")]) };
    let (made, mistakes) = compiled(vec![rule], false);
    assert_eq!(mistakes.len(), 1);
    assert!(made.refused(&get("/", &[])).reason().ends_with("of control"));
}

#[test]
fn expressions_are_bounded_and_cannot_break_out() {
    for (pattern, word) in [
        ("(?u)\\w{1,1000}", "smaller"),
        ("[é]", "(?u)"),
        ("\\pL", "(?u)"),
        ("a)|(b", "unopened"),
        ("(?x)a #", "unclosed"),
    ] {
        let (_, mistakes) = compiled(vec![rule("0", vec![regex(pattern)])], false);
        assert!(mistakes.len() == 1 && mistakes[0].contains(word), "{pattern} {mistakes:?}");
        assert!(mistakes[0].ends_with(&crate::check_expression(pattern).unwrap_err()));
    }
    let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
    assert_eq!(compiled(vec![rule("0", vec![regex(&deep)])], false).1.len(), 1);
    // What people write fits.
    for pattern in [
        "/api/v[0-9]+/users/[^/]+/orders(/.*)?",
        "/[a-zA-Z0-9._-]{1,64}/.*",
        "/(\\w+)/\\d{4}-\\d{2}-\\d{2}",
        "/é/.*",
        "(?u)/[é]/\\w+",
    ] {
        http(vec![rule("0", vec![regex(pattern)])]);
        assert_eq!(crate::check_expression(pattern), Ok(()));
    }
}

#[test]
fn many_rules_keep_their_own_mistakes() {
    let rules: Vec<Rule> =
        (0..100).map(|i| rule(&i.to_string(), vec![if i % 2 == 0 { regex("(") } else { prefix("/") }])).collect();
    let table = Table { port: 80, consumer_namespace: None, kind: Kind::Http(HttpTable { grpc: false, rules }) };
    let (_, mistakes) = Router::new(&[table]);
    let of = |m: &Mistake| m.route.rule.parse::<u32>().unwrap();
    assert_eq!(mistakes.iter().map(of).collect::<Vec<_>>(), (0..100).step_by(2).collect::<Vec<_>>());
}
