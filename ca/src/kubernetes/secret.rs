//! The authority in a Secret: read or made at the start, followed, and the note of the last end kept.
//!
//! Two replicas that start at once both try to make the Secret; the API server lets one win, and the other reads the
//! winner's. A new content is used when it makes a whole authority; a bad one changes nothing and is told. A Secret of ours
//! that is deleted is put back: without it the next start would make a root that nobody trusts. What somebody else puts
//! into it is taken up step by step (`foreign`).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use ::kubernetes::client::{CallError, call};
use futures_util::{Stream, StreamExt};
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
use super::held::{Beside, Version};
use super::retry::Backoff;
use crate::authority::{Authority, AuthorityError, AuthorityFiles, Ttl};
use crate::caller::Judged;
use crate::config::SecretSource;
use crate::issue;
use crate::refusal::Refusal;
use crate::signers::Signers;
use crate::succession::{Stage, ahead};

/// Attempts to set the note while others set it too. Each conflict means that somebody else's write passed, and
/// replicas are few.
pub(super) const ATTEMPTS: u32 = 5;

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
    #[error(
        "secret {name} keeps what was issued before the authority's owner replaced it, and cannot be read: {why}; \
         restore it from a backup, or delete it, which forgets every former root at once"
    )]
    Held { name: String, why: String },
    #[error("secret {0} is changed all the time by others; trying again")]
    Busy(String),
    #[error("secret {0} does not exist, and authority.secret.make is false; make it, or let it be made")]
    Absent(String),
}

/// What is used of the Secret at a moment; the parts belong together.
#[derive(Clone)]
pub(super) struct Held {
    /// What signs, and what it was made of.
    pub(super) authority: Arc<Authority>,
    pub(super) used: AuthorityFiles,
    /// What the Secret says. One of somebody else may say what does not sign yet.
    pub(super) content: Arc<Content>,
    /// What is kept beside a Secret of somebody else.
    pub(super) beside: Option<Arc<Version>>,
    pub(super) stage: Stage,
    /// When to look at it again.
    pub(super) due: Option<SystemTime>,
}

/// The authority in a Secret.
pub(crate) struct SecretSigner {
    pub(super) place: Place,
    pub(super) held: watch::Sender<Held>,
    pub(super) authority: watch::Sender<Arc<Authority>>,
    /// Who holds it sets the note; the others find it set.
    pub(super) noting: Mutex<()>,
}

/// Which Secret, and what is made of it.
pub(crate) struct Place {
    pub(super) api: Api<Secret>,
    pub(super) beside: Beside,
    pub(super) source: SecretSource,
    pub(super) trust_domain: String,
    pub(super) ttl: Ttl,
    pub(super) clock: Arc<dyn Clock>,
}

impl Place {
    pub(crate) fn new(
        client: Client,
        source: SecretSource,
        trust_domain: String,
        ttl: Ttl,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let api: Api<Secret> = Api::namespaced(client, &source.namespace);
        let beside = Beside::new(api.clone(), &source.namespace, &source.name);
        Self { api, beside, source, trust_domain, ttl, clock }
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.source.namespace, self.source.name)
    }

    /// Reads the Secret, or makes it where that is wanted.
    ///
    /// # Errors
    /// When the API server says no, or the Secret holds no authority.
    pub(crate) async fn open(self) -> Result<SecretSigner, (Self, SecretError)> {
        let held = match self.first().await {
            Ok(held) => held,
            Err(error) => return Err((self, error)),
        };
        let signer = SecretSigner {
            authority: watch::Sender::new(held.authority.clone()),
            held: watch::Sender::new(held),
            noting: Mutex::new(()),
            place: self,
        };
        match signer.agree(None).await {
            Ok(()) => Ok(signer),
            Err(error) => Err((signer.place, error)),
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
        let mut held = self.hold(&secret, None)?;
        if !held.content.ours {
            held.beside = self.beside.get().await?.map(Arc::new);
        }
        Ok(held)
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

    /// What the Secret holds, with the authority of before where nothing of it changed. What somebody else put into
    /// it is proven here and taken up by `agree`.
    fn hold(&self, secret: &Secret, before: Option<&Held>) -> Result<Held, SecretError> {
        let content = Content::read(secret).map_err(|source| SecretError::Content { name: self.name(), source })?;
        let Some(before) = before else {
            let (authority, used) = (self.made(content.files.clone())?, content.files.clone());
            let content = Arc::new(content);
            return Ok(Held { authority, used, content, beside: None, stage: Stage::Steady, due: None });
        };
        let mut held = before.clone();
        if content.ours && content.files != before.used {
            (held.authority, held.used) = (self.made(content.files.clone())?, content.files.clone());
        }
        if !content.ours && content.files != before.content.files {
            self.made(content.files.clone())?;
        }
        match (content.ours, before.content.ours) {
            (false, true) => held.beside = Some(Arc::new(Version::of(&before.content, self.clock.now()))),
            (true, _) => (held.beside, held.stage, held.due) = (None, Stage::Steady, None),
            (false, false) => {}
        }
        held.content = Arc::new(content);
        Ok(held)
    }

    /// The authority of these files.
    pub(super) fn made(&self, files: AuthorityFiles) -> Result<Arc<Authority>, SecretError> {
        Authority::new(&self.trust_domain, files, self.ttl, self.clock.now())
            .map(Arc::new)
            .map_err(|source| SecretError::Authority { name: self.name(), source })
    }
}

impl SecretSigner {
    /// Follows the Secret, and what is kept beside it, for ever.
    pub(crate) async fn follow(&self) -> Infallible {
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}")).timeout(60);
        let mut events = std::pin::pin!(watcher(self.place.api.clone(), named(&self.place.source.name)));
        let mut beside = std::pin::pin!(watcher(self.place.api.clone(), named(self.place.beside.name())));
        let (mut backoff, mut listed) = (Backoff::default(), false);
        loop {
            let broken = tokio::select! {
                event = next(&mut events) => self.hear(event, &mut listed).await,
                event = next(&mut beside) => self.hear_beside(event),
                () = self.due() => None,
            };
            let failed = match broken {
                None => self.agree(None).await.map_err(|error| {
                    tracing::error!(%error, "the authority's Secret cannot be followed; what signs now signs on");
                }),
                Some(error) => {
                    tracing::warn!(%error, "the watch of the authority's Secret is broken; trying again");
                    Err(())
                }
            };
            match failed {
                Ok(()) => backoff.reset(),
                Err(()) => self.place.clock.sleep(backoff.next()).await,
            }
        }
    }

    /// Takes an event of the Secret; gives back why there is none.
    async fn hear(&self, event: watcher::Result<Event<Secret>>, listed: &mut bool) -> Option<watcher::Error> {
        match event {
            Ok(Event::Init) => *listed = false,
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                *listed = true;
                if let Err(error) = self.take(&secret) {
                    tracing::error!(%error, "the changed Secret cannot be used; the former authority signs on");
                }
            }
            Ok(Event::InitDone) if *listed => {}
            Ok(Event::InitDone | Event::Delete(_)) => self.put_back().await,
            Err(error) => return Some(error),
        }
        None
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
    pub(super) fn take(&self, secret: &Secret) -> Result<(), SecretError> {
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
    fn noted(&self, until: SystemTime) -> Result<Arc<Authority>, Box<Held>> {
        let held = self.held.borrow().clone();
        let free = match &held.beside {
            Some(beside) => beside.kept.covers(until),
            None => held.content.horizon.is_some_and(|horizon| until <= horizon),
        };
        if free { Ok(held.authority) } else { Err(Box::new(held)) }
    }

    /// Notes the end before anything is signed that ends so late. The write passes only on the very state that we hold:
    /// an authority that was replaced meanwhile cannot sign past what the replacement counted on (`rotation`).
    async fn note(&self, until: SystemTime) -> Result<Arc<Authority>, Refusal> {
        let failed = |error: SecretError| Refusal::EndNotNoted(error.to_string());
        if !self.held.borrow().content.ours {
            self.agree(Some(until)).await.map_err(failed)?;
            return self.noted(until).map_err(|_| failed(SecretError::Busy(self.place.beside.place())));
        }
        let _turn = self.noting.lock().await;
        for _ in 0..ATTEMPTS {
            let held = match self.noted(until) {
                Ok(authority) => return Ok(authority),
                Err(held) => held,
            };
            let horizon = ahead(until, self.place.clock.now());
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

    fn stage(&self) -> Stage {
        self.held.borrow().stage
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

/// The next event of a watch.
async fn next<T>(events: &mut (impl Stream<Item = T> + Unpin)) -> T {
    match events.next().await {
        Some(event) => event,
        // kube's watcher never ends; should it, there is nothing to follow.
        None => std::future::pending().await,
    }
}

/// Whether a version is older than what we hold: an event of the watch that comes after the answer to a later write of
/// ours. Versions of one object grow; where they cannot be compared, the newcomer counts.
pub(super) fn older(version: Option<&str>, held: &str) -> bool {
    let number = |text: &str| text.parse::<u128>().ok();
    version.and_then(number).zip(number(held)).is_some_and(|(version, held)| version < held)
}

#[cfg(test)]
#[path = "secret_tests.rs"]
pub(super) mod tests;
