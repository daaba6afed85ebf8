//! Where requests go, and what comes when they cannot go there.

use super::super::ask::Want::{By, ByNobody, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route, Share};

pub(super) const BACKENDS: Case = Case {
    service: "backends",
    routes: &[
        Route { name: "backends-good", rules: GOOD, ..ROUTE },
        // One fault a route, since conditions are of routes.
        Route { name: "backends-missing", rules: MISSING, ..ROUTE },
        Route { name: "backends-kind", rules: KIND, ..ROUTE },
        Route { name: "backends-port", rules: PORT, ..ROUTE },
        Route { name: "backends-filter", rules: FILTER, ..ROUTE },
    ],
    asks: &[
        Ask { path: "/one", wants: &[Status(&[200]), By("one")], ..ASK },
        Ask { path: "/two", wants: &[Status(&[200]), By("two")], ..ASK },
        // No grant is needed in a mesh.
        Ask { path: "/elsewhere", wants: &[Status(&[200]), By("three")], ..ASK },
        // The Service's own endpoints: its routes are not asked again.
        Ask { path: "/self", wants: &[Status(&[200])], ..ASK },
        Ask { path: "/nothing-for-this", wants: &[Status(&[404]), ByNobody], ..ASK },
        Ask { path: "/omitted", wants: &[Status(&[500]), ByNobody], ..ASK },
        Ask { path: "/weightless", wants: &[Status(&[500]), ByNobody], ..ASK },
        Ask { path: "/empty", wants: &[Status(&[503]), ByNobody], ..ASK },
        Ask { path: "/missing", wants: &[Status(&[500]), ByNobody], ..ASK },
        Ask { path: "/kind", wants: &[Status(&[500]), ByNobody], ..ASK },
        Ask { path: "/port", wants: &[Status(&[500]), ByNobody], ..ASK },
        // A filter that cannot be applied is not passed over, and the rule still wins over a shorter one.
        Ask { path: "/one/filter", wants: &[Status(&[500]), ByNobody], ..ASK },
    ],
    shares: &[
        Share { path: "/bad-but-weightless", times: 60, wants: &[("200 one", 1.0)], tolerance: 0.0 },
        Share { path: "/half-bad", times: 60, wants: &[("200 one", 0.5), ("500 -", 0.5)], tolerance: 0.1 },
    ],
};

const GOOD: &str = "
- matches: [{path: {type: PathPrefix, value: /one}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /two}}]
  backendRefs: [{name: two, port: 8080}]
- matches: [{path: {type: PathPrefix, value: /elsewhere}}]
  backendRefs: [{name: three, namespace: routes-other, port: 80}]
- matches: [{path: {type: PathPrefix, value: /self}}]
  backendRefs: [{name: backends, port: 80}]
- matches: [{path: {type: PathPrefix, value: /omitted}}]
- matches: [{path: {type: PathPrefix, value: /weightless}}]
  backendRefs: [{name: one, port: 80, weight: 0}]
- matches: [{path: {type: PathPrefix, value: /empty}}]
  backendRefs: [{name: empty, port: 80}]
";

const MISSING: &str = "
- matches: [{path: {type: PathPrefix, value: /missing}}]
  backendRefs: [{name: nowhere, port: 80}]
- matches: [{path: {type: PathPrefix, value: /bad-but-weightless}}]
  backendRefs: [{name: nowhere, port: 80, weight: 0}, {name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /half-bad}}]
  backendRefs: [{name: nowhere, port: 80}, {name: one, port: 80}]
";

const KIND: &str = "
- matches: [{path: {type: PathPrefix, value: /kind}}]
  backendRefs: [{group: example.com, kind: Queue, name: one, port: 80}]
";

const PORT: &str = "
- matches: [{path: {type: PathPrefix, value: /port}}]
  backendRefs: [{name: one, port: 81}]
";

const FILTER: &str = "
- matches: [{path: {type: PathPrefix, value: /one/filter}}]
  filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: Filter, name: unknown}}]
  backendRefs: [{name: one, port: 80}]
";

pub(super) const SHARES: Case = Case {
    service: "shares",
    routes: &[Route { rules: WEIGHTS, ..ROUTE }],
    asks: &[Ask { path: "/heavy", wants: &[Status(&[200])], ..ASK }],
    shares: &[
        // Smooth round robin is exact but for what other workers have begun.
        Share { path: "/heavy", times: 100, wants: &[("200 one", 0.9), ("200 two", 0.1)], tolerance: 0.04 },
        Share {
            path: "/three",
            times: 120,
            wants: &[("200 one", 0.5), ("200 two", 0.333), ("200 three", 0.167)],
            tolerance: 0.05,
        },
        Share { path: "/never", times: 40, wants: &[("200 one", 1.0)], tolerance: 0.0 },
    ],
};

const WEIGHTS: &str = "
- matches: [{path: {type: PathPrefix, value: /heavy}}]
  backendRefs: [{name: one, port: 80, weight: 90}, {name: two, port: 80, weight: 10}]
- matches: [{path: {type: PathPrefix, value: /three}}]
  backendRefs:
  - {name: one, port: 80, weight: 3}
  - {name: two, port: 80, weight: 2}
  - {name: three, namespace: routes-other, port: 80, weight: 1}
- matches: [{path: {type: PathPrefix, value: /never}}]
  backendRefs: [{name: two, port: 80, weight: 0}, {name: one, port: 80, weight: 1}]
";
