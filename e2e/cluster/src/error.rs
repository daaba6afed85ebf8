//! What can go wrong with a cluster, each with its remedy in the text.

use std::io;
use std::path::PathBuf;

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Raising was called off from outside.
    #[error("called off; what was raised so far is undone")]
    Cancelled,
    /// There is a cluster already.
    #[error("the cluster {0} is up already; take it down first (make cluster-down)")]
    Exists(String),
    /// Control groups of that name belong to somebody else.
    #[error(
        "there is a control group {} that no cluster of ours made; remove it, or find out whose it is", .0.display()
    )]
    ForeignGroup(PathBuf),
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// Processes are left that cannot be killed.
    #[error(
        "processes in the control group {0} do not end even on SIGKILL; they wait inside the kernel (/proc/<pid>/stack)"
    )]
    Leftover(String),
    /// Somebody else raises or removes a cluster right now.
    #[error("another process raises or removes a cluster right now; wait for it")]
    Locked,
    /// Something has to be built or installed first.
    #[error("{what} is not at {}; install and build what is missing (hack/cluster.sh)", .path.display())]
    Missing {
        /// What is missing.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no such cluster.
    #[error("there is no cluster named {0}; raise one (make cluster)")]
    NoCluster(String),
    /// No control group v2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted; mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NoCgroup2,
    /// The cluster is for root.
    #[error("the cluster makes namespaces and control groups and needs root; run it with sudo")]
    NotRoot,
    /// Something did not come about in time, or ended before.
    #[error("{what}: {why}{log}")]
    NotReady {
        /// What was waited for.
        what: String,
        /// Why that is over.
        why: String,
        /// The end of its log with a heading, or nothing.
        log: String,
    },
    /// Keys and certificates could not be made.
    #[error("cannot make the cluster's certificates: {0}")]
    Pki(#[from] rcgen::Error),
    /// A file of ours or an answer of the API server is not what was expected.
    #[error("cannot read {what}: {source}")]
    Json {
        /// What was read.
        what: String,
        /// Why it could not.
        source: serde_json::Error,
    },
    /// A program that was run to its end failed.
    #[error("{command}\nfailed ({status}): {stderr}")]
    Tool {
        /// Its command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// There is no node of this name.
    #[error("there is no node {name:?}; there is: {known}")]
    UnknownNode {
        /// The name asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// What was asked does not fit.
    #[error("{0}")]
    Unfit(String),
}

/// Says what was tried when an [`io::Error`] comes up.
pub(crate) trait Doing<T> {
    /// Adds what was tried.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, ClusterError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, ClusterError> {
        self.map_err(|e| ClusterError::Io { what: what(), source: e.into() })
    }
}
