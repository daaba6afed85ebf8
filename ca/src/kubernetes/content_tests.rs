use std::time::Duration;

use super::*;

fn secret(keys: &[(&str, &str)]) -> Secret {
    Secret {
        metadata: ObjectMeta { resource_version: Some("1".to_owned()), ..ObjectMeta::default() },
        data: Some(keys.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect()),
        ..Secret::default()
    }
}

fn certificate(byte: u8) -> String {
    pem(&CertificateDer::from(vec![byte; 8]))
}

#[test]
fn istios_keys_and_cert_managers_keys_are_read() {
    let read = |keys: &[(&str, &str)]| Content::read(&secret(keys)).map(|content| content.files);
    let istio =
        read(&[("ca-cert.pem", "C"), ("ca-key.pem", "K"), ("cert-chain.pem", "H"), ("root-cert.pem", "R")]).unwrap();
    assert_eq!(
        (istio.certificate.as_str(), &**istio.key, istio.chain.as_str(), istio.roots.as_str()),
        ("C", "K", "H", "R")
    );
    let (own, middle, root) = (certificate(1), certificate(2), certificate(3));
    let chain = format!("{own}{middle}");
    let issued = read(&[("tls.crt", &chain), ("tls.key", "K"), ("ca.crt", &root)]).unwrap();
    assert_eq!((issued.certificate, issued.chain, issued.roots), (own.clone(), middle, root));
    let alone = read(&[("tls.crt", &own), ("tls.key", "K"), ("ca.crt", "")]).unwrap();
    assert_eq!((&alone.certificate, alone.chain.as_str(), &alone.roots), (&own, "", &own), "a root that signs itself");
}

#[test]
fn what_is_missing_is_named_with_the_remedy() {
    let missing = |keys: &[(&str, &str)]| Content::read(&secret(keys)).err().unwrap().to_string();
    assert!(missing(&[]).contains("ca-cert.pem"));
    assert!(
        missing(&[("ca-cert.pem", "C"), ("ca-key.pem", " "), ("root-cert.pem", "R")]).contains("no key ca-key.pem")
    );
    assert!(missing(&[("tls.crt", &certificate(1))]).contains("tls.key"));
    assert!(missing(&[("tls.crt", "no pem"), ("tls.key", "K")]).contains("isCA"));
    let mut odd = secret(&[("ca-key.pem", "K"), ("root-cert.pem", "R")]);
    odd.data.as_mut().unwrap().insert("ca-cert.pem".to_owned(), ByteString(vec![0xff]));
    assert!(matches!(Content::read(&odd).err(), Some(ContentError::NotPem { key: "ca-cert.pem", .. })));
}

#[test]
fn a_secret_of_ours_survives_the_round_trip_and_another_keeps_no_notes() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for stage in [
        Stage::Steady,
        Stage::Prepared { since: at(1_000_000), until: at(2_000_000) },
        Stage::Activated { since: at(1_000_001), until: at(2_000_001) },
    ] {
        let mut content = Content::new_root("C".to_owned(), Zeroizing::new("K".to_owned()));
        content.stage = stage;
        content.horizon = Some(at(5));
        content.next = Some(("N".to_owned(), Zeroizing::new("M".to_owned())));
        content.former = Some("F".to_owned());
        let mut made = content.secret("ns", "name");
        made.metadata.resource_version = Some("7".to_owned());
        let read = Content::read(&made).unwrap();
        assert_eq!((read.stage, read.horizon, read.ours, read.version.as_str()), (stage, Some(at(5)), true, "7"));
        assert!(read.files == content.files && read.next == content.next && read.former == content.former);
        // The same notes in a Secret of somebody else say nothing.
        made.metadata.labels = None;
        let foreign = Content::read(&made).unwrap();
        assert_eq!((foreign.stage, foreign.horizon, foreign.ours), (Stage::Steady, None, false));
    }
}

#[test]
fn broken_notes_are_no_notes_to_be_ignored() {
    for (key, value) in [(STAGE, "upside-down"), (STAGE, "prepared"), (HORIZON, "soon")] {
        let mut made = Content::new_root("C".to_owned(), Zeroizing::new("K".to_owned())).secret("ns", "name");
        made.metadata.resource_version = Some("7".to_owned());
        made.metadata.annotations.as_mut().unwrap().insert(key.to_owned(), value.to_owned());
        assert!(matches!(Content::read(&made).err(), Some(ContentError::Annotation { .. })), "{key}: {value}");
    }
}

#[test]
fn an_end_is_noted_rounded_up() {
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
    assert_eq!(note(end), "1970-01-01T00:00:02Z");
    assert!(note(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50)).starts_with("9999"));
}
