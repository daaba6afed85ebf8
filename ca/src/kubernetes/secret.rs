//! The authority in a Secret: read or made at the start, followed, and the note of the last end kept.
//!
//! Two replicas that start at once both try to make the Secret; the API server lets one win, and the other reads the
//! winner's. A new content is used when it makes a whole authority; a bad one changes nothing and is told. A Secret of ours
//! that is deleted is put back: without it the next start would make a root that nobody trusts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kubernetes::client::{CallError, call};
use futures_util::StreamExt;
use identity::Clock;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use rcgen::KeyPair;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use zeroize::{Zeroize, Zeroizing};

use super::content::{self, Content, ContentError};
use super::retry::Backoff;
use crate::authority::{Authority, AuthorityError, Ttl};
use crate::caller::Judged;
use crate::config::SecretSource;
use crate::issue;
use crate::refusal::Refusal;
use crate::signers::Signers;

/// The note is set ahead of the end that is asked for, by this part of the life: for certificates of 24 h one write an
/// hour, whatever the number of pods, for an hour more of waiting when the root is changed.
const AHEAD: u32 = 24;

/// The least that it is set ahead: with certificates of minutes a write every half minute is enough.
const AHEAD_LEAST: Duration = Duration::from_secs(30);

/// Attempts to set the note while others set it too. Each conflict means that somebody else's write passed, and
/// replicas are few.
const ATTEMPTS: u32 = 5;

/// The authority cannot be read from its Secret.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum SecretError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("secret {name}: {source}")]
    Content { name: String, source: ContentError },
    #[error("secret {name}: {source}")]
    Authority { name: String, source: AuthorityError },
    #[error("a new root could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("secret {0} does not exist, and authority.secret.make is false; make it, or let it be made")]
    Absent(String),
}

/// What is used of the Secret at a moment; the parts belong together.
#[derive(Clone)]
struct Held {
    authority: Arc<Authority>,
    content: Arc<Content>,
}

/// The authority in a Secret.
pub(crate) struct SecretSigner {
    place: Place,
    held: watch::Sender<Held>,
    authority: watch::Sender<Arc<Authority>>,
    /// Who holds it sets the note; the others find it set.
    noting: Mutex<()>,
}

/// Which Secret, and what is made of it.
pub(crate) struct Place {
    api: Api<Secret>,
    source: SecretSource,
    trust_domain: String,
    ttl: Ttl,
    clock: Arc<dyn Clock>,
}

impl Place {
    pub(crate) fn new(
        client: Client,
        source: SecretSource,
        trust_domain: String,
        ttl: Ttl,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { api: Api::namespaced(client, &source.namespace), source, trust_domain, ttl, clock }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.source.namespace, self.source.name)
    }

    /// Reads the Secret, or makes it where that is wanted.
    ///
    /// # Errors
    /// When the API server says no, or the Secret holds no authority.
    pub(crate) async fn open(self) -> Result<SecretSigner, (Self, SecretError)> {
        match self.first().await {
            Ok(held) => Ok(SecretSigner {
                authority: watch::Sender::new(held.authority.clone()),
                held: watch::Sender::new(held),
                noting: Mutex::new(()),
                place: self,
            }),
            Err(error) => Err((self, error)),
        }
    }

    async fn first(&self) -> Result<Held, SecretError> {
        let (what, name) = (format!("get secret {}", self.name()), &self.source.name);
        let secret = match call(&what, self.api.get_opt(name)).await? {
            Some(secret) => secret,
            None if !self.source.make => return Err(SecretError::Absent(self.name())),
            None => match self.make().await {
                Ok(secret) => secret,
                // Another replica was faster: its root is the one.
                Err(SecretError::Call(CallError::Exists { .. })) => call(&what, self.api.get(name)).await?,
                Err(error) => return Err(error),
            },
        };
        self.hold(&secret, None)
    }

    async fn make(&self) -> Result<Secret, SecretError> {
        let mut key = KeyPair::generate()?;
        let certificate = issue::root(&self.trust_domain, self.clock.now()).self_signed(&key)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        let made = self.create(&Content::new_root(certificate, key_pem)).await?;
        tracing::info!(secret = %self.name(), "made a new root; back the Secret up");
        Ok(made)
    }

    async fn create(&self, content: &Content) -> Result<Secret, CallError> {
        let what = format!("create secret {}", self.name());
        let secret = content.secret(&self.source.namespace, &self.source.name);
        call(&what, self.api.create(&PostParams::default(), &secret)).await
    }

    /// What the Secret holds, with the authority of before where nothing of it changed.
    fn hold(&self, secret: &Secret, before: Option<&Held>) -> Result<Held, SecretError> {
        let content = Content::read(secret).map_err(|source| SecretError::Content { name: self.name(), source })?;
        let authority = match before.filter(|before| before.content.files == content.files) {
            Some(before) => before.authority.clone(),
            None => Authority::new(&self.trust_domain, content.files.clone(), self.ttl, self.clock.now())
                .map(Arc::new)
                .map_err(|source| SecretError::Authority { name: self.name(), source })?,
        };
        Ok(Held { authority, content: Arc::new(content) })
    }
}

impl SecretSigner {
    /// Follows the Secret for ever.
    pub(crate) async fn follow(&self) -> Infallible {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.place.source.name)).timeout(60);
        let mut backoff = Backoff::default();
        let mut events = std::pin::pin!(watcher(self.place.api.clone(), only));
        let mut listed = false;
        loop {
            match events.next().await {
                Some(Ok(Event::Init)) => listed = false,
                Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => {
                    listed = true;
                    backoff.reset();
                    if let Err(error) = self.take(&secret) {
                        tracing::error!(%error, "the changed Secret cannot be used; the former authority signs on");
                    }
                }
                Some(Ok(Event::InitDone)) if listed => {}
                Some(Ok(Event::InitDone | Event::Delete(_))) => self.put_back().await,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of the authority's Secret is broken; trying again");
                    self.place.clock.sleep(backoff.next()).await;
                }
                // kube's watcher never ends; should it, there is nothing to follow.
                None => std::future::pending().await,
            }
        }
    }

    /// Makes the Secret again from memory. Whoever wants another root changes it step by step (`rotation`).
    async fn put_back(&self) {
        let (content, secret) = (self.held.borrow().content.clone(), self.place.name());
        if !content.ours {
            tracing::error!(%secret, "the authority's Secret is gone; its key signs on until this program ends");
            return;
        }
        match self.place.create(&content).await {
            // The watch brings it back to us.
            Ok(_) | Err(CallError::Exists { .. }) => {
                tracing::warn!(%secret, "the authority's Secret was deleted, and put back")
            }
            Err(error) => tracing::error!(
                %error,
                "the authority's Secret was deleted and cannot be put back; restore it from a backup before the next \
                 start, which would make a new root that nobody trusts yet"
            ),
        }
    }

    /// Uses a newer state of the Secret.
    ///
    /// # Errors
    /// When it cannot be used; what was used before stays.
    fn take(&self, secret: &Secret) -> Result<(), SecretError> {
        let before = self.held.borrow().clone();
        if older(secret.metadata.resource_version.as_deref(), &before.content.version) {
            return Ok(());
        }
        let held = self.place.hold(secret, Some(&before))?;
        let authority = held.authority.clone();
        self.held.send_replace(held);
        if !Arc::ptr_eq(&authority, &before.authority) {
            tracing::info!(secret = %self.place.name(), "the authority's Secret was changed; what it holds now signs");
            self.authority.send_replace(authority);
        }
        Ok(())
    }

    /// The authority, if nothing has to be noted for this end.
    fn noted(&self, until: SystemTime) -> Result<Arc<Authority>, Held> {
        let held = self.held.borrow().clone();
        let free = !held.content.ours || held.content.horizon.is_some_and(|horizon| until <= horizon);
        if free { Ok(held.authority) } else { Err(held) }
    }

    /// Notes the end before anything is signed that ends so late. The write passes only on the very state that we hold:
    /// an authority that was replaced meanwhile cannot sign past what the replacement counted on (`rotation`).
    async fn note(&self, until: SystemTime) -> Result<Arc<Authority>, Refusal> {
        let _turn = self.noting.lock().await;
        let failed = |error: SecretError| Refusal::EndNotNoted(error.to_string());
        for _ in 0..ATTEMPTS {
            let held = match self.noted(until) {
                Ok(authority) => return Ok(authority),
                Err(held) => held,
            };
            let life = until.duration_since(self.place.clock.now()).unwrap_or_default();
            let horizon = until + (life / AHEAD).max(AHEAD_LEAST);
            let patch = json!({"metadata": {
                "resourceVersion": held.content.version,
                "annotations": {content::HORIZON: content::note(horizon)},
            }});
            let (name, api) = (&self.place.source.name, &self.place.api);
            let what = format!("note the last end in secret {}", self.place.name());
            match call(&what, api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
                Ok(secret) => self.take(&secret).map_err(failed)?,
                Err(CallError::Conflict { .. }) => {
                    let secret = call(&what, api.get(name)).await.map_err(|error| failed(error.into()))?;
                    self.take(&secret).map_err(failed)?;
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        self.noted(until).map_err(|_| Refusal::EndNotNoted("others kept changing the Secret".to_owned()))
    }
}

impl Signers for SecretSigner {
    fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    fn until(&self, until: SystemTime) -> Judged<'_, Arc<Authority>> {
        Box::pin(async move {
            match self.noted(until) {
                Ok(authority) => Ok(authority),
                Err(_) => self.note(until).await,
            }
        })
    }
}

/// Whether a version is older than what we hold: an event of the watch that comes after the answer to a later write of
/// ours. Versions of one object grow; where they cannot be compared, the newcomer counts.
fn older(version: Option<&str>, held: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    version.and_then(number).zip(number(held)).is_some_and(|(version, held)| version < held)
}

#[cfg(test)]
#[path = "secret_tests.rs"]
pub(super) mod tests;
