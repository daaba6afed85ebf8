//! Revocation lists.

use std::collections::HashSet;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::spiffe::{Peer, hex};

/// The revocation lists in force; the default is none. A certificate whose issuer has no list here counts as good
/// (hbone.md 2: unknown status is tolerated).
#[derive(Default)]
pub struct Crl {
    pub(crate) lists: Vec<CertRevocationList<'static>>,
    /// Issuer name in DER and serial number.
    revoked: HashSet<(Vec<u8>, Vec<u8>)>,
}

/// A revocation list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The text is not PEM or holds no list.
    #[error("no revocation list (PEM, X509 CRL) found: {0}")]
    Pem(String),
    /// A list cannot be parsed.
    #[error("revocation list {index} cannot be parsed: {why}")]
    List {
        /// Which block of the file, from 1.
        index: usize,
        /// What the parser says.
        why: String,
    },
}

impl Crl {
    /// Reads one or several lists.
    ///
    /// # Errors
    /// When the text holds none, or one that cannot be parsed. The lists in force should then stay.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CrlError> {
        let mut made = Self::default();
        for (i, block) in CertificateRevocationListDer::pem_slice_iter(pem).enumerate() {
            let der = block.map_err(|e| CrlError::Pem(e.to_string()))?;
            let bad = |why: String| CrlError::List { index: i + 1, why };
            let list = OwnedCertRevocationList::from_der(&der).map_err(|e| bad(e.to_string()))?;
            let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|e| bad(e.to_string()))?;
            let issuer = parsed.issuer().as_raw();
            for entry in parsed.iter_revoked_certificates() {
                made.revoked.insert((issuer.to_vec(), entry.raw_serial().to_vec()));
            }
            made.lists.push(list.into());
        }
        if made.lists.is_empty() {
            Err(CrlError::Pem("the text is empty or of another kind".to_owned()))
        } else {
            Ok(made)
        }
    }

    /// Whether a peer that was once accepted must now be cut.
    pub fn revokes(&self, peer: &Peer) -> bool {
        !self.revoked.is_empty() && self.revoked.contains(&(peer.issuer.clone(), peer.serial.clone()))
    }

    /// The serial numbers in hexadecimal, sorted.
    pub fn serials(&self) -> Vec<String> {
        let mut all: Vec<String> = self.revoked.iter().map(|(_, serial)| hex(serial)).collect();
        all.sort();
        all
    }
}
