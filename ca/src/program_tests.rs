use std::fs;
use std::path::Path;
use std::sync::Mutex;

use identity::channel::{ChannelConfig, TrustedRoots};
use identity::{Config as ManagerConfig, GrpcSigner, GrpcSignerConfig, Key, Manager, SignError, Signer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::audit::Decision;

const TOKEN: &str = "node-a-token-0123456789";

#[derive(Default)]
struct Recorder(Mutex<Vec<Decision>>);

impl Audit for Recorder {
    fn record(&self, decision: &Decision) {
        self.0.lock().unwrap().push(decision.clone());
    }
}

struct Running {
    folder: tempfile::TempDir,
    address: SocketAddr,
    audit: Arc<Recorder>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

fn write_files(folder: &Path) {
    let tokens = format!(
        "tokens:\n- token: {TOKEN}\n  namespace: culvert-system\n  serviceAccount: ztunnel\n  node: node-a\n  mayImpersonate: node\n"
    );
    fs::write(folder.join("tokens.yaml"), tokens).unwrap();
    let pods = "pods:\n- {namespace: shop, serviceAccount: web, node: node-a}\n- {namespace: shop, serviceAccount: cart, node: node-a}\n";
    fs::write(folder.join("pods.yaml"), pods).unwrap();
    fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
}

fn config(folder: &Path) -> Config {
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "listen: 127.0.0.1:0\nauthority: {{folder: {}}}\nrootOutput: {}\nserverNames: [localhost, 127.0.0.1]\n\
         serverCertificates:\n- names: [control.culvert-system.svc]\n  certificate: {}\n  key: {}\n\
         tokenFile: {}\npodFile: {}\n",
        at("state"),
        at("root.pem"),
        at("control.pem"),
        at("control-key.pem"),
        at("tokens.yaml"),
        at("pods.yaml"),
    );
    document::parse("ca.yaml", &text).unwrap()
}

async fn start() -> Running {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    let audit = Arc::new(Recorder::default());
    let ca = Ca::prepare(config(folder.path()), audit.clone(), &Gate::new(), &Metrics::new()).await.unwrap();
    let (stop, stopped) = oneshot::channel();
    let address = ca.address();
    let ended = tokio::spawn(ca.run(async move { drop(stopped.await) }));
    Running { folder, address, audit, stop, ended }
}

fn signer(running: &Running) -> GrpcSigner {
    let roots = TrustedRoots::File(running.folder.path().join("root.pem"));
    GrpcSigner::new(GrpcSignerConfig {
        channel: ChannelConfig::new(format!("https://localhost:{}", running.address.port()), roots),
        token_file: Some(running.folder.path().join("token")),
        cluster_id: "Kubernetes".to_owned(),
        headers: vec![("X-Test".to_owned(), "1".to_owned())],
        impersonate: true,
    })
    .unwrap()
}

fn id(service_account: &str) -> mesh::Identity {
    mesh::Identity::new("cluster.local", "shop", service_account).unwrap()
}

#[tokio::test]
async fn two_workloads_get_certificates_over_tls_and_talk() {
    let running = start().await;
    let manager = Manager::new(ManagerConfig::default(), Arc::new(signer(&running)));
    let (web, cart) = (manager.certificate(&id("web")).await.unwrap(), manager.certificate(&id("cart")).await.unwrap());
    assert_eq!(web.identity(), &id("web"));
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(identity::stream::accept(far, cart.server_config()));
    let (mut client, peer) = identity::stream::connect(near, web.client_config(&[id("cart")]).unwrap()).await.unwrap();
    assert_eq!(peer.identity, id("cart"));
    let (mut served, caller) = server.await.unwrap().unwrap();
    assert_eq!(caller.identity, id("web"));
    client.write_all(b"ping").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 4];
    served.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");

    let states = manager.dump();
    assert_eq!(states.len(), 2);
    assert!(states.iter().all(|s| s.state == identity::State::Available && s.serial.len() == 32));
    let decisions = running.audit.0.lock().unwrap().clone();
    assert!(decisions.iter().all(|d| d.outcome.is_ok() && d.remote.is_some()), "{decisions:?}");
    running.stop.send(()).unwrap();
    drop(manager);
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_reaches_the_asker_without_its_reason() {
    let running = start().await;
    let signer = signer(&running);
    let key = Key::generate().unwrap();
    let nobody = id("nobody");
    let csr = key.csr_pem(&nobody).unwrap();
    let Err(SignError::Refused { code, message }) = signer.sign(&nobody, &csr, Duration::from_secs(60)).await else {
        panic!("granted");
    };
    assert_eq!((code.as_str(), message.as_str()), ("Unauthenticated", "request impersonation authentication failure"));
    assert_eq!(running.audit.0.lock().unwrap()[0].outcome.clone().unwrap_err().name(), "no_such_pod");

    // The token file is read again for each request.
    fs::write(running.folder.path().join("token"), "another-token-0123").unwrap();
    let web = id("web");
    let Err(SignError::Refused { message, .. }) = signer.sign(&web, &csr, Duration::from_secs(60)).await else {
        panic!("granted");
    };
    assert_eq!(message, "request authenticate failure");
    let csr = key.csr_pem(&web).unwrap();
    fs::write(running.folder.path().join("token"), TOKEN).unwrap();
    let chain = signer.sign(&web, &csr, Duration::from_secs(60)).await.unwrap();
    assert!(chain.intermediates.is_empty());
    running.stop.send(()).unwrap();
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_caller_that_does_not_trust_the_root_does_not_connect() {
    let running = start().await;
    let other = tempfile::tempdir().unwrap();
    let strange = store::open_or_make(other.path(), "cluster.local", SystemTime::now()).unwrap();
    fs::write(running.folder.path().join("root.pem"), strange.roots).unwrap();
    let csr = Key::generate().unwrap().csr_pem(&id("web")).unwrap();
    let failed = signer(&running).sign(&id("web"), &csr, Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(&failed, SignError::Unreachable(_)), "{failed}");
    assert!(failed.to_string().contains("certificate"), "{failed}");
    assert!(running.audit.0.lock().unwrap().is_empty());
    running.stop.send(()).unwrap();
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_server_certificate_for_another_service_works() {
    let running = start().await;
    let at = |name: &str| running.folder.path().join(name);
    assert!(ServerTls::from_files(at("control.pem"), at("control-key.pem")).is_ok());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(at("control-key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    running.stop.send(()).unwrap();
    running.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_mistake_of_the_configuration_is_told() {
    let text = "listen: 127.0.0.1:0\ntrustDomain: 'a b'\nauthority: {}\nserverNames: []\ntokenFile: t\npodFile: p\n\
                ttl: {default: 48h, max: 24h, aboveMax: refuse}\nrateLimit: {perSecond: 0, burst: 1}\n";
    let mistakes = document::parse::<Config>("ca.yaml", text).unwrap_err().to_string();
    for field in ["trustDomain", "authority", "serverNames", "ttl.default", "rateLimit"] {
        assert!(mistakes.contains(field), "{field} in {mistakes}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (audit, gate, metrics) = (Arc::new(Recorder::default()), Gate::new(), Metrics::new());
    let missing = Ca::prepare(config(folder.path()), audit, &gate, &metrics).await.err().unwrap();
    assert!(missing.to_string().contains("tokens.yaml"), "{missing}");
}

/// An API server with a proxy and a server on node-a, and their tokens.
fn cluster(folder: &Path) -> crate::kubernetes::api::Api {
    use crate::kubernetes::api::{Api, jwt, pod, pod_path, status};
    let api = Api::new();
    for (namespace, name, account) in [
        ("culvert-system", "ztunnel-a", "ztunnel"),
        ("culvert-system", "control-0", "culvert-control"),
        ("shop", "web-0", "web"),
    ] {
        api.put(&pod_path(namespace, name), pod(name, account, "node-a", "Running"));
        api.put(&format!("/api/v1/namespaces/{namespace}"), serde_json::json!({"metadata": {}}));
        let token = jwt(&serde_json::json!({"aud": ["istio-ca"], "exp": 4_000_000_000_u64, "jti": name}));
        fs::write(folder.join(format!("{name}.token")), &token).unwrap();
        api.token(&token, status(namespace, account, (name, name), "node-a"));
    }
    api
}

const IN_CLUSTER: &str = "listen: 127.0.0.1:0\nauthority: {secret: {}}\nserverNames: [localhost]\n\
    kubernetes:\n  serverCertificates: [{serviceAccount: culvert-system/culvert-control, names: [control.example]}]\n";

#[tokio::test]
async fn in_a_cluster_a_proxy_and_a_server_get_certificates_while_the_root_changes() {
    use rustls_pki_types::pem::PemObject;
    let folder = tempfile::tempdir().unwrap();
    let api = cluster(folder.path());
    let (gate, metrics, audit) = (Gate::new(), Metrics::new(), Arc::new(Recorder::default()));
    let config: Config = document::parse("ca.yaml", IN_CLUSTER).unwrap();
    let ca = Ca::with(config, Some(api.client()), audit.clone(), &gate, &metrics).await.unwrap();
    let (address, signers) = (ca.address(), ca.signers().clone());
    assert_eq!(gate.state().unwrap_err().to_string(), "not ready, waiting for: pods");
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(ca.run(async move { drop(stopped.await) }));
    gate.ready().await;

    // The roots for clients are what the cluster got.
    let map = "/api/v1/namespaces/shop/configmaps/culvert-ca-root-cert";
    api.until("the roots in shop", |api| api.get(map).is_some()).await;
    let published = || api.get(map).unwrap()["data"]["root-cert.pem"].as_str().unwrap().to_owned();
    let signer = |token: &str, impersonate| {
        fs::write(folder.path().join("root.pem"), published()).unwrap();
        let roots = TrustedRoots::File(folder.path().join("root.pem"));
        GrpcSigner::new(GrpcSignerConfig {
            channel: ChannelConfig::new(format!("https://localhost:{}", address.port()), roots),
            token_file: Some(folder.path().join(token)),
            cluster_id: "Kubernetes".to_owned(),
            headers: Vec::new(),
            impersonate,
        })
        .unwrap()
    };
    let sign = |signer: GrpcSigner, id: mesh::Identity| async move {
        let csr = Key::generate().unwrap().csr_pem(&id).unwrap();
        signer.sign(&id, &csr, Duration::from_secs(3600)).await.unwrap()
    };
    let chain = sign(signer("ztunnel-a.token", true), id("web")).await;
    assert_eq!(chain.roots, published());
    let control = mesh::Identity::new("cluster.local", "culvert-system", "culvert-control").unwrap();
    let leaf = sign(signer("control-0.token", false), control).await.leaf;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let by_name = webpki_name(&der, "control.example");
    assert!(by_name.is_ok(), "{by_name:?}");

    // The root is changed to the point where the new one signs; the service's own certificate follows.
    let rotator = crate::kubernetes::rotate::Rotator::new(api.client(), "culvert-system", "culvert-ca-key");
    let now = SystemTime::now();
    rotator.step(crate::rotation::Step::Prepare, false, now).await.unwrap();
    rotator.step(crate::rotation::Step::Activate, true, now + Duration::from_secs(600)).await.unwrap();
    let first = chain.roots.clone();
    signers.watch().wait_for(|authority| !authority.roots_pem().starts_with(&first)).await.unwrap();
    api.until("the new roots in shop", |_| published() == signers.now().roots_pem()).await;
    let chain = sign(signer("ztunnel-a.token", true), id("web")).await;
    assert_eq!(chain.roots.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(audit.0.lock().unwrap().iter().all(|decision| decision.outcome.is_ok()));
    let text = metrics.render();
    for name in ["culvert_ca_pods 3", "culvert_ca_reviews_asked_total 2", "culvert_ca_signer_expiry_seconds"] {
        assert!(text.contains(name), "{name} in {text}");
    }
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
}

fn webpki_name(der: &rustls_pki_types::CertificateDer<'_>, name: &str) -> Result<(), rustls::Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(der)?;
    rustls::client::verify_server_name(&parsed, &rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap())
}

#[test]
fn files_and_cluster_exclude_each_other() {
    let base = "listen: 127.0.0.1:0\nserverNames: [localhost]\n";
    let mistakes = |rest: &str| {
        document::parse::<Config>("ca.yaml", &format!("{base}{rest}")).err().map(|m| m.to_string()).unwrap_or_default()
    };
    for good in [
        "authority: {secret: {}}\nkubernetes: {}\n",
        "authority: {files: {certificate: a, key: b, roots: c}}\nkubernetes: {}\n",
        "authority: {folder: a}\ntokenFile: t\npodFile: p\n",
    ] {
        assert_eq!(mistakes(good), "", "{good}");
    }
    for (bad, field) in [
        ("authority: {secret: {}}\nkubernetes: {}\ntokenFile: t\n", "kubernetes"),
        ("authority: {folder: a}\ntokenFile: t\n", "tokenFile"),
        ("authority: {folder: a}\nkubernetes: {}\n", "authority.folder"),
        ("authority: {secret: {}}\ntokenFile: t\npodFile: p\n", "authority.secret"),
        ("authority: {secret: {}, folder: a}\nkubernetes: {}\n", "authority"),
        ("authority: {secret: {name: A_b}}\nkubernetes: {}\n", "authority.secret.name"),
        ("authority: {secret: {}}\nkubernetes: {audience: ''}\n", "kubernetes.audience"),
        ("authority: {secret: {}}\nkubernetes: {nodeAccounts: []}\n", "kubernetes.nodeAccounts"),
        ("authority: {secret: {}}\nkubernetes: {nodeAccounts: [ztunnel]}\n", "kubernetes.nodeAccounts"),
        (
            "authority: {secret: {}}\nkubernetes: {directIssuance: {accounts: [culvert-system/ztunnel]}}\n",
            "directIssuance",
        ),
        ("authority: {secret: {}}\nkubernetes: {serverCertificates: [{serviceAccount: a/b, names: []}]}\n", "names"),
        ("authority: {secret: {}}\nkubernetes: {context: x}\n", "kubernetes.context"),
        ("authority: {secret: {}}\nkubernetes: {nodeAcounts: [a/b]}\n", "nodeAccounts"),
        (
            "authority: {secret: {}}\nkubernetes: {}\nserverCertificates: [{names: [a], certificate: c, key: k}]\n",
            "serverCertificates",
        ),
    ] {
        let told = mistakes(bad);
        assert!(told.contains(field), "{field} in {told:?} for {bad}");
    }
}
