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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use prost_types::Any;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use tonic::Status;

use super::store::{Store, Stored, Table};
use super::{ClientReport, Grant, TypeReport};

/// Names that one stream may hold or ask for. A client that has everything of a very large mesh (10^5 pods and services
/// with two addresses each) stays below; one that invents names does not fill the memory.
const MAX_NAMES: usize = 1_000_000;

/// A response that the client has not answered.
struct Unanswered {
    nonce: String,
    revision: u64,
    names: Vec<Arc<str>>,
}

/// What one stream knows and wants.
pub(super) struct Session {
    grant: Arc<dyn Grant>,
    node: String,
    types: BTreeMap<String, Subscription>,
    nonces: u64,
}

#[derive(Default)]
struct Subscription {
    wildcard: bool,
    /// Names and aliases that this client follows.
    keys: HashSet<Arc<str>>,
    /// Names asked for that are not answered yet.
    asked: Vec<Arc<str>>,
    /// What the client holds: the version, or `None` when it is not one of ours.
    sent: HashMap<Arc<str>, Option<u128>>,
    /// Revision that `sent` reflects; `None` = compare everything.
    seen: Option<u64>,
    /// Whether the first response was sent.
    greeted: bool,
    unanswered: Option<Unanswered>,
    /// Names that the client refused, as far as its words tell, and that were not taken since.
    refused: HashSet<Arc<str>>,
    acked: u64,
    nacks: u64,
    last_nack: Option<String>,
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
        let subscription = self.types.entry(type_url.to_owned()).or_default();
        let star = |list: &[String]| list.iter().any(|n| n == "*");
        if first {
            subscription.wildcard = (request.resource_names_subscribe.is_empty()
                || star(&request.resource_names_subscribe))
                && !star(&request.resource_names_unsubscribe);
            subscription.held(&request.initial_resource_versions);
        } else {
            subscription.answer(&request);
            if star(&request.resource_names_unsubscribe) {
                subscription.narrow();
            } else if star(&request.resource_names_subscribe) {
                subscription.widen();
            }
        }
        subscription.names(&request);
        if subscription.keys.len() + subscription.sent.len() > MAX_NAMES {
            return Err(Status::resource_exhausted(format!("more than {MAX_NAMES} names on one stream")));
        }
        let granted =
            if subscription.wildcard { self.grant.wildcard(type_url) } else { self.grant.on_demand(type_url) };
        if granted {
            return Ok(());
        }
        let what = if subscription.wildcard { "everything" } else { "names" };
        Err(Status::permission_denied(format!("this client may not ask for {what} of type {type_url:?}")))
    }

    /// The next response, if there is something to say to a type that may be spoken to.
    pub(super) fn next(&mut self, store: &Store) -> Option<DeltaDiscoveryResponse> {
        for type_url in store.types() {
            let Some(subscription) = self.types.get_mut(type_url) else { continue };
            if subscription.unanswered.is_some() {
                continue;
            }
            let Ok(table) = store.read(type_url) else { continue };
            let view = View { type_url, grant: &*self.grant, table: &table };
            if let Some(mut response) = subscription.next(&view) {
                self.nonces += 1;
                response.nonce = self.nonces.to_string();
                subscription.unanswered = Some(Unanswered {
                    nonce: response.nonce.clone(),
                    revision: table.revision(),
                    names: response.resources.iter().map(|r| r.name.as_str().into()).collect(),
                });
                return Some(response);
            }
        }
        None
    }

    pub(super) fn report(&self) -> ClientReport {
        let one = |s: &Subscription| TypeReport {
            wildcard: s.wildcard,
            held: s.sent.len(),
            acked: s.acked,
            sent: s.unanswered.as_ref().map(|u| u.revision),
            refused: s.refused.len(),
            nacks: s.nacks,
            last_nack: s.last_nack.clone(),
        };
        ClientReport { node: self.node.clone(), types: self.types.iter().map(|(t, s)| (t.clone(), one(s))).collect() }
    }
}

struct View<'a> {
    type_url: &'a str,
    grant: &'a dyn Grant,
    table: &'a Table,
}

impl View<'_> {
    fn sees(&self, stored: &Stored) -> bool {
        self.grant.sees(self.type_url, &stored.entry)
    }

    fn resource(&self, stored: &Stored) -> Resource {
        Resource {
            version: format!("{:032x}", stored.version),
            resource: Some(Any { type_url: self.type_url.to_owned(), value: stored.entry.body.to_vec() }),
            name: stored.entry.name.to_string(),
            aliases: stored.entry.aliases.iter().map(|a| a.to_string()).collect(),
            ttl: None,
        }
    }
}

impl Subscription {
    /// What the client brings along from an earlier stream. A name with an empty version is one that it asked for and
    /// never got.
    fn held(&mut self, versions: &BTreeMap<String, String>) {
        for (name, version) in versions {
            let name: Arc<str> = name.as_str().into();
            if !self.wildcard {
                self.keys.insert(name.clone());
            }
            if version.is_empty() && !self.wildcard {
                self.asked.push(name);
            } else {
                self.sent.insert(name, u128::from_str_radix(version, 16).ok());
            }
        }
    }

    /// Takes an ACK or NACK. One for an older response says nothing.
    fn answer(&mut self, request: &DeltaDiscoveryRequest) {
        let Some(answered) = self.unanswered.take_if(|u| u.nonce == request.response_nonce) else { return };
        if let Some(error) = &request.error_detail {
            // Not sent again before it changes: the same bytes would be refused again.
            self.nacks += 1;
            let named = |n: &Arc<str>| error.message.contains(&**n);
            // Clients name what they refuse. Where one does not name anything, or not all, all of it counts as refused.
            let all = error.message.ends_with(" more") || !answered.names.iter().any(named);
            for name in answered.names {
                if all || named(&name) {
                    self.refused.insert(name);
                } else {
                    self.refused.remove(&name);
                }
            }
            self.last_nack = Some(error.message.clone());
        } else {
            for name in &answered.names {
                self.refused.remove(name);
            }
            self.acknowledged(answered.revision);
        }
    }

    /// Whoever waits for an acknowledgement relies on it, so what was refused once holds it up until it is taken or gone.
    fn acknowledged(&mut self, revision: u64) {
        if self.refused.is_empty() {
            self.acked = revision;
        }
    }

    /// From names to everything, in the middle of a stream.
    fn widen(&mut self) {
        if !std::mem::replace(&mut self.wildcard, true) {
            self.seen = None;
        }
    }

    /// From everything to the names that were asked for; the client drops the rest by itself.
    fn narrow(&mut self) {
        self.wildcard = false;
        self.sent.retain(|name, _| self.keys.contains(name));
    }

    fn names(&mut self, request: &DeltaDiscoveryRequest) {
        for name in request.resource_names_unsubscribe.iter().filter(|n| *n != "*") {
            self.keys.remove(name.as_str());
            self.asked.retain(|a| **a != **name);
            if !self.wildcard {
                self.sent.remove(name.as_str());
            }
        }
        for name in request.resource_names_subscribe.iter().filter(|n| *n != "*") {
            let name: Arc<str> = name.as_str().into();
            self.keys.insert(name.clone());
            self.asked.push(name);
        }
    }

    fn next(&mut self, view: &View<'_>) -> Option<DeltaDiscoveryResponse> {
        let mut response = DeltaDiscoveryResponse { type_url: view.type_url.to_owned(), ..Default::default() };
        let mut told = HashSet::new();
        for key in std::mem::take(&mut self.asked) {
            self.tell_asked(view, &key, &mut response, &mut told);
        }
        match self.seen.and_then(|seen| view.table.since(seen)) {
            Some(changed) => {
                for name in changed {
                    self.tell(view, name, &mut response, &mut told);
                }
            }
            None => {
                for stored in view.table.iter() {
                    self.tell(view, &stored.entry.name, &mut response, &mut told);
                }
                let held: Vec<_> = self.sent.keys().cloned().collect();
                for name in held {
                    self.tell(view, &name, &mut response, &mut told);
                }
            }
        }
        self.seen = Some(view.table.revision());
        if self.greeted && response.resources.is_empty() && response.removed_resources.is_empty() {
            // There is nothing to acknowledge.
            self.acknowledged(view.table.revision());
            return None;
        }
        self.greeted = true;
        Some(response)
    }

    /// Answers a name, in any case: with what it stands for, or with its absence.
    fn tell_asked(
        &mut self,
        view: &View<'_>,
        key: &Arc<str>,
        response: &mut DeltaDiscoveryResponse,
        told: &mut HashSet<Arc<str>>,
    ) {
        let found: Vec<_> = view.table.find(key).into_iter().filter(|s| view.sees(s)).collect();
        if found.is_empty() && told.insert(key.clone()) {
            self.sent.remove(key);
            response.removed_resources.push(key.to_string());
        }
        for stored in found {
            self.send(view, stored, response, told);
        }
    }

    /// Brings the client up to date with one name, if it follows it.
    fn tell(
        &mut self,
        view: &View<'_>,
        name: &Arc<str>,
        response: &mut DeltaDiscoveryResponse,
        told: &mut HashSet<Arc<str>>,
    ) {
        match view.table.get(name).filter(|s| view.sees(s)) {
            Some(stored) if self.sent.get(name) == Some(&Some(stored.version)) => {}
            Some(stored) if self.follows(view, stored) => self.send(view, stored, response, told),
            Some(_) => {}
            None => {
                self.refused.remove(name);
                if self.sent.remove(name).is_some() && told.insert(name.clone()) {
                    response.removed_resources.push(name.to_string());
                }
            }
        }
    }

    fn follows(&self, view: &View<'_>, stored: &Stored) -> bool {
        let Stored { entry, .. } = stored;
        let mut names = std::iter::once(&entry.name).chain(&entry.aliases).chain(&entry.comes_with);
        self.wildcard || names.any(|n| self.keys.contains(n)) || view.grant.unasked(view.type_url, entry)
    }

    fn send(
        &mut self,
        view: &View<'_>,
        stored: &Arc<Stored>,
        response: &mut DeltaDiscoveryResponse,
        told: &mut HashSet<Arc<str>>,
    ) {
        let name = &stored.entry.name;
        if !told.insert(name.clone()) {
            return;
        }
        if !self.wildcard {
            // What was sent is followed from now on, whatever name it was asked by.
            self.keys.insert(name.clone());
        }
        self.sent.insert(name.clone(), Some(stored.version));
        response.resources.push(view.resource(stored));
    }
}
