use std::fs;
use std::sync::Arc;
use std::time::Duration;

use identity::{Config, SignError, Signer, Signing};
use mesh::Identity;
use rcgen::{BasicConstraints, SerialNumber};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
};
use tokio::time::timeout;

use super::*;

/// Longer than any scheduling delay of a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Signs nothing: these tests need no certificate.
struct NoSigner;

impl Signer for NoSigner {
    fn sign<'a>(&'a self, _: &'a Identity, _: &'a str, _: Duration) -> Signing<'a> {
        Box::pin(async { Err(SignError::Local("not in this test".to_owned())) })
    }
}

fn manager() -> Manager {
    Manager::new(Config::default(), Arc::new(NoSigner))
}

/// A list that revokes one serial number.
fn list(serial: u8) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(params, key);
    let revoked = RevokedCertParams {
        serial_number: SerialNumber::from(vec![serial]),
        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(vec![1]),
        issuing_distribution_point: None,
        revoked_certs: vec![revoked],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_file_that_comes_changes_and_is_removed_and_comes_again_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca-crl.pem");
    let manager = manager();
    let mut force = manager.revocations();
    let lists = Lists::open(&path, &manager).unwrap();
    assert!(force.borrow_and_update().serials().is_empty());
    let following = tokio::spawn(lists.follow());
    for (serial, wanted) in [(0x11, ["11"]), (0x22, ["22"])] {
        fs::write(folder.path().join("new"), list(serial)).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        timeout(SOON, force.changed()).await.unwrap().unwrap();
        assert_eq!(force.borrow_and_update().serials(), wanted);
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, list(0x33)).unwrap();
    timeout(SOON, force.wait_for(|crl| crl.serials() == ["33"])).await.unwrap().unwrap();
    assert!(!following.is_finished());
    following.abort();
}

#[tokio::test]
async fn a_file_that_is_broken_at_the_start_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca-crl.pem");
    fs::write(&path, "rubbish").unwrap();
    assert!(matches!(Lists::open(&path, &manager()), Err(CrlFileError::Content { .. })));
    assert!(matches!(Lists::open(&folder.path().join("no/such"), &manager()), Err(CrlFileError::Watch { .. })));
}

#[tokio::test]
async fn a_file_that_breaks_or_goes_later_leaves_the_lists_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca-crl.pem");
    fs::write(&path, list(0x11)).unwrap();
    let manager = manager();
    let lists = Lists::open(&path, &manager).unwrap();
    let in_force = || manager.revocations().borrow().serials();
    assert_eq!(in_force(), ["11"]);
    fs::write(&path, "rubbish").unwrap();
    assert!(matches!(lists.load(), Err(CrlFileError::Content { .. })));
    assert_eq!(in_force(), ["11"]);
    fs::remove_file(&path).unwrap();
    assert!(matches!(lists.load(), Err(CrlFileError::Read { .. })));
    assert_eq!(in_force(), ["11"]);
}
