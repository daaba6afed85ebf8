//! Which authority signs now: a fixed one, one that follows its files, or one in a Secret (`kubernetes::secret`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{Clock, Reloaded};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityFiles, Ttl};
use crate::caller::Judged;
use crate::config::PluggedFiles;
use crate::program::ProgramError;

/// Gives the authority that signs. It may change between two calls: who holds one finishes with it.
pub trait Signers: Send + Sync + 'static {
    /// The authority of now, and every later one as a change of this.
    fn watch(&self) -> watch::Receiver<Arc<Authority>>;

    /// The authority for a certificate that ends at `until` at the latest. Where the root can be changed while the mesh
    /// runs, the end is noted first: a change has to wait for the last end (`rotation`).
    fn until(&self, until: SystemTime) -> Judged<'_, Arc<Authority>>;

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

/// An authority made elsewhere, in files that may be replaced: cert-manager's, or an administrator's.
pub struct Followed {
    files: PluggedFiles,
    trust_domain: String,
    ttl: Ttl,
    clock: Arc<dyn Clock>,
    read: Reloaded<Arc<Authority>>,
    now: watch::Sender<Arc<Authority>>,
}

impl Followed {
    /// Reads the files.
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
        let read = Reloaded::new(paths.into_iter().flatten().cloned().collect());
        let first = read.get(|| make(&files, trust_domain, ttl, clock.now()))?;
        let now = watch::Sender::new(first);
        Ok(Self { files, trust_domain: trust_domain.to_owned(), ttl, clock, read, now })
    }

    /// Looks at the files now and then, so that new roots are published although nobody asks for a certificate.
    pub async fn follow(&self) -> std::convert::Infallible {
        loop {
            self.clock.sleep(LOOK).await;
            self.look();
        }
    }

    fn look(&self) -> Arc<Authority> {
        let made = self.read.get(|| make(&self.files, &self.trust_domain, self.ttl, self.clock.now()));
        // Cannot fail: there is a first one, which stays in use, with a warning.
        let Ok(read) = made else { return self.now.borrow().clone() };
        self.now.send_if_modified(|now| {
            let changed = !Arc::ptr_eq(now, &read);
            if changed {
                tracing::info!("the authority's files were replaced, the new ones sign");
                *now = read.clone();
            }
            changed
        });
        read
    }
}

impl Signers for Followed {
    fn watch(&self) -> watch::Receiver<Arc<Authority>> {
        self.now.subscribe()
    }

    fn until(&self, _: SystemTime) -> Judged<'_, Arc<Authority>> {
        Box::pin(std::future::ready(Ok(self.look())))
    }
}

fn make(files: &PluggedFiles, trust_domain: &str, ttl: Ttl, now: SystemTime) -> Result<Arc<Authority>, ProgramError> {
    Ok(Arc::new(Authority::new(trust_domain, plugged(files)?, ttl, now)?))
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
