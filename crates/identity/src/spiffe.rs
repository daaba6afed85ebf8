//! Reads who a certificate speaks for.

use std::time::SystemTime;

use mesh::{Identity, IdentityError};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::from_unix_seconds;

/// What a peer's certificate says, read after its chain was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The identity in its one SPIFFE name.
    pub identity: Identity,
    /// Serial number, big-endian as in the certificate.
    pub serial: Vec<u8>,
    /// The issuer's name in DER. With `serial` it is what revocation lists speak of.
    pub issuer: Vec<u8>,
    /// When the certificate begins to be valid.
    pub not_before: SystemTime,
    /// When it ends to be valid.
    pub not_after: SystemTime,
}

/// Why a certificate names nobody of this mesh.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeFault {
    /// It is not an X.509 certificate.
    #[error("the certificate cannot be parsed")]
    Unparsable,
    /// It has no URI among its alternative names.
    #[error("the certificate has no URI name")]
    None,
    /// It has several URIs. SPIFFE X509-SVID section 2 asks for exactly one; Istio takes any of them.
    #[error("the certificate has {0} URI names, exactly one is allowed")]
    Several(usize),
    /// The URI is not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Peer {
    /// Reads a certificate. Its chain must be judged elsewhere.
    ///
    /// # Errors
    /// When it cannot be parsed or has not exactly one URI name that is an identity.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, SpiffeFault> {
        let (rest, x509) = X509Certificate::from_der(certificate).map_err(|_| SpiffeFault::Unparsable)?;
        let names = x509.subject_alternative_name().map_err(|_| SpiffeFault::Unparsable)?;
        if !rest.is_empty() {
            return Err(SpiffeFault::Unparsable);
        }
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|n| &n.value.general_names)
            .filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None })
            .collect();
        let uri = match uris[..] {
            [] => return Err(SpiffeFault::None),
            [one] => one,
            _ => return Err(SpiffeFault::Several(uris.len())),
        };
        Ok(Self {
            identity: uri.parse()?,
            serial: x509.raw_serial().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            not_before: from_unix_seconds(x509.validity().not_before.timestamp()),
            not_after: from_unix_seconds(x509.validity().not_after.timestamp()),
        })
    }

    /// The serial number in hexadecimal, as logs and `config_dump` show it.
    pub fn serial_hex(&self) -> String {
        hex(&self.serial)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok());
        text
    })
}
