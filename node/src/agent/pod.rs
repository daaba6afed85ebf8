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
        match (&self.phase, self.stay) {
            (Phase::Captured, Stay::Announced { .. }) => Phase::Announced,
            (phase, _) => phase.clone(),
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
