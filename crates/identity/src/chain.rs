//! Is a certificate good: chain, time, purpose, revocation. One judge for both directions and for what a CA sends us.

use std::collections::HashSet;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy};

use crate::crl::Crl;
use crate::provider::provider;

/// Why a certificate is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// Its time has not come; often a clock that is wrong.
    #[error("the certificate is not valid yet (is a clock wrong?)")]
    NotYetValid,
    /// No chain leads to a root of ours.
    #[error("the certificate does not chain to a root of this mesh")]
    UnknownIssuer,
    /// It is on a revocation list.
    #[error("the certificate is revoked")]
    Revoked,
    /// It may not be used for this purpose.
    #[error("the certificate is not made for this end of a connection (extended key usage)")]
    Usage,
    /// Anything else: encoding, signature, constraints.
    #[error("the certificate is not acceptable: {0}")]
    Malformed(String),
}

/// Which end of a connection a certificate has to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// A set of roots.
pub(crate) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// Reads every certificate of a PEM text as a root. `Err` is a sentence.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut seen = HashSet::new();
        let mut anchors = Vec::new();
        for der in certificates(pem)? {
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|e| format!("a root is malformed: {e}"))?;
            if seen.insert(der.to_vec()) {
                anchors.push(anchor.to_owned());
            }
        }
        Ok(Self { anchors })
    }

    /// Judges a leaf with the certificates that came with it.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
        crl: &Crl,
    ) -> Result<(), ChainFault> {
        let leaf = EndEntityCert::try_from(leaf).map_err(fault)?;
        let lists: Vec<_> = crl.lists.iter().collect();
        // No list at all is an error to the builder and simply "no check" to us.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options.with_depth(RevocationCheckDepth::Chain).with_status_policy(UnknownStatusPolicy::Allow).build()
        });
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let algorithms = provider().signature_verification_algorithms.all;
        leaf.verify_for_usage(algorithms, &self.anchors, intermediates, now, usage, revocation, None).map_err(fault)?;
        Ok(())
    }
}

/// The certificates of a PEM text: at least one. `Err` is a sentence.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("no PEM certificate found".to_owned()),
        Ok(all) => Ok(all),
        Err(e) => Err(format!("not PEM: {e}")),
    }
}

fn fault(error: webpki::Error) -> ChainFault {
    match error {
        webpki::Error::CertExpired { .. } => ChainFault::Expired,
        webpki::Error::CertNotValidYet { .. } => ChainFault::NotYetValid,
        webpki::Error::UnknownIssuer => ChainFault::UnknownIssuer,
        webpki::Error::CertRevoked => ChainFault::Revoked,
        webpki::Error::RequiredEkuNotFoundContext(_) => ChainFault::Usage,
        other => ChainFault::Malformed(other.to_string()),
    }
}
