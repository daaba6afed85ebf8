use std::fs;
use std::path::Path;

use identity::SystemClock;

use super::*;
use crate::store;

fn write(folder: &Path, files: &AuthorityFiles) {
    fs::write(folder.join("cert.pem"), &files.certificate).unwrap();
    fs::write(folder.join("key.pem"), files.key.as_bytes()).unwrap();
    fs::write(folder.join("roots.pem"), &files.roots).unwrap();
}

fn new_root() -> AuthorityFiles {
    let folder = tempfile::tempdir().unwrap();
    store::open_or_make(folder.path(), "cluster.local", SystemTime::now()).unwrap()
}

#[tokio::test]
async fn replaced_files_sign_and_bad_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (new_root(), new_root());
    write(folder.path(), &first);
    let at = |name: &str| folder.path().join(name);
    let files = PluggedFiles { certificate: at("cert.pem"), key: at("key.pem"), chain: None, roots: at("roots.pem") };
    let ttl = Ttl { default: Duration::from_secs(60), max: Duration::from_secs(60), clamp: false };
    let followed = Followed::open(files, "cluster.local", ttl, Arc::new(SystemClock)).unwrap();
    let mut changes = followed.watch();
    let now = SystemTime::now();
    assert_eq!(followed.until(now).await.unwrap().roots_pem().trim(), first.roots.replace('\r', "").trim());
    assert!(!changes.has_changed().unwrap());
    // Half of a replacement: the key does not fit.
    fs::write(at("key.pem"), second.key.as_bytes()).unwrap();
    assert_eq!(followed.until(now).await.unwrap().roots_pem().trim(), first.roots.replace('\r', "").trim());
    assert!(!changes.has_changed().unwrap());
    write(folder.path(), &second);
    assert_eq!(followed.until(now).await.unwrap().roots_pem().trim(), second.roots.replace('\r', "").trim());
    changes.changed().await.unwrap();
    assert_eq!(followed.now().roots_pem().trim(), second.roots.replace('\r', "").trim());
}
