//! One pod in the agent's books.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::entry::Entry;
use crate::find::Held;

/// What can go wrong with one pod; the others are not touched by it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    #[error("network namespace {path}: {source}; remedy: list the handle of a running pod", path = path.display())]
    Netns { path: PathBuf, source: io::Error },
    #[error("the node's end of the pod's link: {source}; remedy: only pods on veth links can be captured")]
    HostEnd { source: io::Error },
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
    /// Still captured; leaves the mesh when its peers have been told.
    Announced,
    /// Connections go through the proxy.
    Captured,
    /// Something failed; tried again when the list or a proxy changes, on Kubernetes also by itself.
    Failed { error: String },
    /// Leaves the mesh; so many captured connections are open.
    Leaving { connections: usize },
    /// Waits for a proxy; `refusing` says whether its connects are refused meanwhile.
    Waiting { refusing: bool },
}

/// Whether a pod is to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Wanted,
    /// Not wanted any more; captured until then, so that peers learn of it.
    Announced {
        until: Instant,
    },
    /// Lets go of captured connections.
    Leaving {
        /// From then on it is gone as soon as nothing captured is left.
        settled: Instant,
        /// When those that are left are closed.
        deadline: Option<Instant>,
        /// Looked at again then.
        look: Instant,
    },
    /// Its processes end; looked at again then.
    Ending {
        look: Instant,
    },
}

pub(super) struct Pod {
    pub(super) entry: Entry,
    pub(super) netns: Held,
    pub(super) cookie: u64,
    pub(super) phase: Phase,
    /// Generations whose listeners stand.
    pub(super) ready: BTreeSet<u32>,
    pub(super) stay: Stay,
    /// When its connections that are older than its enrolment are closed.
    pub(super) clear_until: Option<Instant>,
    /// Names of its interfaces that are not captured.
    pub(super) others: Vec<String>,
    /// Why a proxy cannot take it, until one does.
    pub(super) refused: Option<Refused>,
}

/// A proxy's word that it cannot take a pod. The hand-over socket sends the pod again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Number of the proxy's connection.
    pub(super) connection: u64,
    /// Reason and remedy.
    pub(super) error: String,
}

impl Refused {
    pub(super) fn new(connection: u64, said: &str) -> Self {
        let error = format!(
            "the node proxy cannot take the pod: {said}; remedy: an application in the pod must leave the ports 15001, 15006, 15008 and \
             15053 to the proxy, other reasons are in the proxy's log"
        );
        Self { connection, error }
    }
}

/// A pod with which something failed, and when it is tried again.
pub(super) struct Trouble {
    pub(super) entry: Entry,
    pub(super) error: String,
    pub(super) again: Instant,
    pub(super) wait: Duration,
}

impl Pod {
    pub(super) fn is_wanted(&self) -> bool {
        self.stay == Stay::Wanted
    }

    /// Whether its connections are (still) steered by us.
    pub(super) fn is_enrolled(&self) -> bool {
        matches!(self.stay, Stay::Wanted | Stay::Announced { .. })
    }

    /// The phase as others see it.
    pub(super) fn shown(&self) -> Phase {
        match (&self.phase, self.stay, &self.refused) {
            (Phase::Captured, Stay::Announced { .. }, _) => Phase::Announced,
            // It talks in clear, or no proxy is left that serves it. One that starts is refused by its CNI call.
            (Phase::Waiting { refusing: false }, Stay::Wanted, Some(refused)) => {
                Phase::Failed { error: refused.error.clone() }
            }
            (Phase::Captured, Stay::Wanted, Some(refused)) if self.ready.is_empty() => {
                Phase::Failed { error: refused.error.clone() }
            }
            (phase, ..) => phase.clone(),
        }
    }
}

impl Trouble {
    /// First wait and longest wait: most reasons (a device that is still being made, an address that is still tentative) pass in
    /// a second, and the others should not fill the log.
    const WAITS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

    pub(super) fn new(entry: Entry, error: String, before: Option<&Self>) -> Self {
        let same = before.filter(|b| b.entry == entry);
        let wait = same.map_or(Self::WAITS.0, |b| (b.wait * 2).min(Self::WAITS.1));
        Self { entry, error, again: Instant::now() + wait, wait }
    }
}

impl Phase {
    pub(crate) fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// The word that metrics and status use.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Captured => "captured",
            Self::Failed { .. } => "failed",
            Self::Leaving { .. } => "leaving",
            Self::Waiting { .. } => "waiting",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::agent::entry::{HostEnd, Netns};

    fn pod(phase: Phase) -> Pod {
        let netns = Held::open(Path::new("/proc/self/ns/net")).unwrap();
        let entry = Entry {
            uid: "u".into(),
            name: "web".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
            netns: Netns::Held(netns.clone()),
            addresses: Vec::new(),
            host: HostEnd::PeerOf("eth0".into()),
            running: true,
            dns: true,
        };
        let (ready, others, refused) = (BTreeSet::new(), Vec::new(), Some(Refused::new(1, "15006: in use")));
        Pod { entry, netns, cookie: 1, phase, ready, stay: Stay::Wanted, clear_until: None, others, refused }
    }

    #[test]
    fn a_pod_that_no_proxy_takes_is_shown_as_failed() {
        let mut waiting = pod(Phase::Waiting { refusing: false });
        let Phase::Failed { error } = waiting.shown() else { panic!("{:?}", waiting.shown()) };
        assert!(error.contains("15006: in use") && error.contains("remedy"), "{error}");
        waiting.refused = None;
        assert_eq!(waiting.shown(), Phase::Waiting { refusing: false });
        // One that is captured from birth waits, and its connects are refused.
        assert_eq!(pod(Phase::Waiting { refusing: true }).shown(), Phase::Waiting { refusing: true });
        // The former proxy serves it, until it is gone.
        let mut captured = pod(Phase::Captured);
        captured.ready.insert(1);
        assert_eq!(captured.shown(), Phase::Captured);
        captured.ready.clear();
        assert!(captured.shown().is_failed());
        captured.stay = Stay::Announced { until: Instant::now() };
        assert_eq!(captured.shown(), Phase::Announced);
    }
}
