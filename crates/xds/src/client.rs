//! The client of delta ADS: one stream, several types, for ever (fact sheet discovery.md 1).
//!
//! [`state::Machine`] is the protocol without I/O; here it gets a transport, a pace and somebody who applies what comes.
//! The transport is handed in: anything that carries gRPC, with TLS and keepalive of its own.

mod mesh;
mod node;
mod run;
pub mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::discovery::Resource;
use tokio::sync::{mpsc, watch};

pub use self::mesh::{Changes, to_change};
pub use node::Node;
pub use run::{Client, Stopped};
pub use state::{Mode, Subscription};

/// How to subscribe and as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who we are.
    pub node: Node,
    /// What to ask for, in this order.
    pub subscriptions: Vec<Subscription>,
    /// Bearer token of the header `authorization`.
    pub token: Option<Token>,
    /// Cluster, for the header `clusterid`.
    pub cluster_id: Option<String>,
    /// Further headers (variables `XDS_HEADER_*`).
    pub headers: BTreeMap<String, String>,
    /// First and longest wait between two streams; doubled in between.
    pub backoff: (Duration, Duration),
}

impl ClientConfig {
    /// What a node proxy asks for: all policies, and all addresses or, with `on_demand`, those that are asked for.
    ///
    /// Waits of 10 ms to 15 s (discovery.md 1).
    pub fn ztunnel(node: Node, on_demand: bool) -> Self {
        let mode = if on_demand { Mode::OnDemand } else { Mode::Wildcard };
        let addresses = Subscription { type_url: proto::ADDRESS_TYPE, mode };
        let policies = Subscription { type_url: proto::AUTHORIZATION_TYPE, mode: Mode::Wildcard };
        Self::of(node, vec![addresses, policies])
    }

    /// Which addresses are pods', too: for a control plane that is Culvert's, as others end the stream of who asks for a type that
    /// they do not know. First of all, so that no address is taken for a stranger's because its network came later.
    #[must_use]
    pub fn with_pod_networks(mut self) -> Self {
        let networks = Subscription { type_url: proto::POD_NETWORKS_TYPE, mode: Mode::Wildcard };
        self.subscriptions.insert(0, networks);
        self
    }

    /// What a waypoint asks for: the routing of all services that are bound to it, and the addresses that it asks for by
    /// name.
    pub fn waypoint(node: Node) -> Self {
        let routing = Subscription { type_url: proto::ROUTING_TYPE, mode: Mode::Wildcard };
        let addresses = Subscription { type_url: proto::ADDRESS_TYPE, mode: Mode::OnDemand };
        Self::of(node, vec![routing, addresses])
    }

    fn of(node: Node, subscriptions: Vec<Subscription>) -> Self {
        Self {
            node,
            subscriptions,
            token: None,
            cluster_id: None,
            headers: BTreeMap::new(),
            backoff: (Duration::from_millis(10), Duration::from_secs(15)),
        }
    }
}

/// Where the bearer token comes from.
#[derive(Clone)]
pub enum Token {
    /// A file, read anew for each stream: projected tokens are replaced before they expire.
    File(PathBuf),
    /// The token itself.
    Text(Arc<str>),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

/// One response, to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The type of all resources in it.
    pub type_url: &'static str,
    /// New or changed resources, not yet decoded.
    pub upserts: Vec<Resource>,
    /// Names of resources that are gone, and names asked for that do not exist. Apply these before the upserts.
    pub removals: Vec<Arc<str>>,
    /// Names asked for on demand that are answered by this response.
    pub answered: Vec<Arc<str>>,
    /// With this response every wildcard type was answered once. False again in later updates.
    pub synced: bool,
}

/// A resource that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Applies updates.
pub trait Handler: Send {
    /// Applies one update and names the resources that it rejects; the others count as applied. While it runs, nothing is
    /// read from the stream, so a slow handler slows the server down.
    ///
    /// # Errors
    /// [`Stopped`] ends the client.
    fn apply(&mut self, update: Update) -> impl Future<Output = Result<Vec<Rejection>, Stopped>> + Send;
}

/// How the client stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether a stream is open.
    pub connected: bool,
    /// Wildcard types whose first response was not acknowledged yet; empty = ready, and stays so.
    pub waiting_for: Vec<&'static str>,
    /// Why the last stream ended, as long as there is no new one.
    pub error: Option<String>,
    /// The last rejection that was sent.
    pub last_nack: Option<String>,
    /// How the streams ended so far.
    pub ends: Ends,
}

/// How streams ended, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The stream was never opened.
    pub unopened: u64,
    /// It broke.
    pub broken: u64,
    /// The control plane closed it, as it does from time to time.
    pub ordinary: u64,
}

impl Status {
    /// Whether the first picture is complete (discovery.md 1, Ready).
    pub fn ready(&self) -> bool {
        self.waiting_for.is_empty()
    }
}

/// A name that is wanted, or not any more.
#[derive(Clone, Debug)]
struct Wish {
    type_url: &'static str,
    name: Arc<str>,
    wanted: bool,
}

/// Talks to a running client.
#[derive(Clone, Debug)]
pub struct Handle {
    demands: mpsc::Sender<Wish>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// Asks for a resource by one of its names (uid, `namespace/hostname`, `network/IP`), and for what comes of it later,
    /// until it is released. The answer comes as an update that has the name in `answered`. Does nothing for types of
    /// which we have everything anyway.
    ///
    /// # Errors
    /// [`Stopped`] when the client does not run any more.
    pub async fn demand(&self, type_url: &'static str, name: impl Into<Arc<str>>) -> Result<(), Stopped> {
        self.wish(Wish { type_url, name: name.into(), wanted: true }).await
    }

    /// Ends what [`Handle::demand`] began. What the name brought along stays as it is, without news of it; whoever keeps
    /// it forgets it by himself.
    ///
    /// # Errors
    /// [`Stopped`] when the client does not run any more.
    pub async fn release(&self, type_url: &'static str, name: impl Into<Arc<str>>) -> Result<(), Stopped> {
        self.wish(Wish { type_url, name: name.into(), wanted: false }).await
    }

    /// As [`Handle::demand`], for callers that must not wait. `false` when too many are on their way, or the client has
    /// stopped.
    pub fn try_demand(&self, type_url: &'static str, name: impl Into<Arc<str>>) -> bool {
        self.demands.try_send(Wish { type_url, name: name.into(), wanted: true }).is_ok()
    }

    async fn wish(&self, wish: Wish) -> Result<(), Stopped> {
        self.demands.send(wish).await.map_err(|_| Stopped)
    }

    /// How the client stands, now and from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}
