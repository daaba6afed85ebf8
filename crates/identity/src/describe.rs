//! What certificates say of themselves, for people and their tools.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::from_unix_seconds;

/// One certificate of a PEM text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The certificate, PEM.
    pub pem: String,
    /// What stands in it; none when it cannot be read.
    pub facts: Option<Facts>,
}

/// What stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Serial number in decimal, as istioctl reads it.
    pub serial: String,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

const END: &str = "-----END CERTIFICATE-----";

/// Every certificate of a PEM text, in its order.
pub fn describe(pem: &str) -> Vec<Described> {
    let texts = pem.split_inclusive(END).filter(|text| text.ends_with(END));
    texts.map(|text| Described { pem: format!("{}\n", text.trim_start()), facts: facts(text) }).collect()
}

fn facts(pem: &str) -> Option<Facts> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, x509) = X509Certificate::from_der(&der).ok()?;
    Some(Facts {
        serial: x509.tbs_certificate.serial.to_str_radix(10),
        not_before: from_unix_seconds(x509.validity().not_before.timestamp()),
        not_after: from_unix_seconds(x509.validity().not_after.timestamp()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair, SerialNumber, date_time_ymd};

    use super::*;

    fn certificate(serial: &[u8]) -> String {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn every_certificate_is_told_with_its_own_facts() {
        let (one, two) = (certificate(&[1, 0]), certificate(&[0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
        let all = describe(&format!("{one}{two}"));
        let serials: Vec<_> = all.iter().map(|d| d.facts.as_ref().unwrap().serial.as_str()).collect();
        assert_eq!(serials, ["256", "295147905179352825855"]);
        let facts = all[0].facts.clone().unwrap();
        assert_eq!(facts.not_before, from_unix_seconds(1_767_225_600));
        assert_eq!(facts.not_after, facts.not_before + Duration::from_secs(86_400));
        assert_eq!(describe(&all[1].pem), all[1..], "each text is a certificate by itself");
        assert_eq!(describe(""), []);
        let broken = describe("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_eq!((broken.len(), broken[0].facts.is_none()), (1, true));
    }
}
