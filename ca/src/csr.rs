//! Reads a certificate request. Only its public key and the proof that the asker holds the private one count; names,
//! extensions and the subject are not even looked at (ca.md 2).

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::pem::{self, SectionKind};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;

use crate::refusal::Refusal;

/// A request with an RSA key of 4096 bits and some names has about 2 KiB.
const LARGEST: usize = 16 << 10;

/// Larger RSA keys make every peer's verification slow.
const RSA_BITS: (usize, usize) = (2048, 8192);

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];

/// ECDSA and RSA (PKCS #1) with SHA-256, SHA-384, SHA-512, and Ed25519. SHA-1 and MD5 prove nothing any more.
const SIGNATURES: [&str; 7] = [
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
    "1.2.840.10045.4.3.4",
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    ED25519,
];

/// A public key whose private half the asker has proven to hold.
#[derive(Debug)]
pub struct PublicKey(pub(crate) SubjectPublicKeyInfo);

impl PublicKey {
    /// Reads a request in PEM.
    ///
    /// # Errors
    /// Each fault is a refusal of its own.
    pub fn from_csr_pem(text: &str) -> Result<Self, Refusal> {
        if text.trim().is_empty() {
            return Err(Refusal::CsrEmpty);
        }
        if text.len() > LARGEST {
            return Err(Refusal::CsrTooLarge(text.len(), LARGEST));
        }
        Self::from_csr_der(&one_block(text)?)
    }

    fn from_csr_der(der: &[u8]) -> Result<Self, Refusal> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| Refusal::CsrUnparsable)?;
        if !rest.is_empty() {
            return Err(Refusal::CsrTrailing(rest.len()));
        }
        let spki = &request.certification_request_info.subject_pki;
        // The key first: a weak one is named as such even where its signature is of a kind that we do not know.
        strong(spki)?;
        let signature = request.signature_algorithm.algorithm.to_id_string();
        if !SIGNATURES.contains(&signature.as_str()) {
            return Err(Refusal::CsrSignatureAlgorithm(signature));
        }
        request.verify_signature().map_err(|_| Refusal::CsrSignature)?;
        SubjectPublicKeyInfo::from_der(spki.raw).map(Self).map_err(|_| Refusal::KeyMalformed)
    }
}

fn one_block(text: &str) -> Result<Vec<u8>, Refusal> {
    // Blocks of a kind that the reader does not know are skipped by it, so they are counted by their first lines.
    let begins = text.lines().filter(|line| line.trim_start().starts_with("-----BEGIN ")).count();
    if begins > 1 {
        return Err(Refusal::CsrSeveral(begins));
    }
    match pem::from_buf(&mut text.as_bytes()).map_err(|_| Refusal::CsrNotPem)? {
        Some((SectionKind::Csr, der)) => Ok(der),
        Some((other, _)) => Err(Refusal::CsrWrongBlock(format!("{other:?}"))),
        None if begins == 1 => Err(Refusal::CsrWrongBlock(title(text))),
        None => Err(Refusal::CsrNotPem),
    }
}

fn title(text: &str) -> String {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("-----BEGIN "));
    line.unwrap_or_default().trim_end_matches('-').chars().take(64).collect()
}

fn strong(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<(), Refusal> {
    match spki.algorithm.algorithm.to_id_string().as_str() {
        RSA_ENCRYPTION => {
            let Ok(Parsed::RSA(rsa)) = spki.parsed() else { return Err(Refusal::KeyMalformed) };
            let bits = significant_bits(rsa.modulus);
            if !(RSA_BITS.0..=RSA_BITS.1).contains(&bits) {
                return Err(Refusal::RsaSize { bits, max: RSA_BITS.1 });
            }
            // Odd, at least 65537 (NIST SP 800-56B 6.2), and small enough for fast verification.
            let exponent =
                rsa.exponent.iter().try_fold(0_u64, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()));
            if !exponent.is_some_and(|e| e % 2 == 1 && (65_537..1 << 33).contains(&e)) {
                return Err(Refusal::RsaExponent);
            }
            Ok(())
        }
        EC_PUBLIC_KEY => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
            match curve {
                Some(curve) if CURVES.contains(&curve.as_str()) => Ok(()),
                Some(curve) => Err(Refusal::Curve(curve)),
                // Explicit parameters: a curve of the asker's own making.
                None => Err(Refusal::Curve("that is not named".to_owned())),
            }
        }
        ED25519 => Ok(()),
        other => Err(Refusal::KeyAlgorithm(other.to_owned())),
    }
}

fn significant_bits(number: &[u8]) -> usize {
    let significant = number.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &number[first..]);
    significant.first().map_or(0, |first| 8 * significant.len() - first.leading_zeros() as usize)
}
