//! A CA for the tests of this crate, with switches for what can go wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mesh::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use tokio::sync::{Semaphore, watch};

use crate::signer::{SignError, SignedChain, Signer, Signing};

/// What the CA does with the next requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) fail: bool,
    pub(crate) names: Option<Vec<String>>,
    pub(crate) other_key: bool,
    pub(crate) other_root: bool,
    pub(crate) usages: Option<Vec<ExtendedKeyUsagePurpose>>,
    /// Begin and end, in place of now and the life asked for.
    pub(crate) times: Option<(SystemTime, SystemTime)>,
}

/// Permits of the gate: more than requests of any test.
pub(crate) const GATE: u32 = 1000;

pub(crate) struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root: String,
    pub(crate) behaviour: Mutex<Behaviour>,
    /// Requests answered or refused so far.
    pub(crate) asked: watch::Sender<usize>,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) most_in_flight: AtomicUsize,
    /// Requests wait here while it has no permits.
    pub(crate) gate: Semaphore,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root,
            behaviour: Mutex::default(),
            asked: watch::Sender::new(0),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
            gate: Semaphore::new(GATE as usize),
        }
    }

    /// Signs what the behaviour says.
    pub(crate) fn issue(&self, identity: &Identity, csr_pem: &str, ttl: Duration) -> SignedChain {
        let behaviour = self.behaviour.lock().unwrap().clone();
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let names = behaviour.names.unwrap_or_else(|| vec![identity.to_string()]);
        csr.params.subject_alt_names = names.iter().map(|n| SanType::URI(n.as_str().try_into().unwrap())).collect();
        let both = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        csr.params.extended_key_usages = behaviour.usages.unwrap_or(both);
        csr.params.is_ca = IsCa::ExplicitNoCa;
        csr.params.serial_number =
            Some(SerialNumber::from_slice(&[0x41, rand::random(), rand::random(), rand::random()]));
        let now = SystemTime::now();
        let (from, until) = behaviour.times.unwrap_or((now - Duration::from_secs(120), now + ttl));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        csr.params.not_before = epoch + from.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        csr.params.not_after = epoch + until.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let leaf = if behaviour.other_key {
            csr.params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().pem()
        } else {
            csr.signed_by(&self.issuer).unwrap().pem()
        };
        let roots = if behaviour.other_root { Self::new("other").root } else { self.root.clone() };
        SignedChain { leaf, intermediates: Vec::new(), roots }
    }

    pub(crate) fn revoke(&self, serials: &[Vec<u8>]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }
}

impl Signer for TestCa {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: &'a str, ttl: Duration) -> Signing<'a> {
        Box::pin(async move {
            let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_in_flight.fetch_max(now, Ordering::SeqCst);
            let pass = self.gate.acquire().await.unwrap();
            drop(pass);
            self.in_flight.fetch_sub(1, Ordering::SeqCst);
            let fail = self.behaviour.lock().unwrap().fail;
            let answer = if fail {
                Err(SignError::Unreachable("down for the test".to_owned()))
            } else {
                Ok(self.issue(identity, csr_pem, ttl))
            };
            self.asked.send_modify(|count| *count += 1);
            answer
        })
    }
}

pub(crate) fn id(service_account: &str) -> Identity {
    Identity::new("cluster.local", "shop", service_account).unwrap()
}
