//! Private keys of workloads: P-256, made here, never written down.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use mesh::Identity;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{SubjectPublicKeyInfoDer, alg_id};

/// A private key. It is never serialised: AWS-LC makes it, uses it, and wipes it when the last owner is gone (its
/// allocator cleanses all that it frees). There is no `Debug` and no way to read it.
#[derive(Clone)]
pub struct Key(Arc<EcdsaKeyPair>);

/// A key or a certificate request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The crypto library refused.
    #[error("the crypto library could not make a P-256 key")]
    Generate,
    /// The request could not be encoded or signed.
    #[error("the certificate request could not be made: {0}")]
    Request(#[from] rcgen::Error),
}

impl Key {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the crypto library has no randomness or memory.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generate)?;
        Ok(Self(Arc::new(pair)))
    }

    /// The PEM of a certificate request as ca.md 2 wants it: empty subject (a common name would make Istio's CA issue a
    /// dual-use certificate), one URI name, ECDSA with SHA-256.
    ///
    /// # Errors
    /// When it cannot be encoded or signed.
    pub fn csr_pem(&self, identity: &Identity) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        Ok(params.serialize_request(&ForRequests(&self.0))?.pem()?)
    }

    /// The uncompressed public point (SEC 1, 2.3.3), as certificates carry it.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The key as rustls wants it.
    pub(crate) fn for_tls(&self) -> Arc<dyn SigningKey> {
        Arc::new(ForTls(self.0.clone()))
    }
}

struct ForRequests<'a>(&'a EcdsaKeyPair);

impl rcgen::PublicKeyData for ForRequests<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for ForRequests<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[derive(Clone)]
struct ForTls(Arc<EcdsaKeyPair>);

// rustls asks for Debug; nothing of the key is in it.
impl fmt::Debug for ForTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("P-256 key")
    }
}

impl SigningKey for ForTls {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, self.0.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for ForTls {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = self
            .0
            .sign(&SystemRandom::new(), message)
            .map_err(|_| rustls::Error::General("signing with the workload's key failed".to_owned()))?;
        Ok(signature.as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
