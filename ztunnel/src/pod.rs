//! A pod of this node, as the workers share it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use mesh::{Direction, Workload};
use net::netns::NetNs;
use serde::Serialize;
use tokio::sync::watch;

use crate::budget::Budget;

/// What the node agent says of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodInfo {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) service_account: Arc<str>,
}

/// One pod. Lives until the agent takes it away and its last connection has ended.
pub(crate) struct Pod {
    uid: Arc<str>,
    info: PodInfo,
    netns: NetNs,
    budget: Arc<Budget>,
    gone: watch::Sender<bool>,
    known: ArcSwapOption<Workload>,
    connections: Mutex<BTreeMap<u64, LiveConnection>>,
    next: AtomicU64,
}

/// A line of `config_dump`'s `workloadState.*.connections` (telemetry.md 6).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LiveConnection {
    #[serde(skip)]
    pub(crate) direction: Direction,
    pub(crate) src: String,
    pub(crate) original_dst: String,
    pub(crate) actual_dst: String,
    pub(crate) protocol: &'static str,
}

impl Pod {
    pub(crate) fn new(uid: Arc<str>, info: PodInfo, netns: NetNs, budget: Budget) -> Self {
        Self {
            uid,
            info,
            netns,
            budget: Arc::new(budget),
            gone: watch::Sender::new(false),
            known: ArcSwapOption::empty(),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    pub(crate) fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    pub(crate) fn info(&self) -> &PodInfo {
        &self.info
    }

    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What discovery says of the pod, or said last when it has dropped it: a pod that was deleted is no other than it was
    /// while its processes end, and who waited for discovery to name it again would wait in vain.
    pub(crate) fn workload(&self, found: Option<Arc<Workload>>) -> Option<Arc<Workload>> {
        let Some(found) = found else { return self.known.load_full() };
        if self.known.load().as_ref().is_none_or(|known| !Arc::ptr_eq(known, &found)) {
            self.known.store(Some(found.clone()));
        }
        Some(found)
    }

    /// Ends the pod's listeners and connections: its network is gone or is no longer ours.
    pub(crate) fn retire(&self) {
        self.gone.send_replace(true);
    }

    /// Resolves when the pod is gone.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        // An error would mean that the sender is gone, and it lives in self.
        let _gone = gone.wait_for(|gone| *gone).await;
    }

    /// Lists a connection in `config_dump` until the entry is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        direction: Direction,
        src: SocketAddr,
        original_dst: String,
        actual_dst: String,
        protocol: &'static str,
    ) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let line = LiveConnection { direction, src: src.to_string(), original_dst, actual_dst, protocol };
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(id, line);
        Entry { pod: self.clone(), id }
    }

    /// The connections that are open now.
    pub(crate) fn connections(&self) -> Vec<LiveConnection> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Keeps a connection on its pod's list.
pub(crate) struct Entry {
    pod: Arc<Pod>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pod.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
