use chassis::Drain;
use identity::{Manager, SignError, SignedChain, Signer, Signing};
use mesh::Identity;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa};
use rcgen::{Issuer, KeyPair, SanType};
use telemetry::Telemetry;
use tokio::sync::watch;
use tokio::time::Instant;
use xds::Change;

use super::*;
use crate::config::Config;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// An authority that answers when it is open.
struct Authority {
    open: watch::Receiver<bool>,
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Authority {
    fn new(open: watch::Receiver<bool>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self { open, issuer: Issuer::new(params, key), root }
    }
}

impl Signer for Authority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str, _: Duration) -> Signing<'a> {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        csr.params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        let leaf = csr.signed_by(&self.issuer).unwrap().pem();
        let chain = SignedChain { leaf, intermediates: Vec::new(), roots: self.root.clone() };
        let mut open = self.open.clone();
        Box::pin(async move {
            match open.wait_for(|open| *open).await {
                Ok(_) => Ok(chain),
                Err(_) => Err(SignError::Unreachable("closed for ever".to_owned())),
            }
        })
    }
}

/// Pods `a` and `b`, of which discovery knows the first so many.
fn shared(authority: Authority, known: usize) -> (Arc<Shared>, Arc<Pods>) {
    let config = "node: n1\nlocalText: ''\nca: {address: 'https://c:1', rootFile: /r, tokenFile: /t}\n";
    let config: Config = document::parse("test.yaml", config).unwrap();
    let pods = Arc::new(Pods::default());
    let shared = Shared {
        pods: pods.clone(),
        world: Arc::default(),
        identities: Manager::new(identity::Config::default(), Arc::new(authority)),
        telemetry: Telemetry::new(telemetry::Config::default()),
        drain: Drain::new().signal(),
        names: None,
        config,
    };
    let names = ["a", "b"];
    for name in names {
        let info = PodInfo { name: name.into(), namespace: "shop".into(), service_account: name.into() };
        let netns = NetNs::current().unwrap();
        let pod = Pod::new(name.into(), info, netns, Budget::new(Limits::default()));
        pods.lock().insert(name.into(), Arc::new(pod));
    }
    let workload = |name: &str| Workload {
        uid: format!("Kubernetes//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        ..Workload::default()
    };
    let workloads = names[..known].iter().map(|name| workload(name)).collect();
    shared.world.apply(Change { workloads, ..Change::default() });
    (Arc::new(shared), pods)
}

fn certificates(shared: &Shared) -> usize {
    shared.identities.dump().iter().filter(|state| state.expires.is_some()).count()
}

#[tokio::test]
async fn readiness_waits_for_the_certificates_of_all_pods_that_are_known() {
    for known in [2, 1] {
        let (open, closed) = watch::channel(false);
        let (shared, pods) = shared(Authority::new(closed), known);
        let mut waiting = std::pin::pin!(first_certificates(&shared, &pods, SOON));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err(), "nobody has a certificate");
        open.send_replace(true);
        let began = Instant::now();
        waiting.await;
        assert!(began.elapsed() < SOON);
        assert_eq!(certificates(&shared), known);
    }
    // Whom discovery does not know cannot have one.
    let (_open, closed) = watch::channel(false);
    let (shared, pods) = shared(Authority::new(closed), 0);
    timeout(Duration::from_millis(50), first_certificates(&shared, &pods, SOON)).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_stays_away_is_not_waited_for_for_ever() {
    let (_open, closed) = watch::channel(false);
    let (shared, pods) = shared(Authority::new(closed), 2);
    let patience = Duration::from_millis(100);
    let began = Instant::now();
    timeout(SOON, first_certificates(&shared, &pods, patience)).await.unwrap();
    assert!(began.elapsed() >= patience);
    assert_eq!(certificates(&shared), 0);
}

#[tokio::test]
async fn a_pod_that_discovery_has_dropped_is_who_it_was_and_nobody_waits() {
    let (_open, closed) = watch::channel(false);
    let (shared, pods) = shared(Authority::new(closed), 1);
    let [known, unknown] = ["a", "b"].map(|uid| pods.lock()[uid].clone());
    assert!(shared.world.local_now(&known).is_some() && shared.world.local_now(&unknown).is_none());
    shared.world.apply(Change { removed: vec!["Kubernetes//Pod/shop/a".into()], ..Change::default() });
    let connection = policy::Connection {
        source: None,
        source_ip: [10, 0, 0, 9].into(),
        destination_ip: [10, 0, 0, 1].into(),
        destination_port: 80,
    };
    let telemetry = &shared.telemetry;
    let peer = mesh::PeerAddr("10.0.0.9:5".parse().unwrap());
    let mut record = telemetry::Record::new(telemetry, mesh::Direction::Inbound, peer, "10.0.0.1:80".parse().unwrap());
    let permit = crate::judge::permit(&shared.world, &known, connection, &mut record);
    // Its network may be gone in a moment: whoever waited for discovery would hang until its peer gives up.
    assert!(timeout(Duration::from_millis(50), permit).await.expect("it was waited for").is_ok());
    record.finish(mesh::Outcome::Closed);
    assert_eq!(shared.world.local_now(&known).map(|w| w.name.clone()).as_deref(), Some("a"));
}
