//! The agent: what ought to be captured, what is, and the steps between.
//!
//! ```text
//!  listed, from birth ──► enrolled, nobody listens ──proxy acks──► captured
//!  listed, running ──► offered to the proxy ──proxy acks──► enrolled with that generation = captured
//!  captured ──unlisted──► leaving ──no captured connection, or deadline──► gone
//!  captured ──namespace gone──► gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redirect_abi::counters::Reason;
use redirect_loader::{Enrolled, HostLink, Leave, Left, Link, PodSpec, Redirector, cookie_of};
use serde::Serialize;
use zds::WorkloadInfo;
use zds::agent::{Event, Peer, Server};

use crate::config::{PodEntry, PodsFile};
use crate::status::{PodStatus, ProxyStatus, Status};

/// What can go wrong with one pod; the others are not touched by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("network namespace {path}: {source}; remedy: list the handle of a running pod", path = path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Enroll(#[from] redirect_loader::EnrollError),
    #[error(transparent)]
    Redirect(#[from] redirect_loader::RedirectError),
    #[error(transparent)]
    Publish(#[from] zds::agent::PodError),
}

/// Where a pod stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub(crate) enum Phase {
    /// Connections go through the proxy.
    Captured,
    /// Something failed; tried again when the list or a proxy changes.
    Failed { error: String },
    /// Leaves the mesh; so many captured connections are open.
    Leaving { connections: usize },
    /// Waits for a proxy; `refusing` says whether its connects are refused meanwhile.
    Waiting { refusing: bool },
}

struct Pod {
    entry: PodEntry,
    netns: Arc<OwnedFd>,
    cookie: u64,
    phase: Phase,
    /// Generations whose listeners stand.
    ready: BTreeSet<u32>,
    /// When a leaving pod's connections are closed.
    deadline: Option<Instant>,
}

struct Proxy {
    generation: u32,
    cgroup: u64,
    peer: Arc<Peer>,
    /// Whether it has all pods: only then it takes over from another generation.
    synced: bool,
}

/// The agent's state.
pub(crate) struct Agent {
    redirector: Redirector,
    server: Server,
    /// The agent's own network namespace, which holds the pods' host interfaces.
    host: OwnedFd,
    /// Where cgroup v2 is mounted.
    cgroups: PathBuf,
    leave: Duration,
    pods: BTreeMap<Arc<str>, Pod>,
    /// Listed pods of which nothing stands, and why; tried again when the list changes.
    failed: BTreeMap<Arc<str>, (PodEntry, String)>,
    proxies: BTreeMap<u64, Proxy>,
}

impl Agent {
    pub(crate) fn new(redirector: Redirector, server: Server, cgroup_root: &Path, leave: Duration) -> io::Result<Self> {
        let host = fs::File::open("/proc/self/ns/net")?.into();
        let cgroups = cgroup_mount(cgroup_root)?;
        let (pods, failed, proxies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { redirector, server, host, cgroups, leave, pods, failed, proxies })
    }

    /// Brings the pods in line with the list.
    pub(crate) fn apply(&mut self, wanted: PodsFile) {
        let names: BTreeSet<&str> = wanted.pods.iter().map(|p| p.uid.as_str()).collect();
        let gone: Vec<Arc<str>> = self.pods.keys().filter(|uid| !names.contains(&***uid)).cloned().collect();
        for uid in gone {
            self.leave(&uid);
        }
        self.failed.clear();
        for entry in wanted.pods {
            let uid: Arc<str> = entry.uid.as_str().into();
            let settled =
                self.pods.get(&uid).is_some_and(|p| p.entry == entry && !p.phase.is_failed() && p.deadline.is_none());
            if !settled {
                self.take(uid, entry);
            }
        }
        self.forget_strangers();
    }

    /// Follows a proxy.
    pub(crate) fn proxy(&mut self, event: Event) {
        match event {
            Event::Connected { peer, proceed } => match self.admit(&peer) {
                Ok(()) => proceed.go(),
                Err(error) => {
                    tracing::warn!(pid = ?peer.pid, %error, "a proxy cannot be admitted");
                    proceed.refuse(error);
                }
            },
            Event::Acked { connection, uid } => self.acked(connection, &uid),
            Event::Nacked { uid, error, retry_in, .. } => {
                tracing::warn!(pod = %uid, %error, ?retry_in, "the proxy cannot take the pod");
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

    /// Looks after leaving pods. Says whether there are any.
    pub(crate) fn tick(&mut self) -> bool {
        let leaving: Vec<Arc<str>> =
            self.pods.iter().filter(|(_, p)| p.deadline.is_some()).map(|(uid, _)| uid.clone()).collect();
        for uid in &leaving {
            self.leave(uid);
        }
        self.pods.values().any(|p| p.deadline.is_some())
    }

    /// What is shown of all this.
    pub(crate) fn status(&self, node: &str) -> Status {
        let captured = self.redirector.pods().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list what is captured");
            Vec::new()
        });
        let pods = self.pods.iter().map(|(uid, pod)| {
            let kernel = captured.iter().find(|k| k.cookie == pod.cookie);
            PodStatus {
                uid: uid.to_string(),
                name: pod.entry.name.clone(),
                namespace: pod.entry.namespace.clone(),
                addresses: pod.entry.addresses.clone(),
                phase: pod.phase.clone(),
                generation: kernel.map_or(0, |k| k.active),
                clear_connections: kernel.map_or(0, |k| k.old_connections),
                counters: self.counters(pod.cookie),
            }
        });
        let failed = self.failed.iter().map(|(uid, (entry, error))| PodStatus {
            uid: uid.to_string(),
            name: entry.name.clone(),
            namespace: entry.namespace.clone(),
            addresses: entry.addresses.clone(),
            phase: Phase::Failed { error: error.clone() },
            generation: 0,
            clear_connections: 0,
            counters: BTreeMap::new(),
        });
        let proxies =
            self.proxies.values().map(|p| ProxyStatus { generation: p.generation, pid: p.peer.pid, synced: p.synced });
        Status { node: node.to_owned(), pods: pods.chain(failed).collect(), proxies: proxies.collect() }
    }

    fn counters(&self, cookie: u64) -> BTreeMap<&'static str, u64> {
        match self.redirector.counters(cookie) {
            Ok(counters) => Reason::ALL.iter().map(|c| (c.label(), counters.get(*c))).filter(|(_, n)| *n > 0).collect(),
            // Not enrolled yet.
            Err(_) => BTreeMap::new(),
        }
    }

    fn take(&mut self, uid: Arc<str>, entry: PodEntry) {
        let result = self.enroll(&uid, &entry);
        match result {
            Ok(pod) => {
                self.pods.insert(uid, pod);
            }
            Err(error) => {
                tracing::warn!(pod = %uid, name = %entry.name, %error, "pod cannot be enrolled");
                match self.pods.get_mut(&uid) {
                    Some(pod) => pod.phase = Phase::Failed { error: error.to_string() },
                    None => drop(self.failed.insert(uid, (entry, error.to_string()))),
                }
            }
        }
    }

    fn enroll(&mut self, uid: &Arc<str>, entry: &PodEntry) -> Result<Pod, PodError> {
        let named = |source| PodError::Netns { path: entry.netns.clone(), source };
        let netns: Arc<OwnedFd> = Arc::new(fs::File::open(&entry.netns).map_err(named)?.into());
        let cookie = cookie_of(netns.as_fd()).map_err(named)?;
        let known = self.redirector.pods()?.into_iter().find(|p| p.cookie == cookie);
        let mut phase = Phase::Waiting { refusing: !entry.running };
        let mut ready = BTreeSet::new();
        // A pod that is captured already (this agent was restarted, or the pod comes back) is repaired and stays with
        // its generations; one that is captured from birth is closed before anybody can use it.
        if known.is_some() || !entry.running {
            self.capture(&netns, entry, None)?;
            if let Some(active) = known.map(|k| k.active).filter(|g| *g != 0) {
                ready.insert(active);
                phase = Phase::Captured;
            }
        }
        let info = WorkloadInfo {
            name: entry.name.as_str().into(),
            namespace: entry.namespace.as_str().into(),
            service_account: entry.service_account.as_str().into(),
        };
        self.server.add(uid, &info, netns.clone())?;
        Ok(Pod { entry: entry.clone(), netns, cookie, phase, ready, deadline: None })
    }

    fn capture(&mut self, netns: &OwnedFd, entry: &PodEntry, generation: Option<u32>) -> Result<Enrolled, PodError> {
        let host_link = HostLink { netns: self.host.as_fd(), link: Link::Name(&entry.host_interface) };
        let spec = PodSpec {
            uid: &entry.uid,
            netns: netns.as_fd(),
            addresses: &entry.addresses,
            host_link,
            generation,
            keep_established: entry.running,
        };
        Ok(self.redirector.enroll(&spec)?)
    }

    /// A proxy's listeners stand in a pod.
    fn acked(&mut self, connection: u64, uid: &Arc<str>) {
        let Some(proxy) = self.proxies.get(&connection) else { return };
        let (generation, synced) = (proxy.generation, proxy.synced);
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.ready.insert(generation);
        // A pod that somebody serves is handed over when the new proxy has everything (design: it takes over when ready).
        if synced || pod.phase != Phase::Captured {
            self.activate(uid, generation);
        }
    }

    fn synced(&mut self, connection: u64) {
        let Some(proxy) = self.proxies.get_mut(&connection) else { return };
        proxy.synced = true;
        let generation = proxy.generation;
        tracing::info!(generation, "proxy has all pods");
        let ready = self.pods.iter().filter(|(_, p)| p.ready.contains(&generation) && p.deadline.is_none());
        let uids: Vec<Arc<str>> = ready.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.activate(&uid, generation);
        }
    }

    fn activate(&mut self, uid: &Arc<str>, generation: u32) {
        let Some(pod) = self.pods.get(uid) else { return };
        if pod.deadline.is_some() {
            return;
        }
        let (netns, entry, cookie) = (pod.netns.clone(), pod.entry.clone(), pod.cookie);
        let first = pod.phase == Phase::Waiting { refusing: false };
        let done = if first {
            self.capture(&netns, &entry, Some(generation)).map(|e| {
                tracing::info!(pod = %uid, old_connections = e.old_connections, "running pod captured");
            })
        } else {
            self.redirector.activate(cookie, generation).map_err(PodError::from)
        };
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.phase = match done {
            Ok(()) => Phase::Captured,
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "pod cannot be captured");
                Phase::Failed { error: error.to_string() }
            }
        };
    }

    /// Lets a pod go, as far as it can go now.
    fn leave(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let deadline = *pod.deadline.get_or_insert_with(|| Instant::now() + self.leave);
        // The fd that we hold keeps the namespace; its handle is what says whether the pod is there.
        if !pod.entry.netns.exists() {
            let forgotten = self.redirector.forget(pod.cookie);
            self.gone(uid, forgotten.err().map(|e| e.to_string()));
            return;
        }
        let how = if Instant::now() >= deadline { Leave::Force } else { Leave::WhenIdle };
        match self.redirector.unenroll(pod.netns.as_fd(), how) {
            Ok(Left::Gone) => self.gone(uid, None),
            Ok(Left::Captured(connections)) => pod.phase = Phase::Leaving { connections },
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "pod does not leave; tried again");
                pod.phase = Phase::Failed { error: error.to_string() };
            }
        }
    }

    fn gone(&mut self, uid: &Arc<str>, error: Option<String>) {
        if let Some(error) = error {
            tracing::warn!(pod = %uid, %error, "something of the pod is left");
        }
        self.server.remove(uid);
        self.pods.remove(uid);
    }

    /// Registers the proxy's cgroup before it is given any pod.
    fn admit(&mut self, peer: &Arc<Peer>) -> Result<(), String> {
        let path =
            peer.cgroup.as_ref().ok_or("its cgroup cannot be seen; does the agent run in the host's pid namespace?")?;
        let folder = self.cgroups.join(path.strip_prefix("/").unwrap_or(path));
        let cgroup = fs::metadata(&folder).map_err(|e| format!("{}: {e}", folder.display()))?.ino();
        let registered = self.redirector.proxies().map_err(|e| e.to_string())?;
        let generation = registered
            .iter()
            .find(|(id, _)| *id == cgroup)
            .map_or_else(|| registered.iter().map(|(_, g)| g + 1).max().unwrap_or(1), |(_, g)| *g);
        self.redirector.register_proxy(cgroup, generation).map_err(|e| e.to_string())?;
        tracing::info!(pid = ?peer.pid, cgroup = %folder.display(), generation, "proxy admitted");
        let proxy = Proxy { generation, cgroup, peer: peer.clone(), synced: false };
        self.proxies.insert(peer.connection, proxy);
        Ok(())
    }

    /// A proxy that is gone loses its rights; one that lives on without its connection keeps serving.
    fn lost(&mut self, peer: &Peer, reason: &zds::agent::Gone) {
        let Some(proxy) = self.proxies.remove(&peer.connection) else { return };
        let alive = proxy.peer.pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists());
        tracing::info!(generation = proxy.generation, %reason, alive, "connection to a proxy ended");
        let other = self.proxies.values().any(|p| p.cgroup == proxy.cgroup);
        for pod in self.pods.values_mut().filter(|_| !alive && !other) {
            pod.ready.remove(&proxy.generation);
        }
    }

    /// Pods of an earlier agent that nobody lists any more, and whose namespaces are gone.
    fn forget_strangers(&mut self) {
        let pods = match self.redirector.pods() {
            Ok(pods) => pods,
            Err(error) => return tracing::warn!(%error, "cannot list what is captured"),
        };
        for pod in pods.iter().filter(|p| !p.lookup_attached && !p.guard_attached) {
            if !self.pods.values().any(|p| p.cookie == pod.cookie)
                && let Err(error) = self.redirector.forget(pod.cookie)
            {
                tracing::warn!(pod = %pod.uid, %error, "something of a former pod is left");
            }
        }
    }
}

impl Phase {
    fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The mount point of the cgroup v2 hierarchy that a folder lies in.
fn cgroup_mount(folder: &Path) -> io::Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = table.lines().filter(|l| l.contains(" - cgroup2 ")).filter_map(|l| l.split(' ').nth(4));
    let mut found: Vec<PathBuf> = mounts.map(PathBuf::from).filter(|m| folder.starts_with(m)).collect();
    found.sort_by_key(|m| m.as_os_str().len());
    let missing =
        || io::Error::new(io::ErrorKind::NotFound, format!("{} is not on a cgroup v2 mount", folder.display()));
    found.pop().ok_or_else(missing)
}
