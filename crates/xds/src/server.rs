//! The server of delta ADS, for any set of type URLs (fact sheet discovery.md 1).
//!
//! [`Store`] holds the resources and their versions. Each stream is a [`session`] that compares what its client holds with
//! what the store holds *now*: at most one response per type is unanswered, and while it is, changes are not queued. A slow
//! client therefore gets the latest, however many changes it missed. [`Authorise`] decides what a stream may see.

mod body;
mod response;
mod service;
mod session;
mod store;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use proto::discovery::Node;
use tonic::metadata::MetadataMap;

pub use service::{Discovery, Server, Totals};
pub use store::{Batch, Entry, Store, UnknownType};

/// Who opened a stream, for [`Authorise`].
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    /// Headers of the call: `authorization`, `clusterid` and others.
    pub metadata: &'a MetadataMap,
    /// What the listener knows of the connection.
    pub extensions: &'a tonic::Extensions,
    /// The node as the client names itself in its first message; nothing in it is proven.
    pub node: &'a Node,
}

/// Decides what a stream may see.
pub trait Authorise: Send + Sync + 'static {
    /// Judges the caller once, when its first message is there.
    ///
    /// # Errors
    /// A status ends the stream.
    fn authorise(&self, caller: &Caller<'_>) -> impl Future<Output = Result<Arc<dyn Grant>, tonic::Status>> + Send;
}

/// What one stream may see.
pub trait Grant: Send + Sync {
    /// Whether it may ask for everything of a type. Otherwise the stream ends with PERMISSION_DENIED.
    fn wildcard(&self, type_url: &str) -> bool;

    /// Whether it may ask for names of a type. Otherwise the stream ends with PERMISSION_DENIED.
    fn on_demand(&self, type_url: &str) -> bool;

    /// Whether it may see a resource. What it may not see does not exist for it.
    fn sees(&self, type_url: &str, entry: &Entry) -> bool {
        let _ = (type_url, entry);
        true
    }

    /// Promises that everything of a type is seen, now and later. Then a stream that has everything needs no memory for
    /// what it has; [`Grant::sees`] is asked nevertheless.
    fn whole(&self, type_url: &str) -> bool {
        let _ = type_url;
        false
    }

    /// Whether a stream that asks by name gets the resource without asking, as a node proxy gets the workloads of its node.
    fn unasked(&self, type_url: &str, entry: &Entry) -> bool {
        let _ = (type_url, entry);
        false
    }

    /// Resolves when the stream has to end, because the grant is withdrawn or its time is over: with the status that the
    /// client is told, or with `None` for an ordinary end, after which clients come again at once. By default never.
    fn ended(&self) -> Ending<'_> {
        Box::pin(std::future::pending())
    }
}

/// How the end of a stream is told; see [`Grant::ended`].
pub type Ending<'a> = Pin<Box<dyn Future<Output = Option<tonic::Status>> + Send + 'a>>;

/// Everything to whoever reaches the listener. For a listener that is guarded by other means.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

impl Authorise for Everybody {
    async fn authorise(&self, _: &Caller<'_>) -> Result<Arc<dyn Grant>, tonic::Status> {
        Ok(Arc::new(Self))
    }
}

impl Grant for Everybody {
    fn wildcard(&self, _: &str) -> bool {
        true
    }

    fn on_demand(&self, _: &str) -> bool {
        true
    }

    fn whole(&self, _: &str) -> bool {
        true
    }
}

/// How one client stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientReport {
    /// Its node id.
    pub node: String,
    /// Its types.
    pub types: BTreeMap<String, TypeReport>,
}

/// How one client stands with one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeReport {
    /// It asked for everything.
    pub wildcard: bool,
    /// Resources that it was sent and that are not withdrawn.
    pub held: usize,
    /// Revision of the store up to which it has acknowledged everything. Stays behind while something is refused.
    pub acked: u64,
    /// Resources that it refused and has not taken since.
    pub refused: usize,
    /// Revision that a response under way brings it to.
    pub sent: Option<u64>,
    /// How many responses it refused, in whole or in part.
    pub nacks: u64,
    /// What it said the last time.
    pub last_nack: Option<String>,
}
