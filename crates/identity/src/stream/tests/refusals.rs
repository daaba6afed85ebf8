//! Whom a handshake refuses, and how both ends are told.

use super::*;

#[tokio::test]
async fn who_is_not_expected_is_refused() {
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for expected in [vec![id("other")], vec![], vec![Identity::new("other.domain", "shop", "cart").unwrap()]] {
        let (client, _) = failed(web.client_config(&expected).unwrap(), cart.server_config()).await;
        let Some(HandshakeError::Peer(PeerFault::Identity { got, .. })) = client else { panic!("{client:?}") };
        assert_eq!(got, id("cart"));
    }
    let (client, server) = failed(web.client_config(&[id("a"), id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none());
}

#[tokio::test]
async fn a_certificate_of_another_root_or_trust_domain_is_refused() {
    let (ca, strange) = (TestCa::new("root"), TestCa::new("strange"));
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    let fake = certificate(&strange, &id("cart"));
    let (client, server) = failed(web.client_config(&[id("cart")]).unwrap(), fake.server_config()).await;
    assert!(matches!(client, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::UnknownIssuer)))), "{client:?}");
    assert_eq!(server.unwrap().blame(), Blame::Mesh, "the server is told that its certificate is the matter");

    let foreign = certificate(&ca, &Identity::new("other.domain", "shop", "web").unwrap());
    // It must trust the server for the server to see it at all; its own rule would refuse first.
    let (client, _) = failed(foreign.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(matches!(client, Some(HandshakeError::Peer(PeerFault::TrustDomain { .. }))), "{client:?}");
    let mut open = (*foreign.client_config(&[id("cart")]).unwrap()).clone();
    open.dangerous().set_certificate_verifier(Arc::new(Anybody));
    let (_, server) = failed(Arc::new(open), cart.server_config()).await;
    assert!(matches!(server, Some(HandshakeError::Peer(PeerFault::TrustDomain { .. }))), "{server:?}");
}

#[tokio::test]
async fn expired_wrong_purpose_and_nameless_clients_are_refused() {
    let now = SystemTime::now();
    let judge = |change: fn(&mut crate::test_ca::Behaviour, SystemTime)| async move {
        let ca = TestCa::new("root");
        let server = certificate(&ca, &id("cart")).server_config();
        ca.behave(|b| change(b, now));
        let key = Key::generate().unwrap();
        let chain = ca.issue(&id("web"), &key.csr_pem(&id("web")).unwrap(), HOUR);
        let ders = crate::chain::certificates(chain.leaf.as_bytes()).unwrap();
        failed(Arc::new(careless(Some((ders, key)), &[b"h2"])), server).await.1
    };
    let expired = judge(|b, now| b.times = Some((now - 2 * HOUR, now - HOUR))).await;
    assert!(matches!(expired, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Expired)))), "{expired:?}");
    let early = judge(|b, now| b.times = Some((now + HOUR, now + 2 * HOUR))).await;
    assert!(matches!(early, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::NotYetValid)))), "{early:?}");
    let usage = judge(|b, _| b.usages = Some(vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth])).await;
    assert!(matches!(usage, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Usage)))), "{usage:?}");
    let nameless = judge(|b, _| b.names = Some(vec![])).await;
    assert!(matches!(nameless, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::None)))), "{nameless:?}");
    let two = judge(|b, _| b.names = Some(vec![id("web").to_string(), id("cart").to_string()])).await;
    assert!(matches!(two, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::Several(2))))), "{two:?}");
    assert_eq!(two.unwrap().blame(), Blame::Peer);
    let strange = judge(|b, _| b.names = Some(vec!["https://cluster.local/ns/shop/sa/web".to_owned()])).await;
    assert!(matches!(strange, Some(HandshakeError::Peer(PeerFault::Spiffe(SpiffeFault::Identity(_))))), "{strange:?}");
}

#[tokio::test]
async fn no_certificate_no_h2_and_no_tls_are_told_apart() {
    let server = certificate(&TestCa::new("root"), &id("cart")).server_config();
    let (_, none) = failed(Arc::new(careless(None, &[b"h2"])), server.clone()).await;
    assert!(matches!(none, Some(HandshakeError::NoCertificate)), "{none:?}");
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut client = (*web.client_config(&[id("cart")]).unwrap()).clone();
        client.alpn_protocols = offered;
        let (_, alpn) = failed(Arc::new(client), cart.server_config()).await;
        assert!(matches!(alpn, Some(HandshakeError::Alpn)), "{alpn:?}");
    }
    let mut old = (*cart.server_config()).clone();
    old.alpn_protocols = Vec::new();
    let (alpn, _) = failed(web.client_config(&[id("cart")]).unwrap(), Arc::new(old)).await;
    assert!(matches!(alpn, Some(HandshakeError::Alpn)), "{alpn:?}");

    let (mut near, far) = duplex(4096);
    near.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(matches!(accept(far, server.clone()).await.err(), Some(HandshakeError::Tls(_))));
    let (near, far) = duplex(4096);
    drop(near);
    let gone = accept(far, server).await.err().unwrap();
    assert!(matches!(gone, HandshakeError::Closed | HandshakeError::Io(_)) && gone.retryable(), "{gone:?}");
}

#[tokio::test]
async fn a_server_that_refuses_the_client_is_heard_with_the_first_read() {
    let (ca, strange) = (TestCa::new("root"), TestCa::new("strange"));
    let cart = certificate(&ca, &id("cart"));
    let mut client = (*certificate(&strange, &id("web")).client_config(&[id("cart")]).unwrap()).clone();
    client.dangerous().set_certificate_verifier(Arc::new(Anybody));
    let (near, far) = duplex(64 << 10);
    let (ours, theirs) = tokio::join!(connect(near, Arc::new(client)), accept(far, cart.server_config()));
    assert!(theirs.is_err());
    let (mut stream, _) = ours.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    let inner = error.get_ref().unwrap().downcast_ref::<StreamError>();
    assert!(matches!(inner, Some(StreamError::Alert(_))), "{error}");
}

#[tokio::test]
async fn only_tls_13_with_aes_gcm_is_spoken() {
    let cart = certificate(&TestCa::new("root"), &id("cart"));
    let mut chacha = (*crate::provider()).clone();
    chacha.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let default = rustls::crypto::aws_lc_rs::default_provider();
    for (provider, version) in [(chacha, &rustls::version::TLS13), (default, &rustls::version::TLS12)] {
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec()];
        assert!(failed(Arc::new(client), cart.server_config()).await.1.is_some());
    }
    let ca = TestCa::new("root");
    let (web, cart) = (certificate(&ca, &id("web")), certificate(&ca, &id("cart")));
    for (group, name) in [
        (rustls::crypto::aws_lc_rs::kx_group::X25519, NamedGroup::X25519),
        (rustls::crypto::aws_lc_rs::kx_group::SECP256R1, NamedGroup::secp256r1),
    ] {
        let mut classic = (*crate::provider()).clone();
        classic.kx_groups = vec![group];
        let mut client = careless_with(Arc::new(classic), None, &[b"h2"]);
        client.client_auth_cert_resolver = web.client_config(&[id("cart")]).unwrap().client_auth_cert_resolver.clone();
        let (near, far) = duplex(64 << 10);
        let (a, b) = tokio::join!(connect(near, Arc::new(client)), accept(far, cart.server_config()));
        assert_eq!((a.unwrap().0.key_exchange(), b.unwrap().0.key_exchange()), (Some(name), Some(name)));
    }
}

#[tokio::test]
async fn a_revocation_list_refuses_new_and_names_live_connections() {
    let (ca, crl) = (TestCa::new("root"), watch::Sender::new(Arc::new(Crl::default())));
    let [web, cart, third] = ["web", "cart", "third"].map(|name| certificate_with(&ca, &id(name), &crl));
    let (near, far) = duplex(64 << 10);
    let client = web.client_config(&[id("cart")]).unwrap();
    let (ours, theirs) = tokio::join!(connect(near, client.clone()), accept(far, cart.server_config()));
    let (live, server_peer) = (ours.unwrap().0, theirs.unwrap().1);
    assert!(!crl.borrow().revokes(&server_peer));
    let list = Crl::from_pem(ca.revoke(std::slice::from_ref(&server_peer.serial)).as_bytes()).unwrap();
    assert_eq!(list.serials(), [web.serial()]);
    crl.send_replace(Arc::new(list));
    assert!(crl.borrow().revokes(&server_peer));
    drop(live);
    let (_, server) = failed(client, cart.server_config()).await;
    assert!(matches!(server, Some(HandshakeError::Peer(PeerFault::Chain(ChainFault::Revoked)))), "{server:?}");
    let (client, server) = failed(third.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none(), "others go on");
    // A list of another issuer says nothing about ours.
    crl.send_replace(Arc::new(Crl::from_pem(TestCa::new("else").revoke(&[server_peer.serial]).as_bytes()).unwrap()));
    let (client, server) = failed(web.client_config(&[id("cart")]).unwrap(), cart.server_config()).await;
    assert!(client.is_none() && server.is_none());
    assert!(Crl::from_pem(b"").is_err() && Crl::from_pem(ca.root.as_bytes()).is_err());
}

/// Accepts every server: a client that does not follow our rules.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::provider().signature_verification_algorithms.supported_schemes()
    }
}

type Shown = Option<(Vec<rustls_pki_types::CertificateDer<'static>>, Key)>;

fn careless(shown: Shown, alpn: &[&[u8]]) -> ClientConfig {
    careless_with(crate::provider(), shown, alpn)
}

fn careless_with(provider: Arc<rustls::crypto::CryptoProvider>, shown: Shown, alpn: &[&[u8]]) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some((chain, key)) => {
            let certified = rustls::sign::CertifiedKey::new(chain, key.for_tls());
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config
}
