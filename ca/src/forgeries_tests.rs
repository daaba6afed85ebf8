//! Requests that nobody may have signed, against a cluster: each is refused for its own reason.

use std::time::{Duration, SystemTime};

use chassis::Gate;
use identity::{Key, SystemClock};
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::{Value, json};
use telemetry::Metrics;

use super::tests::{Recorder, forged_csrs, good_csr, hours, impersonate, metadata, plenty, web};
use super::*;
use crate::authority::{Authority, Ttl};
use crate::config::{Config, Kubernetes};
use crate::kubernetes::Cluster;
use crate::kubernetes::api::{Api, jwt, pod, pod_path, status};
use crate::signers::Fixed;
use crate::store;

struct Bench {
    api: Api,
    service: CaService,
    audit: Arc<Recorder>,
    running: tokio::task::JoinHandle<()>,
}

const CONFIG: &str = "
authority: {secret: {}}
serverNames: [localhost]
kubernetes:
  nodeAccounts: [culvert-system/ztunnel, istio-system/ztunnel]
  directIssuance: {accounts: [shop/gate], managedGateways: true}
  serverCertificates:
  - serviceAccount: culvert-system/culvert-control
    names: [culvert-control.culvert-system.svc, 10.0.0.9]
";

fn kubernetes() -> Kubernetes {
    document::parse::<Config>("ca.yaml", CONFIG).unwrap().kubernetes.unwrap()
}

/// Name of a token, its claims, and what the API server says of it.
fn put(api: &Api, name: &str, claims: Value, status: Value) {
    api.token(&token_of(name, claims), status);
}

/// A token whose own claims name it, so that it differs from every other.
fn token_of(name: &str, claims: Value) -> String {
    let mut all = json!({"jti": name, "aud": ["istio-ca"], "exp": 4_000_000_000_u64});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    jwt(&all)
}

fn cluster() -> Api {
    let api = Api::new();
    let pods = [
        ("culvert-system", "ztunnel-a", pod("zt-a", "ztunnel", "node-a", "Running")),
        ("culvert-system", "ztunnel-b", pod("zt-b", "ztunnel", "node-b", "Running")),
        ("culvert-system", "ztunnel-done", pod("zt-done", "ztunnel", "node-a", "Failed")),
        ("culvert-system", "ztunnel-new", pod("zt-new", "ztunnel", "", "Pending")),
        ("culvert-system", "control-0", pod("control", "culvert-control", "node-a", "Running")),
        ("istio-system", "ztunnel-a", pod("izt-a", "ztunnel", "node-a", "Running")),
        ("shop", "web-0", pod("web-0", "web", "node-a", "Running")),
        ("shop", "cart-0", pod("cart-0", "cart", "node-b", "Running")),
        ("shop", "job-0", pod("job-0", "job", "node-a", "Succeeded")),
        ("shop", "crash-0", pod("crash-0", "crash", "node-a", "Failed")),
        ("shop", "waits-0", pod("waits-0", "waits", "", "Pending")),
        ("shop", "gate-0", pod("gate-0", "gate", "node-a", "Running")),
        ("shop", "gone-0", pod("gone-0", "gone", "node-a", "Running")),
    ];
    for (namespace, name, object) in pods {
        api.put(&pod_path(namespace, name), object);
    }
    let mut waypoint = pod("wp-0", "waypoint", "node-b", "Running");
    waypoint["metadata"]["labels"] = json!({"gateway.istio.io/managed": "istio.io-mesh-controller"});
    api.put(&pod_path("shop", "waypoint-0"), waypoint);
    let mut leaving = pod("leaving-0", "leaving", "node-a", "Running");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.put(&pod_path("shop", "leaving-0"), leaving);
    tokens(&api);
    api
}

fn tokens(api: &Api) {
    let bound =
        |namespace: &str, account: &str, pod: &str, uid: &str, node: &str| status(namespace, account, (pod, uid), node);
    let zt = || bound("culvert-system", "ztunnel", "ztunnel-a", "zt-a", "node-a");
    let mut unbound = zt();
    unbound["user"].as_object_mut().unwrap().remove("extra");
    let mut half_bound = zt();
    half_bound["user"]["extra"].as_object_mut().unwrap().remove("authentication.kubernetes.io/pod-uid");
    let changed = |at: &str, value: Value| {
        let mut status = zt();
        *status.pointer_mut(at).unwrap() = value;
        status
    };
    for (name, status) in [
        ("zt-a", zt()),
        ("zt-istio", bound("istio-system", "ztunnel", "ztunnel-a", "izt-a", "node-a")),
        ("web", bound("shop", "web", "web-0", "web-0", "node-a")),
        ("gate", bound("shop", "gate", "gate-0", "gate-0", "node-a")),
        ("waypoint", bound("shop", "waypoint", "waypoint-0", "wp-0", "node-b")),
        ("control", bound("culvert-system", "culvert-control", "control-0", "control", "node-a")),
        ("unbound", unbound),
        ("half-bound", half_bound),
        ("gone", bound("culvert-system", "ztunnel", "ztunnel-x", "zt-x", "node-a")),
        ("other-namespace", bound("shop", "ztunnel", "ztunnel-a", "zt-a", "node-a")),
        ("old-uid", bound("culvert-system", "ztunnel", "ztunnel-a", "zt-older", "node-a")),
        ("other-account", bound("culvert-system", "ztunnel", "control-0", "control", "node-a")),
        ("done", bound("culvert-system", "ztunnel", "ztunnel-done", "zt-done", "node-a")),
        ("unscheduled", bound("culvert-system", "ztunnel", "ztunnel-new", "zt-new", "node-a")),
        ("other-node", bound("culvert-system", "ztunnel", "ztunnel-a", "zt-a", "node-b")),
        ("user", changed("/user/username", json!("admin"))),
        ("node-user", changed("/user/username", json!("system:node:node-a"))),
        ("odd-user", changed("/user/username", json!("system:serviceaccount:culvert-system:ztunnel:x"))),
        ("no-group", changed("/user/groups", json!(["system:authenticated"]))),
        ("no-audience", changed("/audiences", json!([]))),
        ("api-audience", changed("/audiences", json!(["https://kubernetes.default.svc"]))),
        ("refused", json!({"authenticated": false, "error": "[invalid bearer token]"})),
        (
            "revoked",
            json!({"authenticated": false, "error": "[invalid bearer token, service account token has been invalidated]"}),
        ),
        (
            "ended",
            json!({"authenticated": false, "error": "[invalid bearer token, service account token has expired]"}),
        ),
    ] {
        put(api, name, json!({}), status);
    }
    let refused = || json!({"authenticated": false, "error": "[invalid bearer token]"});
    put(api, "foreign", json!({"aud": ["https://kubernetes.default.svc"]}), refused());
    put(api, "vault", json!({"aud": "vault"}), refused());
    put(api, "old", json!({"exp": 1_000_000}), zt());
}

impl Bench {
    async fn new(api: Api) -> Self {
        let (gate, metrics, now) = (Gate::new(), Metrics::new(), SystemTime::now());
        let folder = tempfile::tempdir().unwrap();
        let files = store::open_or_make(folder.path(), "cluster.local", now).unwrap();
        let ttl = Ttl { default: hours(24), max: hours(48), clamp: false };
        let signers = Arc::new(Fixed::new(Authority::new("cluster.local", files, ttl, now).unwrap()));
        let cluster = Cluster::new(api.client(), &kubernetes(), &gate, &metrics);
        let audit = Arc::new(Recorder::default());
        let service = CaService::new(Parts {
            signers: signers.clone(),
            authenticator: cluster.authenticator(),
            pods: cluster.node_pods(),
            clusters: vec!["Kubernetes".to_owned()],
            rate: plenty(),
            audit: audit.clone(),
            clock: Arc::new(SystemClock),
        });
        let running = tokio::spawn(async move { match cluster.run(signers).await {} });
        Self { api, service, audit, running }
    }

    async fn ready() -> Self {
        let bench = Self::new(cluster()).await;
        // Its first list, and its watch after that.
        bench.until_signed().await;
        bench
    }

    async fn until_signed(&self) {
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while self.ask(good()).await.0.is_err() {
            assert!(tokio::time::Instant::now() < end);
            tokio::task::yield_now().await;
        }
    }

    async fn ask(&self, request: Request<IstioCertificateRequest>) -> (Result<Vec<String>, Status>, Decision) {
        let answer = self.service.create_certificate(request).await;
        let decision = self.audit.0.lock().unwrap().pop().unwrap();
        (answer.map(|a| a.into_inner().cert_chain), decision)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn by(token: &str, metadata: Option<Struct>) -> Request<IstioCertificateRequest> {
    let mut request = Request::new(IstioCertificateRequest { csr: good_csr(), validity_duration: 3600, metadata });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn named(token: &str, metadata: Option<Struct>) -> Request<IstioCertificateRequest> {
    by(&token_of(token, json!({})), metadata)
}

fn good() -> Request<IstioCertificateRequest> {
    named("zt-a", impersonate(&web().to_string()))
}

type Forged = (&'static str, Request<IstioCertificateRequest>);

/// Tokens that are no good, or no longer.
fn bad_tokens() -> Vec<Forged> {
    let wanted = || impersonate(&web().to_string());
    let plain = |token: &str| by(token, wanted());
    vec![
        ("token_malformed", plain("opaque")),
        ("token_malformed", plain("a.b")),
        ("token_malformed", plain("a.b.c.d")),
        ("token_malformed", plain("e30.!!.c2ln")),
        ("token_malformed", plain("e30.e30.")),
        ("token_malformed", plain(&format!("e30.{}.c2ln", "a".repeat(20_000)))),
        ("token_expired", plain(&token_of("old", json!({"exp": 1_000_000})))),
        ("token_expired", named("ended", wanted())),
        ("token_audience", plain(&token_of("foreign", json!({"aud": ["https://kubernetes.default.svc"]})))),
        ("token_audience", plain(&token_of("vault", json!({"aud": "vault"})))),
        ("token_audience", named("no-audience", wanted())),
        ("token_audience", named("api-audience", wanted())),
        ("token_rejected", named("never-heard-of", wanted())),
        ("token_rejected", named("refused", wanted())),
        ("token_rejected", named("revoked", wanted())),
        ("not_service_account", named("user", wanted())),
        ("not_service_account", named("node-user", wanted())),
        ("not_service_account", named("odd-user", wanted())),
        ("not_in_group", named("no-group", wanted())),
        ("token_unbound", named("unbound", wanted())),
        ("token_unbound", named("half-bound", wanted())),
        ("token_unbound", named("unbound", None)),
    ]
}

/// Pods that are not what their token says.
fn bad_callers() -> Vec<Forged> {
    let wanted = || impersonate(&web().to_string());
    let header = |name: &'static str, value: &str| {
        let mut request = good();
        request.metadata_mut().append(name, value.parse().unwrap());
        request
    };
    let mut bare = good();
    bare.metadata_mut().remove("authorization");
    let mut basic = good();
    basic.metadata_mut().insert("authorization", "Basic dXNlcjpwYXNz".parse().unwrap());
    let mut empty = good();
    empty.metadata_mut().insert("authorization", "Bearer ".parse().unwrap());
    vec![
        ("caller_pod_gone", named("gone", wanted())),
        ("caller_pod_gone", named("other-namespace", wanted())),
        ("caller_pod_replaced", named("old-uid", wanted())),
        ("caller_pod_account", named("other-account", wanted())),
        ("caller_pod_finished", named("done", wanted())),
        ("caller_without_node", named("unscheduled", wanted())),
        ("caller_pod_node", named("other-node", wanted())),
        ("no_credential", bare),
        ("not_bearer", basic),
        ("empty_token", empty),
        ("several_credentials", header("authorization", "Bearer x")),
        ("unknown_cluster", header("clusterid", "elsewhere")),
    ]
}

/// Identities that their caller may not have.
fn bad_identities() -> Vec<Forged> {
    let asking = |id: &str| named("zt-a", impersonate(id));
    vec![
        ("not_listed", named("web", None)),
        ("may_not_impersonate", named("web", impersonate(&web().to_string()))),
        ("may_not_impersonate", named("web", impersonate("spiffe://cluster.local/ns/shop/sa/cart"))),
        ("may_not_impersonate", named("gate", impersonate(&web().to_string()))),
        ("may_not_impersonate", named("waypoint", impersonate(&web().to_string()))),
        ("may_not_impersonate", named("control", impersonate("spiffe://cluster.local/ns/culvert-system/sa/ztunnel"))),
        ("may_not_issue_for_itself", named("zt-a", None)),
        ("pod_elsewhere", asking("spiffe://cluster.local/ns/shop/sa/cart")),
        ("pod_elsewhere", asking("spiffe://cluster.local/ns/shop/sa/waypoint")),
        ("pod_elsewhere", asking("spiffe://cluster.local/ns/shop/sa/waits")),
        ("pod_finished", asking("spiffe://cluster.local/ns/shop/sa/job")),
        ("pod_finished", asking("spiffe://cluster.local/ns/shop/sa/crash")),
        ("no_such_pod", asking("spiffe://cluster.local/ns/shop/sa/nobody")),
        ("no_such_pod", asking("spiffe://cluster.local/ns/web/sa/shop")),
        ("no_such_pod", asking("spiffe://cluster.local/ns/kube-system/sa/default")),
        ("trust_domain", asking("spiffe://other.domain/ns/shop/sa/web")),
        ("trust_domain", asking("spiffe://Cluster.Local/ns/shop/sa/web")),
        ("impersonated_malformed", asking("")),
        ("impersonated_malformed", asking("shop/web")),
        ("impersonated_malformed", asking("spiffe://cluster.local/ns/shop/sa/web/..")),
        ("impersonated_malformed", asking("spiffe://cluster.local/ns/shop/sa/web?x=1")),
        ("impersonated_malformed", asking("spiffe://cluster.local/ns/shop/sa/")),
        ("impersonated_malformed", asking("spiffe://cluster.local:15012/ns/shop/sa/web")),
        ("impersonated_not_text", named("zt-a", metadata("ImpersonatedIdentity", Kind::BoolValue(true)))),
        ("unsupported_metadata", named("zt-a", metadata("CertSigner", Kind::StringValue("x".to_owned())))),
    ]
}

#[tokio::test]
async fn no_forged_request_is_signed_and_each_refusal_has_its_reason() {
    let bench = Bench::ready().await;
    let csrs = forged_csrs().into_iter().map(|(reason, forged)| {
        let mut request = good();
        *request.get_mut() = forged.into_inner();
        (reason, request)
    });
    let all: Vec<_> = [bad_tokens(), bad_callers(), bad_identities()].into_iter().flatten().chain(csrs).collect();
    assert!(all.len() >= 60, "{}", all.len());
    // Together: a refusal by what the informer knows waits a moment for news.
    let asked = all.into_iter().enumerate().map(|(i, (reason, request))| {
        let service = bench.service.clone();
        async move { (i, reason, service.issue_for_test(request).await) }
    });
    for (i, reason, outcome) in futures_util::future::join_all(asked).await {
        let refusal = outcome.err().unwrap_or_else(|| panic!("request {i} ({reason}) was signed"));
        assert_eq!(refusal.name(), reason, "request {i}: {refusal}");
        let code = refusal.status().code();
        assert!(matches!(code, tonic::Code::Unauthenticated | tonic::Code::InvalidArgument), "{reason}: {code:?}");
    }
    assert!(bench.ask(good()).await.0.is_ok(), "the same bench still grants what is right");
}

impl CaService {
    async fn issue_for_test(&self, request: Request<IstioCertificateRequest>) -> Result<Issued, Refusal> {
        let (headers, _, message) = request.into_parts();
        self.issue(&headers, &message, &mut Known::default()).await
    }
}

fn sans(chain: &[String]) -> Vec<String> {
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::FromDer;
    let leaf = rustls_pki_types::CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, x509) = x509_parser::prelude::X509Certificate::from_der(&leaf).unwrap();
    let san = x509.subject_alternative_name().unwrap().unwrap();
    san.value.general_names.iter().map(|name| format!("{name:?}")).collect()
}

#[tokio::test]
async fn proxies_waypoints_and_servers_get_what_is_theirs() {
    let bench = Bench::ready().await;
    let own = |account: &str| {
        let id = mesh::Identity::new("cluster.local", "shop", account).unwrap();
        let mut request = named(account, None);
        request.get_mut().csr = Key::generate().unwrap().csr_pem(&id).unwrap();
        request
    };
    for account in ["gate", "waypoint"] {
        let chain = bench.ask(own(account)).await.0.unwrap();
        assert_eq!(sans(&chain), [format!("URI(\"spiffe://cluster.local/ns/shop/sa/{account}\")")]);
    }
    let mut leaving = named("zt-istio", impersonate("spiffe://cluster.local/ns/shop/sa/leaving"));
    leaving.get_mut().csr = super::tests::request_of(&rcgen::KeyPair::generate().unwrap(), |_| {});
    assert!(bench.ask(leaving).await.0.is_ok(), "a pod that is being deleted still runs");
    let mut server = named("control", None);
    server.get_mut().csr = super::tests::request_of(&rcgen::KeyPair::generate().unwrap(), |params| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("culvert-control.culvert-system.svc".try_into().unwrap())];
    });
    let (answer, decision) = bench.ask(server).await;
    let wanted = [
        "URI(\"spiffe://cluster.local/ns/culvert-system/sa/culvert-control\")",
        "DNSName(\"culvert-control.culvert-system.svc\")",
        "IPAddress([10, 0, 0, 9])",
    ];
    assert_eq!(sans(&answer.unwrap()), wanted);
    assert_eq!(decision.caller.unwrap().to_string(), "culvert-system/culvert-control(control-0)@node-a");
}

#[tokio::test]
async fn rights_follow_the_pods() {
    let bench = Bench::ready().await;
    let ask = |account: &str| {
        let mut request = named("zt-a", impersonate(&format!("spiffe://cluster.local/ns/shop/sa/{account}")));
        request.get_mut().csr = super::tests::request_of(&rcgen::KeyPair::generate().unwrap(), |_| {});
        bench.ask(request)
    };
    assert!(ask("gone").await.0.is_ok());
    bench.api.delete(&pod_path("shop", "gone-0"));
    // The watch brings it within moments; a right that is still there would be granted at once.
    let mut reason = "";
    for _ in 0..1000 {
        match ask("gone").await.1.outcome {
            Err(refusal) => {
                reason = refusal.name();
                break;
            }
            Ok(_) => tokio::task::yield_now().await,
        }
    }
    assert_eq!(reason, "no_such_pod");
    // A pod that the node knows already and the watch brings a moment later.
    let late = async {
        bench.api.until("asked", |api| api.calls("POST /apis/authentication.k8s.io") > 0).await;
        bench.api.put(&pod_path("shop", "late-0"), pod("late-0", "late", "node-a", "Pending"));
    };
    let (answer, ()) = tokio::join!(ask("late"), late);
    assert!(answer.0.is_ok(), "{:?}", answer.1.outcome);
    // The proxy itself is replaced under its name.
    bench.api.put(&pod_path("culvert-system", "ztunnel-a"), pod("zt-a2", "ztunnel", "node-a", "Running"));
    let mut reason = "";
    for _ in 0..1000 {
        if let Err(refusal) = bench.ask(good()).await.1.outcome {
            reason = refusal.name();
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(reason, "caller_pod_replaced");
}

#[tokio::test]
async fn what_cannot_be_told_is_unavailable_and_no_refusal_for_good() {
    let api = cluster();
    api.fail(|_, path| (path == "/api/v1/pods").then_some(500));
    let bench = Bench::new(api.clone()).await;
    let (answer, decision) = bench.ask(good()).await;
    assert_eq!(decision.outcome.unwrap_err().name(), "pods_unknown");
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(api.calls("POST /apis/authentication"), 0, "nobody is asked in vain");
    api.heal();
    bench.until_signed().await;
    api.fail(|_, path| path.ends_with("tokenreviews").then_some(403));
    let (answer, decision) = bench.ask(named("gate", None)).await;
    assert_eq!(decision.outcome.unwrap_err().name(), "authenticator_down");
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
}
