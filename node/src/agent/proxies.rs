//! The node's proxies: who may be one, and which of them receives connections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zds::agent::{Event, Peer};

use super::Agent;
use super::pod::{Phase, Refused};
use crate::find::pod_of;

pub(super) struct Proxy {
    pub(super) generation: u32,
    cgroup: u64,
    pub(super) peer: Arc<Peer>,
    /// Whether it has all pods: only then it takes over from another generation.
    pub(super) synced: bool,
    /// Younger generations and their cgroups, without those that were connected since and are not any more. What they serve
    /// stays theirs: after a restart of the agent an old proxy, which may be draining, can be the last to come back.
    younger: BTreeMap<u32, PathBuf>,
}

/// Why somebody at the hand-over socket is no proxy. What is admitted gets the network namespaces of pods and is not captured
/// itself, so nothing that lives where pods live may be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoProxy {
    #[error("its cgroup cannot be seen; does the agent run in the host's pid and cgroup namespaces?")]
    Unseen,
    #[error("its cgroup {} is not below this node's (cgroupRoot)", .0.display())]
    Elsewhere(PathBuf),
    #[error("its cgroup {} is no pod's; only pods of Culvert's service account ztunnel and of proxyAccounts may be proxies", .0.display())]
    NoPod(PathBuf),
    #[error("pod {0} is no pod on this node of Culvert's service account ztunnel or of proxyAccounts")]
    OtherPod(String),
    #[error("a process of captured pod {0} lives in its cgroup")]
    CapturedPod(String),
    #[error("{}: {why}", path.display())]
    System { path: PathBuf, why: String },
}

/// Judges a proxy's cgroup, as `/proc/<pid>/cgroup` names it, by the pods that may be proxies; `None` = not on Kubernetes.
pub(super) fn of_a_proxy(path: &Path, allowed: Option<&BTreeSet<String>>) -> Result<(), NoProxy> {
    let Some(allowed) = allowed else { return Ok(()) };
    match path.to_str().and_then(pod_of) {
        None => Err(NoProxy::NoPod(path.to_owned())),
        Some(uid) if allowed.contains(&uid) => Ok(()),
        Some(uid) => Err(NoProxy::OtherPod(uid)),
    }
}

/// Whether processes live in a cgroup or below it (cgroup-v2.rst, "populated"); one that is gone has none.
fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.lines().any(|l| l == "populated 1"))
}

/// A cgroup's generation: the one that it has, or the next. A number that some pod still has is not given again, also when its
/// proxy was forgotten.
fn generation_of(cgroup: u64, registered: &[(u64, u32)], serving: impl Iterator<Item = u32>) -> u32 {
    let own = registered.iter().find(|(id, _)| *id == cgroup).map(|(_, generation)| *generation);
    own.unwrap_or_else(|| registered.iter().map(|(_, generation)| *generation).chain(serving).max().unwrap_or(0) + 1)
}

impl Agent {
    /// Follows a proxy.
    pub(crate) fn proxy(&mut self, event: Event) {
        match event {
            Event::Connected { peer, proceed } => match self.admit(&peer) {
                Ok(generation) => proceed.go(generation.into()),
                Err(error) => {
                    tracing::warn!(pid = ?peer.pid, %error, "a proxy cannot be admitted");
                    proceed.refuse(error);
                }
            },
            Event::Acked { connection, uid } => self.acked(connection, &uid),
            Event::Nacked { connection, uid, error, retry_in } => {
                tracing::warn!(pod = %uid, %error, ?retry_in, "the proxy cannot take the pod");
                if let Some(pod) = self.pods.get_mut(&uid) {
                    pod.refused = Some(Refused::new(connection, &error));
                }
            }
            Event::Removed { uid, error: Some(error), .. } => {
                tracing::warn!(pod = %uid, %error, "the proxy did not let the pod go");
            }
            Event::Removed { .. } => {}
            Event::SnapshotAcked { connection } => self.synced(connection),
            Event::Gone { peer, reason } => self.lost(&peer, &reason),
            Event::Failed(error) => tracing::error!(%error, "the hand-over socket failed; restart the agent"),
        }
    }

    /// A proxy's listeners stand in a pod.
    fn acked(&mut self, connection: u64, uid: &Arc<str>) {
        let Some(proxy) = self.proxies.get(&connection) else { return };
        let (generation, synced) = (proxy.generation, proxy.synced);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.ready.insert(generation);
        pod.refused = None;
        // A pod that somebody serves is handed over when the new proxy has everything (design: it takes over when ready).
        if (synced || pod.phase != Phase::Captured)
            && self.may_take(connection, std::slice::from_ref(uid)).contains(uid)
        {
            self.activate(uid, generation);
        }
    }

    fn synced(&mut self, connection: u64) {
        let Some(proxy) = self.proxies.get_mut(&connection) else { return };
        proxy.synced = true;
        let generation = proxy.generation;
        tracing::info!(generation, "proxy has all pods");
        let ready = self.pods.iter().filter(|(_, p)| p.ready.contains(&generation) && p.is_enrolled());
        let uids: Vec<Arc<str>> = ready.map(|(uid, _)| uid.clone()).collect();
        for uid in self.may_take(connection, &uids) {
            self.activate(&uid, generation);
        }
    }

    /// Those of these pods that no younger proxy serves.
    fn may_take(&self, connection: u64, uids: &[Arc<str>]) -> Vec<Arc<str>> {
        let Some(proxy) = self.proxies.get(&connection) else { return Vec::new() };
        let living: BTreeSet<u32> = proxy
            .younger
            .iter()
            .filter(|(_, cgroup)| is_populated(cgroup))
            .map(|(generation, _)| *generation)
            .collect();
        if living.is_empty() {
            return uids.to_vec();
        }
        let kernel = self.redirector.pods().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list who serves the pods");
            Vec::new()
        });
        let serving = |uid: &Arc<str>| {
            let cookie = self.pods.get(uid)?.cookie;
            kernel.iter().find(|k| k.cookie == cookie).map(|k| k.active)
        };
        let (stay, go): (Vec<_>, Vec<_>) =
            uids.iter().cloned().partition(|uid| serving(uid).is_some_and(|active| living.contains(&active)));
        if !stay.is_empty() {
            tracing::info!(generation = proxy.generation, pods = stay.len(), "pods stay with a younger proxy");
        }
        go
    }

    /// Registers the proxy's cgroup before it is given any pod. Gives back its generation.
    fn admit(&mut self, peer: &Arc<Peer>) -> Result<u32, String> {
        let folder = self.judge(peer).map_err(|e| e.to_string())?;
        let cgroup = fs::metadata(&folder).map_err(|e| format!("{}: {e}", folder.display()))?.ino();
        let registered = self.redirector.proxies().map_err(|e| e.to_string())?;
        let serving = self.redirector.pods().map_err(|e| e.to_string())?.into_iter().map(|pod| pod.active);
        let generation = generation_of(cgroup, &registered, serving);
        let younger = self.survey(generation, &registered);
        self.redirector.register_proxy(cgroup, generation).map_err(|e| e.to_string())?;
        tracing::info!(pid = ?peer.pid, cgroup = %folder.display(), generation, "proxy admitted");
        let proxy = Proxy { generation, cgroup, peer: peer.clone(), synced: false, younger };
        self.proxies.insert(peer.connection, proxy);
        Ok(generation)
    }

    /// Looks at the proxies there were: gives back the places of those whose cgroups are gone, since there is room for a few
    /// dozen and each container of a proxy that restarts takes one; names those that are younger than this generation.
    fn survey(&mut self, generation: u32, registered: &[(u64, u32)]) -> BTreeMap<u32, PathBuf> {
        let there = match self.finder.cgroups() {
            Ok(there) => there,
            Err(error) => {
                tracing::warn!(%error, "cannot list cgroups; proxies that ended are not forgotten");
                return BTreeMap::new();
            }
        };
        let mut younger = BTreeMap::new();
        for (cgroup, of) in registered {
            match there.get(cgroup) {
                Some(folder) if *of > generation => drop(younger.insert(*of, folder.clone())),
                Some(_) => {}
                None => match self.redirector.forget_proxy(*cgroup) {
                    Ok(()) => tracing::debug!(cgroup, generation = of, "proxy forgotten: its cgroup is gone"),
                    Err(error) => tracing::warn!(cgroup, %error, "a proxy that ended cannot be forgotten"),
                },
            }
        }
        younger
    }

    /// The folder of a proxy's cgroup, when nobody lives there who must not.
    fn judge(&self, peer: &Peer) -> Result<PathBuf, NoProxy> {
        let path = peer.cgroup.as_ref().ok_or(NoProxy::Unseen)?;
        let folder = self.finder.folder(path).ok_or_else(|| NoProxy::Elsewhere(path.clone()))?;
        of_a_proxy(path, self.allowed.as_ref())?;
        let system = |e: std::io::Error| NoProxy::System { path: folder.clone(), why: e.to_string() };
        let inhabited = self.finder.namespaces_of(&folder).map_err(system)?;
        match self.pods.values().find(|pod| inhabited.contains(&pod.netns.id())) {
            Some(pod) => Err(NoProxy::CapturedPod(format!("{}/{}", pod.entry.namespace, pod.entry.name))),
            None => Ok(folder),
        }
    }

    /// A proxy that is gone loses its rights; one that lives on without its connection keeps serving.
    fn lost(&mut self, peer: &Peer, reason: &zds::agent::Gone) {
        let Some(proxy) = self.proxies.remove(&peer.connection) else { return };
        let alive = proxy.peer.pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
        tracing::info!(generation = proxy.generation, %reason, alive, "connection to a proxy ended");
        let other = self.proxies.values().any(|p| p.cgroup == proxy.cgroup);
        for older in self.proxies.values_mut().filter(|_| !other) {
            older.younger.remove(&proxy.generation);
        }
        for pod in self.pods.values_mut() {
            pod.refused = pod.refused.take().filter(|refused| refused.connection != peer.connection);
            if !alive && !other {
                pod.ready.remove(&proxy.generation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_count_upwards_past_those_that_are_forgotten() {
        let registered = [(10, 3), (11, 4)];
        assert_eq!(generation_of(10, &registered, [3, 4].into_iter()), 3);
        assert_eq!(generation_of(12, &registered, [3, 4].into_iter()), 5);
        assert_eq!(generation_of(12, &[(10, 3)], [7].into_iter()), 8);
        assert_eq!(generation_of(12, &[], std::iter::empty()), 1);
        // Pods that nobody serves yet have generation 0.
        assert_eq!(generation_of(12, &[], [0].into_iter()), 1);
    }

    #[test]
    fn only_pods_that_are_named_may_be_proxies() {
        let (ours, other) = ("1b7f4c0e-52c5-4c1a-9d5d-0f6f2b1f9a11", "2b7f4c0e-52c5-4c1a-9d5d-0f6f2b1f9a11");
        let allowed = BTreeSet::from([ours.to_owned()]);
        let judge = |path: &str, allowed: Option<&BTreeSet<String>>| of_a_proxy(Path::new(path), allowed);
        assert_eq!(judge(&format!("/kubepods/pod{ours}/c"), Some(&allowed)), Ok(()));
        let refused = judge(&format!("/kubepods/pod{other}/c"), Some(&allowed));
        assert_eq!(refused, Err(NoProxy::OtherPod(other.to_owned())));
        assert!(matches!(judge("/system.slice/x.service", Some(&allowed)), Err(NoProxy::NoPod(_))));
        assert!(judge(&format!("/kubepods/pod{ours}/c"), Some(&BTreeSet::new())).is_err());
        // With a file there are no pods by name, and the processes in the cgroup are all there is to look at.
        assert_eq!(judge("/system.slice/x.service", None), Ok(()));
    }
}
