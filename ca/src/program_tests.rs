use std::fs;
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
    let ca = Ca::prepare(config(folder.path()), audit.clone()).await.unwrap();
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
    let missing = Ca::prepare(config(folder.path()), Arc::new(Recorder::default())).await.err().unwrap();
    assert!(missing.to_string().contains("tokens.yaml"), "{missing}");
}
