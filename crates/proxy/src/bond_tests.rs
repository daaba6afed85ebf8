use std::rc::Rc;
use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// An authority, and what it says of certificates with these serials.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign, rcgen::KeyUsagePurpose::KeyCertSign];
        Self { issuer: Issuer::new(params, KeyPair::generate().unwrap()) }
    }

    fn issue(&self, account: &str, serial: u64) -> Peer {
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(serial));
        let name = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        let made = params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap();
        Peer::read(made.der()).unwrap()
    }

    fn revoke(&self, serial: u64) -> Arc<Crl> {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2120, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        Arc::new(Crl::from_pem(text.as_bytes()).unwrap())
    }
}

fn bond(authority: &Authority) -> (watch::Sender<Arc<Crl>>, Certificates) {
    let (lists, revocations) = watch::channel(Arc::new(Crl::default()));
    let bond = Certificates { ours: authority.issue("web", 1), theirs: authority.issue("db", 2), revocations };
    (lists, bond)
}

#[tokio::test]
async fn a_revoked_certificate_of_either_end_breaks_the_tunnel() {
    let authority = Authority::new();
    for (serial, breaks) in [(1, true), (2, true), (3, false)] {
        let (lists, bond) = bond(&authority);
        assert!(bond.holds() && !bond.is_broken());
        assert_eq!(bond.peer().service_account().as_ref(), "db");
        let revoked = tokio::spawn(bond.until_revoked());
        lists.send(authority.revoke(serial)).unwrap();
        assert_eq!((bond.holds(), bond.is_broken()), (!breaks, breaks), "{serial}");
        if breaks {
            tokio::time::timeout(Duration::from_secs(5), revoked).await.unwrap().unwrap();
        } else {
            lists.send(authority.revoke(2)).unwrap();
            tokio::time::timeout(Duration::from_secs(5), revoked).await.unwrap().unwrap();
        }
    }
}

#[test]
fn an_expired_certificate_of_either_end_ends_reuse_and_breaks_nothing() {
    let authority = Authority::new();
    for ours in [true, false] {
        let (_lists, mut bond) = bond(&authority);
        let end = if ours { &mut bond.ours } else { &mut bond.theirs };
        end.not_after = SystemTime::now() - Duration::from_secs(1);
        assert!(!bond.holds() && !bond.is_broken());
    }
}

#[tokio::test]
async fn a_transport_fails_while_it_waits_to_read() {
    let (near, mut far) = tokio::io::duplex(64);
    let (cut, end) = oneshot::channel::<()>();
    let end = async move { drop(end.await) };
    let mut io = Revocable::new(near, Some(Box::pin(end)));
    far.write_all(b"ab").await.unwrap();
    assert_eq!(io.read_u8().await.unwrap(), b'a');
    io.write_all(b"x").await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'x');
    assert_eq!(io.read_u8().await.unwrap(), b'b');
    let reading = async {
        let error = io.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        // And again: it does not come back to life.
        assert!(io.read_u8().await.is_err());
    };
    let cutting = async {
        tokio::task::yield_now().await;
        cut.send(()).unwrap();
    };
    tokio::join!(reading, cutting);
    let _shared: Rc<dyn Bond> = Rc::new(bond(&Authority::new()).1);
}
