//! One live certificate per identity, renewed in time.

mod backoff;
mod task;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mesh::Identity;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use crate::certificate::Certificate;
use crate::clock::{Clock, SystemClock};
use crate::crl::Crl;
use crate::signer::Signer;
use task::{Progress, Wanted};

/// How certificates are asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Life to ask for; the CA may give less. Default 24 h, as Istio's `SECRET_TTL`.
    pub ttl: Duration,
    /// How long [`Manager::certificate`] waits for a first certificate. Default 5 s: as long as every other hold on the
    /// connection path (design 4.3), and less than clients' usual connect timeout of 10 s.
    pub first_wait: Duration,
    /// Requests in flight. Default 8 (ca.md 4).
    pub in_flight: usize,
    /// How many of them may be mere prefetches, so that a waiting connection never queues behind them. Default 6.
    pub in_flight_prefetch: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
            first_wait: Duration::from_secs(5),
            in_flight: 8,
            in_flight_prefetch: 6,
        }
    }
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// None came in time.
    #[error("no certificate for {identity} yet{}", because(.last_error))]
    Pending {
        /// For whom.
        identity: Identity,
        /// What the last attempt said, if one has ended.
        last_error: Option<Arc<str>>,
    },
    /// The one we have is over and could not be renewed.
    #[error("the certificate of {identity} has expired{}", because(.last_error))]
    Expired {
        /// For whom.
        identity: Identity,
        /// What the last attempt said.
        last_error: Option<Arc<str>>,
    },
    /// The identity was forgotten while somebody waited for it: its last workload left the node.
    #[error("{identity} is no longer on this node")]
    Forgotten {
        /// For whom.
        identity: Identity,
    },
}

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Holds a valid certificate.
    Available,
    /// The first request is under way, none has failed.
    Initializing,
    /// Holds none, and the last request failed.
    Unavailable,
    /// Holds one whose time is over.
    Expired,
}

/// One line of [`Manager::dump`].
#[derive(Clone, Debug)]
pub struct CertificateState {
    /// For whom.
    pub identity: Identity,
    /// Where it stands.
    pub state: State,
    /// Leaf and intermediates, PEM; empty without a certificate.
    pub chain_pem: Vec<String>,
    /// Roots, PEM; empty without a certificate.
    pub roots_pem: String,
    /// Serial number in hexadecimal; empty without a certificate.
    pub serial: String,
    /// Begin of validity.
    pub valid_from: Option<SystemTime>,
    /// End of validity.
    pub expires: Option<SystemTime>,
    /// What the last failed attempt said, until one succeeds.
    pub last_error: Option<Arc<str>>,
}

/// Keeps certificates alive. Clones share everything; when the last one is dropped all renewing stops.
#[derive(Clone)]
pub struct Manager(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    runtime: Handle,
    entries: Mutex<HashMap<Identity, Entry>>,
    crl: watch::Sender<Arc<Crl>>,
}

/// What the tasks need; they must not keep the manager itself alive.
struct Shared {
    config: Config,
    signer: Arc<dyn Signer>,
    clock: Arc<dyn Clock>,
    slots: Semaphore,
    prefetch_slots: Semaphore,
    crl: watch::Receiver<Arc<Crl>>,
}

struct Entry {
    progress: watch::Receiver<Progress>,
    wanted: watch::Sender<Wanted>,
    task: AbortHandle,
}

impl Manager {
    /// A manager whose tasks run on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: Config, signer: Arc<dyn Signer>) -> Self {
        Self::with_clock(config, signer, Arc::new(SystemClock))
    }

    /// As [`Manager::new`], with a clock of the caller's.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_clock(config: Config, signer: Arc<dyn Signer>, clock: Arc<dyn Clock>) -> Self {
        let (crl, crl_receiver) = watch::channel(Arc::new(Crl::default()));
        let shared = Shared {
            slots: Semaphore::new(config.in_flight.max(1)),
            prefetch_slots: Semaphore::new(config.in_flight_prefetch.max(1)),
            config,
            signer,
            clock,
            crl: crl_receiver,
        };
        Self(Arc::new(Inner { shared: Arc::new(shared), runtime: Handle::current(), entries: Mutex::default(), crl }))
    }

    /// The identity's certificate: at once when a valid one is held, else when the first one comes.
    ///
    /// # Errors
    /// When none came within `first_wait`, or the one held has expired (then at once: the CA has been failing for long).
    pub async fn certificate(&self, identity: &Identity) -> Result<Arc<Certificate>, Unavailable> {
        if let Some(held) = self.held(identity) {
            return held;
        }
        let mut progress = self.enter(identity, Wanted::Now);
        let first_wait = self.0.shared.config.first_wait;
        let arrived = tokio::time::timeout(first_wait, progress.wait_for(|p| p.current.is_some())).await;
        if let Ok(arrived) = arrived.map(|seen| seen.map(drop)) {
            arrived.map_err(|_| Unavailable::Forgotten { identity: identity.clone() })?;
        }
        let progress = progress.borrow();
        match &progress.current {
            Some(current) => self.valid(current, &progress),
            None => Err(Unavailable::Pending { identity: identity.clone(), last_error: progress.last_error.clone() }),
        }
    }

    /// What [`Manager::certificate`] would return without waiting; `None` while there is no first certificate.
    pub fn held(&self, identity: &Identity) -> Option<Result<Arc<Certificate>, Unavailable>> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = entries.get(identity)?.progress.borrow();
        progress.current.as_ref().map(|current| self.valid(current, &progress))
    }

    /// Begins to fetch and renew, at low priority, because the identity will be needed soon.
    pub fn prefetch(&self, identity: &Identity) {
        drop(self.enter(identity, Wanted::Soon));
    }

    /// Stops renewing and drops the certificate: the identity's last workload left this node. Connections keep what
    /// they have.
    pub fn forget(&self, identity: &Identity) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.remove(identity) {
            entry.task.abort();
        }
    }

    /// Every identity and where it stands, ordered by identity.
    pub fn dump(&self) -> Vec<CertificateState> {
        let now = self.0.shared.clock.now();
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = entries.iter().map(|(id, entry)| state(id, &entry.progress.borrow(), now)).collect();
        all.sort_by(|a, b| a.identity.cmp(&b.identity));
        all
    }

    /// Puts revocation lists in force, for every handshake from now on, and tells who watches [`Manager::revocations`].
    pub fn set_crl(&self, crl: Crl) {
        self.0.crl.send_replace(Arc::new(crl));
    }

    /// The revocation lists in force; changes with [`Manager::set_crl`]. Who carries connections asks
    /// [`Crl::revokes`] about each live peer at every change and cuts those it names.
    pub fn revocations(&self) -> watch::Receiver<Arc<Crl>> {
        self.0.crl.subscribe()
    }

    fn valid(&self, current: &Arc<Certificate>, progress: &Progress) -> Result<Arc<Certificate>, Unavailable> {
        if self.0.shared.clock.now() < current.not_after() {
            return Ok(current.clone());
        }
        let last_error = progress.last_error.clone();
        Err(Unavailable::Expired { identity: current.identity().clone(), last_error })
    }

    fn enter(&self, identity: &Identity, wanted: Wanted) -> watch::Receiver<Progress> {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(identity.clone()).or_insert_with(|| {
            let (progress_sender, progress) = watch::channel(Progress::default());
            let (wanted_sender, wanted_receiver) = watch::channel(wanted);
            let run = task::keep(self.0.shared.clone(), identity.clone(), progress_sender, wanted_receiver);
            Entry { progress, wanted: wanted_sender, task: self.0.runtime.spawn(run).abort_handle() }
        });
        entry.wanted.send_if_modified(|known| {
            let raised = *known == Wanted::Soon && wanted == Wanted::Now;
            if raised {
                *known = wanted;
            }
            raised
        });
        entry.progress.clone()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for entry in self.entries.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            entry.task.abort();
        }
    }
}

fn state(identity: &Identity, progress: &Progress, now: SystemTime) -> CertificateState {
    let current = progress.current.as_deref();
    CertificateState {
        identity: identity.clone(),
        state: match current {
            Some(c) if now < c.not_after() => State::Available,
            Some(_) => State::Expired,
            None if progress.last_error.is_some() => State::Unavailable,
            None => State::Initializing,
        },
        chain_pem: current.map(|c| c.chain_pem().to_vec()).unwrap_or_default(),
        roots_pem: current.map(|c| c.roots_pem().to_owned()).unwrap_or_default(),
        serial: current.map(|c| c.serial().to_owned()).unwrap_or_default(),
        valid_from: current.map(Certificate::not_before),
        expires: current.map(Certificate::not_after),
        last_error: progress.last_error.clone(),
    }
}

fn because(last_error: &Option<Arc<str>>) -> String {
    last_error.as_ref().map(|e| format!(": {e}")).unwrap_or_default()
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
