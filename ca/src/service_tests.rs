use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _};
use identity::SystemClock;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::authority::{Authority, AuthorityFiles, Ttl};
use crate::signers::Fixed;
use crate::tokens::{PodFile, TokenFile};
use crate::{issue, store};

const NODE_TOKEN: &str = "node-a-token-0123456789";
const SELF_TOKEN: &str = "waypoint-token-0123456789";

#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<Decision>>);

impl Audit for Recorder {
    fn record(&self, decision: &Decision) {
        self.0.lock().unwrap().push(decision.clone());
    }
}

struct Bench {
    service: CaService,
    audit: Arc<Recorder>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(rate: RateLimit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ttl = Ttl { default: hours(24), max: hours(48), clamp: false };
        let now = SystemTime::now();
        let files = store::open_or_make(&folder.path().join("ca"), "cluster.local", now).unwrap();
        write_callers(folder.path());
        let audit = Arc::new(Recorder::default());
        let service = CaService::new(Parts {
            signers: Arc::new(Fixed::new(Authority::new("cluster.local", files, ttl, now).unwrap())),
            authenticator: Arc::new(TokenFile::open(folder.path().join("tokens.yaml")).unwrap()),
            pods: Arc::new(PodFile::open(folder.path().join("pods.yaml")).unwrap()),
            clusters: vec!["Kubernetes".to_owned()],
            rate,
            audit: audit.clone(),
            clock: Arc::new(SystemClock),
        });
        Self { service, audit, folder }
    }

    async fn ask(&self, request: Request<IstioCertificateRequest>) -> (Result<Vec<String>, Status>, Decision) {
        let before = self.audit.0.lock().unwrap().len();
        let answer = self.service.create_certificate(request).await;
        let audit = self.audit.0.lock().unwrap();
        assert_eq!(audit.len(), before + 1, "exactly one line per decision");
        (answer.map(|a| a.into_inner().cert_chain), audit[before].clone())
    }
}

fn write_callers(folder: &Path) {
    let tokens = format!(
        "tokens:\n\
         - {{token: {NODE_TOKEN}, namespace: culvert-system, serviceAccount: ztunnel, node: node-a, mayImpersonate: node}}\n\
         - {{token: {SELF_TOKEN}, namespace: shop, serviceAccount: waypoint, mayImpersonate: none}}\n"
    );
    let pods = "pods:\n\
                - {namespace: shop, serviceAccount: web, node: node-a}\n\
                - {namespace: shop, serviceAccount: cart, node: node-b}\n\
                - {namespace: shop, serviceAccount: job, node: node-a, finished: true}\n";
    fs::write(folder.join("tokens.yaml"), tokens).unwrap();
    fs::write(folder.join("pods.yaml"), pods).unwrap();
}

pub(super) fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3600)
}

pub(super) fn plenty() -> RateLimit {
    RateLimit { per_second: 1000.0, burst: 1000.0 }
}

pub(super) fn web() -> Identity {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

pub(super) fn good_csr() -> String {
    request_of(&rcgen::KeyPair::generate().unwrap(), |_| {})
}

pub(super) fn metadata(key: &str, value: Kind) -> Option<Struct> {
    Some(Struct { fields: BTreeMap::from([(key.to_owned(), Value { kind: Some(value) })]) })
}

pub(super) fn impersonate(id: &str) -> Option<Struct> {
    metadata("ImpersonatedIdentity", Kind::StringValue(id.to_owned()))
}

/// A request that is granted as it is.
fn good() -> Request<IstioCertificateRequest> {
    let mut request = Request::new(IstioCertificateRequest {
        csr: good_csr(),
        validity_duration: 3600,
        metadata: impersonate("spiffe://cluster.local/ns/shop/sa/web"),
    });
    request.metadata_mut().insert("authorization", format!("Bearer {NODE_TOKEN}").parse().unwrap());
    request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
    request
}

fn with(change: impl FnOnce(&mut IstioCertificateRequest)) -> Request<IstioCertificateRequest> {
    let mut request = good();
    change(request.get_mut());
    request
}

fn csr(text: impl Into<String>) -> Request<IstioCertificateRequest> {
    with(|r| r.csr = text.into())
}

fn token(text: &str) -> Request<IstioCertificateRequest> {
    let mut request = good();
    request.metadata_mut().insert("authorization", text.parse().unwrap());
    request
}

fn pem(title: &str, der: &[u8]) -> String {
    let certificate = rustls_pki_types::CertificateDer::from(der.to_vec());
    crate::authority::pem(&certificate).replace("CERTIFICATE", title)
}

fn der(pem_text: &str) -> Vec<u8> {
    rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem_text.as_bytes()).unwrap().to_vec()
}

/// DER of one element.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=127 => out.push(length as u8),
        128..=255 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

/// A request around any key and signature algorithm, with a signature that need not hold.
fn forged(spki: &[u8], signature_oid: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let info = tlv(0x30, &[tlv(0x02, &[0]), tlv(0x30, &[]), spki.to_vec(), tlv(0xa0, &[])].concat());
    let algorithm = tlv(0x30, &tlv(0x06, signature_oid));
    let signature = tlv(0x03, &[vec![0], sign(&info)].concat());
    pem("CERTIFICATE REQUEST", &tlv(0x30, &[info, algorithm, signature].concat()))
}

const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];

fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = tlv(0x30, &[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), tlv(6, curve)].concat());
    tlv(0x30, &[algorithm, tlv(3, &[vec![0], point.to_vec()].concat())].concat())
}

fn rsa_spki(bits: usize, exponent: &[u8]) -> Vec<u8> {
    let modulus = [vec![0, 0xff], vec![0xff; bits / 8 - 1]].concat();
    let key = tlv(0x30, &[tlv(2, &modulus), tlv(2, exponent)].concat());
    let algorithm = tlv(0x30, &[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), tlv(5, &[])].concat());
    tlv(0x30, &[algorithm, tlv(3, &[vec![0], key].concat())].concat())
}

const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

fn forged_keys() -> Vec<(&'static str, String)> {
    let no_signature = |_: &[u8]| vec![0x30, 6, 2, 1, 1, 2, 1, 1];
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let other = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let random = aws_lc_rs::rand::SystemRandom::new();
    let own = ec_spki(P256, pair.public_key().as_ref());
    let secp224 = ec_spki(&[0x2b, 0x81, 4, 0, 33], &[[4].as_slice(), &[7; 56]].concat());
    let k256 = ec_spki(&[0x2b, 0x81, 4, 0, 10], &[[4].as_slice(), &[7; 64]].concat());
    let dsa = tlv(0x30, &[tlv(0x30, &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1])), tlv(3, &[0, 2, 1, 9])].concat());
    let bare_rsa = tlv(
        0x30,
        &[tlv(0x30, &[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), tlv(5, &[])].concat()), tlv(3, &[0, 9])]
            .concat(),
    );
    vec![
        ("csr_signature", forged(&own, ECDSA_SHA256, |m| other.sign(&random, m).unwrap().as_ref().to_vec())),
        ("csr_signature_algorithm", forged(&own, ECDSA_SHA1, |m| pair.sign(&random, m).unwrap().as_ref().to_vec())),
        ("curve", forged(&secp224, ECDSA_SHA256, no_signature)),
        ("curve", forged(&k256, ECDSA_SHA256, no_signature)),
        ("rsa_size", forged(&rsa_spki(1024, &[1, 0, 1]), RSA_SHA256, no_signature)),
        ("rsa_size", forged(&rsa_spki(16384, &[1, 0, 1]), RSA_SHA256, no_signature)),
        ("rsa_exponent", forged(&rsa_spki(2048, &[3]), RSA_SHA256, no_signature)),
        ("key_algorithm", forged(&dsa, ECDSA_SHA256, no_signature)),
        ("key_malformed", forged(&bare_rsa, RSA_SHA256, no_signature)),
    ]
}

/// A request of this key that is changed by `change`.
pub(super) fn request_of(key: &rcgen::KeyPair, change: impl FnOnce(&mut rcgen::CertificateParams)) -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

/// Requests that ask for more than the identity that is granted.
pub(super) fn greedy_csrs() -> Vec<(&'static str, String)> {
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};
    let key = rcgen::KeyPair::generate().unwrap();
    let names = |names: Vec<SanType>| request_of(&key, |params| params.subject_alt_names = names);
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let usage = |usage| request_of(&key, |params| params.key_usages = vec![usage]);
    vec![
        ("csr_wants_authority", request_of(&key, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("csr_wants_authority", request_of(&key, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))),
        ("csr_wants_authority", usage(KeyUsagePurpose::KeyCertSign)),
        ("csr_wants_authority", usage(KeyUsagePurpose::CrlSign)),
        ("csr_other_name", names(vec![dns("evil.example")])),
        ("csr_other_name", names(vec![uri("spiffe://cluster.local/ns/kube-system/sa/admin")])),
        ("csr_other_name", names(vec![uri(&web().to_string()), uri("spiffe://cluster.local/ns/shop/sa/cart")])),
        ("csr_other_name", names(vec![uri(&web().to_string()), dns("web.shop.svc")])),
        ("csr_other_name", names(vec![uri("spiffe://other.domain/ns/shop/sa/web")])),
        ("csr_other_name", names(vec![SanType::IpAddress("10.0.0.1".parse().unwrap())])),
        ("csr_other_name", names(vec![SanType::Rfc822Name("a@example.org".try_into().unwrap())])),
        // Its own name, as another kind of name.
        ("csr_other_name", names(vec![SanType::Rfc822Name(web().to_string().try_into().unwrap())])),
        ("csr_other_name", names((0..100).map(|_| uri(&web().to_string())).collect())),
    ]
}

pub(super) fn forged_csrs() -> Vec<(&'static str, Request<IstioCertificateRequest>)> {
    let good = good_csr();
    let mut trailing = der(&good);
    trailing.extend([0, 0, 0]);
    let mut tampered = der(&good);
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    let mut cut = der(&good);
    cut.truncate(cut.len() / 2);
    let mut all = vec![
        ("csr_empty", csr(" \n")),
        ("csr_too_large", csr(format!("{good}{}", " ".repeat(20_000)))),
        ("csr_not_pem", csr("hello")),
        ("csr_not_pem", csr(good.replace("END", "ENDE"))),
        ("csr_wrong_block", csr(good.replace("CERTIFICATE REQUEST", "CERTIFICATE"))),
        ("csr_wrong_block", csr(good.replace("CERTIFICATE REQUEST", "SOMETHING"))),
        ("csr_several", csr(format!("{good}{good}"))),
        ("csr_unparsable", csr(pem("CERTIFICATE REQUEST", &cut))),
        ("csr_unparsable", csr(pem("CERTIFICATE REQUEST", b"not der"))),
        ("csr_trailing", csr(pem("CERTIFICATE REQUEST", &trailing))),
        ("csr_signature", csr(pem("CERTIFICATE REQUEST", &tampered))),
        ("ttl_too_long", with(|r| r.validity_duration = 49 * 3600)),
        ("ttl_too_long", with(|r| r.validity_duration = i64::MAX)),
    ];
    let texts = forged_keys().into_iter().chain(greedy_csrs());
    all.extend(texts.map(|(name, text)| (name, csr(text))));
    all
}

fn forged_callers() -> Vec<(&'static str, Request<IstioCertificateRequest>)> {
    let without = |name: &str| {
        let mut request = good();
        request.metadata_mut().remove(name);
        request
    };
    let twice = |name: &'static str, value: &str| {
        let mut request = good();
        request.metadata_mut().append(name, value.parse().unwrap());
        request
    };
    let cluster = |name: &str| {
        let mut request = good();
        request.metadata_mut().insert("clusterid", name.parse().unwrap());
        request
    };
    vec![
        ("no_credential", without("authorization")),
        ("several_credentials", twice("authorization", "Bearer another-token-00")),
        ("not_bearer", token(NODE_TOKEN)),
        ("not_bearer", token("Basic dXNlcjpwYXNz")),
        ("empty_token", token("Bearer  ")),
        ("unknown_token", token("Bearer node-a-token-012345678")),
        ("unknown_token", token(&format!("Bearer {NODE_TOKEN}x"))),
        ("unknown_cluster", cluster("elsewhere")),
        ("cluster_malformed", twice("clusterid", "Kubernetes")),
    ]
}

fn forged_identities() -> Vec<(&'static str, Request<IstioCertificateRequest>)> {
    let asking = |id: &str| with(|r| r.metadata = impersonate(id));
    let itself = |id: &str| {
        let mut request = token(&format!("Bearer {SELF_TOKEN}"));
        request.get_mut().metadata = impersonate(id);
        request
    };
    vec![
        ("may_not_issue_for_itself", with(|r| r.metadata = None)),
        ("may_not_impersonate", itself("spiffe://cluster.local/ns/shop/sa/web")),
        ("may_not_impersonate", itself("spiffe://cluster.local/ns/shop/sa/waypoint")),
        ("trust_domain", asking("spiffe://other.domain/ns/shop/sa/web")),
        ("impersonated_malformed", asking("")),
        ("impersonated_malformed", asking("spiffe://cluster.local/ns/shop/sa/web/extra")),
        ("impersonated_malformed", asking("cluster.local/ns/shop/sa/web")),
        ("impersonated_not_text", with(|r| r.metadata = metadata("ImpersonatedIdentity", Kind::NumberValue(1.0)))),
        ("unsupported_metadata", with(|r| r.metadata = metadata("CertSigner", Kind::StringValue("x".to_owned())))),
        ("no_such_pod", asking("spiffe://cluster.local/ns/shop/sa/nobody")),
        ("no_such_pod", asking("spiffe://cluster.local/ns/web/sa/shop")),
        ("no_such_pod", asking("spiffe://cluster.local/ns/culvert-system/sa/ztunnel")),
        ("pod_elsewhere", asking("spiffe://cluster.local/ns/shop/sa/cart")),
        ("pod_finished", asking("spiffe://cluster.local/ns/shop/sa/job")),
    ]
}

#[tokio::test]
async fn every_forged_request_is_refused_for_its_own_reason() {
    let bench = Bench::new(plenty());
    let all: Vec<_> = [forged_callers(), forged_identities(), forged_csrs()].into_iter().flatten().collect();
    assert!(all.len() >= 25, "{}", all.len());
    for (i, (reason, request)) in all.into_iter().enumerate() {
        let (answer, decision) = bench.ask(request).await;
        let refusal = decision.outcome.expect_err(reason);
        assert_eq!(refusal.name(), reason, "request {i}: {refusal}");
        let status = answer.expect_err(reason);
        // The wire has one of a few texts; the reason is not in it.
        let public = ["request authenticate failure", "request impersonation authentication failure"];
        assert!(public.contains(&status.message()) || status.message().starts_with("CSR signing error ("), "{status}");
        let coded = matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::InvalidArgument);
        assert!(coded, "{status}");
    }
    // The same bench still grants what is right.
    assert!(bench.ask(good()).await.0.is_ok());
}

#[tokio::test]
async fn a_leaf_has_the_profile_and_nothing_of_the_request_but_its_key() {
    let bench = Bench::new(plenty());
    // A request with a subject of its own and rights that a server may have.
    let key = rcgen::KeyPair::generate().unwrap();
    let text = request_of(&key, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    });
    let (answer, decision) = bench.ask(with(|r| (r.csr, r.validity_duration) = (text, 0))).await;
    let chain = answer.unwrap();
    assert_eq!(chain.len(), 2, "leaf and the root bundle: the root signs itself");
    let leaf = rustls_pki_types::CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let (_, x509) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(x509.subject().iter().count(), 0);
    assert!(!x509.is_ca());
    assert!(x509.basic_constraints().unwrap().is_some());
    let san = x509.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    let usage = x509.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = x509.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let validity = x509.validity();
    assert!((validity.not_after.timestamp() - now - 24 * 3600).abs() < 5, "0 means the default");
    assert!((now - 120 - validity.not_before.timestamp()).abs() < 5);
    assert_eq!(x509.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    let grant = decision.outcome.unwrap();
    assert_eq!(grant.serial, x509.raw_serial().iter().map(|b| format!("{b:02x}")).collect::<String>());
    assert_eq!(decision.caller.unwrap().to_string(), "culvert-system/ztunnel@node-a");
}

#[tokio::test]
async fn who_may_ask_for_itself_gets_itself() {
    let bench = Bench::new(plenty());
    let mut request = token(&format!("Bearer {SELF_TOKEN}"));
    request.get_mut().metadata = None;
    let (answer, decision) = bench.ask(request).await;
    assert!(answer.is_ok());
    assert_eq!(decision.identity.unwrap().to_string(), "spiffe://cluster.local/ns/shop/sa/waypoint");
}

#[tokio::test]
async fn the_rate_is_limited_per_caller() {
    let bench = Bench::new(RateLimit { per_second: 0.001, burst: 2.0 });
    for _ in 0..2 {
        assert!(bench.ask(good()).await.0.is_ok());
    }
    let (answer, decision) = bench.ask(good()).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::ResourceExhausted);
    assert_eq!(decision.outcome.unwrap_err(), Refusal::RateLimited);
    let mut other = token(&format!("Bearer {SELF_TOKEN}"));
    other.get_mut().metadata = None;
    assert!(bench.ask(other).await.0.is_ok());
}

#[tokio::test]
async fn callers_and_pods_follow_their_files() {
    let bench = Bench::new(plenty());
    let cart = || with(|r| r.metadata = impersonate("spiffe://cluster.local/ns/shop/sa/cart"));
    assert_eq!(bench.ask(cart()).await.1.outcome.unwrap_err().name(), "pod_elsewhere");
    let pods = "pods:\n- {namespace: shop, serviceAccount: cart, node: node-a}\n";
    fs::write(bench.folder.path().join("pods.yaml"), pods).unwrap();
    assert!(bench.ask(cart()).await.0.is_ok());
    fs::write(bench.folder.path().join("pods.yaml"), "pods: [{node: 7}]").unwrap();
    assert!(bench.ask(cart()).await.0.is_ok(), "a broken file does not take away what was read");
    fs::write(bench.folder.path().join("tokens.yaml"), "tokens: []").unwrap();
    assert_eq!(bench.ask(cart()).await.1.outcome.unwrap_err().name(), "unknown_token");
}

#[tokio::test]
async fn an_authority_that_ends_soon_shortens_and_one_that_ended_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ttl = Ttl { default: hours(24), max: hours(24), clamp: true };
    let files = store::open_or_make(folder.path(), "cluster.local", now).unwrap();
    let authority = Authority::new("cluster.local", files, ttl, now).unwrap();
    let key = PublicKey::from_csr_pem(&good_csr()).unwrap();
    let end = authority.not_after();
    let issued = authority.issue(&key, &web(), &[], 3600, end - Duration::from_secs(60)).unwrap();
    assert_eq!(issued.not_after, end);
    assert_eq!(authority.issue(&key, &web(), &[], 3600, end).unwrap_err(), Refusal::SignerExpired);
    let clamped = authority.issue(&key, &web(), &[], 1_000_000, now).unwrap();
    assert!(clamped.not_after <= now + hours(24));
}

#[test]
fn an_intermediate_goes_out_between_leaf_and_roots() {
    let now = SystemTime::now();
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut root = issue::root("cluster.local", now);
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let signer = issue::root("cluster.local", now).signed_by(&key, &issuer).unwrap().pem();
    let other_root = issue::root("old", now).self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let files = |key: &rcgen::KeyPair, roots: &str| AuthorityFiles {
        certificate: signer.clone(),
        key: zeroize::Zeroizing::new(key.serialize_pem()),
        chain: format!("{signer}{root_pem}"),
        roots: roots.to_owned(),
    };
    let ttl = Ttl { default: hours(1), max: hours(1), clamp: false };
    let make = |files| Authority::new("cluster.local", files, ttl, now);
    let authority = make(files(&key, &format!("{root_pem}{other_root}"))).unwrap();
    let public = PublicKey::from_csr_pem(&good_csr()).unwrap();
    let entries = authority.issue(&public, &web(), &[], 0, now).unwrap().chain.into_entries();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2].matches("BEGIN CERTIFICATE").count(), 2, "all roots in the one last entry");
    assert_eq!(entries[1].matches("BEGIN CERTIFICATE").count(), 1);
    use crate::AuthorityError::{Chain, Mismatch};
    let stranger = rcgen::KeyPair::generate().unwrap();
    assert!(matches!(make(files(&stranger, &root_pem)).err(), Some(Mismatch)));
    assert!(matches!(make(files(&key, &other_root)).err(), Some(Chain(_))));
}
