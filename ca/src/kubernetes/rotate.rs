//! The steps of `rotation` on the authority's Secret. Each is one conditional write: two operators at once, or an operator
//! and a replica that notes an end, cannot both pass on the same state.

use std::fmt;
use std::time::{Duration, SystemTime};

use ::kubernetes::client::{CallError, call};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use super::content::{self, Content, ContentError};
use crate::authority::pem;
use crate::issue;
use crate::rotation::{Facts, Refused, Span, Stage, Step};

/// Attempts against replicas that note ends meanwhile, which they do about once an hour.
const ATTEMPTS: u32 = 5;

/// A change of the root did not go on. The texts name the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum RotateError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("secret {name}: {why}")]
    Content { name: String, why: ContentError },
    #[error(
        "secret {0} was not made by culvert-ca (its label app.kubernetes.io/managed-by says so), so its owner changes it: \
         culvert-ca publishes a root that is new in it, signs with it when everyone knows it, and trusts the former one \
         as long as it is in use; its log and the metric culvert_ca_root_stage tell how far it is"
    )]
    NotOurs(String),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("secret {0}: next-cert.pem or next-key.pem is missing in the stage prepared; restore it from a backup")]
    NoNext(String),
    #[error("the certificate {key} cannot be read: {why}; restore the Secret from a backup")]
    Certificate { key: &'static str, why: String },
    #[error(
        "secret {name} trusts several roots beside the one that signs, and does not say which one signed before: {roots}; \
         put that one's certificate into the Secret as former-cert.pem, the others stay trusted"
    )]
    Which { name: String, roots: String },
    #[error("a new root could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("secret {0} is changed all the time by others; try again")]
    Busy(String),
}

/// Where a change of the root stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which Secret.
    pub secret: String,
    /// Whether it is ours to change.
    pub ours: bool,
    /// The stage.
    pub stage: Stage,
    /// The certificate that signs.
    pub signs: Root,
    /// Every root that is trusted.
    pub trusted: Vec<Root>,
    /// The root that was prepared.
    pub next: Option<Root>,
    /// The last end of a certificate that was noted.
    pub horizon: Option<SystemTime>,
    /// When this was true.
    pub now: SystemTime,
}

/// A certificate, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its subject.
    pub subject: String,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// The steps, on one Secret.
pub struct Rotator {
    api: Api<Secret>,
    namespace: String,
    name: String,
}

impl Rotator {
    /// On this Secret.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Where the change stands.
    ///
    /// # Errors
    /// When the Secret cannot be read.
    pub async fn status(&self, now: SystemTime) -> Result<Report, RotateError> {
        self.report(&self.read().await?, now)
    }

    /// Takes a step. `renewed` says that every proxy got a new certificate in this stage.
    ///
    /// # Errors
    /// When the step is not safe, with the wait; or the Secret cannot be read or written.
    pub async fn step(&self, step: Step, renewed: bool, now: SystemTime) -> Result<Report, RotateError> {
        for _ in 0..ATTEMPTS {
            let content = self.read().await?;
            if !content.ours {
                return Err(RotateError::NotOurs(self.place()));
            }
            let facts = Facts { now, horizon: content.horizon, renewed };
            let stage = content.stage.next(step, facts)?;
            let patch = self.patch(step, &stage, &content, now)?;
            let what = format!("{step} in secret {}", self.place());
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            match call(&what, self.api.patch(&self.name, &params, &patch)).await {
                Ok(secret) => return self.report(&self.content(&secret)?, now),
                Err(CallError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RotateError::Busy(self.place()))
    }

    fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    async fn read(&self) -> Result<Content, RotateError> {
        let secret = call(&format!("get secret {}", self.place()), self.api.get(&self.name)).await?;
        self.content(&secret)
    }

    fn content(&self, secret: &Secret) -> Result<Content, RotateError> {
        Content::read(secret).map_err(|why| RotateError::Content { name: self.place(), why })
    }

    /// The write that leads to `stage`.
    fn patch(&self, step: Step, stage: &Stage, content: &Content, now: SystemTime) -> Result<Value, RotateError> {
        let files = &content.files;
        let data = match step {
            Step::Prepare => {
                let (certificate, key) = new_root(&files.certificate, now)?;
                // The old root first: who reads only the first one trusts what signs now.
                let roots = join([&files.roots, &certificate])?;
                json!({
                    content::NEXT_CERTIFICATE: bytes(&certificate),
                    content::NEXT_KEY: bytes(&key),
                    content::ROOTS: bytes(&roots),
                })
            }
            Step::Activate => {
                let (certificate, key) = content.next.as_ref().ok_or_else(|| RotateError::NoNext(self.place()))?;
                // The old key is not kept: what nobody has nobody loses.
                json!({
                    content::FORMER: bytes(&files.certificate),
                    content::CERTIFICATE: bytes(certificate),
                    content::KEY: bytes(key),
                    content::CHAIN: bytes(certificate),
                    content::ROOTS: bytes(&join([certificate, &files.roots])?),
                    content::NEXT_CERTIFICATE: Value::Null,
                    content::NEXT_KEY: Value::Null,
                })
            }
            Step::Retire => json!({
                content::ROOTS: bytes(&self.without_former(content)?),
                content::FORMER: Value::Null,
            }),
        };
        let mut notes: serde_json::Map<String, Value> =
            content::stage_notes(stage).into_iter().map(|(key, text)| (key, text.into())).collect();
        for key in [content::SINCE, content::UNTIL] {
            notes.entry(key).or_insert(Value::Null);
        }
        Ok(json!({"metadata": {"resourceVersion": content.version, "annotations": notes}, "data": data}))
    }

    /// The roots without the one that signed before. Others in the bundle were put there by somebody else (another
    /// cluster's, say) and stay.
    fn without_former(&self, content: &Content) -> Result<String, RotateError> {
        let trusted = ders(content::ROOTS, &content.files.roots)?;
        let signs = ders(content::CERTIFICATE, &content.files.certificate)?;
        let others: Vec<_> = trusted.iter().filter(|root| !signs.contains(root)).collect();
        let former = match (&content.former, &others[..]) {
            (Some(former), _) => ders(content::FORMER, former)?,
            (None, others) if others.len() < 2 => others.iter().map(|root| (*root).clone()).collect(),
            // `activate` was done by a version that did not note it.
            (None, _) => {
                let names: String = others.iter().map(|root| pem(root)).collect();
                let names = roots(content::ROOTS, &names)?.into_iter();
                let names = names.map(|root| format!("{} ({})", root.subject, root.serial)).collect::<Vec<_>>();
                return Err(RotateError::Which { name: self.place(), roots: names.join("; ") });
            }
        };
        Ok(trusted.iter().filter(|root| signs.contains(root) || !former.contains(root)).map(pem).collect())
    }

    fn report(&self, content: &Content, now: SystemTime) -> Result<Report, RotateError> {
        let next = content.next.as_ref().map(|(certificate, _)| roots(content::NEXT_CERTIFICATE, certificate));
        Ok(Report {
            secret: self.place(),
            ours: content.ours,
            stage: content.stage,
            signs: first(content::CERTIFICATE, roots(content::CERTIFICATE, &content.files.certificate)?)?,
            trusted: roots(content::ROOTS, &content.files.roots)?,
            next: next.transpose()?.and_then(|all| all.into_iter().next()),
            horizon: content.horizon,
            now,
        })
    }
}

/// A new root for the trust domain of the old one, which its subject names.
fn new_root(old: &str, now: SystemTime) -> Result<(String, Zeroizing<String>), RotateError> {
    let wrong = |why: String| RotateError::Certificate { key: content::CERTIFICATE, why };
    let der = CertificateDer::from_pem_slice(old.as_bytes()).map_err(|e| wrong(e.to_string()))?;
    let (_, x509) = X509Certificate::from_der(&der).map_err(|e| wrong(e.to_string()))?;
    let organization = x509.subject().iter_organization().next().and_then(|name| name.as_str().ok());
    let mut key = KeyPair::generate()?;
    let certificate = issue::root(organization.unwrap_or("culvert"), now).self_signed(&key)?.pem();
    let text = Zeroizing::new(key.serialize_pem());
    key.zeroize();
    Ok((certificate, text))
}

/// Several bundles as one, each certificate once.
fn join(bundles: [&str; 2]) -> Result<String, RotateError> {
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    for bundle in bundles {
        for der in ders(content::ROOTS, bundle)? {
            if !all.contains(&der) {
                all.push(der);
            }
        }
    }
    Ok(all.iter().map(pem).collect())
}

fn ders(key: &'static str, bundle: &str) -> Result<Vec<CertificateDer<'static>>, RotateError> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    all.map_err(|e| RotateError::Certificate { key, why: e.to_string() })
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn roots(key: &'static str, bundle: &str) -> Result<Vec<Root>, RotateError> {
    let wrong = |why: String| RotateError::Certificate { key, why };
    let read = |der: Result<CertificateDer<'static>, _>| {
        let der = der.map_err(|e: rustls_pki_types::pem::Error| wrong(e.to_string()))?;
        let (_, x509) = X509Certificate::from_der(&der).map_err(|e| wrong(e.to_string()))?;
        let end = u64::try_from(x509.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Root {
            subject: x509.subject().to_string(),
            serial: x509.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(end),
        })
    };
    CertificateDer::pem_slice_iter(bundle.as_bytes()).map(read).collect()
}

fn first(key: &'static str, all: Vec<Root>) -> Result<Root, RotateError> {
    all.into_iter().next().ok_or(RotateError::Certificate { key, why: "it is empty".to_owned() })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = |root: &Root| {
            let ends = match root.not_after.duration_since(self.now) {
                Ok(left) => format!("ends in {}", Span(left)),
                Err(_) => "has ended".to_owned(),
            };
            format!("{} ({}), {ends}", root.subject, root.serial)
        };
        let stages = [
            ("steady", "one root"),
            ("prepared", "both trusted, the old one signs"),
            ("activated", "both trusted, the new one signs"),
        ];
        writeln!(f, "secret    {}", self.secret)?;
        for (name, meaning) in stages {
            let mark = if name == self.stage.name() { ">" } else { " " };
            writeln!(f, "stage   {mark} {name:<10} {meaning}")?;
        }
        writeln!(f, "signs     {}", root(&self.signs))?;
        for trusted in &self.trusted {
            writeln!(f, "trusted   {}", root(trusted))?;
        }
        if let Some(next) = &self.next {
            writeln!(f, "next      {}", root(next))?;
        }
        match self.horizon.map(|end| end.duration_since(self.now)) {
            None => writeln!(f, "issued    nothing yet")?,
            Some(Ok(left)) => writeln!(f, "issued    the last certificate ends in {} at the latest", Span(left))?,
            Some(Err(_)) => writeln!(f, "issued    every certificate has ended")?,
        }
        let following = self.stage.following();
        match (self.ours, self.stage.wait(self.now)) {
            (false, _) => write!(f, "then      its owner changes it: it was not made by culvert-ca"),
            (true, Some(wait)) => write!(f, "then      {following}, safe in {}", Span(wait)),
            (true, None) => write!(f, "then      {following}, safe now"),
        }
    }
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
