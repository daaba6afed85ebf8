//! TLS to endpoints, inside of the tunnel (BackendTLSPolicy, DestinationRule's tls SIMPLE): the application ends it, so it
//! is the application's certificate that is checked. Never in clear when it cannot be (gateway-api.md 7).

use std::fmt;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use proto::routing as wire;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::io::UpstreamIo;

/// Where distributions keep their bundle; images of ours have the first.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// How TLS is originated, checked.
pub(crate) struct Originate {
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Originate {
    /// Reads what control says.
    ///
    /// # Errors
    /// Why it cannot be used; backends then answer 503.
    pub(crate) fn new(tls: &wire::BackendTls) -> Result<Self, Arc<str>> {
        if let Some(invalid) = &tls.invalid {
            return Err(invalid.reason.as_str().into());
        }
        let wrong = |what: String| -> Arc<str> { what.into() };
        let name = |text: &str| {
            let read = ServerName::try_from(text.to_owned());
            read.map_err(|_| wrong(format!("{text:?} is not a name that a certificate can have")))
        };
        let roots = Arc::new(roots(&tls.roots).map_err(wrong)?);
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        let verifier = verifier.map_err(|e| wrong(format!("the roots cannot be used: {e}")))?;
        let names = tls.subject_alt_names.iter().map(|n| name(n)).collect::<Result<Vec<_>, _>>()?;
        let config = |protocol: &[u8]| {
            let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
            let builder = builder.map_err(|e| wrong(e.to_string()))?;
            let verifier = Arc::new(Names { verifier: verifier.clone(), names: names.clone() });
            let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok::<_, Arc<str>>(Arc::new(config))
        };
        Ok(Self { name: name(&tls.server_name)?, http1: config(b"http/1.1")?, http2: config(b"h2")? })
    }

    /// Proves the endpoint on a connection.
    ///
    /// # Errors
    /// When it is not who it should be, or does not speak TLS.
    pub(crate) async fn connect(&self, io: UpstreamIo, http2: bool) -> std::io::Result<TlsStream<TokioIo<UpstreamIo>>> {
        let config = if http2 { &self.http2 } else { &self.http1 };
        TlsConnector::from(config.clone()).connect(self.name.clone(), TokioIo::new(io)).await
    }
}

impl fmt::Debug for Originate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {:?}", self.name)
    }
}

/// The roots of a PEM text, or the machine's.
fn roots(pem: &str) -> Result<RootCertStore, String> {
    let text = if pem.trim().is_empty() {
        let found = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
        found.ok_or_else(|| "the image has no bundle of public roots; name roots in the policy".to_owned())?
    } else {
        pem.as_bytes().to_vec()
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|e| format!("the roots cannot be read: {e:?}"))?;
        // A bundle may hold roots of kinds that are not supported; the others are good.
        store.add(certificate).map_err(|e| tracing::debug!(error = %e, "a root is left out")).ok();
    }
    if store.is_empty() { Err("the roots hold no certificate".to_owned()) } else { Ok(store) }
}

/// Checks a certificate, by the name that was asked for or, where there are some, by one of other names.
#[derive(Debug)]
struct Names {
    verifier: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for Names {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name: &ServerName<'_>| {
            self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        if self.names.is_empty() {
            return verify(server_name);
        }
        let mut last = verify(&self.names[0]);
        for name in &self.names[1..] {
            if last.is_ok() {
                break;
            }
            last = verify(name);
        }
        last
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn what_cannot_be_used_is_told_and_is_never_clear() {
        let good = wire::BackendTls { server_name: "a.example".into(), roots: root(), ..Default::default() };
        assert!(Originate::new(&good).is_ok());
        for (tls, part) in [
            (wire::BackendTls { server_name: "not a name".into(), ..good.clone() }, "not a name"),
            (wire::BackendTls { roots: "-----BEGIN".into(), ..good.clone() }, "roots"),
            (wire::BackendTls { subject_alt_names: vec!["spiffe://a/b".into()], ..good.clone() }, "spiffe://a/b"),
            (
                wire::BackendTls { invalid: Some(wire::Invalid { reason: "no ConfigMap".into() }), ..good },
                "no ConfigMap",
            ),
        ] {
            let why = Originate::new(&tls).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
