//! The pods of this node: taken from the node agent, given to the workers.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chassis::readiness::Condition;
use mesh::Workload;
use net::netns::NetNs;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use zds::proxy::{Client, Event};

use crate::budget::{Budget, Limits};
use crate::here::Shared;
use crate::pod::{Pod, PodInfo};
use crate::worker::Command;
use crate::world::OfPod as _;

/// How long the acknowledgement of a snapshot waits for certificates: a new generation takes over when it is ready, and
/// the agent waits 5 s for an acknowledgement (cni-zds.md 2).
const SETTLE: Duration = Duration::from_secs(4);

/// How long readiness waits for the first certificates. A new generation that gets none must not look ready at once, or a
/// rollout would go on to the next node; and an authority that stays away must not make every restarted proxy look
/// broken, since its pods' connections wait for certificates by themselves. Six tries of whoever asks in vain.
const FIRST_CERTIFICATES: Duration = Duration::from_secs(30);

/// Between looks at certificates that were refused: well below the 5 s in which the manager asks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl From<zds::WorkloadInfo> for PodInfo {
    fn from(info: zds::WorkloadInfo) -> Self {
        Self { name: info.name, namespace: info.namespace, service_account: info.service_account }
    }
}

/// All pods that this proxy serves.
#[derive(Default)]
pub(crate) struct Pods(Mutex<BTreeMap<Arc<str>, Arc<Pod>>>);

/// The three names by which discovery and the agent mean the same pod.
fn is(info: &PodInfo, workload: &Workload) -> bool {
    info.name == workload.name
        && info.namespace == workload.namespace
        && info.service_account == workload.service_account
}

impl Pods {
    /// The pods as they are now.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.lock().values().cloned().collect()
    }

    /// The pod that a workload is, when it is one of ours.
    pub(crate) fn of(&self, workload: &Workload) -> Option<Arc<Pod>> {
        self.lock().values().find(|pod| is(pod.info(), workload)).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Arc<Pod>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the agent, tells the workers.
pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) workers: Vec<mpsc::UnboundedSender<Command>>,
    pub(crate) limits: Limits,
    /// Met once: when the pods of the first snapshot have certificates, or have waited for long enough.
    pub(crate) certified: Condition,
}

impl Keeper {
    /// Runs for ever. `synced` is told whenever a picture of all pods is complete.
    ///
    /// That the agent is lost is told to nobody but the log: the pods are served as before, and a proxy that called itself not
    /// ready for it would be taken for broken. A DaemonSet that is being updated ends such a pod at once, without waiting for
    /// the one that is to take over.
    pub(crate) async fn run(&self, mut client: Client, synced: impl Fn()) {
        // Pods named since the last connection: what a snapshot leaves out is gone.
        let mut named: Vec<Arc<str>> = Vec::new();
        let mut first = true;
        loop {
            match client.next().await {
                Event::Add { uid, info, ack, .. } if info.name.is_empty() || info.namespace.is_empty() => {
                    tracing::warn!(pod = %uid, "handed over without its names; discovery could never find it");
                    ack.failed("name and namespace are needed");
                }
                Event::Add { uid, info, netns, ack } => {
                    named.push(uid.clone());
                    match self.add(uid.clone(), info.into(), netns).await {
                        Ok(()) => ack.ok(),
                        Err(error) => {
                            tracing::warn!(pod = %uid, %error, "cannot serve the pod; the agent will try again");
                            ack.failed(error.to_string());
                        }
                    }
                }
                Event::Keep { uid, ack } => {
                    named.push(uid);
                    ack.ok();
                }
                Event::Del { uid, ack } => {
                    named.retain(|n| *n != uid);
                    self.remove(&uid);
                    ack.ok();
                }
                Event::SnapshotSent { ack } => {
                    let left: Vec<_> = self.pods.lock().keys().filter(|k| !named.contains(k)).cloned().collect();
                    left.iter().for_each(|uid| self.remove(uid));
                    self.settle().await;
                    ack.ok();
                    synced();
                    if std::mem::take(&mut first) {
                        let (shared, pods, certified) =
                            (self.shared.clone(), self.pods.clone(), self.certified.clone());
                        tokio::spawn(async move {
                            first_certificates(&shared, &pods, FIRST_CERTIFICATES).await;
                            certified.met();
                        });
                    }
                }
                Event::Connected => named.clear(),
                Event::Disconnected(reason) => {
                    // The pods that we have go on; what the next snapshot names decides.
                    tracing::warn!(%reason, "no connection to the node agent; trying again");
                }
            }
        }
    }

    async fn add(&self, uid: Arc<str>, info: PodInfo, netns: OwnedFd) -> io::Result<()> {
        let netns = NetNs::from_fd(netns)?;
        let known = self.pods.lock().get(&uid).cloned();
        if let Some(known) = known {
            if known.netns().id() == netns.id() {
                return Ok(());
            }
            // Same pod, new sandbox.
            self.remove(&uid);
        }
        let pod = Arc::new(Pod::new(uid.clone(), info, netns, Budget::new(self.limits)));
        let for_names = self.for_names(&uid);
        for (index, worker) in self.workers.iter().enumerate() {
            let (answer, done) = oneshot::channel();
            let add = Command::Add { pod: pod.clone(), names: index == for_names, answer };
            let sent = worker.send(add).is_ok();
            let lost = || io::Error::other("a worker has ended");
            let result = if sent { done.await.unwrap_or_else(|_| Err(lost())) } else { Err(lost()) };
            if let Err(error) = result {
                self.forget(&pod);
                return Err(error);
            }
        }
        tracing::info!(pod = %uid, name = %pod.info().name, namespace = %pod.info().namespace, "pod taken");
        self.pods.lock().insert(uid, pod.clone());
        if let Some(identity) = self.shared.world.local_now(&pod).and_then(|w| w.identity().ok()) {
            self.shared.identities.prefetch(&identity);
        }
        Ok(())
    }

    /// The worker that serves a pod's look-ups: any, as long as pods spread over all.
    fn for_names(&self, uid: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        // Fewer workers than 2^32: the remainder fits.
        (hasher.finish() % self.workers.len().max(1) as u64) as usize
    }

    fn remove(&self, uid: &Arc<str>) {
        let Some(pod) = self.pods.lock().remove(uid) else { return };
        self.forget(&pod);
        tracing::info!(pod = %uid, "pod released");
        let identity = self.shared.world.local_now(&pod).and_then(|w| w.identity().ok());
        let still = |i: &mesh::Identity| {
            let others = self.pods.all();
            others.iter().any(|p| self.shared.world.local_now(p).and_then(|w| w.identity().ok()).as_ref() == Some(i))
        };
        if let Some(identity) = identity.filter(|i| !still(i)) {
            self.shared.identities.forget(&identity);
        }
    }

    fn forget(&self, pod: &Pod) {
        pod.retire();
        for worker in &self.workers {
            if worker.send(Command::Remove(pod.uid().clone())).is_err() {
                tracing::debug!("a worker has ended");
            }
        }
    }

    /// Waits until every pod has its certificate or was refused one, for at most [`SETTLE`]: as long as the agent waits.
    async fn settle(&self) {
        let all = async {
            for pod in self.pods.all() {
                let Some(workload) = self.shared.world.local(&pod).await else { continue };
                let Ok(identity) = workload.identity() else { continue };
                if let Err(error) = self.shared.identities.certificate(&identity).await {
                    tracing::warn!(%identity, %error, "no certificate yet");
                }
            }
        };
        if timeout(SETTLE, all).await.is_err() {
            tracing::warn!("some pods have no certificate yet; their connections wait for it");
        }
    }
}

/// Waits until every pod that discovery knows has a certificate, or until patience is over.
async fn first_certificates(shared: &Shared, pods: &Pods, patience: Duration) {
    let without = || {
        let known = pods.all().into_iter().filter_map(|pod| shared.world.local_now(&pod)?.identity().ok());
        known.filter(|identity| !matches!(shared.identities.held(identity), Some(Ok(_)))).collect::<Vec<_>>()
    };
    let all = async {
        while let Some(identity) = without().first() {
            if let Err(error) = shared.identities.certificate(identity).await {
                tracing::debug!(%identity, %error, "no certificate yet");
                sleep(LOOK_AGAIN).await;
            }
        }
    };
    if timeout(patience, all).await.is_err() {
        let missing = without().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(missing, "ready without certificates; connections of these workloads wait for them");
    }
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
