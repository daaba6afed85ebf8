//! What the agent is told about a pod, whoever tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use zds::WorkloadInfo;

use crate::config::PodEntry;
use crate::find::Held;

/// A pod to enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Unique name; Kubernetes' UID.
    pub(crate) uid: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) netns: Netns,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) host: HostEnd,
    /// It runs already: what it has open goes on in clear, and it is captured as soon as a proxy is there. Otherwise it is
    /// captured from birth, and its connects are refused until a proxy is there.
    pub(crate) running: bool,
    /// Its questions to port 53 go to the proxy.
    pub(crate) dns: bool,
}

/// A pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Netns {
    /// By a handle that is there as long as the pod is.
    Handle(PathBuf),
    /// Held open.
    Held(Held),
}

/// The node's end of a pod's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostEnd {
    /// Its name, in the agent's own network namespace.
    Name(String),
    /// The other end of this device of the pod.
    PeerOf(String),
}

/// What ought to be on this node.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    /// Pods that ought to be captured.
    pub(crate) entries: Vec<Entry>,
    /// Pods among those that are not, whose processes have ended or are about to: they need no way out of the mesh.
    pub(crate) ended: BTreeSet<String>,
    /// Names of the pods that live and ought not to be captured, by UID: an earlier agent may have captured them.
    pub(crate) others: BTreeMap<String, WorkloadInfo>,
    /// Pods that may be proxies, by the UID in their cgroup. `None`: whoever is no captured pod may.
    pub(crate) proxies: Option<BTreeSet<String>>,
}

impl Netns {
    pub(crate) fn open(&self) -> io::Result<Held> {
        match self {
            Self::Handle(path) => Held::open(path),
            Self::Held(held) => Ok(held.clone()),
        }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        match self {
            Self::Handle(path) => path,
            Self::Held(held) => held.path(),
        }
    }

    /// Whether the handle says that the pod is gone. One that is held says nothing: what is open lives.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Handle(path) if !path.exists())
    }
}

impl From<PodEntry> for Entry {
    fn from(pod: PodEntry) -> Self {
        Self {
            uid: pod.uid,
            name: pod.name,
            namespace: pod.namespace,
            service_account: pod.service_account,
            netns: Netns::Handle(pod.netns),
            addresses: pod.addresses,
            host: HostEnd::Name(pod.host_interface),
            running: pod.running,
            dns: pod.dns,
        }
    }
}
