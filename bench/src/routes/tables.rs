//! Tables of many routes, and the requests that meet each of them.

use anyhow::Result;
use http::Request;
use http::request::Parts;
use routing::model::{self, Backend, HttpTable, Match, NameMatch, PathMatch, RouteName, Rule, Table, ValueMatch};

/// The Service port of all tables.
pub(crate) const PORT: u16 = 80;

/// What routes are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Exact paths.
    Exact,
    /// A header, on one path.
    Header,
    /// 40 % exact, 40 % prefix, 19 % header, 1 % regular expressions.
    Mixed,
    /// Prefixes of two to five elements, that stand in each other.
    Prefix,
    /// A parameter, on one path.
    Query,
    /// Expressions, of which there are 100 at most: they are tried one after the other.
    Regex,
}

pub(crate) const KINDS: [Kind; 6] = [Kind::Exact, Kind::Prefix, Kind::Header, Kind::Query, Kind::Regex, Kind::Mixed];

/// Expressions in a table.
const EXPRESSIONS: u32 = 100;

/// Requests of a table, more than fit a cache that is close to the CPU.
const REQUESTS: u32 = 4096;

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Header => "header",
            Self::Mixed => "mixed",
            Self::Prefix => "prefix",
            Self::Query => "query",
            Self::Regex => "regex",
        }
    }

    /// What the route of this number is, where kinds are mixed.
    fn of(self, i: u32) -> Self {
        match (self, i % 100) {
            (Self::Mixed, 0) => Self::Regex,
            (Self::Mixed, 1..20) => Self::Header,
            (Self::Mixed, 20..60) => Self::Exact,
            (Self::Mixed, _) => Self::Prefix,
            (other, _) => other,
        }
    }
}

/// A table of so many routes.
pub(crate) fn one(kind: Kind, routes: u32) -> Table {
    let routes = if kind == Kind::Regex { routes.min(EXPRESSIONS) } else { routes };
    let rules = (0..routes).map(|i| rule(i, a_match(kind.of(i), i))).collect();
    Table { port: PORT, consumer_namespace: None, kind: model::Kind::Http(HttpTable { grpc: false, rules }) }
}

/// Requests, and the rule that each must meet.
pub(crate) fn requests(kind: Kind, routes: u32) -> Result<Vec<(Parts, Option<String>)>> {
    let routes = if kind == Kind::Regex { routes.min(EXPRESSIONS) } else { routes };
    // A prime step, so that neighbours in time are no neighbours in the table.
    (0..REQUESTS).map(|n| request(kind, n.wrapping_mul(7919) % routes)).collect()
}

fn rule(i: u32, m: Match) -> Rule {
    let name = |text: &str| text.into();
    let route = RouteName {
        kind: name("HTTPRoute"),
        namespace: name("shop"),
        name: format!("route-{}", i / 16).into(),
        rule: i.to_string().into(),
    };
    let backend = |service: &str, weight| Backend { weight, service: service.into(), port: PORT, ..Backend::default() };
    let backends =
        vec![backend("shop/cart-v1.shop.svc.cluster.local", 90), backend("shop/cart-v2.shop.svc.cluster.local", 10)];
    Rule { route, matches: vec![m], backends, ..Rule::default() }
}

fn a_match(kind: Kind, i: u32) -> Match {
    let tenant = || NameMatch { name: "x-tenant".into(), value: ValueMatch::Exact(format!("tenant-{i}")) };
    let path = |path: PathMatch| Match { path: Some(path), ..Match::default() };
    match kind {
        Kind::Exact | Kind::Mixed => path(PathMatch::Exact(format!("/api/v1/exact/{i}/items"))),
        Kind::Header => Match { headers: vec![tenant()], ..path(PathMatch::Prefix("/tenants".into())) },
        Kind::Prefix => path(PathMatch::Prefix(prefix(i))),
        Kind::Query => Match { query: vec![tenant()], ..path(PathMatch::Prefix("/tenants".into())) },
        Kind::Regex => path(PathMatch::Regex(format!("/regex-{i}/v[0-9]+/[^/]+"))),
    }
}

/// Each fourth one is the parent of the next three.
fn prefix(i: u32) -> String {
    let (family, rest) = (i / 4, ["", "/v1", "/v1/items", "/v1/items/list"][(i % 4) as usize]);
    format!("/team-{}/service-{family}{rest}", family % 97)
}

fn request(kind: Kind, i: u32) -> Result<(Parts, Option<String>)> {
    let tenant = format!("tenant-{i}");
    let uri = match kind.of(i) {
        Kind::Exact | Kind::Mixed => format!("/api/v1/exact/{i}/items?page=2"),
        Kind::Header => "/tenants/a/b".to_owned(),
        Kind::Prefix => format!("{}/x/y?page=2", prefix(i)),
        Kind::Query => format!("/tenants/a/b?page=2&x-tenant={tenant}"),
        Kind::Regex => format!("/regex-{i}/v12/name"),
    };
    // What a browser's call through a gateway carries, about.
    let request = Request::get(uri)
        .header("host", "cart.shop.svc.cluster.local")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("cookie", "session=0123456789abcdef")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-request-id", "2f1c8e5a")
        .header("x-tenant", tenant);
    Ok((request.body(())?.into_parts().0, Some(i.to_string())))
}
