//! gateway-api.md 5.

use super::*;
use crate::model::{Filter, Invalid, Kind, Table, TlsRule};
use crate::testing::*;
use crate::{Router, Routes};

fn of(kind: Kind) -> (Router, usize) {
    let (router, mistakes) = Router::new(&[Table { port: 80, consumer_namespace: None, kind }]);
    (router, mistakes.len())
}

fn tls(rules: &[(&[&str], &str)]) -> (Router, usize) {
    let rules = rules.iter().map(|(names, to)| TlsRule {
        server_names: names.iter().map(|n| (*n).to_owned()).collect(),
        backends: vec![backend(to, 1)],
        ..TlsRule::default()
    });
    of(Kind::Tls(TlsTable { rules: rules.collect() }))
}

fn pick(router: &Router, name: Option<&str>) -> String {
    match router.routes(80, None) {
        Some(Routes::Tls(tls)) => tls.pick(name).map_or_else(|r| format!("{r:?}"), |t| t.service.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn server_names() {
    let (router, mistakes) = tls(&[
        (&[], "all"),
        (&["*.example"], "wide"),
        (&["*.shop.example"], "narrow"),
        (&["www.shop.example", "Other.Example."], "exact"),
        (&["www.shop.example"], "younger"),
    ]);
    assert_eq!(mistakes, 0);
    let cases = [
        (Some("www.shop.example"), "shop/exact"),
        (Some("WWW.shop.example."), "shop/exact"),
        (Some("other.example"), "shop/exact"),
        (Some("x.shop.example"), "shop/narrow"),
        (Some("x.y.shop.example"), "shop/narrow"),
        (Some("shop.example"), "shop/wide"),
        (Some("example"), "shop/all"),
        (Some("elsewhere"), "shop/all"),
        (None, "shop/all"),
    ];
    for (name, want) in cases {
        assert_eq!(pick(&router, name), want, "{name:?}");
    }
    let (router, _) = tls(&[(&["*.example"], "wide")]);
    assert_eq!((pick(&router, None), pick(&router, Some("x"))), ("NoRoute".into(), "NoRoute".into()));
}

#[test]
fn names_that_are_none_are_reported_and_match_nothing() {
    let (router, mistakes) = tls(&[(&["*", "a.*.b", "", "a..b", "*.", "good.example"], "a")]);
    assert_eq!((mistakes, pick(&router, Some("good.example"))), (5, "shop/a".into()));
    assert_eq!(pick(&router, Some("a.x.b")), "NoRoute");
}

#[test]
fn connections_by_weight() {
    let bad = Backend { invalid: Some(Invalid::new("gone")), ..backend("bad", 1) };
    let backends = vec![backend("a", 2), bad, backend("b", 1)];
    let (router, mistakes) = of(Kind::Tcp(TcpTable { route: name("0"), backends }));
    let Some(Routes::Tcp(tcp)) = router.routes(80, None) else { panic!() };
    let mut got: Vec<String> =
        (0..4).map(|_| tcp.pick().map_or_else(|r| format!("{r:?}"), |t| t.service.to_string())).collect();
    got.sort();
    assert_eq!((mistakes, got.join(" ")), (0, "BackendInvalid(\"gone\") shop/a shop/a shop/b".into()));
    for backends in [vec![], vec![backend("a", 0)]] {
        let (router, _) = of(Kind::Tcp(TcpTable { route: name("0"), backends }));
        let Some(Routes::Tcp(tcp)) = router.routes(80, None) else { panic!() };
        assert_eq!(tcp.pick().unwrap_err(), Refusal::NoBackend);
    }
    let filters = vec![Filter::Invalid(Invalid::new("x"))];
    let table = TcpTable { route: name("0"), backends: vec![Backend { filters, ..backend("a", 1) }] };
    assert_eq!(of(Kind::Tcp(table)).1, 1);
}
