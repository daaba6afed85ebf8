//! Which authority signs now: a fixed one, one that follows its files, or one in a Secret (`kubernetes::secret`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use identity::{Clock, Reloaded};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityFiles, Ttl};
use crate::caller::Judged;
use crate::config::PluggedFiles;
use crate::program::ProgramError;
use crate::refusal::Refusal;
use crate::store;
use crate::succession::{Kept, Plan, Stage, ahead};

/// Gives the authority that signs. It may change between two calls: who holds one finishes with it.
pub trait Signers: Send + Sync + 'static {
    /// The authority of now, and every later one as a change of this.
    fn watch(&self) -> watch::Receiver<Arc<Authority>>;

    /// The authority for a certificate that ends at `until` at the latest. Where the root can be changed while the mesh
    /// runs, the end is noted first: a change has to wait for the last end (`rotation`).
    fn until(&self, until: SystemTime) -> Judged<'_, Arc<Authority>>;

    /// Where the taking up of another root stands, of an authority whose owner is somebody else.
    fn stage(&self) -> Stage {
        Stage::Steady
    }

    /// The authority of now.
    fn now(&self) -> Arc<Authority> {
        self.watch().borrow().clone()
    }
}

/// An authority that never changes while the program runs.
pub struct Fixed(watch::Sender<Arc<Authority>>);

impl Fixed {
    /// This one.
    pub fn new(authority: Authority) -> Self {
        Self(watch::Sender::new(Arc::new(authority)))
    }
}

impl Signers for Fixed {
    fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.0.subscribe()
    }

    fn until(&self, _: SystemTime) -> Judged<'_, Arc<Authority>> {
        Box::pin(std::future::ready(Ok(self.now())))
    }
}

/// How often the files are looked at when nobody asks for a certificate. The kubelet itself brings a changed Secret into
/// a pod only after about a minute.
const LOOK: Duration = Duration::from_secs(30);

/// An authority made elsewhere, in files that may be replaced: cert-manager's, or an administrator's. What they give is
/// taken up step by step (`succession`).
pub struct Followed {
    files: PluggedFiles,
    trust_domain: String,
    ttl: Ttl,
    clock: Arc<dyn Clock>,
    /// What is given, proven to make an authority.
    given: Reloaded<AuthorityFiles>,
    state: Mutex<State>,
    now: watch::Sender<Arc<Authority>>,
}

/// What is kept, and what was made of it.
struct State {
    kept: Kept,
    used: AuthorityFiles,
    stage: Stage,
}

impl Followed {
    /// Reads the files, and what was kept before.
    ///
    /// # Errors
    /// When one cannot be read, or they make no authority.
    pub fn open(
        files: PluggedFiles,
        trust_domain: &str,
        ttl: Ttl,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ProgramError> {
        let paths = [Some(&files.certificate), Some(&files.key), files.chain.as_ref(), Some(&files.roots)];
        let given = Reloaded::new(paths.into_iter().flatten().cloned().collect());
        let now = clock.now();
        let first = given.get(|| proven(&files, trust_domain, ttl, now))?;
        let kept = match &files.state {
            Some(path) if path.exists() => store::read_kept(path)?,
            // Certificates of the usual life may have been issued up to now.
            _ => Kept::first(&first, now + ttl.default),
        };
        let Plan { kept, stage, .. } = kept.follow(&first, now);
        let used = kept.files();
        let made = Arc::new(Authority::new(trust_domain, used.clone(), ttl, now)?);
        if let Some(path) = &files.state {
            store::write_kept(path, &kept)?;
        }
        if stage != Stage::Steady {
            stage.tell(now);
        }
        let state = Mutex::new(State { kept, used, stage });
        let (trust_domain, now) = (trust_domain.to_owned(), watch::Sender::new(made));
        Ok(Self { files, trust_domain, ttl, clock, given, state, now })
    }

    /// Looks at the files now and then, so that new roots are published although nobody asks for a certificate.
    pub async fn follow(&self) -> std::convert::Infallible {
        loop {
            self.clock.sleep(LOOK).await;
            if let Err(error) = self.look(None) {
                tracing::error!(%error, "what was issued cannot be kept; what signs now signs on");
            }
        }
    }

    /// Takes up what the files give, as far as it is time, and keeps the end that a certificate will have.
    fn look(&self, end: Option<SystemTime>) -> Result<(), ProgramError> {
        let now = self.clock.now();
        // Cannot fail: there is a first one, which stays in use, with a warning.
        let given = self.given.get(|| proven(&self.files, &self.trust_domain, self.ttl, now))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Plan { mut kept, stage, .. } = state.kept.follow(&given, now);
        if let Some(end) = end.filter(|end| !kept.covers(*end)) {
            kept = kept.noting(ahead(end, now));
        }
        if kept == state.kept && stage == state.stage {
            return Ok(());
        }
        if let Some(path) = &self.files.state {
            store::write_kept(path, &kept)?;
        }
        let used = kept.files();
        if used != state.used {
            let made = Authority::new(&self.trust_domain, used.clone(), self.ttl, now)?;
            self.now.send_replace(Arc::new(made));
        }
        if stage != state.stage {
            stage.tell(now);
        }
        *state = State { kept, used, stage };
        Ok(())
    }
}

impl Signers for Followed {
    fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.now.subscribe()
    }

    fn stage(&self) -> Stage {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stage
    }

    fn until(&self, until: SystemTime) -> Judged<'_, Arc<Authority>> {
        let looked = self.look(Some(until)).map_err(|error| Refusal::EndNotNoted(error.to_string()));
        Box::pin(std::future::ready(looked.map(|()| self.now())))
    }
}

/// What the files give, if it makes an authority.
fn proven(files: &PluggedFiles, trust_domain: &str, ttl: Ttl, now: SystemTime) -> Result<AuthorityFiles, ProgramError> {
    let given = plugged(files)?;
    Authority::new(trust_domain, given.clone(), ttl, now)?;
    Ok(given)
}

pub(crate) fn plugged(files: &PluggedFiles) -> Result<AuthorityFiles, ProgramError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| ProgramError::Read { path: path.clone(), source })
    };
    Ok(AuthorityFiles {
        certificate: read(&files.certificate)?,
        key: Zeroizing::new(read(&files.key)?),
        chain: files.chain.as_ref().map(read).transpose()?.unwrap_or_default(),
        roots: read(&files.roots)?,
    })
}

#[cfg(test)]
#[path = "signers_tests.rs"]
mod tests;
