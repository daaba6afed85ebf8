//! The verifiers that rustls asks about the peer.

use std::fmt;
use std::sync::Arc;

use mesh::Identity;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::chain::{ChainFault, Roots, Usage};
use crate::crl::Crl;
use crate::provider::provider;
use crate::spiffe::{Peer, SpiffeFault};

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// It is not good.
    #[error(transparent)]
    Chain(#[from] ChainFault),
    /// It is good but does not name one identity.
    #[error(transparent)]
    Spiffe(#[from] SpiffeFault),
    /// It is of another trust domain (hbone.md 2: only our own is accepted).
    #[error("the peer is {got}, and only trust domain {own} is accepted")]
    TrustDomain {
        /// Our trust domain.
        own: Arc<str>,
        /// Who the peer is.
        got: Identity,
    },
    /// It is somebody else than the one we called.
    #[error("the peer is {got}, expected {}", list(.expected))]
    Identity {
        /// Who was expected.
        expected: Arc<[Identity]>,
        /// Who answered.
        got: Identity,
    },
}

/// What both directions need.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) own: Identity,
    pub(crate) roots: Arc<Roots>,
    pub(crate) crl: watch::Receiver<Arc<Crl>>,
}

impl Judge {
    fn peer(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<Peer, PeerFault> {
        let crl = self.crl.borrow().clone();
        self.roots.verify(leaf, intermediates, now, usage, &crl)?;
        let peer = Peer::read(leaf)?;
        if peer.identity.trust_domain() != self.own.trust_domain() {
            return Err(PeerFault::TrustDomain { own: self.own.trust_domain().clone(), got: peer.identity });
        }
        Ok(peer)
    }
}

/// The part of a verifier of certificates that is the same for all: signatures of the handshake, by what a provider can do.
macro_rules! signatures_of {
    ($provider:expr) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let known = &$provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, dss, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let known = &$provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, dss, known)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            $provider.signature_verification_algorithms.supported_schemes()
        }
    };
}
pub(crate) use signatures_of;

/// Judges clients: chain, purpose, one SPIFFE name, our trust domain. Authorisation comes later, by policy.
pub(crate) struct Clients(pub(crate) Judge);

/// Judges the server that we called: all of the above, and it must be one of those expected.
pub(crate) struct Servers {
    pub(crate) judge: Judge,
    pub(crate) expected: Arc<[Identity]>,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: peers have one certificate to offer, and the list would only cost bytes in each handshake.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.peer(end_entity, intermediates, now, Usage::Client).map_err(tls)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of!(provider());
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = self.judge.peer(end_entity, intermediates, now, Usage::Server).map_err(tls)?;
        if !self.expected.contains(&peer.identity) {
            return Err(tls(PeerFault::Identity { expected: self.expected.clone(), got: peer.identity }));
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_of!(provider());
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clients of trust domain {}", self.0.own.trust_domain())
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "servers that are {}", list(&self.expected))
    }
}

/// The alert that the peer gets is chosen by rustls from the variant; our own reason travels inside.
fn tls(fault: PeerFault) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

fn list(identities: &[Identity]) -> String {
    let all: Vec<String> = identities.iter().map(ToString::to_string).collect();
    if all.is_empty() { "nobody".to_owned() } else { all.join(" or ") }
}
