//! Objects as users write them: they come back as they were, and a broken one is read with its fault.

use kube::core::DeserializeGuard;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::security::{Action, AuthorizationPolicySpec, MutualTlsMode, PeerAuthenticationSpec};
use super::*;

/// Reads a document, writes it, and compares with what was there.
fn round_trip<T: DeserializeOwned + Serialize>(yaml: &str) -> T {
    let before: Value = serde_saphyr::from_str(yaml).unwrap();
    let read: T = serde_json::from_value(before.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), before, "{yaml}");
    read
}

#[test]
fn an_authorization_policy_with_every_field_comes_back() {
    let policy: AuthorizationPolicy = round_trip(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  selector: {matchLabels: {app: cart}}
  action: DENY
  rules:
  - from:
    - source:
        principals: ['cluster.local/ns/shop/sa/web']
        notPrincipals: ['*']
        requestPrincipals: ['issuer/subject']
        notRequestPrincipals: ['x/y']
        namespaces: [shop]
        notNamespaces: [ops]
        ipBlocks: [10.0.0.0/8]
        notIpBlocks: [10.1.0.0/16]
        remoteIpBlocks: [203.0.113.0/24]
        notRemoteIpBlocks: [203.0.113.7]
        trustDomains: [cluster.local]
        notTrustDomains: [other.example]
    - source: {serviceAccounts: [shop/web], notServiceAccounts: [batch]}
    to:
    - operation:
        hosts: [cart.shop]
        notHosts: [x]
        ports: ['8080']
        notPorts: ['9090']
        methods: [GET]
        notMethods: [POST]
        paths: ['/admin/*']
        notPaths: ['/health']
    when:
    - {key: 'request.headers[x-token]', values: [a], notValues: [b]}
status:
  conditions:
  - {type: ZtunnelAccepted, status: 'True', reason: Accepted, message: ok, observedGeneration: 3,
     lastTransitionTime: '2026-01-01T00:00:00Z'}
",
    );
    assert_eq!(policy.spec.action, Some(Action::Deny));
    let custom: AuthorizationPolicy = round_trip(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ext, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: '', name: cart}, {kind: Gateway, group: gateway.networking.k8s.io, name: wp}]
  action: CUSTOM
  provider: {name: opa}
  rules: [{}]
",
    );
    assert_eq!(custom.spec.rules.len(), 1);
}

#[test]
fn the_other_kinds_of_istio_come_back() {
    let peer: PeerAuthentication = round_trip(
        "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  mtls: {mode: STRICT}
  portLevelMtls: {'9090': {mode: PERMISSIVE}, '1': {mode: UNSET}, '2': {mode: DISABLE}}
",
    );
    assert_eq!(peer.spec.port_level_mtls["9090"].mode, Some(MutualTlsMode::Permissive));
    round_trip::<RequestAuthentication>(
        "
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: cart}]
  jwtRules:
  - issuer: https://issuer.example
    audiences: [cart]
    jwksUri: https://issuer.example/jwks.json
    fromHeaders: [{name: Authorization, prefix: 'Bearer '}]
    fromParams: [token]
    fromCookies: [session]
    forwardOriginalToken: true
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-sub, claim: sub}]
    spaceDelimitedClaims: [scope]
    timeout: 5s
",
    );
    round_trip::<ServiceEntry>(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: legacy, namespace: shop}
spec:
  hosts: [legacy.example]
  addresses: [240.240.1.1, 192.0.2.0/24]
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8443}]
  location: MESH_INTERNAL
  resolution: STATIC
  endpoints: [{address: 192.0.2.5, ports: {tls: 9443}, labels: {app: legacy}, network: n1, locality: a/b/c, weight: 5,
               serviceAccount: legacy}]
  exportTo: ['.']
  subjectAltNames: ['spiffe://cluster.local/ns/shop/sa/legacy']
status: {addresses: [{value: 240.240.0.1, host: legacy.example}]}
",
    );
    round_trip::<WorkloadEntry>(
        "
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm-1, namespace: shop}
spec: {address: 192.0.2.9, ports: {http: 8080}, labels: {app: vm}, serviceAccount: vm}
",
    );
}

#[test]
fn gateways_come_back() {
    let gateway: Gateway = round_trip(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
    allowedRoutes:
      kinds: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
      namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a]}]}}
  addresses: [{type: IPAddress, value: 10.96.0.9}]
  infrastructure: {labels: {a: b}, annotations: {c: d}, parametersRef: {group: '', kind: ConfigMap, name: x}}
status:
  addresses: [{type: Hostname, value: waypoint.shop.svc.cluster.local}]
  conditions: [{type: Programmed, status: 'True', reason: Programmed, message: ''}]
  listeners:
  - {name: mesh, attachedRoutes: 2, supportedKinds: [{kind: HTTPRoute}],
     conditions: [{type: Accepted, status: 'True', reason: Accepted, message: ''}]}
",
    );
    assert_eq!(gateway.spec.listeners[0].port, 15008);
    round_trip::<GatewayClass>(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio-waypoint}
spec: {controllerName: culvert.dev/waypoint-controller, description: waypoints,
       parametersRef: {group: '', kind: ConfigMap, name: x, namespace: ns}}
status: {conditions: [{type: Accepted, status: Unknown, reason: Pending, message: ''}],
         supportedFeatures: [{name: Gateway}]}
",
    );
}

#[test]
fn routes_come_back() {
    let route: HttpRoute = round_trip(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart, namespace: shop, sectionName: http, port: 80}]
  hostnames: [cart.example]
  rules:
  - name: first
    matches:
    - path: {type: PathPrefix, value: /api}
      headers: [{type: Exact, name: x-user, value: a}]
      queryParams: [{type: RegularExpression, name: v, value: '[0-9]+'}]
      method: GET
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}, fraction: {numerator: 1, denominator: 3}}}
    - {type: CORS, cors: {allowOrigins: ['*'], allowCredentials: true, allowMethods: [GET], allowHeaders: [a],
                          exposeHeaders: [b], maxAge: 9}}
    - {type: URLRewrite, urlRewrite: {hostname: other, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}
    - {type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: auth, port: 80},
        http: {path: /check, allowedHeaders: [a], allowedResponseHeaders: [b]}, forwardBody: {maxSize: 10}}}
    backendRefs:
    - {name: v1, port: 80, weight: 9,
       filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x]}}]}
    - {group: networking.istio.io, kind: Hostname, name: api.example.com, port: 443}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [500, 503], attempts: 3, backoff: 100ms}
    sessionPersistence: {type: Cookie, absoluteTimeout: 1h, cookie: {name: s, path: /, lifetimeType: Permanent}}
  - filters:
    - {type: RequestRedirect, requestRedirect: {scheme: https, hostname: h, port: 8443, statusCode: 301,
                                                path: {type: ReplaceFullPath, replaceFullPath: /}}}
status:
  parents:
  - parentRef: {group: '', kind: Service, name: cart}
    controllerName: culvert.dev/mesh-controller
    conditions: [{type: Accepted, status: 'True', reason: Accepted, message: ''}]
",
    );
    assert_eq!(route.spec.rules.unwrap().len(), 2);
    round_trip::<GrpcRoute>(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: cart}]
  rules:
  - matches: [{method: {type: Exact, service: a.B, method: C}, headers: [{name: x, value: v}]}]
    backendRefs: [{name: v1, port: 80}]
    sessionPersistence: {type: Header, header: {name: x-session}}
",
    );
    round_trip::<TcpRoute>(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: db}], rules: [{name: r, backendRefs: [{name: db2, port: 5432, weight: 0}]}]}
",
    );
    round_trip::<TlsRoute>(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: gw}], hostnames: ['*.example'], rules: [{backendRefs: [{name: web, port: 443}]}]}
",
    );
}

#[test]
fn what_routes_lean_on_comes_back() {
    round_trip::<ReferenceGrant>(
        "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: from-shop, namespace: pay}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: '', kind: Service, name: pay}, {group: '', kind: Service}]
",
    );
    round_trip::<BackendTlsPolicy>(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart, sectionName: https}]
  validation:
    hostname: cart.example
    caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]
    wellKnownCACertificates: System
    subjectAltNames: [{type: Hostname, hostname: a.example}, {type: URI, uri: 'spiffe://x/y'}]
status: {ancestors: [{ancestorRef: {name: x}, controllerName: a/b, conditions: []}]}
",
    );
    let rule: DestinationRule = round_trip(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart
  exportTo: ['.']
  subsets: [{name: v1}]
  trafficPolicy:
    loadBalancer: {consistentHash: {httpCookie: {name: user}, minimumRingSize: 9}, simple: LEAST_REQUEST, warmup: {duration: 1s}}
    connectionPool:
      tcp: {maxConnections: 10, connectTimeout: 30ms, idleTimeout: 1m, tcpKeepalive: {time: 7200s}}
      http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 3, idleTimeout: 4s, h2UpgradePolicy: UPGRADE,
             maxRequestsPerConnection: 5}
    outlierDetection: {consecutive5xxErrors: 1, consecutiveGatewayErrors: 2, interval: 3s, baseEjectionTime: 4s,
                       maxEjectionPercent: 5, minHealthPercent: 6, splitExternalLocalOriginErrors: true}
    tls: {mode: SIMPLE, sni: x, subjectAltNames: [a.example], caCertificates: /etc/x}
    portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}, loadBalancer: {simple: RANDOM}}]
    proxyProtocol: {version: V1}
",
    );
    let policy = rule.spec.traffic_policy.unwrap();
    assert_eq!(policy.others.keys().collect::<Vec<_>>(), ["proxyProtocol"]);
    assert_eq!(policy.port_level_settings[0].port.number, 80);
    assert_eq!(policy.port_level_settings[0].others.keys().collect::<Vec<_>>(), ["loadBalancer"]);
}

#[test]
fn what_is_recorded_and_bounded_comes_back() {
    let telemetry: Telemetry = round_trip(
        "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: cart, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: cart}]
  tracing:
  - match: {mode: SERVER}
    providers: [{name: otel}]
    randomSamplingPercentage: 12.5
    disableSpanReporting: false
    customTags:
      env: {literal: {value: prod}}
      user: {header: {name: x-user, defaultValue: nobody}}
      node: {environment: {name: NODE, defaultValue: n1}}
      other: {formatter: {value: '%PROTOCOL%'}}
    enableIstioTags: true
    useRequestIdForTraceSampling: false
    disableContextPropagation: false
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - {match: {metric: REQUEST_COUNT, mode: CLIENT}, disabled: true, tagOverrides: {response_code: {operation: REMOVE}}}
    - {match: {customMetric: mine}, tagOverrides: {x: {operation: UPSERT, value: request.host}}}
    reportingInterval: 5s
  accessLogging:
  - {match: {mode: CLIENT_AND_SERVER}, providers: [{name: envoy}], disabled: true, filter: {expression: response.code >= 400}}
",
    );
    assert_eq!(telemetry.spec.tracing[0].random_sampling_percentage, Some(12.5));
    let policy: RequestPolicy = round_trip(
        "
apiVersion: culvert.dev/v1alpha1
kind: RequestPolicy
metadata: {name: limits, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: first}]
  rateLimits: [{requests: 10, per: 1s, burst: 20, perIdentity: true}]
  fault: {delay: {percent: 0.5, duration: 250ms}, abort: {percent: 1.5, status: 503}}
  externalProcessing:
  - {backendRef: {name: proc, namespace: tools, port: 9000}, timeout: 1s, failOpen: true, requestHeaders: true, responseHeaders: true}
status:
  conditions: [{type: Accepted, status: 'True', reason: Accepted, message: ok}]
",
    );
    assert_eq!(policy.spec.rate_limits[0].requests, 10);
}

#[test]
fn odd_values_are_kept_and_unknown_fields_do_not_matter() {
    let policy: AuthorizationPolicy = serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "name": "x" },
        "spec": { "action": "FORBID", "brandNew": [1], "rules": [{ "from": [{ "source": { "moon": true } }] }] },
        "status": { "observedGeneration": "7", "validationMessages": [{ "type": { "code": "X" } }] }
    }))
    .unwrap();
    assert_eq!(policy.spec.action, Some(Action::Other("FORBID".into())));
    assert_eq!(policy.status.unwrap().observed_generation, Some(Generation(7)));
    let entry: ServiceEntry = serde_json::from_value(json!({
        "metadata": { "name": "x" },
        "spec": { "ports": [{ "number": 4_294_967_295_u32 }, { "number": -1, "targetPort": 0 }], "resolution": "MAGIC" }
    }))
    .unwrap();
    assert_eq!(entry.spec.ports[0].number, 4_294_967_295);
    assert_eq!(entry.spec.resolution.unwrap().as_str(), "MAGIC");
}

#[test]
fn an_absent_spec_is_the_empty_policy() {
    for object in [json!({ "metadata": { "name": "x" } }), json!({ "metadata": { "name": "x" }, "spec": null })] {
        let policy: AuthorizationPolicy = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(policy.spec, AuthorizationPolicySpec::default());
        let peer: PeerAuthentication = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(peer.spec, PeerAuthenticationSpec::default());
        let request: RequestAuthentication = serde_json::from_value(object).unwrap();
        assert!(request.spec.jwt_rules.is_empty());
    }
}

#[test]
fn one_object_of_the_wrong_shape_does_not_break_a_list() {
    let list: kube::core::ObjectList<DeserializeGuard<AuthorizationPolicy>> = serde_json::from_value(json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicyList", "metadata": {},
        "items": [
            { "metadata": { "name": "bad", "namespace": "shop" }, "spec": { "rules": "all of them" } },
            { "metadata": { "name": "good", "namespace": "shop" }, "spec": { "rules": [{}] } },
        ]
    }))
    .unwrap();
    let [bad, good] = &list.items[..] else { panic!("two objects") };
    let fault = bad.0.as_ref().unwrap_err();
    assert_eq!(fault.metadata.name.as_deref(), Some("bad"));
    assert!(fault.error.contains("all of them"), "{}", fault.error);
    assert_eq!(good.0.as_ref().unwrap().spec.rules.len(), 1);
}

#[test]
fn definitions_are_ours_structural_and_as_users_know_them() {
    let all = crds();
    let names: Vec<&str> = all.iter().map(|d| d.metadata.name.as_deref().unwrap()).collect();
    assert_eq!(
        names,
        [
            "authorizationpolicies.security.istio.io",
            "peerauthentications.security.istio.io",
            "requestauthentications.security.istio.io",
            "destinationrules.networking.istio.io",
            "serviceentries.networking.istio.io",
            "workloadentries.networking.istio.io",
            "gatewayclasses.gateway.networking.k8s.io",
            "gateways.gateway.networking.k8s.io",
            "backendtlspolicies.gateway.networking.k8s.io",
            "grpcroutes.gateway.networking.k8s.io",
            "httproutes.gateway.networking.k8s.io",
            "referencegrants.gateway.networking.k8s.io",
            "tcproutes.gateway.networking.k8s.io",
            "tlsroutes.gateway.networking.k8s.io",
            "telemetries.telemetry.istio.io",
            "requestpolicies.culvert.dev",
        ]
    );
    for definition in &all {
        assert_eq!(definition.metadata.labels.as_ref().unwrap()[MANAGED_BY], MANAGED_BY_US);
        let stored = definition.spec.versions.iter().filter(|v| v.storage).map(|v| v.name.as_str());
        // As the Gateway API stores grants, so that its own definition can take over.
        let version = match definition.spec.names.kind.as_str() {
            "ReferenceGrant" => "v1beta1",
            "RequestPolicy" => "v1alpha1",
            _ => "v1",
        };
        assert_eq!(stored.collect::<Vec<_>>(), [version]);
        for version in &definition.spec.versions {
            let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
            structural(&schema["openAPIV3Schema"], definition.metadata.name.as_deref().unwrap());
        }
    }
    let short: Vec<_> = all.iter().flat_map(|d| d.spec.names.short_names.clone().unwrap_or_default()).collect();
    assert_eq!(
        short,
        ["ap", "pa", "ra", "dr", "se", "we", "gc", "gtw", "btlspolicy", "refgrant", "telemetry", "reqpol"]
    );
    // The API server refuses a definition of this group without the annotation.
    assert!(all[7].metadata.annotations.as_ref().unwrap()["api-approved.kubernetes.io"].starts_with("unapproved"));
    let action = serde_json::to_value(&all[0].spec.versions[0].schema).unwrap();
    let action = &action["openAPIV3Schema"]["properties"]["spec"]["properties"]["action"];
    assert_eq!(action["enum"], json!(["ALLOW", "DENY", "AUDIT", "CUSTOM"]));
}

/// Every node of a structural schema has a type, unless it says that it has none ("Specifying a structural schema").
fn structural(schema: &Value, at: &str) {
    let untyped = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    let typed = schema.get("type").is_some_and(Value::is_string)
        || untyped.iter().any(|k| schema.get(*k) == Some(&json!(true)));
    assert!(typed, "{at}: {schema}");
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        structural(inner, &format!("{at}.{name}"));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(key) {
            structural(inner, &format!("{at}.{key}"));
        }
    }
    for key in ["$ref", "definitions", "$defs", "allOf", "anyOf", "oneOf", "default", "nullable"] {
        assert!(schema.get(key).is_none(), "{at} has {key}");
    }
}
