//! Against servers of our own, which stand on loopback: the rule of the test forbids nothing but what it says.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A root, and a server that answers by its path.
async fn server(answers: Vec<(String, String)>) -> (String, u16) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut head = vec![0; 4096];
            let n = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let found = answers.iter().find(|(p, _)| *p == path).map(|(_, a)| a.replace("PORT", &port.to_string()));
            let (code, body) = match found {
                Some(body) if body.starts_with("302 ") => (body, String::new()),
                Some(body) => ("200 OK".to_owned(), body),
                None => ("404 Not Found".to_owned(), String::new()),
            };
            let answer =
                format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            // A client that has seen enough goes away.
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (pem, port)
}

fn answers(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(path, body)| ((*path).to_owned(), (*body).to_owned())).collect()
}

#[tokio::test]
async fn keys_come_by_address_and_by_discovery() {
    let (pem, port) = server(answers(&[
        ("/jwks", r#"{"keys":[{"kid":"a"}],"more":1}"#),
        (
            "/.well-known/openid-configuration",
            r#"{"issuer":"https://localhost:PORT","jwks_uri":"https://localhost:PORT/jwks"}"#,
        ),
        (
            "/other/.well-known/openid-configuration",
            r#"{"issuer":"https://else","jwks_uri":"https://localhost:PORT/jwks"}"#,
        ),
        (
            "/clear/.well-known/openid-configuration",
            r#"{"issuer":"https://localhost:PORT/clear","jwks_uri":"http://localhost:PORT/jwks"}"#,
        ),
        ("/odd", "{\"keys\":1}"),
        ("/text", "hello"),
        ("/moved", "302 Found\r\nlocation: https://localhost:PORT/jwks"),
        ("/large", &format!("{{\"keys\":[\"{}\"]}}", "x".repeat(SIZE))),
    ]))
    .await;
    let fetcher = Fetcher::new(Vet::default(), TrustedRoots::Pem(pem));
    let at = |path: &str| format!("https://localhost:{port}{path}");
    let uri = |path: &str| KeySource::Uri(at(path).into());
    let discovery = |path: &str| KeySource::Discovery(at(path).into());
    let wanted = r#"{"keys":[{"kid":"a"}]}"#;
    assert_eq!(&*fetcher.keys(&uri("/jwks")).await.unwrap(), wanted);
    assert_eq!(&*fetcher.keys(&discovery("")).await.unwrap(), wanted);
    for (source, says) in [
        (discovery("/other"), "another issuer"),
        (discovery("/clear"), "https://host/path"),
        (uri("/absent"), "404"),
        (uri("/odd"), "not a set of keys"),
        (uri("/text"), "no answer"),
        (uri("/moved"), "302"),
        (uri("/large"), "length limit exceeded"),
        (KeySource::Uri("http://localhost/jwks".into()), "https://host/path"),
        (KeySource::Uri("https://user@localhost/jwks".into()), "https://host/path"),
    ] {
        let error = fetcher.keys(&source).await.unwrap_err().to_string();
        assert!(error.contains(says), "{source:?}: {error}");
    }
}

#[tokio::test]
async fn nobody_is_called_whom_the_rule_forbids_and_nobody_who_proves_another_name() {
    let (pem, port) = server(answers(&[("/jwks", r#"{"keys":[]}"#)])).await;
    let strict = Fetcher::new(Vet::strict(), TrustedRoots::Pem(pem.clone()));
    for host in ["localhost", "127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"] {
        let source = KeySource::Uri(format!("https://{host}:{port}/jwks").into());
        let error = strict.keys(&source).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden { .. }), "{host}: {error}");
    }
    let lenient = Fetcher::new(Vet::default(), TrustedRoots::Pem(pem));
    let error = lenient.keys(&KeySource::Uri(format!("https://127.0.0.1:{port}/jwks").into())).await.unwrap_err();
    assert!(matches!(error, FetchError::Io(..)), "{error}");
}
