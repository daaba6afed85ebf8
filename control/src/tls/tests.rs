use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use chassis::Gate;
use identity::{SignedChain, Signing};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

/// Signs for the names and the life that a test says; fails as often as it says before.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    names: Mutex<Vec<String>>,
    life: Duration,
    failures: AtomicUsize,
    asked: tokio::sync::watch::Sender<usize>,
    usage: ExtendedKeyUsagePurpose,
}

impl Authority {
    fn new(names: &[&str], life: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            issuer: Issuer::new(params, key),
            names: Mutex::new(names.iter().map(|n| (*n).to_owned()).collect()),
            life,
            failures: AtomicUsize::new(0),
            asked: tokio::sync::watch::Sender::new(0),
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    fn sign(&self, csr: &str) -> SignedChain {
        let mut csr = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let names = self.names.lock().unwrap().clone();
        csr.params.subject_alt_names = names.iter().map(|n| SanType::DnsName(n.as_str().try_into().unwrap())).collect();
        csr.params.extended_key_usages = vec![self.usage.clone()];
        csr.params.is_ca = IsCa::ExplicitNoCa;
        let end = SystemTime::now() + self.life;
        let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        csr.params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        let leaf = csr.signed_by(&self.issuer).unwrap().pem();
        SignedChain { leaf, intermediates: Vec::new(), roots: "not looked at".to_owned() }
    }
}

impl Signer for Authority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr: &'a str, _: Duration) -> Signing<'a> {
        assert_eq!(identity.to_string(), "spiffe://cluster.local/ns/culvert-system/sa/culvert-control");
        self.asked.send_modify(|n| *n += 1);
        let fail = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let answer =
            if fail { Err(SignError::Unreachable("down for the test".to_owned())) } else { Ok(self.sign(csr)) };
        Box::pin(std::future::ready(answer))
    }
}

const NAME: &str = "culvert-control.culvert-system.svc";

fn renewal(authority: &Arc<Authority>, gate: &Gate) -> Renewal {
    let identity = Identity::new("cluster.local", "culvert-system", "culvert-control").unwrap();
    let names = vec![NAME.to_owned()];
    let ready = gate.condition("certificate");
    Renewal::with(authority.clone(), identity, names, Duration::from_secs(3600), ready, Gauge::default())
}

#[tokio::test]
async fn a_certificate_of_all_names_is_installed_and_makes_ready() {
    let authority = Arc::new(Authority::new(&["other", NAME], Duration::from_secs(3600)));
    let gate = Gate::new();
    let renewal = renewal(&authority, &gate);
    let (tls, expiry) = (renewal.tls(), renewal.expiry.clone());
    assert!(tls.config().is_err() && gate.state().is_err());
    let task = tokio::spawn(renewal.run());
    gate.ready().await;
    assert!(tls.config().is_ok());
    let left = expiry.get() - unix(SystemTime::now());
    assert!((3500..=3600).contains(&left), "{left}");
    task.abort();
}

#[tokio::test]
async fn what_the_ca_signs_is_refused_with_the_remedy_when_it_is_not_for_us() {
    let gate = Gate::new();
    let bad = |authority: Authority| {
        let gate = gate.clone();
        async move { renewal(&Arc::new(authority), &gate).renew().await.unwrap_err().to_string() }
    };
    let other_name = bad(Authority::new(&["elsewhere.svc"], Duration::from_secs(60))).await;
    assert!(other_name.contains(NAME) && other_name.contains("at the CA"), "{other_name}");
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let for_clients = bad(Authority { usage, ..Authority::new(&[NAME], Duration::from_secs(60)) }).await;
    assert!(for_clients.contains("serverAuth"), "{for_clients}");
    assert!(gate.state().is_err());

    // For another key: a CA that answers with somebody else's certificate.
    let authority = Authority::new(&[NAME], Duration::from_secs(60));
    let identity = Identity::new("cluster.local", "a", "b").unwrap();
    let csr = Key::generate().unwrap().csr_pem(&identity).unwrap();
    let chain = authority.sign(&csr).leaf;
    let error = ServerTls::empty().install(&chain, &Key::generate().unwrap(), &[NAME.to_owned()]).unwrap_err();
    assert!(error.to_string().contains("not for our key"), "{error}");
}

#[tokio::test]
async fn it_is_renewed_in_time_and_a_failure_keeps_the_former_one() {
    // A life of 3 s is renewed after 1 s; the first question fails and is asked again after about a second.
    let authority = Arc::new(Authority::new(&[NAME], Duration::from_secs(3)));
    authority.failures.store(1, Ordering::SeqCst);
    let gate = Gate::new();
    let renewal = renewal(&authority, &gate);
    let tls = renewal.tls();
    let task = tokio::spawn(renewal.run());
    let mut asked = authority.asked.subscribe();
    asked.wait_for(|n| *n == 2).await.unwrap();
    gate.ready().await;
    let first = tls.config().unwrap();
    asked.wait_for(|n| *n == 3).await.unwrap();
    let renewed = async {
        while Arc::ptr_eq(&first, &tls.config().unwrap()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.unwrap();
    // The CA is away from now on: in use until it ends, not ready afterwards.
    authority.failures.store(usize::MAX, Ordering::SeqCst);
    assert!(tls.config().is_ok());
    let ended = async {
        while gate.state().is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    task.abort();
}
