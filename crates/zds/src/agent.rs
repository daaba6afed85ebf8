//! The node agent's end: tells proxies which pods are theirs.
//!
//! The caller says what ought to be ([`Server::add`], [`Server::keep`], [`Server::remove`]); each connected proxy is
//! brought there by a task of its own, one request at a time. An `add` goes to the newest proxy only, so that during an
//! upgrade the new one takes over: the one of highest rank ([`Proceed::go`]), of several the last that connected; a `del` goes to every proxy that was told of the pod (cni-zds.md 2). When the
//! newest proxy goes away, the one before it is told what it lacks.
//!
//! No pod is sent to a proxy before the caller has said [`Proceed::go`] to its [`Event::Connected`]: there the node agent
//! registers the proxy's cgroup.

mod listener;
mod session;
mod state;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use listener::BindError;
use state::{Shared, Want};

use crate::WorkloadInfo;

/// Decides about a peer before a byte is read from it; the text says why not.
pub type Admit = dyn Fn(&Peer) -> Result<(), String> + Send + Sync;

/// How the agent's end behaves.
#[derive(Clone)]
pub struct Options {
    /// Who may connect.
    pub admit: Arc<Admit>,
    /// Time for one acknowledgement, and for the first packet. Istio's agent waits 5 s (cni-zds.md 2).
    pub ack_timeout: Duration,
    /// Time to hand one packet to the kernel. Istio's agent waits 5 s.
    pub write_timeout: Duration,
    /// Wait before a pod is sent again that the proxy could not take, doubled each time. Istio: 5 ms to 5 s (cni-zds.md 1).
    pub retry: (Duration, Duration),
    /// Time between two connections accepted; Istio's agent takes five in a second.
    pub accept_interval: Duration,
    /// Mode of the socket file.
    pub mode: u32,
}

impl Options {
    /// The values of the fact sheet, and a mode of 0600. There is no default for who may connect.
    pub fn new(admit: impl Fn(&Peer) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self {
            admit: Arc::new(admit),
            ack_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            retry: (Duration::from_millis(5), Duration::from_secs(5)),
            accept_interval: Duration::from_millis(200),
            mode: 0o600,
        }
    }
}

/// Who is at the other end, as the kernel says (SO_PEERCRED: the process that called connect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Number of the connection; later ones are greater.
    pub connection: u64,
    /// Process; `None` when it lives in a pid namespace that we do not see.
    pub pid: Option<u32>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Path of its cgroup v2, relative to the root of the hierarchy (`/proc/<pid>/cgroup`, line `0::`).
    pub cgroup: Option<PathBuf>,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A proxy was admitted and said hello. It gets no pod before [`Proceed::go`].
    Connected {
        /// Who.
        peer: Arc<Peer>,
        /// The way on.
        proceed: Proceed,
    },
    /// A proxy has taken a pod: its listeners stand.
    Acked {
        /// Number of the connection.
        connection: u64,
        /// The pod.
        uid: Arc<str>,
    },
    /// A proxy could not take a pod. It is sent again.
    Nacked {
        /// Number of the connection.
        connection: u64,
        /// The pod.
        uid: Arc<str>,
        /// What the proxy said.
        error: String,
        /// When it is sent again.
        retry_in: Duration,
    },
    /// A proxy has let a pod go, or `error` says why not.
    Removed {
        /// Number of the connection.
        connection: u64,
        /// The pod.
        uid: Arc<str>,
        /// What the proxy said; `None` = done.
        error: Option<String>,
    },
    /// A proxy knows all pods that there were.
    SnapshotAcked {
        /// Number of the connection.
        connection: u64,
    },
    /// A connection ended, or was not admitted.
    Gone {
        /// Who.
        peer: Arc<Peer>,
        /// Why.
        reason: Gone,
    },
    /// The listening socket failed and no connection will come any more.
    Failed(std::io::Error),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// The other end closed it.
    #[error("closed by the proxy")]
    Closed,
    /// The caller's check, or the caller's answer to [`Event::Connected`].
    #[error("not admitted: {0}")]
    Refused(String),
    /// The [`Server`] was dropped.
    #[error("the agent stops")]
    Stopped,
    /// The system.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// No answer in time.
    #[error("no {0} in time")]
    TimedOut(&'static str),
    /// The proxy broke the rules.
    #[error(transparent)]
    Violation(#[from] crate::Violation),
}

/// The way on for a proxy that has connected. Dropping it closes the connection.
#[derive(Debug)]
pub struct Proceed(pub(crate) oneshot::Sender<Result<u64, String>>);

impl Proceed {
    /// Send it the pods. `rank` is its place in the succession of proxies: when the agent was restarted, an old one may be
    /// the last to come back, and must not get the new pods for that.
    pub fn go(self, rank: u64) {
        // The proxy may have left meanwhile; then there is nobody to tell.
        drop(self.0.send(Ok(rank)));
    }

    /// Close the connection.
    pub fn refuse(self, reason: impl Into<String>) {
        drop(self.0.send(Err(reason.into())));
    }
}

/// A pod that cannot be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// Its uid is empty, too long or not visible ASCII.
    #[error("pod uid {0:?} is empty, longer than 256 bytes or not plain ASCII")]
    Uid(String),
    /// Its names do not fit a packet.
    #[error("the names of pod {uid} take {size} bytes, more than a packet of 1024 can carry")]
    TooLong {
        /// The pod.
        uid: String,
        /// Bytes of the message.
        size: usize,
    },
}

/// The listening socket and what the proxies ought to know. Dropping it closes every connection and removes the socket file.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    _files: Vec<listener::SocketFile>,
}

impl Server {
    /// Listens at a path, in place of a dead agent's socket file if there is one. Needs a tokio runtime; the connections are
    /// tasks on it.
    ///
    /// # Errors
    /// When another agent is alive there, something else is in the way, or the system refuses.
    pub fn bind(path: &Path, options: Options) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BindError> {
        Self::bind_all(&[path], options)
    }

    /// As [`Server::bind`], at several paths: proxies of all of them are one succession, and the newest connection gets the
    /// new pods whichever way it came. For generations that cannot share one path because each sees a file system of its own.
    ///
    /// # Errors
    /// As [`Server::bind`], for the first path that cannot be had; the others are given back.
    pub fn bind_all<P: AsRef<Path>>(
        paths: &[P],
        options: Options,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), BindError> {
        let bound = paths.iter().map(|path| listener::bind(path.as_ref(), options.mode));
        let (listeners, files): (Vec<_>, Vec<_>) = bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        for listener in listeners {
            tokio::spawn(listener::run(listener, shared.clone(), options.clone(), events.clone()));
        }
        Ok((Self { shared, _files: files }, receiver))
    }

    /// Publishes a pod with its network namespace. The same uid again means a new namespace or a new name, and the pod is
    /// sent again.
    ///
    /// # Errors
    /// When uid and names do not fit the wire.
    pub fn add(&self, uid: &str, info: &WorkloadInfo, netns: Arc<OwnedFd>) -> Result<(), PodError> {
        let message = state::add_message(uid, info)?;
        self.shared.want(uid, Want::Add { message, netns });
        Ok(())
    }

    /// Says that a pod exists although its network namespace is not at hand: a proxy that has it from an earlier connection
    /// shall not drop it. Only says something in a snapshot.
    ///
    /// # Errors
    /// When the uid does not fit the wire.
    pub fn keep(&self, uid: &str) -> Result<(), PodError> {
        state::check_uid(uid)?;
        self.shared.want(uid, Want::Keep);
        Ok(())
    }

    /// Withdraws a pod. Says whether it was known.
    pub fn remove(&self, uid: &str) -> bool {
        self.shared.unwant(uid)
    }

    /// Connections that get pods now, oldest first; the last one gets the new pods.
    pub fn connections(&self) -> Vec<u64> {
        self.shared.connections()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
    }
}
