use super::*;

#[test]
fn our_pem_is_what_others_write() {
    for length in [1, 2, 3, 47, 48, 49, 300] {
        let der = CertificateDer::from(vec![0xa7; length]);
        assert_eq!(CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap(), der, "{length}");
        assert!(pem(&der).lines().all(|line| line.len() <= 64));
    }
    let key = KeyPair::generate().unwrap();
    let made = issue::root("td", SystemTime::now()).self_signed(&key).unwrap();
    assert_eq!(pem(made.der()).trim(), made.pem().replace('\r', "").trim());
}

#[test]
fn a_leaf_cannot_be_an_authority() {
    let now = SystemTime::now();
    let key = KeyPair::generate().unwrap();
    let times = issue::validity(now, Duration::from_secs(3600), now + Duration::from_secs(7200));
    let leaf = issue::server(&["a.example".to_owned()], times).unwrap().self_signed(&key).unwrap().pem();
    let ttl = Ttl { default: Duration::from_secs(60), max: Duration::from_secs(60), clamp: false };
    let files = |now_key: &KeyPair| AuthorityFiles {
        certificate: leaf.clone(),
        key: Zeroizing::new(now_key.serialize_pem()),
        chain: String::new(),
        roots: leaf.clone(),
    };
    assert!(matches!(Authority::new("td", files(&key), ttl, now).err(), Some(AuthorityError::NotCa)));
}
