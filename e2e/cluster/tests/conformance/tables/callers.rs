//! For whom a route is, and on which port.

use super::super::ask::Want::{By, ByNobody, Header, NoHeader, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route};

pub(super) const PORTS: Case = Case {
    service: "ports",
    routes: &[
        Route { name: "ports-number", parent: "port: 80", rules: "- backendRefs: [{name: one, port: 80}]", ..ROUTE },
        Route {
            name: "ports-name",
            parent: "sectionName: http-alt",
            rules: "- matches: [{path: {type: Exact, value: /named}}]\n  backendRefs: [{name: two, port: 80}]",
            ..ROUTE
        },
        Route { name: "ports-absent", parent: "port: 81", rules: "- backendRefs: [{name: two, port: 80}]", ..ROUTE },
    ],
    asks: &[
        Ask { path: "/named", wants: &[By("one")], ..ASK },
        Ask { port: 8080, path: "/named", wants: &[By("two")], ..ASK },
        Ask { port: 8080, path: "/", wants: &[Status(&[404]), ByNobody], ..ASK },
    ],
    shares: &[],
};

/// The routes of a caller's namespace replace the producer's, and are nobody else's.
pub(super) const CALLERS: Case = Case {
    service: "callers",
    routes: &[
        Route { name: "callers-producer", rules: PRODUCER, ..ROUTE },
        Route { namespace: "routes-consumer", name: "callers-consumer", rules: CONSUMER, ..ROUTE },
    ],
    asks: &[
        Ask { path: "/both", wants: &[Header("x-route", "producer"), By("one")], ..ASK },
        Ask { path: "/consumer", wants: &[Status(&[404])], ..ASK },
        Ask {
            from: "routes-consumer/client",
            path: "/both",
            wants: &[Header("x-route", "consumer"), By("two")],
            ..ASK
        },
        // Sets are not merged.
        Ask { from: "routes-consumer/client", path: "/producer", wants: &[Status(&[404]), ByNobody], ..ASK },
        Ask { from: "routes-other/client", path: "/both", wants: &[Header("x-route", "producer")], ..ASK },
        Ask { from: "routes-other/client", path: "/producer", wants: &[By("one")], ..ASK },
        // A name in a header is nobody's identity.
        Ask {
            from: "routes-other/client",
            path: "/both",
            headers: &["x-forwarded-client-cert: URI=spiffe://cluster.local/ns/routes-consumer/sa/default"],
            wants: &[Header("x-route", "producer")],
            ..ASK
        },
    ],
    shares: &[],
};

const PRODUCER: &str = "
- matches: [{path: {type: PathPrefix, value: /both}}, {path: {type: PathPrefix, value: /producer}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: producer}]}}]
  backendRefs: [{name: one, port: 80}]
";

const CONSUMER: &str = "
- matches: [{path: {type: PathPrefix, value: /both}}, {path: {type: PathPrefix, value: /consumer}}]
  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: consumer}]}}]
  backendRefs: [{name: two, namespace: routes, port: 80}]
";

/// Bound, but nothing of L7 is attached.
pub(super) const PLAIN: Case = Case {
    service: "plain",
    routes: &[],
    asks: &[Ask { path: "/anything", wants: &[Status(&[200]), NoHeader("x-route")], ..ASK }],
    shares: &[],
};
