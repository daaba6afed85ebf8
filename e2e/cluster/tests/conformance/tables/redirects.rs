//! Where a redirect leads.

use super::super::ask::Want::{ByNobody, Header, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route};

pub(super) const REDIRECT: Case = Case {
    service: "redirect",
    routes: &[Route { rules: PARTS, ..ROUTE }, Route { name: "redirect-status", rules: STATUSES, ..ROUTE }],
    asks: ASKS,
    shares: &[],
};

const PARTS: &str = "
- matches: [{path: {type: PathPrefix, value: /hostname}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]
- matches: [{path: {type: PathPrefix, value: /scheme}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
- matches: [{path: {type: PathPrefix, value: /plain}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: http}}]
- matches: [{path: {type: PathPrefix, value: /port}}]
  filters: [{type: RequestRedirect, requestRedirect: {port: 8083}}]
- matches: [{path: {type: PathPrefix, value: /https-443}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443}}]
- matches: [{path: {type: PathPrefix, value: /https-8443}}]
  filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443}}]
- matches: [{path: {type: PathPrefix, value: /http-80}}]
  filters: [{type: RequestRedirect, requestRedirect: {port: 80}}]
- matches: [{path: {type: PathPrefix, value: /prefix}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
- matches: [{path: {type: PathPrefix, value: /strip}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
- matches: [{path: {type: PathPrefix, value: /full}}]
  filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
- matches: [{path: {type: PathPrefix, value: /everything}}]
  filters:
  - type: RequestRedirect
    requestRedirect: {scheme: https, hostname: example.org, port: 9443, statusCode: 308,
      path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}
";

const STATUSES: &str = "
- matches: [{path: {type: PathPrefix, value: /s301}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]
- matches: [{path: {type: PathPrefix, value: /s302}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 302}}]
- matches: [{path: {type: PathPrefix, value: /s303}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 303}}]
- matches: [{path: {type: PathPrefix, value: /s307}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 307}}]
- matches: [{path: {type: PathPrefix, value: /s308}}]
  filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 308}}]
";

const ASKS: &[Ask] = &[
    to(
        "/hostname/x?q=1&r=%20",
        &[Status(&[302]), Header("location", "http://example.org/hostname/x?q=1&r=%20"), ByNobody],
    ),
    to("/hostname", &[Status(&[302]), Header("location", "http://example.org/hostname")]),
    // The port of the listener, which in a mesh is the Service's port that was called.
    Ask { port: 8080, ..to("/hostname", &[Header("location", "http://example.org:8080/hostname")]) },
    to("/scheme/x", &[Header("location", "https://{host}/scheme/x")]),
    // A scheme brings its own port.
    Ask { port: 8080, ..to("/scheme", &[Header("location", "https://{host}/scheme")]) },
    Ask { port: 8080, ..to("/plain", &[Header("location", "http://{host}/plain")]) },
    to("/port/x?q", &[Header("location", "http://{host}:8083/port/x?q")]),
    Ask { port: 8080, ..to("/port", &[Header("location", "http://{host}:8083/port")]) },
    to("/https-443", &[Header("location", "https://{host}/https-443")]),
    to("/https-8443", &[Header("location", "https://{host}:8443/https-8443")]),
    Ask { port: 8080, ..to("/http-80", &[Header("location", "http://{host}/http-80")]) },
    to("/prefix/x/y?q=1", &[Header("location", "http://{host}/new/x/y?q=1")]),
    to("/prefix", &[Header("location", "http://{host}/new")]),
    to("/prefix/", &[Header("location", "http://{host}/new/")]),
    to("/prefixed", &[Status(&[404]), ByNobody]),
    to("/strip/x", &[Header("location", "http://{host}/x")]),
    to("/strip", &[Header("location", "http://{host}/")]),
    to("/strip/", &[Header("location", "http://{host}/")]),
    to("/full/x?q=1", &[Header("location", "http://{host}/all?q=1")]),
    to("/everything/x", &[Status(&[308]), Header("location", "https://example.org:9443/new/x")]),
    // The host that was asked for, without its port.
    Ask {
        headers: &["Host: shop.example:1234"],
        ..to("/scheme", &[Status(&[302]), Header("location", "https://shop.example/scheme")])
    },
    to("/s301", &[Status(&[301])]),
    to("/s302", &[Status(&[302])]),
    Ask { method: "POST", ..to("/s303", &[Status(&[303]), Header("location", "http://example.org/s303"), ByNobody]) },
    Ask { method: "PUT", ..to("/s307", &[Status(&[307])]) },
    to("/s308", &[Status(&[308])]),
];

const fn to(path: &'static str, wants: &'static [super::super::ask::Want]) -> Ask {
    Ask { path, wants, ..ASK }
}
