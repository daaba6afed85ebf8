//! Following an authority that somebody else fills: what it gives is taken up as `succession` says, what has to be kept is
//! agreed on with the other replicas in our Secret beside it (`held`).

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{self, Event};

use super::content::Content;
use super::held::{Version, lost};
use super::secret::{ATTEMPTS, Held, SecretError, SecretSigner, older};
use crate::succession::{Kept, Plan, ahead};

impl Version {
    /// When the Secret was ours until now: its own notes are taken over.
    pub(super) fn of(content: &Content, now: SystemTime) -> Self {
        Self { kept: Kept::first(&content.files, content.horizon.unwrap_or(now)), version: None }
    }
}

impl SecretSigner {
    /// Takes up what the owner gave, as far as it is time, and notes an end that is not noted yet. Nothing is used that
    /// was not written first: another replica with an older state cannot sign past it.
    ///
    /// # Errors
    /// When what is kept cannot be read or written; what was used before stays.
    pub(super) async fn agree(&self, end: Option<SystemTime>) -> Result<(), SecretError> {
        let _turn = self.noting.lock().await;
        for _ in 0..ATTEMPTS {
            let (held, now) = (self.held.borrow().clone(), self.place.clock.now());
            if held.content.ours {
                return Ok(());
            }
            let before = held.beside.clone().unwrap_or_else(|| Arc::new(self.unknown(&held, now)));
            let Plan { mut kept, stage, due } = before.kept.follow(&held.content.files, now);
            if let Some(end) = end.filter(|end| !kept.covers(*end)) {
                kept = kept.noting(ahead(end, now));
            }
            let beside = if before.version.is_some() && kept == before.kept {
                before
            } else {
                match self.place.beside.put(kept, before.version.as_deref()).await {
                    Ok(written) => Arc::new(written),
                    Err(error) if lost(&error) => {
                        let found = self.place.beside.get().await?;
                        self.held.send_modify(|held| held.beside = found.map(Arc::new));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            };
            return self.use_now(Held { beside: Some(beside), stage, due, ..held });
        }
        Err(SecretError::Busy(self.place.beside.place()))
    }

    /// Nothing is kept: certificates of the usual life may have been issued up to now, by what is given.
    fn unknown(&self, held: &Held, now: SystemTime) -> Version {
        Version { kept: Kept::first(&held.content.files, now + self.place.ttl.default), version: None }
    }

    fn use_now(&self, mut held: Held) -> Result<(), SecretError> {
        let Some(beside) = &held.beside else { return Ok(()) };
        let before = self.held.borrow().clone();
        let files = beside.kept.files();
        if files != held.used {
            (held.authority, held.used) = (self.place.made(files.clone())?, files);
        }
        let changed = !Arc::ptr_eq(&held.authority, &before.authority);
        if held.stage != before.stage {
            held.stage.tell(self.place.clock.now());
        }
        let authority = held.authority.clone();
        self.held.send_replace(held);
        if changed {
            self.authority.send_replace(authority);
        }
        Ok(())
    }

    /// Takes an event of what is kept; gives back why there is none.
    pub(super) fn hear_beside(&self, event: watcher::Result<Event<Secret>>) -> Option<watcher::Error> {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => match self.place.beside.read(&secret) {
                Ok(found) => self.kept_elsewhere(found),
                Err(error) => tracing::error!(%error, "what another replica keeps is not used"),
            },
            // Somebody wants the former roots forgotten.
            Ok(Event::Delete(_)) => self.held.send_modify(|held| held.beside = None),
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => return Some(error),
        }
        None
    }

    fn kept_elsewhere(&self, found: Version) {
        self.held.send_if_modified(|held| {
            let known = held.beside.as_ref().and_then(|beside| beside.version.as_deref()).unwrap_or_default();
            let newer = !held.content.ours && known != found.version.as_deref().unwrap_or_default();
            let newer = newer && !older(found.version.as_deref(), known);
            if newer {
                held.beside = Some(Arc::new(found));
            }
            newer
        });
    }

    /// Waits until it is time for the next step.
    pub(super) async fn due(&self) {
        let due = self.held.borrow().due;
        match due {
            Some(due) => self.place.clock.sleep(due.duration_since(self.place.clock.now()).unwrap_or_default()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;
