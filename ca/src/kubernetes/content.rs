//! What lies in the authority's Secret. Pure: between the Secret and what the rest of the program works with.
//!
//! | Key | What |
//! |---|---|
//! | `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem` | as in Istio's `cacerts` (ca.md 5) |
//! | `tls.crt`, `tls.key`, `ca.crt` | as cert-manager writes them, in their place |
//! | `next-cert.pem`, `next-key.pem` | the next root, from `prepare` to `activate` |
//! | `former-cert.pem` | the root that signed before, from `activate` to `retire` |
//!
//! Annotations keep where a change of the root stands and the last end that was noted. They are used only where the
//! Secret was made by us (its label says so): what users bring is changed by them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::authority::{AuthorityFiles, pem};
use crate::rotation::Stage;

pub(crate) const CERTIFICATE: &str = "ca-cert.pem";
pub(crate) const KEY: &str = "ca-key.pem";
pub(crate) const CHAIN: &str = "cert-chain.pem";
pub(crate) const ROOTS: &str = "root-cert.pem";
pub(crate) const NEXT_CERTIFICATE: &str = "next-cert.pem";
pub(crate) const NEXT_KEY: &str = "next-key.pem";
pub(crate) const FORMER: &str = "former-cert.pem";

/// `steady`, `prepared` or `activated`.
pub(crate) const STAGE: &str = "culvert.dev/rotation-stage";
/// RFC 3339: when the stage began.
pub(crate) const SINCE: &str = "culvert.dev/rotation-since";
/// RFC 3339: when the next step is safe by itself.
pub(crate) const UNTIL: &str = "culvert.dev/rotation-until";
/// RFC 3339: no certificate was issued that ends later.
pub(crate) const HORIZON: &str = "culvert.dev/issued-until";

/// Who made an object (Kubernetes, "Recommended Labels").
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(crate) const US: &str = "culvert-ca";

/// The Secret cannot be used. The texts name key and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum ContentError {
    #[error("it has no key {key}; {remedy}")]
    Missing { key: &'static str, remedy: &'static str },
    #[error("the key {key} is not PEM text: {why}")]
    NotPem { key: &'static str, why: String },
    #[error("the annotation {key} says {value:?}, which cannot be read; restore it from a backup of the Secret")]
    Annotation { key: &'static str, value: String },
    #[error("it has no resourceVersion; it was not read from an API server")]
    Version,
}

/// What lies in the Secret.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) files: AuthorityFiles,
    /// Certificate and key of the next root.
    pub(crate) next: Option<(String, Zeroizing<String>)>,
    /// The root that signed before, until it is retired.
    pub(crate) former: Option<String>,
    pub(crate) stage: Stage,
    pub(crate) horizon: Option<SystemTime>,
    /// Made by us, so that it is ours to change.
    pub(crate) ours: bool,
    pub(crate) version: String,
}

impl Content {
    /// Reads a Secret.
    pub(crate) fn read(secret: &Secret) -> Result<Self, ContentError> {
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let files = if data.contains_key(CERTIFICATE) || !data.contains_key("tls.crt") {
            istio(data)?
        } else {
            cert_manager(data)?
        };
        let ours = secret.metadata.labels.as_ref().and_then(|all| all.get(MANAGED_BY)).is_some_and(|by| by == US);
        let next = match (optional(data, NEXT_CERTIFICATE)?, optional(data, NEXT_KEY)?) {
            (Some(certificate), Some(key)) => Some((certificate, Zeroizing::new(key))),
            _ => None,
        };
        let former = optional(data, FORMER)?;
        let version =
            secret.metadata.resource_version.clone().filter(|v| !v.is_empty()).ok_or(ContentError::Version)?;
        let notes = secret.metadata.annotations.as_ref();
        let (stage, horizon) = if ours { (stage(notes)?, time(notes, HORIZON)?) } else { (Stage::Steady, None) };
        Ok(Self { files, next, former, stage, horizon, ours, version })
    }

    /// A root of ours that signs by itself.
    pub(crate) fn new_root(certificate: String, key: Zeroizing<String>) -> Self {
        let files = AuthorityFiles { chain: certificate.clone(), roots: certificate.clone(), certificate, key };
        Self {
            files,
            next: None,
            former: None,
            stage: Stage::Steady,
            horizon: None,
            ours: true,
            version: String::new(),
        }
    }

    /// As a Secret of ours, to be created.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Secret {
        let mut data: Data = [
            (CERTIFICATE, &self.files.certificate),
            (KEY, &*self.files.key),
            (CHAIN, &self.files.chain),
            (ROOTS, &self.files.roots),
        ]
        .map(bytes)
        .into();
        if let Some((certificate, key)) = &self.next {
            data.extend([(NEXT_CERTIFICATE, certificate), (NEXT_KEY, &**key)].map(bytes));
        }
        data.extend(self.former.iter().map(|former| bytes((FORMER, former))));
        let mut notes = stage_notes(&self.stage);
        notes.extend(self.horizon.map(|end| (HORIZON.to_owned(), note(end))));
        Secret {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                labels: Some([(MANAGED_BY, US), ("app.kubernetes.io/part-of", "culvert")].map(own).into()),
                annotations: Some(notes),
                ..ObjectMeta::default()
            },
            data: Some(data),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }
}

/// The annotations of a stage.
pub(crate) fn stage_notes(stage: &Stage) -> BTreeMap<String, String> {
    let mut notes = BTreeMap::from([own((STAGE, stage.name()))]);
    if let Stage::Prepared { since, until } | Stage::Activated { since, until } = stage {
        notes.extend([(SINCE.to_owned(), note(*since)), (UNTIL.to_owned(), note(*until))]);
    }
    notes
}

/// RFC 3339, in whole seconds, rounded up: an end is never noted too early.
pub(crate) fn note(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
    // Times beyond the year 9999 cannot be written, and are no ends.
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
        .to_string()
}

fn bytes((key, text): (&str, &String)) -> (String, ByteString) {
    (key.to_owned(), ByteString(text.as_bytes().to_vec()))
}

fn own((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn stage(notes: Option<&BTreeMap<String, String>>) -> Result<Stage, ContentError> {
    let times = || {
        let missing = |key| ContentError::Annotation { key, value: String::new() };
        let since = time(notes, SINCE)?.ok_or_else(|| missing(SINCE))?;
        let until = time(notes, UNTIL)?.ok_or_else(|| missing(UNTIL))?;
        Ok((since, until))
    };
    match notes.and_then(|all| all.get(STAGE)).map(String::as_str) {
        None | Some("steady") => Ok(Stage::Steady),
        Some("prepared") => times().map(|(since, until)| Stage::Prepared { since, until }),
        Some("activated") => times().map(|(since, until)| Stage::Activated { since, until }),
        Some(other) => Err(ContentError::Annotation { key: STAGE, value: other.to_owned() }),
    }
}

fn time(notes: Option<&BTreeMap<String, String>>, key: &'static str) -> Result<Option<SystemTime>, ContentError> {
    let Some(text) = notes.and_then(|all| all.get(key)) else { return Ok(None) };
    let read = text.parse::<Timestamp>().ok().map(SystemTime::from);
    read.map(Some).ok_or_else(|| ContentError::Annotation { key, value: text.clone() })
}

type Data = BTreeMap<String, ByteString>;

fn istio(data: &Data) -> Result<AuthorityFiles, ContentError> {
    let remedy = "put ca-cert.pem, ca-key.pem and root-cert.pem into it (or tls.crt, tls.key and ca.crt), or delete it \
                  for a new root";
    Ok(AuthorityFiles {
        certificate: required(data, CERTIFICATE, remedy)?,
        key: Zeroizing::new(required(data, KEY, remedy)?),
        chain: optional(data, CHAIN)?.unwrap_or_default(),
        roots: required(data, ROOTS, remedy)?,
    })
}

/// cert-manager's `tls.crt` begins with the certificate of the key and goes on with those between it and the root. A
/// root that signs itself has no `ca.crt` in older versions.
fn cert_manager(data: &Data) -> Result<AuthorityFiles, ContentError> {
    let remedy = "let a Certificate with isCA: true fill it";
    let key = "tls.crt";
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(required(data, key, remedy)?.as_bytes()).collect();
    let all = all.map_err(|why| ContentError::NotPem { key, why: why.to_string() })?;
    let (first, rest) = all.split_first().ok_or(ContentError::Missing { key, remedy })?;
    let roots = optional(data, "ca.crt")?.filter(|text| !text.trim().is_empty());
    Ok(AuthorityFiles {
        certificate: pem(first),
        key: Zeroizing::new(required(data, "tls.key", remedy)?),
        chain: rest.iter().map(pem).collect(),
        roots: roots.unwrap_or_else(|| pem(all.last().unwrap_or(first))),
    })
}

fn required(data: &Data, key: &'static str, remedy: &'static str) -> Result<String, ContentError> {
    optional(data, key)?.filter(|text| !text.trim().is_empty()).ok_or(ContentError::Missing { key, remedy })
}

fn optional(data: &Data, key: &'static str) -> Result<Option<String>, ContentError> {
    let Some(bytes) = data.get(key) else { return Ok(None) };
    let text = std::str::from_utf8(&bytes.0).map_err(|why| ContentError::NotPem { key, why: why.to_string() })?;
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
