//! Judges a server certificate before it is used.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, X509Certificate};

/// When a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here.
    pub not_before: SystemTime,
    /// Until here.
    pub not_after: SystemTime,
}

/// Passes when the leaf of a chain is good for a server of all these names. Whether clients trust it is for them to say:
/// they have the roots.
pub(super) fn judge(chain: &[CertificateDer<'static>], names: &[String]) -> Result<Validity, String> {
    let der = chain.first().ok_or("the chain is empty")?;
    let leaf = EndEntityCert::try_from(der).map_err(|e| format!("the leaf cannot be read: {e}"))?;
    let mut missing = Vec::new();
    for name in names {
        let parsed =
            ServerName::try_from(name.as_str()).map_err(|_| format!("{name:?} is no DNS name or IP address"))?;
        if leaf.verify_is_valid_for_subject_name(&parsed).is_err() {
            missing.push(name.as_str());
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(format!("it lacks {missing}; list these names for our service account at the CA"));
    }
    let (_, x509) = X509Certificate::from_der(der).map_err(|e| format!("the leaf cannot be read: {e}"))?;
    match x509.extended_key_usage() {
        Ok(Some(usage)) if !usage.value.server_auth && !usage.value.any => {
            return Err("it is not for servers (extended key usage serverAuth)".to_owned());
        }
        Err(e) => return Err(format!("its extensions cannot be read: {e}")),
        Ok(_) => {}
    }
    let time = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let validity = x509.validity();
    Ok(Validity { not_before: time(validity.not_before.timestamp()), not_after: time(validity.not_after.timestamp()) })
}
