//! Who calls, and what a caller may have. `tokens` implements these two traits over files, `kubernetes` over a cluster.

use std::future::Future;
use std::pin::Pin;

use mesh::Identity;

use crate::refusal::Refusal;

/// An answer that may need the network.
pub type Judged<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// What a caller shows.
pub struct Credentials<'a> {
    /// The bearer token, never empty. Not to be logged.
    pub token: &'a str,
}

/// A caller that was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The node it runs on, as the authenticator knows it, never as the request says (ca.md 7.5).
    pub node: Option<String>,
    /// The pod that it is, as the authenticator knows it.
    pub pod: Option<String>,
    /// For whom it may ask.
    pub may: MayIssue,
    /// DNS names and addresses that its own certificate also has: for servers that others know by name.
    pub names: Vec<String>,
}

/// For whom a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MayIssue {
    /// For itself: waypoints, gateways.
    Itself,
    /// For nobody: its node's proxy asks for it.
    Nobody,
    /// For the pods of its node, by `ImpersonatedIdentity`: a node's proxy.
    PodsOfItsNode,
}

/// Recognises callers.
pub trait Authenticator: Send + Sync + 'static {
    /// Says who shows these credentials.
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Judged<'a, Caller>;
}

/// Knows which pods run where.
pub trait NodePods: Send + Sync + 'static {
    /// Passes when a live pod of `wanted`'s namespace and service account runs on `node`.
    fn runs<'a>(&'a self, wanted: &'a Identity, node: &'a str) -> Judged<'a, ()>;
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)?;
        self.pod.as_ref().map_or(Ok(()), |pod| write!(f, "({pod})"))?;
        self.node.as_ref().map_or(Ok(()), |node| write!(f, "@{node}"))
    }
}
