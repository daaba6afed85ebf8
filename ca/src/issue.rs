//! The profiles of what is signed: workload leaves (ca.md 3), server certificates, roots.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mesh::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SerialNumber,
};

/// ca.md 3: certificates begin a little in the past, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(120);

/// ca.md 5: as long as Istio's own root.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Times of a certificate: from two minutes ago for `life`, never past `limit`. Whole seconds, as certificates have.
pub(crate) fn validity(now: SystemTime, life: Duration, limit: SystemTime) -> (SystemTime, SystemTime) {
    (whole(now - BACKDATED), whole((now + life).min(limit)))
}

/// A workload's certificate. `names` are those of a server that others know by name; the identity comes first, since
/// that is where ztunnel looks for it (ca.md 1).
pub(crate) fn leaf(
    identity: &Identity,
    names: &[String],
    times: (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(times);
    // The subject is empty, which makes the alternative name critical (RFC 5280 4.2.1.6).
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    add_names(&mut params, names)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// A server's certificate by DNS names and addresses.
pub(crate) fn server(names: &[String], times: (SystemTime, SystemTime)) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(times);
    add_names(&mut params, names)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// A root of our own making.
pub(crate) fn root(trust_domain: &str, now: SystemTime) -> CertificateParams {
    let mut params = base((whole(now - BACKDATED), whole(now + ROOT_LIFE)));
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // A name of its own for every root, so that two roots in one bundle are told apart when one follows the other.
    params.distinguished_name.push(DnType::CommonName, format!("culvert root {:08x}", rand::random::<u32>()));
    // It signs leaves only, no further authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn add_names(params: &mut CertificateParams, names: &[String]) -> Result<(), rcgen::Error> {
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.clone().try_into()?),
        });
    }
    Ok(())
}

fn base(times: (SystemTime, SystemTime)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    params.not_before = epoch + since(times.0);
    params.not_after = epoch + since(times.1);
    params.use_authority_key_identifier_extension = true;
    // 126 random bits, positive and of one length (RFC 5280 4.1.2.2 wants at most 20 octets, CABF at least 64 bits).
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
