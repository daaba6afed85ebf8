//! How long a request may take, and how often it is tried.

use super::super::ask::Want::{By, ByNobody, Saw, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route, Share};

pub(super) const PATIENCE: Case = Case {
    service: "patience",
    routes: &[Route { rules: LIMITS, ..ROUTE }],
    asks: &[
        Ask { path: "/request", wants: &[Status(&[200]), By("one")], ..ASK },
        Ask { path: "/request?delay=4s", wants: &[Status(&[504]), ByNobody], ..ASK },
        Ask { path: "/attempt?delay=4s", wants: &[Status(&[504]), ByNobody], ..ASK },
        Ask {
            path: "/endless?delay=1200ms",
            wants: &[Status(&[200]), By("one"), Saw("URL", "/endless?delay=1200ms")],
            ..ASK
        },
    ],
    shares: &[],
};

const LIMITS: &str = "
- matches: [{path: {type: PathPrefix, value: /request}}]
  timeouts: {request: 1s}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /attempt}}]
  timeouts: {backendRequest: 1s}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /endless}}]
  timeouts: {request: 0s}
  backendRefs: [{name: one, port: 80}]
";

pub(super) const RETRY: Case = Case {
    service: "retry",
    routes: &[Route { rules: RETRIES, ..ROUTE }],
    asks: &[
        // The last answer of the backend comes back, not one of ours.
        Ask { path: "/twice?codes=503:1", wants: &[Status(&[503]), By("one")], ..ASK },
        // What is not listed is not tried again.
        Ask { path: "/twice?codes=500:1", wants: &[Status(&[500]), By("one")], ..ASK },
        Ask { path: "/twice?codes=404:1", wants: &[Status(&[404]), By("one")], ..ASK },
    ],
    shares: &[
        // One answer of twelve is 503, which leaves a share of tries that every budget has; a handful in a row does not come.
        Share { path: "/often?codes=503:1,200:11", times: 40, wants: &[("200 one", 1.0)], tolerance: 0.0 },
        // Half of the attempts by round robin would meet the server that refuses connections.
        Share { path: "/deaf", times: 40, wants: &[("200 one", 1.0)], tolerance: 0.0 },
    ],
};

const RETRIES: &str = "
- matches: [{path: {type: PathPrefix, value: /twice}}]
  retry: {attempts: 2, codes: [503]}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /often}}]
  retry: {attempts: 20, codes: [503], backoff: 1ms}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /deaf}}]
  retry: {attempts: 5, codes: [503], backoff: 1ms}
  backendRefs: [{name: half-deaf, port: 80}]
";
