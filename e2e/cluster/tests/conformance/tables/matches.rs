//! Which rule takes a request.

use super::super::ask::Want::{By, ByNobody, Grpc, Header, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route};

/// Every rule of this route says its name in the answer.
pub(super) const MATCHING: Case = Case {
    service: "matching",
    // The lists are in an order that would give other answers if it counted.
    routes: &[Route { rules: LOOSE, ..ROUTE }, Route { name: "matching-tight", rules: TIGHT, ..ROUTE }],
    asks: &[
        Ask { path: "/a/b", wants: &[Header("x-rule", "exact")], ..ASK },
        Ask { path: "/a/b?exact=1", wants: &[Header("x-rule", "exact")], ..ASK },
        Ask { path: "/a/b/", wants: &[Header("x-rule", "longer")], ..ASK },
        Ask { path: "/a/b/c", wants: &[Header("x-rule", "longer")], ..ASK },
        Ask { path: "/a/bc", wants: &[Header("x-rule", "prefix")], ..ASK },
        Ask { path: "/a", wants: &[Header("x-rule", "prefix")], ..ASK },
        Ask { path: "/a/", wants: &[Header("x-rule", "prefix")], ..ASK },
        Ask { path: "/ab", wants: &[Status(&[404]), ByNobody], ..ASK },
        Ask { path: "/A", wants: &[Status(&[404]), ByNobody], ..ASK },
        Ask { path: "/", wants: &[Status(&[404]), ByNobody], ..ASK },
        // Method over headers over query; a longer prefix over all of them.
        Ask {
            method: "POST",
            path: "/a/c?q=1",
            headers: &["v: 1", "w: 1"],
            wants: &[Header("x-rule", "method")],
            ..ASK
        },
        Ask { path: "/a/c?q=1", headers: &["v: 1", "w: 1"], wants: &[Header("x-rule", "headers")], ..ASK },
        Ask { path: "/a/c?q=1", headers: &["V: 1"], wants: &[Header("x-rule", "header")], ..ASK },
        Ask { path: "/a/c?q=1", wants: &[Header("x-rule", "query")], ..ASK },
        Ask { method: "POST", path: "/a/b/c", headers: &["v: 1"], wants: &[Header("x-rule", "longer")], ..ASK },
        // Values to the letter; of a repeated parameter the first.
        Ask { path: "/a/c?q=1&q=2", wants: &[Header("x-rule", "query")], ..ASK },
        Ask { path: "/a/c?q=2&q=1", wants: &[Header("x-rule", "prefix")], ..ASK },
        Ask { path: "/a/c?Q=1", wants: &[Header("x-rule", "prefix")], ..ASK },
        Ask { path: "/a/c", headers: &["v: 11"], wants: &[Header("x-rule", "prefix")], ..ASK },
        // One of several matches.
        Ask { path: "/either", wants: &[Header("x-rule", "either")], ..ASK },
        Ask { path: "/other/x", wants: &[Header("x-rule", "either")], ..ASK },
    ],
    shares: &[],
};

const LOOSE: &str = "
- name: prefix
  matches: [{path: {type: PathPrefix, value: /a/}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: prefix}]}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a}, queryParams: [{name: q, value: '1'}]}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: query}]}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: v, value: '1'}]}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: header}]}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: v, value: '1'}, {name: w, value: '1'}]}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: headers}]}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /a}, method: POST}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: method}]}}]
  backendRefs: [{name: one, port: 80}]
";

const TIGHT: &str = "
- matches: [{path: {type: PathPrefix, value: /a/b}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: longer}]}}]
  backendRefs: [{name: two, port: 80}]
- matches: [{path: {type: Exact, value: /a/b}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: exact}]}}]
  backendRefs: [{name: two, port: 80}]
- matches:
  - path: {type: PathPrefix, value: /other}
  - path: {type: Exact, value: /either}
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: either}]}}]
  backendRefs: [{name: two, port: 80}]
";

/// The older route wins, then the name, then the place in the list.
pub(super) const TIES: Case = Case {
    service: "ties",
    routes: &[
        Route { name: "ties-zz", early: true, rules: "- backendRefs: [{name: two, port: 80}]", ..ROUTE },
        Route { name: "ties-aa", rules: YOUNG, ..ROUTE },
    ],
    asks: &[
        Ask { wants: &[By("two")], ..ASK },
        Ask { path: "/x/y", wants: &[By("one")], ..ASK },
        Ask { path: "/twice", wants: &[By("one")], ..ASK },
    ],
    shares: &[],
};

const YOUNG: &str = "
- backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /x}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /twice}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /twice}}]
  backendRefs: [{name: two, port: 80}]
";

pub(super) const GRPC: Case = Case {
    service: "grpc",
    routes: &[Route { kind: "GRPCRoute", rules: GRPC_RULES, ..ROUTE }],
    asks: &[
        Ask { path: "/proto.EchoTestService/Echo", wants: &[Status(&[200]), Header("x-rule", "method")], ..CALL },
        Ask {
            path: "/proto.EchoTestService/Echo",
            headers: &["x-to: nowhere"],
            wants: &[Status(&[200]), Grpc(14), ByNobody],
            ..CALL
        },
        // A route that no rule of which matches.
        Ask { path: "/proto.EchoTestService/Other", wants: &[Status(&[200]), Grpc(12), ByNobody], ..CALL },
        Ask { path: "/proto.echotestservice/Echo", wants: &[Grpc(12), ByNobody], ..CALL },
        Ask { path: "/", wants: &[Grpc(12)], ..CALL },
    ],
    shares: &[],
};

const CALL: Ask = Ask { method: "POST", port: 7070, grpc: true, ..ASK };

const GRPC_RULES: &str = "
- matches: [{method: {service: proto.EchoTestService, method: Echo}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-rule, value: method}]}}]
  backendRefs: [{name: one, port: 7070}]
- matches: [{method: {service: proto.EchoTestService, method: Echo}, headers: [{name: x-to, value: nowhere}]}]
  backendRefs: [{name: nowhere, port: 7070}]
";
