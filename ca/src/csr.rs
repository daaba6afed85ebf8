//! Reads a certificate request. What is issued has nothing of it but the public key, whose private half the asker must
//! prove to hold (ca.md 2). Names and rights that it asks for are never granted; when they go beyond what its caller may
//! have, the request is refused, since an asker who wants more than its own is broken or hostile. The subject is ignored
//! (ca.md 7.1: many tools put a name there that nobody meant).

use std::net::IpAddr;

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::pem::{self, SectionKind};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;

use crate::decide::Granted;
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
pub struct PublicKey {
    pub(crate) spki: SubjectPublicKeyInfo,
    wants: Wants,
}

/// What a request asks for beside a certificate for its key.
#[derive(Debug, Default)]
struct Wants {
    authority: bool,
    names: Vec<String>,
}

/// Names that are kept of a request; a workload has one, a server few. More are refused as if they were other names.
const NAMES: usize = 64;

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
        let wants = wants(&request)?;
        let spki = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| Refusal::KeyMalformed)?;
        Ok(Self { spki, wants })
    }

    /// Refuses a request that asks for more than its caller may have.
    pub(crate) fn wants_no_more_than(&self, granted: &Granted) -> Result<(), Refusal> {
        if self.wants.authority {
            return Err(Refusal::CsrWantsAuthority);
        }
        let own = granted.identity.to_string();
        let mut others = self.wants.names.iter().filter(|name| **name != own && !granted.names.contains(name));
        others.next().map_or(Ok(()), |other| Err(Refusal::CsrOtherName(other.chars().take(256).collect())))
    }
}

fn wants(request: &X509CertificationRequest<'_>) -> Result<Wants, Refusal> {
    let mut wants = Wants::default();
    for attribute in request.certification_request_info.iter_attributes() {
        if let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() {
            requested.extensions.iter().try_for_each(|extension| wants.add(extension))?;
        }
    }
    Ok(wants)
}

impl Wants {
    fn add(&mut self, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => self.authority |= constraints.ca,
            ParsedExtension::KeyUsage(usage) => self.authority |= usage.key_cert_sign() || usage.crl_sign(),
            ParsedExtension::SubjectAlternativeName(san) => {
                self.names.extend(san.general_names.iter().take(NAMES + 1).map(name));
                if self.names.len() > NAMES {
                    return Err(Refusal::CsrOtherName(format!("more than {NAMES} names")));
                }
            }
            ParsedExtension::ParseError { .. } => return Err(Refusal::CsrUnparsable),
            _ => {}
        }
        Ok(())
    }
}

/// A name as it is compared. Kinds that are never granted keep their kind in the text, so that they equal nothing.
fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(text) | GeneralName::DNSName(text) => (*text).to_owned(),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or(v6).map_or_else(|| format!("{name:?}"), |address| address.to_string())
        }
        other => format!("{other:?}"),
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
