//! What filters change of requests and answers.

use super::super::ask::Want::{By, ByNobody, Header, NoHeader, Saw, SawHeader, SawNoHeader, SawNot, Status};
use super::super::ask::{ASK, Ask};
use super::super::case::{Case, ROUTE, Route};

pub(super) const REWRITE: Case = Case {
    service: "rewrite",
    routes: &[Route { rules: REWRITES, ..ROUTE }],
    asks: &[
        Ask { path: "/prefix/bar?q=1&r=%2F", wants: &[Saw("URL", "/xyz/bar?q=1&r=%2F"), Saw("Host", "{host}")], ..ASK },
        Ask { path: "/prefix", wants: &[Saw("URL", "/xyz"), By("one")], ..ASK },
        Ask { path: "/prefix/", wants: &[Saw("URL", "/xyz/")], ..ASK },
        Ask { path: "/slashed/bar", wants: &[Saw("URL", "/xyz/bar")], ..ASK },
        Ask { path: "/slashed", wants: &[Saw("URL", "/xyz")], ..ASK },
        Ask { path: "/slashed/", wants: &[Saw("URL", "/xyz/")], ..ASK },
        Ask { path: "/strip/bar", wants: &[Saw("URL", "/bar")], ..ASK },
        Ask { path: "/strip", wants: &[Saw("URL", "/")], ..ASK },
        Ask { path: "/strip/", wants: &[Saw("URL", "/")], ..ASK },
        Ask { path: "/full/x/y?q=1", wants: &[Saw("URL", "/all?q=1")], ..ASK },
        Ask { path: "/host/x", wants: &[Saw("URL", "/host/x"), Saw("Host", "rewritten.example")], ..ASK },
        // The one form of path and host that policies judge is what a server gets; what means the same to nobody stays.
        Ask {
            path: "/as-is/a%2Fb//./c?x=1&&y=/../z",
            wants: &[Saw("URL", "/as-is/a%2Fb/c?x=1&&y=/../z"), Saw("Host", "{host}")],
            ..ASK
        },
        Ask { path: "/as-is", headers: &["Host: Shop.Example:99"], wants: &[Saw("Host", "shop.example:99")], ..ASK },
        Ask { method: "DELETE", path: "/as-is", wants: &[Saw("Method", "DELETE"), Saw("Proto", "HTTP/1.1")], ..ASK },
    ],
    shares: &[],
};

const REWRITES: &str = "
- matches: [{path: {type: PathPrefix, value: /prefix}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /slashed/}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /xyz/}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /strip}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /full}}]
  filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /host}}]
  filters: [{type: URLRewrite, urlRewrite: {hostname: rewritten.example}}]
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /as-is}}]
  backendRefs: [{name: one, port: 80}]
";

pub(super) const HEADERS: Case = Case {
    service: "headers",
    routes: &[Route { rules: MODIFIERS, ..ROUTE }],
    asks: &[
        Ask {
            path: "/request",
            headers: &["x-set: old", "X-ADD: one", "X-Gone: 1", "x-gone: 2", "X-Kept: yes"],
            wants: &[
                SawHeader("x-set", "new"),
                SawHeader("x-add", "one,two"),
                SawNoHeader("x-gone"),
                SawHeader("x-kept", "yes"),
            ],
            ..ASK
        },
        Ask {
            path: "/request",
            wants: &[SawHeader("x-set", "new"), SawHeader("x-add", "two"), SawNoHeader("x-gone")],
            ..ASK
        },
        Ask {
            path: "/response?headers=X-SET:old,x-add:one,X-Gone:1,x-kept:yes",
            wants: &[
                Header("x-set", "new"),
                Header("x-add", "one,two"),
                NoHeader("x-gone"),
                Header("x-kept", "yes"),
                SawNoHeader("x-set"),
            ],
            ..ASK
        },
        Ask {
            path: "/backend?headers=x-back:old",
            headers: &["x-set: old"],
            wants: &[SawHeader("x-set", "backend"), Header("x-back", "backend")],
            ..ASK
        },
        // Those of the backend come after those of the rule.
        Ask {
            path: "/both",
            wants: &[SawHeader("x-set", "backend"), SawHeader("x-add", "rule,backend"), Header("x-answer", "rule")],
            ..ASK
        },
        Ask { path: "/authority", wants: &[Saw("Host", "set.example"), SawNoHeader("host")], ..ASK },
    ],
    shares: &[],
};

const MODIFIERS: &str = "
- matches: [{path: {type: PathPrefix, value: /request}}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: X-Set, value: new}], add: [{name: X-Add, value: two}], remove: [X-GONE]}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /response}}]
  filters:
  - type: ResponseHeaderModifier
    responseHeaderModifier: {set: [{name: x-Set, value: new}], add: [{name: X-Add, value: two}], remove: [x-gone]}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /backend}}]
  backendRefs:
  - name: one
    port: 80
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: backend}]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: backend}]}}
- matches: [{path: {type: PathPrefix, value: /both}}]
  filters:
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: x-set, value: rule}], add: [{name: x-add, value: rule}]}
  - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: rule}]}}
  backendRefs:
  - name: one
    port: 80
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: backend}], add: [{name: x-add, value: backend}]}
- matches: [{path: {type: PathPrefix, value: /authority}}]
  filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: set.example}]}}]
  backendRefs: [{name: one, port: 80}]
";

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_METHODS: &str = "access-control-allow-methods";

pub(super) const CORS: Case = Case {
    service: "cors",
    routes: &[Route { rules: CORS_RULES, ..ROUTE }],
    asks: &[
        // A preflight is answered here.
        Ask {
            method: "OPTIONS",
            path: "/some",
            headers: &["Origin: https://shop.example", "Access-Control-Request-Method: PUT"],
            wants: &[
                Status(&[200, 204]),
                Header(ALLOW_ORIGIN, "https://shop.example"),
                Header("access-control-max-age", "100"),
                ByNobody,
            ],
            ..ASK
        },
        Ask {
            method: "OPTIONS",
            path: "/some",
            headers: &["Origin: https://a.b.wild.example:8443", "Access-Control-Request-Method: GET"],
            wants: &[Status(&[200, 204, 403]), NoHeader(ALLOW_ORIGIN), ByNobody],
            ..ASK
        },
        Ask {
            path: "/some",
            headers: &["Origin: https://a.b.wild.example"],
            wants: &[Status(&[200]), Header(ALLOW_ORIGIN, "https://a.b.wild.example"), By("one")],
            ..ASK
        },
        Ask {
            path: "/some",
            headers: &["Origin: https://shop.example"],
            wants: &[
                Header(ALLOW_ORIGIN, "https://shop.example"),
                Header("access-control-expose-headers", "x-b"),
                By("one"),
            ],
            ..ASK
        },
        Ask {
            path: "/some",
            headers: &["Origin: https://evil.example"],
            wants: &[Status(&[200]), NoHeader(ALLOW_ORIGIN), NoHeader("access-control-expose-headers"), By("one")],
            ..ASK
        },
        Ask { path: "/some", wants: &[Status(&[200]), NoHeader(ALLOW_ORIGIN)], ..ASK },
        // With credentials nothing is a star.
        Ask {
            method: "OPTIONS",
            path: "/credentials",
            headers: &["Origin: http://any.example", "Access-Control-Request-Method: PATCH"],
            wants: &[
                Header(ALLOW_ORIGIN, "http://any.example"),
                Header("access-control-allow-credentials", "true"),
                Header(ALLOW_METHODS, "PATCH"),
                NoHeader("access-control-allow-headers"),
                Header("access-control-max-age", "5"),
            ],
            ..ASK
        },
        // OPTIONS without a method to ask for is a request like another.
        Ask { method: "OPTIONS", path: "/some", wants: &[By("one"), Saw("Method", "OPTIONS")], ..ASK },
    ],
    shares: &[],
};

const CORS_RULES: &str = "
- matches: [{path: {type: PathPrefix, value: /some}}]
  filters:
  - type: CORS
    cors: {allowOrigins: ['https://shop.example', 'https://*.wild.example'], allowMethods: [GET, PUT], exposeHeaders: [x-b], maxAge: 100}
  backendRefs: [{name: one, port: 80}]
- matches: [{path: {type: PathPrefix, value: /credentials}}]
  filters:
  - type: CORS
    cors: {allowOrigins: ['*'], allowCredentials: true, allowMethods: ['*'], allowHeaders: ['*']}
  backendRefs: [{name: one, port: 80}]
";

/// What a caller must not be able to say of itself.
pub(super) const HYGIENE: Case = Case {
    service: "hygiene",
    routes: &[Route { rules: "- backendRefs: [{name: one, port: 80}]", ..ROUTE }],
    asks: &[
        Ask {
            headers: &["x-forwarded-client-cert: By=spiffe://forged;URI=spiffe://forged"],
            wants: &[Status(&[200]), SawNot("forged")],
            ..ASK
        },
        Ask {
            headers: &["Connection: x-secret, close", "x-secret: forged", "Keep-Alive: forged"],
            wants: &[Status(&[200]), SawNot("forged")],
            ..ASK
        },
    ],
    shares: &[],
};
