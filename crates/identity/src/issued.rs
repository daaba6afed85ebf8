//! Judges what a CA sent before anything is done with it.

use std::sync::Arc;
use std::time::SystemTime;

use mesh::Identity;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::{Certificate, ConfigError, Facts};
use crate::chain::{ChainFault, Roots, Usage, certificates};
use crate::clock::unix;
use crate::crl::Crl;
use crate::key::Key;
use crate::signer::SignedChain;
use crate::spiffe::{Peer, SpiffeFault};
use crate::verify::Judge;

/// Why an issued certificate is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A part is not PEM, or holds the wrong number of certificates.
    #[error("the {part} of the answer cannot be read: {why}")]
    Part {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It does not name one identity.
    #[error("the issued certificate is not a workload's: {0}")]
    Spiffe(#[from] SpiffeFault),
    /// It is for somebody else.
    #[error("the issued certificate is for {got}, asked was {asked}")]
    Identity {
        /// Whom we asked for.
        asked: Identity,
        /// Whom we got.
        got: Identity,
    },
    /// It is for another key.
    #[error("the issued certificate is for a key that is not ours")]
    Key,
    /// It does not chain to the roots that came with it.
    #[error("the issued chain does not hold: {0}")]
    Chain(#[from] ChainFault),
    /// rustls does not want it.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Makes a live certificate of an answer, if the answer is what was asked for (ca.md 1, 4).
pub(crate) fn accept(
    asked: &Identity,
    key: &Key,
    chain: SignedChain,
    now: SystemTime,
    crl: watch::Receiver<Arc<Crl>>,
) -> Result<Certificate, Unusable> {
    let part = |part| move |why| Unusable::Part { part, why };
    let mut ders = one_each("leaf", &chain.leaf)?;
    for intermediate in &chain.intermediates {
        ders.extend(one_each("intermediate", intermediate)?);
    }
    let roots = Roots::from_pem(chain.roots.as_bytes()).map_err(part("root bundle"))?;
    let peer = Peer::read(&ders[0])?;
    if peer.identity != *asked {
        return Err(Unusable::Identity { asked: asked.clone(), got: peer.identity });
    }
    let (_, x509) = X509Certificate::from_der(&ders[0]).map_err(|e| part("leaf")(e.to_string()))?;
    if x509.public_key().subject_public_key.data.as_ref() != key.public_point() {
        return Err(Unusable::Key);
    }
    // Both usages: the same certificate serves and calls. Revocation is not asked here: a revoked leaf shows at once
    // in the peers' refusals, and refusing a fresh one would only leave us with an older one.
    for usage in [Usage::Client, Usage::Server] {
        roots.verify(&ders[0], &ders[1..], unix(now), usage, &Crl::default())?;
    }
    let facts = Facts {
        serial_hex: peer.serial_hex(),
        identity: peer.identity,
        not_before: peer.not_before,
        not_after: peer.not_after,
        issued: now,
        chain_pem: std::iter::once(chain.leaf).chain(chain.intermediates).collect(),
        roots_pem: chain.roots,
    };
    let certified = Arc::new(CertifiedKey::new(ders, key.for_tls()));
    let judge = Judge { own: facts.identity.clone(), roots: Arc::new(roots), crl };
    Ok(Certificate::new(facts, certified, judge)?)
}

fn one_each(part: &'static str, pem: &str) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, Unusable> {
    let found = certificates(pem.as_bytes()).map_err(|why| Unusable::Part { part, why })?;
    if found.len() == 1 {
        return Ok(found);
    }
    Err(Unusable::Part { part, why: format!("{} certificates in one entry, exactly one belongs there", found.len()) })
}
