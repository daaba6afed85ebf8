//! Letting a pod go, in the order in which nobody loses a connection.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redirect_loader::{Leave, Left, PodStatus, cookie_of};
use zds::WorkloadInfo;

use super::entry::{Entry, HostEnd, Netns};
use super::pod::{Phase, Pod, Stay};
use super::{Agent, Manner};
use crate::find::Held;

/// How long a pod that is not wanted waits for the word that it was announced: an API server that is away for longer would
/// hold it in the mesh for ever.
const ANNOUNCING: Duration = Duration::from_secs(10);

/// How often an ending pod is looked at: it costs a walk over all processes, and a container takes about a second to end.
const LOOK: Duration = Duration::from_secs(1);

/// How often a pod whose captured connections go on is looked at: after a tenth of the time since it captures no more, and at
/// least this often. Each look lists the sockets of its namespace, and a connection of a pool may stay for days.
const SELDOM: Duration = Duration::from_secs(5);

/// How long a pod that captures no more is kept before it is looked at whether it is idle: a connect that was captured in the
/// last moment has its SYN sent again after 1 s (RFC 6298 2), and is a connection well within the rest.
pub(crate) const SETTLE: Duration = Duration::from_millis(1500);

impl Agent {
    /// A pod is not wanted any more and lives on.
    pub(super) fn depart(&mut self, uid: &Arc<str>) {
        let announce = self.is_kubernetes();
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match pod.stay {
            Stay::Wanted if announce && pod.phase == Phase::Captured => {
                tracing::info!(pod = %uid, name = %pod.entry.name, "pod leaves the mesh, announced");
                pod.stay = Stay::Announced { until: Instant::now() + ANNOUNCING };
            }
            Stay::Announced { .. } => {}
            Stay::Wanted | Stay::Leaving { .. } | Stay::Ending { .. } => self.leave(uid),
        }
    }

    /// Peers are being told that a pod leaves: it goes when they had time to learn.
    pub(crate) fn announced(&mut self, uid: &str) {
        let Manner::Kubernetes { notice } = self.manner else { return };
        if let Some(pod) = self.pods.get_mut(uid)
            && let Stay::Announced { until } = &mut pod.stay
        {
            *until = (*until).min(Instant::now() + notice);
        }
    }

    /// Lets a pod go, as far as it can go now.
    pub(super) fn leave(&mut self, uid: &Arc<str>) {
        let leave = self.leave;
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let now = Instant::now();
        let (settled, deadline) = match pod.stay {
            Stay::Leaving { settled, deadline, .. } => (settled, deadline),
            Stay::Wanted | Stay::Announced { .. } | Stay::Ending { .. } => {
                (now + SETTLE, leave.map(|leave| now + leave))
            }
        };
        let soon = deadline.map_or(SELDOM, |deadline| deadline.saturating_duration_since(now)).min(SELDOM);
        let look = now + (now.saturating_duration_since(settled) / 10).min(soon);
        pod.stay = Stay::Leaving { settled, deadline, look };
        // The fd that we hold keeps the namespace; its handle is what says whether the pod is there.
        if pod.entry.netns.is_gone() {
            return self.forget(uid);
        }
        let how = match now {
            now if deadline.is_some_and(|deadline| now >= deadline) => Leave::Force,
            now if now >= settled => Leave::WhenIdle,
            _ => Leave::Begin,
        };
        match self.redirector.unenroll(pod.netns.as_fd(), how) {
            Ok(Left::Gone) => self.gone(uid, None),
            Ok(Left::Captured(connections)) => pod.phase = Phase::Leaving { connections },
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "pod does not leave; tried again");
                pod.phase = Phase::Failed { error: error.to_string() };
            }
        }
    }

    /// A pod ends. It stays captured until its last process is gone.
    pub(super) fn end(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if matches!(pod.stay, Stay::Ending { look } if look > Instant::now()) {
            return;
        }
        if pod.entry.netns.is_gone() {
            return self.forget(uid);
        }
        match self.finder.inhabited(pod.netns.id()) {
            Ok(false) => self.forget(uid),
            Ok(true) => pod.stay = Stay::Ending { look: Instant::now() + LOOK },
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "processes cannot be listed; the pod stays captured");
                pod.stay = Stay::Ending { look: Instant::now() + LOOK };
            }
        }
    }

    fn forget(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get(uid) else { return };
        let forgotten = self.redirector.forget(pod.cookie);
        self.gone(uid, forgotten.err().map(|e| e.to_string()));
    }

    fn gone(&mut self, uid: &Arc<str>, error: Option<String>) {
        if let Some(error) = error {
            tracing::warn!(pod = %uid, %error, "something of the pod is left");
        }
        self.server.remove(uid);
        self.pods.remove(uid);
    }

    /// Pods of an earlier agent that are not in the books. Those whose namespaces are gone are forgotten; the others stay with their
    /// proxies, which drop what a snapshot does not name (cni-zds.md 2), and end its connections. On Kubernetes those that nobody
    /// wants leave, or are forgotten when none of their processes is left. `others` names the pods that live and are not wanted.
    pub(super) fn look_after_strangers(&mut self, others: &BTreeMap<String, WorkloadInfo>) {
        let captured = match self.redirector.pods() {
            Ok(captured) => captured,
            Err(error) => return tracing::warn!(%error, "cannot list what is captured"),
        };
        let mut strangers = captured;
        strangers.retain(|s| !self.pods.values().any(|p| p.cookie == s.cookie));
        let (dead, mut alive): (Vec<_>, Vec<_>) =
            strangers.into_iter().partition(|s| !s.lookup_attached && !s.guard_attached);
        for stranger in dead {
            self.forget_stranger(&stranger.uid, stranger.cookie);
        }
        alive.retain(|s| !self.pods.contains_key(&*s.uid));
        for stranger in &alive {
            if let Err(error) = self.server.keep(&stranger.uid) {
                tracing::warn!(pod = %stranger.uid, %error, "a former pod cannot be kept at its proxy");
            }
        }
        // A wanted pod in trouble may be captured although it is not in the books.
        let unwanted: Vec<_> = alive.into_iter().filter(|s| !self.troubles.contains_key(&*s.uid)).collect();
        if unwanted.is_empty() || !self.is_kubernetes() {
            return;
        }
        let mut found = match self.finder.namespaces(|uid| unwanted.iter().any(|s| s.uid == uid)) {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "processes cannot be listed; former pods stay captured"),
        };
        for stranger in unwanted {
            let namespaces = found.remove(&stranger.uid).unwrap_or_default();
            let held = namespaces.into_iter().find(|n| cookie_of(n.as_fd()).is_ok_and(|c| c == stranger.cookie));
            match held {
                Some(netns) => self.adopt(&stranger, netns, others.get(&stranger.uid)),
                None => self.forget_stranger(&stranger.uid, stranger.cookie),
            }
        }
    }

    /// Takes an earlier agent's pod into the books, to let it go. A proxy that has not got it is given it when its names are known.
    fn adopt(&mut self, stranger: &PodStatus, netns: Held, info: Option<&WorkloadInfo>) {
        tracing::info!(pod = %stranger.uid, "captured by an earlier agent and not wanted any more");
        if let Some(info) = info
            && let Err(error) = self.server.add(&stranger.uid, info, netns.fd())
        {
            tracing::warn!(pod = %stranger.uid, %error, "a former pod cannot be given to a proxy");
        }
        let name = |part: fn(&WorkloadInfo) -> &str| info.map(part).unwrap_or_default().to_owned();
        let entry = Entry {
            uid: stranger.uid.clone(),
            name: name(|i| &i.name),
            namespace: name(|i| &i.namespace),
            service_account: name(|i| &i.service_account),
            netns: Netns::Held(netns.clone()),
            addresses: stranger.addresses.clone(),
            host: HostEnd::PeerOf(String::new()),
            running: true,
            dns: stranger.dns,
        };
        let stay = Stay::Announced { until: Instant::now() + ANNOUNCING };
        let ready = [stranger.active].into_iter().filter(|g| *g != 0).collect();
        let (cookie, phase) = (stranger.cookie, Phase::Captured);
        let pod =
            Pod { entry, netns, cookie, phase, ready, stay, clear_until: None, others: Vec::new(), refused: None };
        self.pods.insert(stranger.uid.as_str().into(), pod);
    }

    fn forget_stranger(&mut self, uid: &str, cookie: u64) {
        if let Err(error) = self.redirector.forget(cookie) {
            tracing::warn!(pod = %uid, %error, "something of a former pod is left");
        }
        // A newer sandbox of the same pod stays with its proxy.
        if !self.pods.contains_key(uid) {
            self.server.remove(uid);
        }
    }
}
