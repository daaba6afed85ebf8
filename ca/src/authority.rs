//! The key that signs, and what goes out with every certificate.

use std::time::{Duration, SystemTime};

use identity::SignedChain;
use mesh::Identity;
use rcgen::{Issuer, KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::csr::PublicKey;
use crate::issue;
use crate::refusal::Refusal;

/// Lives of workload certificates.
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    /// When the request names none (0 or less).
    pub default: Duration,
    /// The longest.
    pub max: Duration,
    /// What to do above it: shorten (true) or refuse as Istio does (false).
    pub clamp: bool,
}

impl Ttl {
    /// The life to give when `seconds` are asked for; 0 or less means the default.
    ///
    /// # Errors
    /// When it is too long, and too long ones are not shortened.
    pub(crate) fn life(&self, seconds: i64) -> Result<Duration, Refusal> {
        let asked = match u64::try_from(seconds) {
            Ok(0) | Err(_) => self.default,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        match asked <= self.max {
            true => Ok(asked),
            false if self.clamp => Ok(self.max),
            false => Err(Refusal::TtlTooLong { asked, longest: self.max }),
        }
    }
}

/// An authority as it lies in files, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// The certificate that signs: a root or an intermediate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
    /// Certificates between it and a root, without both.
    pub chain: String,
    /// The roots that workloads shall trust, one or several.
    pub roots: String,
}

/// Signs certificates for one trust domain.
pub struct Authority {
    trust_domain: String,
    issuer: Issuer<'static, SignerKey>,
    not_after: SystemTime,
    intermediates: Vec<String>,
    roots: String,
    ttl: Ttl,
}

/// A signed workload certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, intermediates, roots.
    pub chain: SignedChain,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// End of validity.
    pub not_after: SystemTime,
}

/// A signed server certificate with its key, PEM.
pub(crate) struct ServerCertificate {
    pub(crate) chain: String,
    pub(crate) key: Zeroizing<String>,
    pub(crate) not_after: SystemTime,
}

/// An authority cannot be used. The texts name the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum AuthorityError {
    #[error("the {part} cannot be read: {why}")]
    Part { part: &'static str, why: String },
    #[error("key and certificate of the authority do not belong together; put the matching pair in place")]
    Mismatch,
    #[error("the certificate of the authority may not sign certificates (basic constraints, key usage)")]
    NotCa,
    #[error("the certificate of the authority has expired; put a new one in place and keep the old root in the bundle")]
    Expired,
    #[error("the authority's certificate does not chain to the roots that workloads would get: {0}")]
    Chain(String),
    #[error("a certificate could not be signed: {0}")]
    Sign(#[from] rcgen::Error),
}

impl Authority {
    /// Reads an authority and proves that what it signs is accepted by who trusts its roots.
    ///
    /// # Errors
    /// When a part is missing, malformed, expired, or they do not fit together.
    pub fn new(trust_domain: &str, files: AuthorityFiles, ttl: Ttl, now: SystemTime) -> Result<Self, AuthorityError> {
        let signer = one(&files.certificate, "certificate of the authority")?;
        let key = KeyPair::from_pem(&files.key)
            .map_err(|e| AuthorityError::Part { part: "key of the authority", why: e.to_string() })?;
        let not_after = check_signer(&signer, &key, now)?;
        let roots = ders(&files.roots, "root bundle")?;
        let mut intermediates = Vec::new();
        if !roots.contains(&signer) {
            intermediates.push(pem(&signer));
        }
        if !files.chain.trim().is_empty() {
            let between = ders(&files.chain, "chain")?;
            // Istio's cert-chain.pem begins with the signer itself and may end with the root.
            let others = between.iter().filter(|der| **der != signer && !roots.contains(der));
            intermediates.extend(others.map(pem));
        }
        let made = Self {
            trust_domain: trust_domain.to_owned(),
            issuer: Issuer::from_ca_cert_der(&signer, SignerKey(key))?,
            not_after,
            intermediates,
            roots: roots.iter().map(pem).collect(),
            ttl,
        };
        made.prove(&roots, now)?;
        Ok(made)
    }

    /// The trust domain of every identity that it signs.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The roots, PEM.
    pub fn roots_pem(&self) -> &str {
        &self.roots
    }

    /// The lives that it gives.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// When the signing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Signs for an identity, and for `names` besides. `seconds` is the life asked for; 0 or less means the default.
    ///
    /// # Errors
    /// When the life is too long (and not shortened) or the authority itself has expired.
    pub fn issue(
        &self,
        key: &PublicKey,
        identity: &Identity,
        names: &[String],
        seconds: i64,
        now: SystemTime,
    ) -> Result<Issued, Refusal> {
        let life = self.ttl.life(seconds)?;
        if now >= self.not_after {
            return Err(Refusal::SignerExpired);
        }
        let times = issue::validity(now, life, self.not_after);
        let signing = |e: rcgen::Error| Refusal::Signing(e.to_string());
        let params = issue::leaf(identity, names, times).map_err(signing)?;
        let serial = params.serial_number.as_ref().map(hex).unwrap_or_default();
        let leaf = params.signed_by(&key.spki, &self.issuer).map_err(signing)?.pem();
        let chain = SignedChain { leaf, intermediates: self.intermediates.clone(), roots: self.roots.clone() };
        Ok(Issued { chain, serial, not_after: times.1 })
    }

    /// Signs a server certificate with a key made for it.
    pub(crate) fn issue_server(
        &self,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, AuthorityError> {
        if now >= self.not_after {
            return Err(AuthorityError::Expired);
        }
        let times = issue::validity(now, life, self.not_after);
        let mut key = KeyPair::generate()?;
        let leaf = issue::server(names, times)?.signed_by(&key, &self.issuer)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        let chain = std::iter::once(&leaf).chain(&self.intermediates).map(String::as_str).collect();
        Ok(ServerCertificate { chain, key: key_pem, not_after: times.1 })
    }

    /// Signs a certificate for nobody and verifies it as a peer would.
    fn prove(&self, roots: &[CertificateDer<'static>], now: SystemTime) -> Result<(), AuthorityError> {
        let bad = |e: &dyn std::fmt::Display| AuthorityError::Chain(e.to_string());
        let names = ["probe.invalid".to_owned()];
        let made = self.issue_server(&names, Duration::from_secs(60), now)?;
        let chain = ders(&made.chain, "chain")?;
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|e| bad(&e))?;
        }
        let leaf = ParsedCertificate::try_from(&chain[0]).map_err(|e| bad(&e))?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let algorithms = identity::provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &store, &chain[1..], now, algorithms).map_err(|e| bad(&e))
    }
}

/// The authority's key; no `Debug`, and its bytes are wiped when it goes.
struct SignerKey(KeyPair);

impl Drop for SignerKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for SignerKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SignerKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

fn check_signer(der: &CertificateDer<'_>, key: &KeyPair, now: SystemTime) -> Result<SystemTime, AuthorityError> {
    let part = |why: String| AuthorityError::Part { part: "certificate of the authority", why };
    let (_, x509) = X509Certificate::from_der(der).map_err(|e| part(e.to_string()))?;
    if x509.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(AuthorityError::Mismatch);
    }
    let usage = x509.key_usage().map_err(|e| part(e.to_string()))?;
    if !x509.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(AuthorityError::NotCa);
    }
    let seconds = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or_default();
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    if now < not_after { Ok(not_after) } else { Err(AuthorityError::Expired) }
}

fn ders(text: &str, part: &'static str) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(AuthorityError::Part { part, why: "it holds no PEM certificate".to_owned() }),
        Err(e) => Err(AuthorityError::Part { part, why: e.to_string() }),
    }
}

fn one(text: &str, part: &'static str) -> Result<CertificateDer<'static>, AuthorityError> {
    let mut all = ders(text, part)?;
    match (all.pop(), all.is_empty()) {
        (Some(der), true) => Ok(der),
        _ => Err(AuthorityError::Part {
            part,
            why: "it holds several certificates, exactly one belongs there".to_owned(),
        }),
    }
}

/// RFC 7468: base64 in lines of 64 characters.
pub(crate) fn pem(der: &CertificateDer<'_>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    // 48 bytes make a line of 64 characters.
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for position in 0..4 {
                let index = (bits >> (18 - 6 * position) & 63) as usize;
                text.push(if position <= group.len() { ALPHABET[index] as char } else { '=' });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn hex(serial: &rcgen::SerialNumber) -> String {
    serial.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
