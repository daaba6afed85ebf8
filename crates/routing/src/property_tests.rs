//! Whatever callers send: nothing panics, and what comes out is a request line or an address.

use http::request::Parts;
use http::{HeaderValue, Request, Uri};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::model::{Cors, Filter, LocalRate, PathChange, Redirect, Rewrite, Rule};
use crate::testing::*;
use crate::{Cause, Next};

const NAMES: [&str; 5] = ["host", "origin", "access-control-request-method", "x", "content-type"];

/// Any request whose parts the HTTP library lets through.
fn requests() -> impl Strategy<Value = Parts> {
    // Mostly paths that have something to do with the rules below.
    let text = prop_oneof!["(/(foo|a|%2F|\\.\\.|[!-~]{0,3})){0,5}(\\?[!-~]{0,12})?", "[!-~]{1,20}", "\\PC{1,8}"];
    let header = prop_oneof!["[ -~]{0,12}", "https?://[a-z.*:0-9]{0,10}"].prop_map(String::into_bytes);
    let value = prop_oneof![header, vec(any::<u8>(), 0..8)];
    let headers = vec((prop::sample::select(&NAMES[..]), value), 0..6);
    let method = prop::sample::select(&["GET", "OPTIONS", "CONNECT"][..]);
    (method, text, prop::bool::ANY, headers).prop_filter_map("no request", |(method, text, absolute, headers)| {
        let text = if absolute { format!("http://user.example:8080{text}") } else { text };
        let mut parts = Request::builder().method(method).uri(text.parse::<Uri>().ok()?).body(()).ok()?.into_parts().0;
        for (name, value) in headers {
            parts.headers.append(name, HeaderValue::from_bytes(&value).ok()?);
        }
        Some(parts)
    })
}

fn made() -> Compiled {
    let change = |to: &str| Some(PathChange::Prefix(to.into()));
    let with = |name: &str, matches, filters| Rule { filters, ..rule(name, matches) };
    let rate =
        LocalRate { requests: 1, per: std::time::Duration::from_secs(1), burst: 0, per_identity: true, name: None };
    http(vec![
        with("rewrite", vec![prefix("/foo")], vec![Filter::Rewrite(Rewrite { hostname: None, path: change("/x/y") })]),
        with(
            "strip",
            vec![prefix("/a")],
            vec![Filter::Rewrite(Rewrite { hostname: Some("h".into()), path: change("") })],
        ),
        with(
            "redirect",
            vec![prefix("/foo/a")],
            vec![Filter::Redirect(Redirect { path: change("/z"), ..Redirect::default() })],
        ),
        with("moved", vec![regex("/foo/.*")], vec![Filter::Redirect(Redirect::default())]),
        with(
            "cors",
            vec![exact("/foo")],
            vec![Filter::Cors(Cors { allow_origins: vec!["https://*.a".into()], ..Cors::default() })],
        ),
        with("rate", vec![], vec![Filter::LocalRate(rate)]),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_routed_and_changed(parts in requests()) {
        let made = made();
        let mut parts = parts;
        let before = parts.uri.clone();
        let mut passage = made.follow(&parts);
        match passage.next(&mut parts, &scene(), &mut || 0) {
            Next::Done => {}
            Next::Answer(answer) => {
                let sound = matches!(answer.cause, Cause::Redirected { .. } | Cause::Preflight(_));
                prop_assert!(sound, "{answer:?}");
                let response = answer.response();
                if let Some(location) = response.headers().get("location") {
                    let text = location.to_str().unwrap();
                    prop_assert!(text.contains(before.path()) || text.contains("/z"), "{text}");
                    prop_assert_eq!(text.split_once('?').map(|(_, q)| q), before.query());
                }
            }
            other => prop_assert!(false, "{other:?}"),
        }
        // What goes on is a request line again, with the query that came.
        let after = parts.uri.clone();
        prop_assert_eq!(after.query(), before.query());
        prop_assert_eq!(after.path().starts_with('/'), before.path().starts_with('/'));
        let again = after.to_string().parse::<Uri>();
        prop_assert!(again.is_ok() || after.to_string().is_empty(), "{after}");
        passage.answer(&mut parts.headers);
    }

    #[test]
    fn a_rewritten_prefix_leaves_the_rest_as_it_was(elements in vec("[a-z%0-9.]{0,4}", 0..5)) {
        let rest: String = elements.iter().map(|e| format!("/{}", e.replace('%', "%25"))).collect();
        let made = made();
        let mut parts = get(&format!("/foo{rest}"), &[]);
        let passage = made.follow(&parts);
        if *passage.route().name.rule == *"rewrite" {
            made.first(&mut parts);
            prop_assert_eq!(parts.uri.path(), format!("/x/y{rest}"));
        }
    }
}
