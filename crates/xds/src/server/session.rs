//! One stream, without I/O: requests in, the next response out.
//!
//! Per type:
//! ```text
//!            first request                      anything to say
//!   (none) ────────────────► Owed ───────────────────────────────► Unanswered
//!                              ▲      ACK or NACK of that nonce         │
//!                              └────────────────────────────────────────┘
//! ```
//! `Owed` with nothing to say waits for the store or for a name to be asked for. A first response is always sent, even an
//! empty one: clients wait for it before they are ready.

mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::discovery::DeltaDiscoveryRequest;
use tonic::Status;

use super::response::Response;
use super::store::Store;
use super::table::{Stored, Table};
use super::{ClientReport, Grant, TypeReport};
use subscription::Subscription;

/// Names that one stream may hold or ask for. A client that has everything of a very large mesh (10^5 pods and services
/// with two addresses each) stays below; one that invents names does not fill the memory.
const MAX_NAMES: usize = 1_000_000;

/// What one stream knows and wants.
pub(super) struct Session {
    grant: Arc<dyn Grant>,
    node: String,
    types: BTreeMap<Arc<str>, Subscription>,
    nonces: u64,
}

/// The store does not remember any more what was removed since this stream looked last. The client remembers what it
/// holds, and names it when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFarBehind;

/// What a subscription looks at.
struct View<'a> {
    type_url: &'a Arc<str>,
    grant: &'a dyn Grant,
    table: &'a Table,
}

impl View<'_> {
    fn sees(&self, stored: &Stored) -> bool {
        self.grant.sees(self.type_url, &stored.entry)
    }
}

impl Session {
    pub(super) fn new(grant: Arc<dyn Grant>, node: String) -> Self {
        Self { grant, node, types: BTreeMap::new(), nonces: 0 }
    }

    /// Takes a request.
    pub(super) fn request(&mut self, store: &Store, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let type_url = request.type_url.as_str();
        if !store.types().any(|t| t == type_url) {
            let served: Vec<_> = store.types().collect();
            let text = format!("type {type_url:?} is not served here; there are {}", served.join(", "));
            return Err(Status::invalid_argument(text));
        }
        let first = !self.types.contains_key(type_url);
        let subscription = self.types.entry(type_url.into()).or_default();
        match first {
            true => subscription.begin(&request),
            false => subscription.go_on(&request),
        }
        if subscription.names() > MAX_NAMES {
            return Err(Status::resource_exhausted(format!("more than {MAX_NAMES} names on one stream")));
        }
        let wildcard = subscription.wildcard();
        if if wildcard { self.grant.wildcard(type_url) } else { self.grant.on_demand(type_url) } {
            return Ok(());
        }
        let what = if wildcard { "everything" } else { "names" };
        Err(Status::permission_denied(format!("this client may not ask for {what} of type {type_url:?}")))
    }

    /// The next response, if there is something to say to a type that may be spoken to.
    pub(super) fn next(&mut self, store: &Store) -> Result<Option<Response>, TooFarBehind> {
        for type_url in store.types() {
            let Some((type_url, _)) = self.types.get_key_value(type_url) else { continue };
            let type_url = type_url.clone();
            let Some(subscription) = self.types.get_mut(&type_url) else { continue };
            let Ok(table) = store.read(&type_url) else { continue };
            let view = View { type_url: &type_url, grant: &*self.grant, table: &table };
            if let Some(response) = subscription.next(&view, self.nonces + 1)? {
                self.nonces += 1;
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    pub(super) fn report(&self) -> ClientReport {
        let one = |(url, s): (&Arc<str>, &Subscription)| (url.to_string(), s.report());
        ClientReport { node: self.node.clone(), types: self.types.iter().map(one).collect() }
    }
}
