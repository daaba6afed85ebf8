//! What ought to be, shared by all connections, and what one proxy was told.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use proto::zds::workload_request::Payload;
use proto::zds::{AddWorkload, WorkloadInfo as WireInfo, WorkloadRequest};
use tokio::sync::watch;
use tokio::time::Instant;

use super::PodError;
use crate::{MAX_PACKET, WorkloadInfo, uid_is_fit};

/// What a proxy shall know of a pod.
#[derive(Clone, Debug)]
pub(super) enum Want {
    Add { message: Arc<[u8]>, netns: Arc<OwnedFd> },
    Keep,
}

#[derive(Clone, Debug)]
struct Pod {
    /// Grows with each change of any pod, so that a proxy's copy can be told from a newer one.
    generation: u64,
    want: Want,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<Arc<str>, Pod>,
    generation: u64,
    /// Rank and number, the newest last.
    connections: Vec<(u64, u64)>,
}

/// The state and the bell that rings when it changes.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// How many connections there have been, over all sockets.
    numbered: AtomicU64,
    /// `true` once the server is gone.
    bell: watch::Sender<bool>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), numbered: AtomicU64::new(0), bell: watch::Sender::new(false) }
    }
}

impl Shared {
    pub(super) fn want(&self, uid: &str, want: Want) {
        {
            let mut state = self.lock();
            state.generation += 1;
            let generation = state.generation;
            state.pods.insert(uid.into(), Pod { generation, want });
        }
        self.ring();
    }

    pub(super) fn unwant(&self, uid: &str) -> bool {
        let known = self.lock().pods.remove(uid).is_some();
        if known {
            self.ring();
        }
        known
    }

    pub(super) fn connections(&self) -> Vec<u64> {
        self.lock().connections.iter().map(|(_, connection)| *connection).collect()
    }

    /// Numbers a connection; later ones are greater, and the first is 1.
    pub(super) fn next_connection(&self) -> u64 {
        self.numbered.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn join(&self, rank: u64, connection: u64) {
        {
            let mut state = self.lock();
            state.connections.push((rank, connection));
            state.connections.sort_unstable();
        }
        self.ring();
    }

    pub(super) fn leave(&self, connection: u64) {
        self.lock().connections.retain(|(_, c)| *c != connection);
        self.ring();
    }

    pub(super) fn stop(&self) {
        self.bell.send_replace(true);
    }

    pub(super) fn listen(&self) -> watch::Receiver<bool> {
        self.bell.subscribe()
    }

    fn ring(&self) {
        // Leaves the value, wakes the listeners.
        self.bell.send_modify(|_| {});
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing to tell a proxy.
#[derive(Debug)]
pub(super) enum Step {
    Add {
        uid: Arc<str>,
        generation: u64,
        message: Arc<[u8]>,
        netns: Arc<OwnedFd>,
    },
    Keep {
        uid: Arc<str>,
        generation: u64,
    },
    Del {
        uid: Arc<str>,
    },
    SnapshotSent,
    /// Nothing now; look again at that time or when the bell rings.
    Wait(Option<Instant>),
}

#[derive(Debug)]
struct Told {
    generation: u64,
    /// When to tell again, and how long the wait was.
    retry: Option<(Instant, Duration)>,
}

/// What one proxy was told.
///
/// ```text
///             adds, keeps, dels                    adds (if newest), dels
///            ┌────────┐                            ┌────────┐
///            ▼        │        all were told       ▼        │
///         Snapshot ───┘ ─────────────────────► Live ────────┘
///                              SnapshotSent
/// ```
/// A nack does not hold the snapshot up: the proxy has the pod on its own list, and it is sent again later.
#[derive(Debug)]
pub(super) struct Ledger {
    connection: u64,
    told: HashMap<Arc<str>, Told>,
    live: bool,
    retry: (Duration, Duration),
}

impl Ledger {
    pub(super) fn new(connection: u64, retry: (Duration, Duration)) -> Self {
        Self { connection, told: HashMap::new(), live: false, retry }
    }

    /// What to tell next.
    pub(super) fn step(&self, shared: &Shared, now: Instant) -> Step {
        let state = shared.lock();
        if let Some(uid) = self.told.keys().find(|uid| !state.pods.contains_key(*uid)) {
            return Step::Del { uid: uid.clone() };
        }
        let newest = state.connections.last().is_some_and(|(_, last)| *last == self.connection);
        let mut wake: Option<Instant> = None;
        for (uid, pod) in &state.pods {
            match self.told.get(uid) {
                Some(told) if told.generation == pod.generation => match told.retry {
                    Some((at, _)) if newest && at > now => wake = Some(wake.map_or(at, |w| w.min(at))),
                    // A first pass over all pods comes before any second attempt.
                    Some(_) if newest && self.live => return add(uid, pod),
                    _ => {}
                },
                // The first picture is complete even when a newer proxy appears meanwhile: what is not in it is dropped.
                _ if !self.live => return add(uid, pod),
                // After the snapshot a keep is against the rules, and says nothing.
                _ if newest && matches!(pod.want, Want::Add { .. }) => return add(uid, pod),
                _ => {}
            }
        }
        if self.live { Step::Wait(wake) } else { Step::SnapshotSent }
    }

    /// Notes that a pod is being told, before the answer: from here on a removal has to be told too.
    pub(super) fn telling(&mut self, uid: &Arc<str>, generation: u64) {
        let told = self.told.entry(uid.clone()).or_insert(Told { generation, retry: None });
        if told.generation != generation {
            *told = Told { generation, retry: None };
        }
    }

    pub(super) fn accepted(&mut self, uid: &str) {
        if let Some(told) = self.told.get_mut(uid) {
            told.retry = None;
        }
    }

    /// Returns how long until the next attempt.
    pub(super) fn rejected(&mut self, uid: &str, now: Instant) -> Duration {
        let (first, last) = self.retry;
        let Some(told) = self.told.get_mut(uid) else { return first };
        let wait = told.retry.map_or(first, |(_, before)| (before * 2).min(last));
        told.retry = Some((now + wait, wait));
        wait
    }

    pub(super) fn removed(&mut self, uid: &str) {
        self.told.remove(uid);
    }

    pub(super) fn snapshot_acked(&mut self) {
        self.live = true;
    }
}

fn add(uid: &Arc<str>, pod: &Pod) -> Step {
    let (uid, generation) = (uid.clone(), pod.generation);
    match &pod.want {
        Want::Add { message, netns } => Step::Add { uid, generation, message: message.clone(), netns: netns.clone() },
        Want::Keep => Step::Keep { uid, generation },
    }
}

pub(super) fn check_uid(uid: &str) -> Result<(), PodError> {
    if uid_is_fit(uid) { Ok(()) } else { Err(PodError::Uid(uid.to_owned())) }
}

pub(super) fn add_message(uid: &str, info: &WorkloadInfo) -> Result<Arc<[u8]>, PodError> {
    check_uid(uid)?;
    let info = WireInfo {
        name: info.name.to_string(),
        namespace: info.namespace.to_string(),
        service_account: info.service_account.to_string(),
    };
    let add = AddWorkload { uid: uid.to_owned(), workload_info: Some(info) };
    let bytes = WorkloadRequest { payload: Some(Payload::Add(add)) }.encode_to_vec();
    if bytes.len() > MAX_PACKET {
        return Err(PodError::TooLong { uid: uid.to_owned(), size: bytes.len() });
    }
    Ok(bytes.into())
}
