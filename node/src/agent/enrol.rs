//! Taking a pod into the mesh.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use redirect_loader::{Enrolled, HostLink, Link, PodSpec, cookie_of, peer_index};
use zds::WorkloadInfo;

use super::entry::{Entry, HostEnd};
use super::pod::{Phase, Pod, PodError, Stay, Trouble};
use super::{Agent, Manner};
use crate::find::Held;

impl Agent {
    pub(super) fn take(&mut self, uid: Arc<str>, entry: Entry) {
        match self.enroll(&uid, &entry) {
            Ok(pod) => {
                self.troubles.remove(&uid);
                self.pods.insert(uid, pod);
            }
            Err(error) => {
                tracing::warn!(pod = %uid, name = %entry.name, %error, "pod cannot be enrolled");
                self.failed(&uid, entry, error.to_string());
            }
        }
    }

    /// Notes that something failed, and when it is tried again.
    pub(super) fn failed(&mut self, uid: &Arc<str>, entry: Entry, error: String) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.phase = Phase::Failed { error: error.clone() };
        }
        let trouble = Trouble::new(entry, error, self.troubles.get(uid));
        self.troubles.insert(uid.clone(), trouble);
    }

    fn enroll(&mut self, uid: &Arc<str>, entry: &Entry) -> Result<Pod, PodError> {
        let named = |source| PodError::Netns { path: entry.netns.path().to_owned(), source };
        let netns = entry.netns.open().map_err(named)?;
        let cookie = cookie_of(netns.as_fd()).map_err(named)?;
        let known = self.redirector.pods()?.into_iter().find(|p| p.cookie == cookie);
        // Of one that an earlier agent captured; the time begins anew.
        let clear_until = self.clear.filter(|_| known.is_some()).map(|after| Instant::now() + after);
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
        self.server.add(uid, &info, netns.fd())?;
        Ok(Pod {
            entry: entry.clone(),
            netns,
            cookie,
            phase,
            ready,
            stay: Stay::Wanted,
            clear_until,
            others: Vec::new(),
            // Known again as soon as the proxy was asked again.
            refused: self.pods.get(uid).and_then(|pod| pod.refused.clone()),
        })
    }

    fn capture(&mut self, netns: &Held, entry: &Entry, generation: Option<u32>) -> Result<Enrolled, PodError> {
        let link = match &entry.host {
            HostEnd::Name(name) => Link::Name(name),
            HostEnd::PeerOf(device) => {
                Link::Index(peer_index(netns.as_fd(), device).map_err(|source| PodError::HostEnd { source })?)
            }
        };
        let spec = PodSpec {
            uid: &entry.uid,
            netns: netns.as_fd(),
            addresses: &entry.addresses,
            host_link: HostLink { netns: self.host.as_fd(), link },
            generation,
            keep_established: entry.running,
            dns: entry.dns,
        };
        Ok(self.redirector.enroll(&spec)?)
    }

    /// Gives a pod's new connections to a generation whose listeners stand.
    pub(super) fn activate(&mut self, uid: &Arc<str>, generation: u32) {
        let Some(pod) = self.pods.get(uid).filter(|p| p.is_enrolled()) else { return };
        let (netns, entry, cookie) = (pod.netns.clone(), pod.entry.clone(), pod.cookie);
        let first = pod.phase == Phase::Waiting { refusing: false };
        let done = if first {
            self.capture(&netns, &entry, Some(generation)).map(|e| {
                tracing::info!(pod = %uid, old_connections = e.old_connections, "running pod captured");
            })
        } else {
            self.redirector.activate(cookie, generation).map_err(PodError::from)
        };
        match done {
            Ok(()) => {
                let clear_until = self.clear.filter(|_| first).map(|after| Instant::now() + after);
                if let Some(pod) = self.pods.get_mut(uid) {
                    pod.phase = Phase::Captured;
                    pod.clear_until = clear_until.or(pod.clear_until);
                }
            }
            Err(error) => {
                tracing::warn!(pod = %uid, %error, "pod cannot be captured");
                self.failed(uid, entry, error.to_string());
            }
        }
    }

    /// Closes what is older than a pod's enrolment and still goes on in clear: its time is over.
    pub(super) fn end_clear(&mut self, uid: &Arc<str>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.clear_until = None;
        match self.redirector.close_old_connections(pod.netns.as_fd()) {
            Ok(0) => {}
            Ok(closed) => tracing::info!(pod = %uid, closed, "connections older than the enrolment closed"),
            Err(error) => tracing::warn!(pod = %uid, %error, "connections older than the enrolment cannot be closed"),
        }
    }

    /// Puts capture of a pod in order again: whatever is missing of its rules, programs and guard.
    pub(crate) fn repair(&mut self, uid: &str) {
        let Some((uid, pod)) = self.pods.get_key_value(uid).filter(|(_, p)| p.is_enrolled()) else { return };
        let (uid, entry) = (uid.clone(), pod.entry.clone());
        self.take(uid, entry);
    }

    /// How pods are told of; the other half of [`Manner`].
    pub(super) fn is_kubernetes(&self) -> bool {
        self.manner != Manner::File
    }
}
