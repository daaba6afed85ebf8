//! Who calls, and what a caller may have. Kubernetes will be one more implementation of these two traits.

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
    /// For whom it may ask.
    pub may: MayIssue,
}

/// For whom a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MayIssue {
    /// For itself: waypoints, gateways.
    Itself,
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
        self.node.as_ref().map_or(Ok(()), |node| write!(f, "@{node}"))
    }
}
