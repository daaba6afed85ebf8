//! What is shown of the agent, and what others decide by it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use redirect_abi::counters::Reason;
use redirect_loader::PodState;

use super::pod::{Phase, Pod};
use super::{Agent, Stay};
use crate::find::NsId;
use crate::status::{PodStatus, ProxyStatus};

/// A pod in the agent's books, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    /// It is wanted, or still captured until its peers know.
    pub(crate) wanted: bool,
    /// Its network namespace.
    pub(crate) netns: Option<NsId>,
    /// Why a proxy cannot take it, with the remedy.
    pub(crate) refused: Option<String>,
}

/// Something of a pod's capture that ought to be there and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    pub(crate) uid: Arc<str>,
    pub(crate) what: &'static str,
}

impl Agent {
    /// All pods in the books and those in trouble, by UID.
    pub(crate) fn views(&self) -> BTreeMap<Arc<str>, View> {
        let of = |pod: &Pod| View {
            phase: pod.shown(),
            wanted: pod.is_wanted(),
            netns: Some(pod.netns.id()),
            refused: pod.refused.as_ref().map(|refused| refused.error.clone()),
        };
        let mut views: BTreeMap<Arc<str>, View> = self.pods.iter().map(|(uid, p)| (uid.clone(), of(p))).collect();
        for (uid, trouble) in &self.troubles {
            let phase = Phase::Failed { error: trouble.error.clone() };
            views.entry(uid.clone()).or_insert(View { phase, wanted: true, netns: None, refused: None });
        }
        views
    }

    /// The pods in the books.
    pub(crate) fn uids(&self) -> Vec<Arc<str>> {
        self.pods.keys().cloned().collect()
    }

    /// The addresses with which a namespace is captured already, by this agent or an earlier one.
    pub(crate) fn captured(&self, netns: BorrowedFd<'_>) -> Option<Vec<IpAddr>> {
        // Errors are said when it is enrolled, which is next.
        let cookie = redirect_loader::cookie_of(netns).ok()?;
        self.redirector.pods().ok()?.into_iter().find(|p| p.cookie == cookie).map(|p| p.given)
    }

    /// Pods that are captured and not in the books.
    pub(crate) fn former(&self) -> BTreeSet<String> {
        // Said when the strangers are looked after, which is next.
        let captured = self.redirector.pods().unwrap_or_default().into_iter().map(|p| p.uid);
        captured.filter(|uid| !self.pods.contains_key(&**uid)).collect()
    }

    /// How many proxies are connected.
    pub(crate) fn proxies_connected(&self) -> i64 {
        i64::try_from(self.proxies.len()).unwrap_or(i64::MAX)
    }

    /// Compares what ought to be captured with what the kernel has.
    pub(crate) fn audit(&self) -> Result<Vec<Lack>, redirect_loader::RedirectError> {
        let kernel = self.redirector.pods()?;
        let captured = self.pods.iter().filter(|(_, p)| p.phase == Phase::Captured && p.stay == Stay::Wanted);
        let lack = |(uid, pod): (&Arc<str>, &Pod)| {
            let found = kernel.iter().find(|k| k.cookie == pod.cookie);
            let what = match found {
                None => "its entry in the map of pods is gone",
                Some(k) if k.state != PodState::Enrolled => "it is marked as leaving",
                Some(k) if !k.lookup_attached => "the programs in its network namespace are gone",
                Some(k) if !k.guard_attached => "the guard at the node's end of its link is gone",
                Some(k) if k.active == 0 => "no proxy receives its connections",
                Some(_) if !self.is_routed(uid, pod) => "its rules and routes do not lead to the proxy",
                Some(_) => return None,
            };
            Some(Lack { uid: uid.clone(), what })
        };
        Ok(captured.filter_map(lack).collect())
    }

    /// Whether a pod's packets go where its capture wants them; yes when that cannot be told.
    fn is_routed(&self, uid: &str, pod: &Pod) -> bool {
        redirect_loader::is_routed(pod.netns.as_fd(), &pod.entry.addresses, pod.entry.dns).unwrap_or_else(|error| {
            tracing::debug!(pod = %uid, %error, "rules and routes not looked at");
            true
        })
    }

    /// Looks again at the pods' interfaces that are not captured (Multus adds some after the enrolment), and forgets connections older
    /// than the enrolment that have ended.
    pub(crate) fn look_at_pods(&mut self) {
        for (uid, pod) in self.pods.iter_mut().filter(|(_, p)| p.phase == Phase::Captured && p.is_wanted()) {
            match self.redirector.other_interfaces(pod.netns.as_fd()) {
                Ok(others) => pod.others = others.into_iter().map(|interface| interface.name).collect(),
                Err(error) => tracing::debug!(pod = %uid, %error, "interfaces not listed"),
            }
            if let Err(error) = self.redirector.old_connections(pod.netns.as_fd()) {
                tracing::debug!(pod = %uid, %error, "old connections not listed");
            }
        }
    }

    /// Lets the probes of the kubelet through, which lives in this cgroup.
    pub(crate) fn exempt_kubelet(&mut self, cgroup: &Path) -> Result<(), redirect_loader::RedirectError> {
        self.redirector.exempt_kubelet(cgroup, self.host.as_fd()).map(drop)
    }

    /// Puts our hooks around those of others; says which stay outside, each with its remedy.
    pub(crate) fn keep_order(&mut self) -> Result<Vec<String>, redirect_loader::RedirectError> {
        Ok(self.redirector.keep_order()?.iter().map(ToString::to_string).collect())
    }

    /// Pods and proxies for `/status`.
    pub(crate) fn shown(&self) -> (Vec<PodStatus>, Vec<ProxyStatus>) {
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
                phase: pod.shown(),
                generation: kernel.map_or(0, |k| k.active),
                clear_connections: kernel.map_or(0, |k| k.old_connections),
                uncaptured_interfaces: pod.others.clone(),
                counters: self.counters(pod.cookie),
            }
        });
        let troubles = self.troubles.iter().filter(|(uid, _)| !self.pods.contains_key(*uid));
        let failed = troubles.map(|(uid, trouble)| PodStatus {
            uid: uid.to_string(),
            name: trouble.entry.name.clone(),
            namespace: trouble.entry.namespace.clone(),
            addresses: trouble.entry.addresses.clone(),
            phase: Phase::Failed { error: trouble.error.clone() },
            generation: 0,
            clear_connections: 0,
            uncaptured_interfaces: Vec::new(),
            counters: BTreeMap::new(),
        });
        let proxies =
            self.proxies.values().map(|p| ProxyStatus { generation: p.generation, pid: p.peer.pid, synced: p.synced });
        (pods.chain(failed).collect(), proxies.collect())
    }

    fn counters(&self, cookie: u64) -> BTreeMap<&'static str, u64> {
        match self.redirector.counters(cookie) {
            Ok(counters) => Reason::ALL.iter().map(|c| (c.label(), counters.get(*c))).filter(|(_, n)| *n > 0).collect(),
            // Not enrolled yet.
            Err(_) => BTreeMap::new(),
        }
    }
}
