//! A root or signer that its owner replaces (cert-manager, an administrator), taken up without anybody noticing. Pure; who
//! keeps it is `kubernetes::held` or a file (`signers`).
//!
//! ```text
//!            another root is given          everyone knows it                   its last certificate ended
//!  Steady ------------------------> Publishing ------------------> Retiring ----------------------------> Steady
//!                                   both trusted,                  both trusted,
//!                                   the former signs               the given one signs
//! ```
//! The owner replaces all at once and says nothing before. A proxy trusts the roots that came with its own certificate
//! (ca.md 5), so the former key signs on until every certificate that brought only the former roots has ended, and a root
//! that is given no more is trusted until the last certificate has ended that it may have signed. Both ends are known:
//! nothing is signed whose end was not noted before (`Signers::until`). A former signer that has itself ended cannot wait.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::authority::{AuthorityFiles, pem};
use crate::rotation::PROPAGATION;

/// The note is set ahead of the end that is asked for, by this part of the life: for certificates of 24 h one write an
/// hour, whatever the number of pods, for an hour more of waiting when the root is changed.
const AHEAD: u32 = 24;

/// The least that it is set ahead: with certificates of minutes a write every half minute is enough.
const AHEAD_LEAST: Duration = Duration::from_secs(30);

/// The end to note for a certificate that ends at `until`.
pub(crate) fn ahead(until: SystemTime, now: SystemTime) -> SystemTime {
    until + (until.duration_since(now).unwrap_or_default() / AHEAD).max(AHEAD_LEAST)
}

/// Where the taking up of what the owner gave stands. The moments are those of the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// What is given signs, and its roots alone are trusted.
    #[default]
    Steady,
    /// A root was given that not everyone knows yet; a signer under it signs from then on.
    Publishing(SystemTime),
    /// The given one signs; former roots are trusted until then.
    Retiring(SystemTime),
}

impl Stage {
    /// The moment of the next step.
    pub fn next(&self) -> Option<SystemTime> {
        match self {
            Self::Steady => None,
            Self::Publishing(at) | Self::Retiring(at) => Some(*at),
        }
    }

    /// For the metric: 0, 1 or 2.
    pub fn number(&self) -> u8 {
        match self {
            Self::Steady => 0,
            Self::Publishing(_) => 1,
            Self::Retiring(_) => 2,
        }
    }

    /// Tells the operator.
    pub(crate) fn tell(&self, now: SystemTime) {
        let left = |at: &SystemTime| crate::rotation::Span(at.duration_since(now).unwrap_or_default()).to_string();
        match self {
            Self::Steady => tracing::info!("the given authority signs, its roots alone are trusted"),
            Self::Publishing(at) => tracing::info!(
                left = left(at),
                "a root was given that proxies do not know yet: it is published beside the former, and the former key \
                 signs until every certificate from before has ended"
            ),
            Self::Retiring(at) => tracing::info!(
                left = left(at),
                "the given authority signs; former roots are trusted until their last certificate has ended"
            ),
        }
    }
}

/// What has to outlive a restart. Times are Unix seconds, ends rounded up.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    /// What signs.
    certificate: String,
    #[serde(with = "wiped")]
    key: Zeroizing<String>,
    chain: String,
    roots: Vec<Trusted>,
    /// No certificate was issued that ends later.
    horizon: u64,
}

/// A root that is trusted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trusted {
    pem: String,
    /// From when on every valid certificate has brought it.
    known: u64,
    /// Until when it is trusted, although it is given no more.
    until: Option<u64>,
}

/// What follows.
pub(crate) struct Plan {
    pub(crate) kept: Kept,
    pub(crate) stage: Stage,
    /// When to look again.
    pub(crate) due: Option<SystemTime>,
}

impl Kept {
    /// With nothing before: what is given signs. `horizon` is the last end of what may have been issued.
    pub(crate) fn first(given: &AuthorityFiles, horizon: SystemTime) -> Self {
        let roots = all(&given.roots).into_iter().map(|pem| Trusted { pem, known: 0, until: None });
        Self {
            certificate: given.certificate.clone(),
            key: given.key.clone(),
            chain: given.chain.clone(),
            roots: roots.collect(),
            horizon: up(horizon),
        }
    }

    /// What signs now, with every root that is trusted now.
    pub(crate) fn files(&self) -> AuthorityFiles {
        AuthorityFiles {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            chain: self.chain.clone(),
            roots: self.roots.iter().map(|root| root.pem.as_str()).collect(),
        }
    }

    /// Whether a certificate that ends at `until` needs no note.
    pub(crate) fn covers(&self, until: SystemTime) -> bool {
        up(until) <= self.horizon
    }

    /// With a note of this end.
    pub(crate) fn noting(mut self, until: SystemTime) -> Self {
        self.horizon = self.horizon.max(up(until));
        self
    }

    /// What follows when the owner gives this. `given` has been proven to make an authority.
    pub(crate) fn follow(&self, given: &AuthorityFiles, now: SystemTime) -> Plan {
        let at = down(now);
        let settled = self.horizon.max(up(now + PROPAGATION));
        let (mut kept, wanted) = (self.clone(), all(&given.roots));
        for pem in &wanted {
            match kept.roots.iter_mut().find(|root| root.pem == *pem) {
                Some(root) => root.until = None,
                None => kept.roots.push(Trusted { pem: pem.clone(), known: settled, until: None }),
            }
        }
        let known = kept.roots.iter().filter(|root| wanted.contains(&root.pem)).map(|root| root.known).max();
        let known = known.unwrap_or(at);
        let replaced = all(&self.certificate) != all(&given.certificate);
        // Who cannot sign any more cannot bridge the time either.
        let begins = if replaced { known.min(ends(&self.certificate)) } else { known };
        if !replaced || begins <= at {
            kept.certificate.clone_from(&given.certificate);
            kept.key.clone_from(&given.key);
            kept.chain.clone_from(&given.chain);
            for root in kept.roots.iter_mut().filter(|root| !wanted.contains(&root.pem)) {
                root.until.get_or_insert(settled);
            }
        }
        kept.roots.retain(|root| root.until.is_none_or(|until| until > at));
        let untils = || kept.roots.iter().filter_map(|root| root.until);
        let pending = (begins > at).then_some(begins);
        let stage = match (pending, untils().max()) {
            (Some(begins), _) => Stage::Publishing(time(begins)),
            (None, Some(until)) => Stage::Retiring(time(until)),
            (None, None) => Stage::Steady,
        };
        let due = pending.into_iter().chain(untils()).min().map(time);
        Plan { kept, stage, due }
    }
}

/// Every certificate of a bundle, each once and in one form. What cannot be read has been refused before.
fn all(bundle: &str) -> Vec<String> {
    let mut all = Vec::new();
    for der in CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten() {
        let text = pem(&der);
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all
}

/// When a certificate ends. One that cannot be read signs nothing.
fn ends(certificate: &str) -> u64 {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return 0 };
    let end = X509Certificate::from_der(&der).map(|(_, x509)| x509.validity().not_after.timestamp());
    end.ok().and_then(|end| u64::try_from(end).ok()).unwrap_or_default()
}

fn down(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn up(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() + u64::from(since.subsec_nanos() > 0)
}

/// The year 9999, beyond which nothing has to be waited for: a sum with it cannot overflow.
const LAST: u64 = 253_402_300_799;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))
}

/// A key as text, wiped when it goes.
mod wiped {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(text: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(from).map(Zeroizing::new)
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
pub(crate) mod tests;
