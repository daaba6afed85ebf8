//! What this node knows: who is where, and which policies there are. Written by one task, read by every worker.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use directory::{Directory, Snapshot};
use mesh::Workload;
use policy::PolicySet;
use tokio::sync::watch;
use tokio::time::timeout;
use xds::Change;

use crate::pod::Pod;

/// How long a connection waits for something that discovery has not said yet, before it is refused. Istio's own value
/// (hbone.md 5, 7): long enough for a discovery round trip under load, short enough for an application's connect.
pub(crate) const HOLD: Duration = Duration::from_secs(5);

/// The node's view of the mesh.
pub(crate) struct World {
    directory: Directory,
    policies: ArcSwap<PolicySet>,
    /// Counts every change.
    version: watch::Sender<u64>,
    /// Counts the changes that can take a permit away: policies, and the policies that a workload names.
    verdicts: watch::Sender<u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            directory: Directory::new(),
            policies: ArcSwap::from_pointee(PolicySet::default()),
            version: watch::Sender::new(0),
            verdicts: watch::Sender::new(0),
        }
    }

    /// Applies a change; connections see it from their next step on, live ones are judged again where it matters.
    pub(crate) fn apply(&self, change: Change) {
        let mut snapshot = Snapshot::clone(&self.directory.load());
        let mut policies = PolicySet::clone(&self.policies.load());
        let mut verdicts = !change.policies.is_empty() || !change.removed_policies.is_empty();
        // Removals first: a successor may hold the same address.
        for name in &change.removed {
            snapshot.remove(name);
        }
        for service in change.services {
            snapshot.insert_service(service);
        }
        for workload in change.workloads {
            verdicts |= snapshot
                .workload(&workload.uid)
                .is_some_and(|old| old.authorization_policies != workload.authorization_policies);
            snapshot.insert_workload(workload);
        }
        for key in &change.removed_policies {
            policies.remove(key);
        }
        for authorization in change.policies {
            policies.insert(authorization);
        }
        // Policies first: a workload that names a new policy must never be seen without it (discovery.md 6.3).
        self.policies.store(Arc::new(policies));
        self.directory.store(snapshot);
        self.version.send_modify(|v| *v += 1);
        if verdicts {
            self.verdicts.send_modify(|v| *v += 1);
        }
    }

    pub(crate) fn directory(&self) -> Arc<Snapshot> {
        self.directory.load()
    }

    pub(crate) fn policies(&self) -> Arc<PolicySet> {
        self.policies.load_full()
    }

    /// Told whenever permits may have to be withdrawn.
    pub(crate) fn verdicts(&self) -> watch::Receiver<u64> {
        self.verdicts.subscribe()
    }

    /// Told of every change.
    pub(crate) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The workload that a pod of this node is, waiting up to [`HOLD`] for discovery to name it.
    pub(crate) async fn local(&self, pod: &Pod) -> Option<Arc<Workload>> {
        self.held(|| self.local_now(pod)).await
    }

    /// The workload that a pod of this node is, if discovery has named it.
    pub(crate) fn local_now(&self, pod: &Pod) -> Option<Arc<Workload>> {
        let info = pod.info();
        self.directory.load().local_workload(&info.namespace, &info.name, &info.service_account)
    }

    /// Asks again after each change until there is an answer, for at most [`HOLD`].
    pub(crate) async fn held<T>(&self, ask: impl Fn() -> Option<T>) -> Option<T> {
        let mut version = self.version();
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let wait = async {
            // The sender lives as long as self: an error cannot happen, and would mean that no change comes any more.
            while version.changed().await.is_ok() {
                if let Some(answer) = ask() {
                    return Some(answer);
                }
            }
            None
        };
        timeout(HOLD, wait).await.ok().flatten()
    }
}
