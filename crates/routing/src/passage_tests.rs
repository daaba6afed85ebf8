//! Filters in their order, backends by weight, and what bounds, mirrors and faults do with a random number.

use std::time::{Duration, Instant};

use crate::filter::LocalRate as Rate;
use crate::model::{
    Backend, ExternalAuth, ExternalProcessing, Fault, Filter, Header, HeaderChange, Invalid, LocalRate, Mirror,
    PathChange, Redirect, Rewrite, Rule,
};
use crate::testing::*;
use crate::{Cause, Next};

fn set(name: &str, value: &str) -> Filter {
    let header = Header { name: name.into(), value: value.into() };
    Filter::RequestHeaders(HeaderChange { set: vec![header], ..HeaderChange::default() })
}

fn set_answer(name: &str, value: &str) -> Filter {
    let header = Header { name: name.into(), value: value.into() };
    Filter::ResponseHeaders(HeaderChange { add: vec![header], ..HeaderChange::default() })
}

#[test]
fn filters_go_in_their_order_and_stop_where_the_world_is_needed() {
    let mirror = |to: &str| Filter::Mirror(Mirror { backend: backend(to, 0), ..Mirror::default() });
    let auth = Filter::ExternalAuth(ExternalAuth { backend: backend("auth", 0), ..ExternalAuth::default() });
    let processing =
        Filter::ExternalProcessing(ExternalProcessing { backend: backend("proc", 0), ..ExternalProcessing::default() });
    let fault = Filter::Fault(Fault {
        delay_share: 1_000_000,
        delay: Duration::from_millis(5),
        abort_share: 1_000_000,
        abort_status: 503,
    });
    let made = http(vec![filtered(vec![mirror("before"), set("x", "1"), mirror("after"), auth, processing, fault])]);
    let mut parts = get("/", &[]);
    let mut passage = made.follow(&parts);
    let mut next = |parts: &mut _| passage.next(parts, &scene(), &mut || 7);
    assert!(matches!(next(&mut parts), Next::Mirror(m) if *m.target.service == *"shop/before"));
    assert!(!parts.headers.contains_key("x"));
    assert!(matches!(next(&mut parts), Next::Mirror(m) if *m.target.service == *"shop/after"));
    assert!(parts.headers.contains_key("x"));
    assert!(matches!(next(&mut parts), Next::Authorize(a) if *a.target.service == *"shop/auth"));
    assert!(matches!(next(&mut parts), Next::Process(p) if *p.target.service == *"shop/proc"));
    assert!(matches!(next(&mut parts), Next::Delay(d) if d == Duration::from_millis(5)));
    assert_eq!(answer(next(&mut parts)).response().status(), 503);
}

#[test]
fn a_filter_that_cannot_be_applied_is_not_skipped() {
    let made = http(vec![filtered(vec![set("x", "1"), Filter::Invalid(Invalid::new("no such extension"))])]);
    let got = answer(made.first(&mut get("/", &[])));
    assert_eq!((got.status().as_u16(), got.cause), (500, Cause::FilterInvalid(arc("no such extension"))));
    let got = answer(made.first(&mut call("/a/b", &[])));
    assert_eq!(got.grpc_status(), Some(14));
}

#[test]
fn at_most_one_filter_of_a_kind() {
    let redirect = || Filter::Redirect(Redirect::default());
    let rewrite = || Filter::Rewrite(Rewrite::default());
    let mirror = || Filter::Mirror(Mirror { backend: backend("b", 0), ..Mirror::default() });
    for (filters, wrong) in [
        (vec![set("a", "1"), set("b", "1")], 1),
        (vec![set_answer("a", "1"), set_answer("b", "1"), set_answer("c", "1")], 2),
        (vec![redirect(), rewrite()], 1),
        (vec![rewrite(), redirect()], 1),
        (vec![redirect(), redirect()], 1),
        (vec![set("a", "1"), set_answer("a", "1"), rewrite(), mirror(), mirror()], 0),
    ] {
        let (made, mistakes) = compiled(vec![filtered(filters)], false);
        assert_eq!(mistakes.len(), wrong, "{mistakes:?}");
        assert_eq!(made.meets(&get("/", &[])), if wrong > 0 { "500" } else { "0" });
    }
}

#[test]
fn a_mirror_that_is_not_usable_is_left_out() {
    let gone = Backend { invalid: Some(Invalid::new("not there")), ..backend("gone", 0) };
    let made = http(vec![filtered(vec![Filter::Mirror(Mirror { backend: gone, ..Mirror::default() })])]);
    assert!(matches!(made.first(&mut get("/", &[])), Next::Done));
}

#[test]
fn shares_of_mirrors_and_faults() {
    // Random numbers at even distances: the share is exact.
    let count = |filter: Filter, hit: fn(Next) -> bool| {
        let made = http(vec![filtered(vec![filter])]);
        let even = (0..1000_u64).map(|i| u32::try_from((i << 32).div_ceil(1000)).unwrap());
        even.filter(|r| hit(made.follow(&get("/", &[])).next(&mut get("/", &[]), &scene(), &mut || *r))).count()
    };
    let mirror = |numerator, denominator| Filter::Mirror(Mirror { backend: backend("b", 0), numerator, denominator });
    let copied = |n: Next| matches!(n, Next::Mirror(_));
    for (numerator, denominator, want) in [(0, 0, 1000), (0, 100, 0), (25, 100, 250), (100, 100, 1000), (1, 1000, 1)] {
        assert_eq!(count(mirror(numerator, denominator), copied), want);
    }
    let abort = Fault { abort_share: 100_000, abort_status: 418, ..Fault::default() };
    assert_eq!(count(Filter::Fault(abort), |n| matches!(n, Next::Answer(_))), 100);
    let delay = Fault { delay_share: 500_000, delay: Duration::from_secs(1), ..Fault::default() };
    assert_eq!(count(Filter::Fault(delay), |n| matches!(n, Next::Delay(_))), 500);
    let (made, mistakes) = compiled(
        vec![filtered(vec![Filter::Fault(Fault { abort_share: 1, abort_status: 100, ..Fault::default() })])],
        false,
    );
    assert_eq!((made.meets(&get("/", &[])), mistakes.len()), ("500".into(), 1));
}

/// Statuses, or services, of many requests: with how many of each.
fn spread(made: &Compiled, parts: &http::request::Parts, requests: usize) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..requests {
        let got = match made.follow(parts).pick() {
            Ok(target) => target.service.to_string(),
            Err(answer) => answer.grpc_status().map_or(answer.status().as_str().to_owned(), |s| s.to_string()),
        };
        *counts.entry(got).or_default() += 1;
    }
    counts.into_iter().collect()
}

#[test]
fn backends() {
    let bad = |weight| Backend { invalid: Some(Invalid::new("BackendNotFound")), ..backend("bad", weight) };
    let of = |backends: Vec<Backend>| http(vec![Rule { backends, ..rule("0", vec![]) }]);
    let all = |from: &[(&str, usize)]| from.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect::<Vec<_>>();
    let plain = get("/", &[]);
    let rpc = call("/a/b", &[]);
    let cases = [
        (vec![backend("a", 70), backend("b", 30)], &plain, all(&[("shop/a", 70), ("shop/b", 30)])),
        (vec![backend("a", 1), backend("b", 0)], &plain, all(&[("shop/a", 100)])),
        (vec![backend("a", 1), bad(0)], &plain, all(&[("shop/a", 100)])),
        (vec![backend("a", 3), bad(1)], &plain, all(&[("500", 25), ("shop/a", 75)])),
        (vec![backend("a", 3), bad(1)], &rpc, all(&[("14", 25), ("shop/a", 75)])),
        (vec![bad(1), bad(2)], &plain, all(&[("500", 100)])),
        (vec![backend("a", 0), backend("b", 0)], &plain, all(&[("500", 100)])),
        (vec![], &plain, all(&[("500", 100)])),
        (vec![], &rpc, all(&[("14", 100)])),
    ];
    for (backends, parts, want) in cases {
        assert_eq!(spread(&of(backends.clone()), parts, 100), want, "{backends:?}");
    }
    // A backend that names nothing costs its own share, and is reported.
    let (made, mistakes) = compiled(
        vec![Rule {
            backends: vec![Backend { weight: 1, ..Backend::default() }, backend("a", 1)],
            ..rule("0", vec![])
        }],
        false,
    );
    assert_eq!((spread(&made, &plain, 10), mistakes.len()), (all(&[("500", 5), ("shop/a", 5)]), 2));
}

#[test]
fn a_bad_filter_of_a_backend_costs_the_backends_share_only() {
    let bad = Backend { filters: vec![set("a b", "1")], ..backend("b", 1) };
    let (made, mistakes) = compiled(vec![Rule { backends: vec![backend("a", 1), bad], ..rule("0", vec![]) }], false);
    assert!(mistakes[0].contains("backendRefs[1].filters[0].set[0]"), "{mistakes:?}");
    assert_eq!(spread(&made, &get("/", &[]), 10), [("500".into(), 5), ("shop/a".into(), 5)]);
}

#[test]
fn filters_of_a_backend_follow_those_of_the_rule_and_the_chosen_one_only() {
    let of = |name: &str| {
        let filters = vec![set("x", name), set_answer("y", name)];
        Backend { filters, ..backend(name, 1) }
    };
    let filters = vec![set("x", "rule"), set_answer("y", "rule")];
    let made = http(vec![Rule { filters, backends: vec![of("a"), of("b")], ..rule("0", vec![]) }]);
    for service in ["a", "b"] {
        let mut parts = get("/", &[]);
        let mut passage = made.follow(&parts);
        assert!(matches!(passage.next(&mut parts, &scene(), &mut || 0), Next::Done));
        // A retry: the same backend, from the same request anew.
        for _ in 0..3 {
            let target = passage.pick().unwrap();
            assert_eq!(*target.service, *format!("shop/{service}"));
            let mut attempt = parts.clone();
            assert!(matches!(passage.next_of_target(&mut attempt, &scene(), &mut || 0), Next::Done));
            assert_eq!(values(&attempt.headers, "x"), [service]);
        }
        let mut headers = http::HeaderMap::new();
        passage.answer(&mut headers);
        assert_eq!(values(&headers, "y"), [service, "rule"]);
    }
}

#[test]
fn a_backend_replaces_what_the_rule_put_in_place_of_the_prefix() {
    let rewrite = |to: &str| Filter::Rewrite(Rewrite { hostname: None, path: Some(PathChange::Prefix(to.into())) });
    let backends = vec![Backend { filters: vec![rewrite("/z")], ..backend("a", 1) }];
    let made = http(vec![Rule { filters: vec![rewrite("/x/y")], backends, ..rule("0", vec![prefix("/a")]) }]);
    let mut parts = get("/a/b?c", &[]);
    let mut passage = made.follow(&parts);
    passage.next(&mut parts, &scene(), &mut || 0);
    assert_eq!(parts.uri, "/x/y/b?c");
    passage.pick().unwrap();
    passage.next_of_target(&mut parts, &scene(), &mut || 0);
    assert_eq!(parts.uri, "/z/b?c");
}

#[test]
fn a_redirect_needs_no_backend() {
    let made = http(vec![Rule { backends: vec![], ..filtered(vec![Filter::Redirect(Redirect::default())]) }]);
    assert_eq!(answer(made.first(&mut get("/", &[]))).status(), 302);
}

fn rate(requests: u32, per: u64, burst: u32, per_identity: bool) -> Rate {
    Rate::new(&LocalRate { requests, per: Duration::from_secs(per), burst, per_identity, name: None }).unwrap()
}

#[test]
fn bounds_let_a_burst_pass_and_then_the_rate() {
    let bound = rate(10, 1, 5, false);
    let start = Instant::now();
    let passed = |from: u64, to: u64| {
        (from..to).filter(|ms| bound.take(start + Duration::from_millis(*ms), None).is_ok()).count()
    };
    // One a millisecond for a second: five at once, then one each 100 ms.
    assert_eq!(passed(0, 1000), 5 + 9);
    assert_eq!(passed(1000, 2000), 10);
    // Full again after half a second.
    assert_eq!(passed(2500, 2505), 5);
}

#[test]
fn a_refused_request_learns_when_to_come_again() {
    let bound = rate(1, 10, 0, false);
    let start = Instant::now();
    assert_eq!(bound.take(start, None), Ok(()));
    let wait = bound.take(start + Duration::from_secs(4), None).unwrap_err();
    assert_eq!(wait, Duration::from_secs(6));
    assert!(bound.take(start + Duration::from_secs(4) + wait, None).is_ok());
    let answer = crate::Answer::new(Cause::RateLimited(Duration::from_millis(5500)), &(&get("/", &[])).into(), None);
    assert_eq!((answer.status().as_u16(), values(answer.response().headers(), "retry-after")), (429, vec!["6".into()]));
    assert!(rate(0, 1, 0, false).take(start, None).is_err());
}

#[test]
fn identities_have_bounds_of_their_own() {
    let start = Instant::now();
    let bound = rate(1, 1, 0, true);
    for who in [Some("a"), Some("b"), None] {
        assert!(bound.take(start, who).is_ok());
        assert!(bound.take(start, who).is_err());
    }
    // However many there are, and once they are idle they are forgotten.
    let passed = (0..20_000).filter(|i| bound.take(start, Some(&i.to_string())).is_ok()).count();
    assert_eq!(passed, 10_000 - 2);
    let later = start + Duration::from_secs(2);
    assert!(bound.take(later, Some("new")).is_ok());
    assert!(bound.take(later, Some("newer")).is_ok());
    let shared = rate(1, 1, 0, false);
    assert!(shared.take(start, Some("a")).is_ok());
    assert!(shared.take(start, Some("b")).is_err());
}
