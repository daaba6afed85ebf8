use std::fs;
use std::path::Path;

use super::*;
use crate::succession::tests::{Set, root};
use rustls_pki_types::pem::PemObject;

const DAY: Duration = Duration::from_secs(86_400);

fn write(folder: &Path, files: &AuthorityFiles) {
    fs::write(folder.join("cert.pem"), &files.certificate).unwrap();
    fs::write(folder.join("key.pem"), files.key.as_bytes()).unwrap();
    fs::write(folder.join("roots.pem"), &files.roots).unwrap();
}

fn open(folder: &Path, clock: &Arc<Set>) -> Followed {
    let at = |name: &str| folder.join(name);
    let (certificate, key, roots) = (at("cert.pem"), at("key.pem"), at("roots.pem"));
    let files = PluggedFiles { certificate, key, chain: None, roots, state: Some(at("state")) };
    let ttl = Ttl { default: DAY, max: DAY, clamp: false };
    Followed::open(files, "cluster.local", ttl, clock.clone()).unwrap()
}

/// Who signs and who is trusted, by whether it is one of these.
fn seen(authority: &Authority, all: [&AuthorityFiles; 2]) -> ([bool; 2], [bool; 2]) {
    let plain = |text: &str| text.replace('\r', "").trim().to_owned();
    let key = crate::PublicKey::from_csr_pem(
        &identity::Key::generate().unwrap().csr_pem(&"spiffe://cluster.local/ns/a/sa/b".parse().unwrap()).unwrap(),
    );
    let id = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    let leaf = authority.issue(&key.unwrap(), &id, &[], 60, SystemTime::now()).unwrap().chain.leaf;
    let signed_by = |files: &AuthorityFiles| {
        let der = |text: &str| rustls_pki_types::CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let (leaf, root) = (der(&leaf), der(&files.certificate));
        let read = |der| x509_parser::parse_x509_certificate(der).unwrap().1;
        read(&leaf).issuer() == read(&root).subject()
    };
    (all.map(signed_by), all.map(|files| authority.roots_pem().contains(&plain(&files.roots))))
}

#[tokio::test]
async fn replaced_files_are_published_then_sign_then_stand_alone_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Set::new();
    let now = || clock.now();
    let (first, second) = (root(now()), root(now()));
    write(folder.path(), &first);
    let followed = open(folder.path(), &clock);
    let mut changes = followed.watch();
    let both = [&first, &second];
    let until = |followed: &Followed| {
        let end = clock.now() + DAY;
        futures_util::FutureExt::now_or_never(followed.until(end)).unwrap().unwrap()
    };
    assert_eq!(seen(&until(&followed), both), ([true, false], [true, false]));
    assert!(!changes.has_changed().unwrap());
    // Half of a replacement: the key does not fit.
    fs::write(folder.path().join("key.pem"), second.key.as_bytes()).unwrap();
    assert_eq!(seen(&until(&followed), both), ([true, false], [true, false]));
    assert!(!changes.has_changed().unwrap());

    write(folder.path(), &second);
    assert_eq!(seen(&until(&followed), both), ([true, false], [true, true]), "nobody knows the new root yet");
    changes.changed().await.unwrap();
    assert!(matches!(followed.stage(), Stage::Publishing(_)));
    // A restart finds the former key where it was kept, although the files have the new one alone.
    clock.pass(DAY / 2);
    drop(followed);
    let followed = open(folder.path(), &clock);
    assert_eq!(seen(&until(&followed), both), ([true, false], [true, true]));
    clock.pass(DAY);
    assert_eq!(seen(&until(&followed), both), ([false, true], [true, true]), "certificates of the former are in use");
    assert!(matches!(followed.stage(), Stage::Retiring(_)));
    drop(followed);
    let followed = open(folder.path(), &clock);
    assert_eq!(seen(&until(&followed), both), ([false, true], [true, true]));
    clock.pass(DAY * 2);
    assert_eq!(seen(&until(&followed), both), ([false, true], [false, true]));
    assert_eq!(followed.stage(), Stage::Steady);
}

#[tokio::test]
async fn what_is_kept_is_a_secret() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let clock = Set::new();
    write(folder.path(), &root(clock.now()));
    drop(open(folder.path(), &clock));
    let state = folder.path().join("state");
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(store::read_kept(&state), Err(store::StoreError::Exposed { .. })));
    fs::write(&state, "{}").unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(store::read_kept(&state).err().unwrap().to_string().contains("remove it"));
}
