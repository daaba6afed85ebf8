//! Revoked certificates: a list signed by the lab's own authority, which every ztunnel follows.
//!
//! The authority itself makes no lists (docs/identity.md); this does what its operator would do: look up in its log which
//! certificates an identity was given, and sign a list of them with its key.

use std::fs;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevocationReason, RevokedCertParams, SerialNumber,
};

use crate::error::{Doing, LabError};
use crate::fault::{Fault, FaultEntry};
use crate::lab::Lab;
use crate::paths::Paths;
use crate::state::write_atomically;

/// RFC 5280 5.1.2.5 wants to know when the next list comes; longer than a lab lives.
const NEXT_LIST: Duration = Duration::from_secs(30 * 86_400);

impl Lab {
    /// The identity of a pod, as its certificate says it. Pods of one service account have the same.
    ///
    /// # Errors
    /// When there is no pod of this name.
    pub fn identity_of(&self, pod: &str) -> Result<String, LabError> {
        let plan = self.plan();
        let pod = &plan.pod(pod)?.pod;
        Ok(format!("spiffe://{}/ns/{}/sa/{}", plan.spec.trust_domain, pod.namespace, pod.account()))
    }

    /// Writes the list that these faults ask for: all certificates that their identities were given until now. Without such
    /// a fault it is empty.
    pub(crate) fn publish_revocations(&self, faults: &[FaultEntry]) -> Result<(), LabError> {
        let mut serials = Vec::new();
        for entry in faults {
            if let Fault::Revoke { identity } = &entry.fault {
                serials.extend(self.certificates_of(identity)?);
            }
        }
        write_atomically(&self.paths.crl(), &signed(&self.paths, serials)?)
    }

    /// Serial numbers of what an identity was given, renewals and other nodes' proxies included.
    pub(crate) fn certificates_of(&self, identity: &str) -> Result<Vec<Vec<u8>>, LabError> {
        let path = self.log_path("ca")?;
        let log = fs::read_to_string(&path).doing(|| format!("cannot read {}", path.display()))?;
        let serials = issued(&log, identity);
        if serials.is_empty() {
            let what = format!("the authority has issued no certificate for {identity}");
            return Err(LabError::Unfit(format!("{what}; name a pod that is in the mesh, or an identity of one")));
        }
        Ok(serials)
    }
}

/// The authority's lines of target `audit` are for this question (docs/identity.md).
fn issued(log: &str, identity: &str) -> Vec<Vec<u8>> {
    let field = |line: &str, key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    log.lines()
        .filter(|line| line.contains("certificate issued") && field(line, "identity").as_deref() == Some(identity))
        .filter_map(|line| bytes(&field(line, "serial")?))
        .collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let even = hex.len().is_multiple_of(2) && hex.is_ascii();
    even.then(|| (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect())?
}

/// A list of these serial numbers, PEM.
fn signed(paths: &Paths, serials: Vec<Vec<u8>>) -> Result<String, LabError> {
    let folder = paths.authority().join("authority");
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).doing(|| format!("cannot read {}", path.display()))
    };
    let (certificate, key) = (read("root-cert.pem")?, read("root-key.pem")?);
    list(&certificate, &key, serials, SystemTime::now()).map_err(LabError::Revocation)
}

fn list(certificate: &str, key: &str, serials: Vec<Vec<u8>>, now: SystemTime) -> Result<String, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
    // A clock before 1970 is no clock; zero then.
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let this_update = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
    let revoked = |serial: Vec<u8>| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: this_update,
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update,
        next_update: this_update + NEXT_LIST,
        // Grows from list to list (RFC 5280 5.2.3), also when the lab's state is not at hand.
        crl_number: SerialNumber::from(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        issuing_distribution_point: None,
        revoked_certs: serials.into_iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer)?.pem()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};

    use super::*;

    #[test]
    fn all_certificates_of_an_identity_are_found_and_no_others() {
        let log = "2026-11-25T14:50:39Z\tinfo\taudit\tcertificate issued\tremote=10.244.1.200:1 caller=c identity=spiffe://d/ns/a/sa/web serial=5b26 not_after=1\n\
                   2026-11-25T14:50:39Z\tinfo\taudit\tcertificate issued\tremote=10.244.1.200:1 caller=c identity=spiffe://d/ns/a/sa/webb serial=5b27 not_after=1\n\
                   2026-11-25T14:50:39Z\twarn\taudit\tcertificate refused: no identity=spiffe://d/ns/a/sa/web serial=5b28\n\
                   2026-11-25T14:51:39Z\tinfo\taudit\tcertificate issued\tremote=10.244.2.200:1 caller=c identity=spiffe://d/ns/a/sa/web serial=00ff not_after=1\n";
        assert_eq!(issued(log, "spiffe://d/ns/a/sa/web"), [vec![0x5b, 0x26], vec![0x00, 0xff]]);
        assert_eq!(issued(log, "spiffe://d/ns/a/sa/we"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn the_list_is_what_a_proxy_reads_also_when_it_is_empty() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap().pem();
        for serials in [vec![vec![0x5b, 0x26], vec![0x01]], vec![]] {
            let count = serials.len();
            let text = list(&certificate, &key.serialize_pem(), serials, SystemTime::now()).unwrap();
            let read = identity::Crl::from_pem(text.as_bytes()).unwrap();
            assert_eq!(read.serials().len(), count, "{:?}", read.serials());
        }
    }
}
