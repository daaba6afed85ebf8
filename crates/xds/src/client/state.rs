//! The protocol, one state machine per type, without I/O.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, ErrorDetail};

use super::{Node, Rejection, Update};

/// How much of a type to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What is asked for by name, and what the server adds to it.
    OnDemand,
    /// Everything.
    Wildcard,
}

/// A type to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Type URL.
    pub type_url: &'static str,
    /// How much of it.
    pub mode: Mode,
}

/// A response that the machine did not expect. The stream is to be given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// A type that nobody asked for.
    #[error("a response of type {0:?}, which was not asked for")]
    Type(String),
}

/// Where one type stands on the present stream.
///
/// ```text
///            connect: first request          response              conclude: ACK or NACK
///   Away ───────────────────────────► Asked ──────────► Applying ─────────────────────────► Asked
///     ▲                                 │                  │
///     └─────────────────────────────────┴──────────────────┘  disconnect: nothing held is forgotten
/// ```
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Applying(Applying),
    Asked,
    Away,
}

#[derive(Clone, Debug, PartialEq)]
struct Applying {
    nonce: String,
    /// Name and version of what is being applied.
    resources: Vec<(Arc<str>, Arc<str>)>,
}

#[derive(Debug)]
struct Watch {
    subscription: Subscription,
    phase: Phase,
    /// Whether a response was ever acknowledged.
    ready: bool,
    /// Version by name of everything applied.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// Names asked for and not released.
    wanted: BTreeSet<Arc<str>>,
    /// Those of them that are not answered.
    pending: BTreeSet<Arc<str>>,
}

/// All types of one client.
#[derive(Debug)]
pub struct Machine {
    node: Node,
    watches: Vec<Watch>,
    synced: bool,
}

impl Machine {
    /// A machine that holds nothing.
    pub fn new(node: Node, subscriptions: &[Subscription]) -> Self {
        let watch = |s: &Subscription| Watch {
            subscription: *s,
            phase: Phase::Away,
            ready: false,
            held: BTreeMap::new(),
            wanted: BTreeSet::new(),
            pending: BTreeSet::new(),
        };
        Self { node, watches: subscriptions.iter().map(watch).collect(), synced: false }
    }

    /// The first requests of a new stream. What is held is named with its versions, so that the server sends only what
    /// differs; names still asked for go along with an empty version.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests: Vec<_> = self.watches.iter_mut().map(Watch::first_request).collect();
        // The server wants it in the first message of the stream, and only there.
        if let Some(first) = requests.first_mut() {
            first.node = Some(self.node.to_wire());
        }
        requests
    }

    /// The stream is gone.
    pub fn disconnect(&mut self) {
        for watch in &mut self.watches {
            watch.phase = Phase::Away;
        }
    }

    /// Asks for a name. Returns the request to send, if one is needed and there is a stream.
    pub fn demand(&mut self, type_url: &str, name: Arc<str>) -> Option<DeltaDiscoveryRequest> {
        let watch = self.watch(type_url)?;
        if watch.subscription.mode == Mode::Wildcard || !watch.pending.insert(name.clone()) {
            return None;
        }
        watch.wanted.insert(name.clone());
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: vec![name.to_string()],
            ..Default::default()
        };
        // Without a stream it goes along with the first request of the next one.
        (watch.phase != Phase::Away).then_some(request)
    }

    /// Ends what [`Machine::demand`] began. Returns the request to send, if one is needed and there is a stream.
    pub fn release(&mut self, type_url: &str, name: &str) -> Option<DeltaDiscoveryRequest> {
        let watch = self.watch(type_url)?;
        watch.pending.remove(name);
        let was_wanted = watch.wanted.remove(name);
        // No news of it comes any more: what we hold must not look current to the server of the next stream.
        watch.held.remove(name);
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_unsubscribe: vec![name.to_owned()],
            ..Default::default()
        };
        (was_wanted && watch.phase != Phase::Away).then_some(request)
    }

    /// Takes a response. [`Machine::conclude`] must follow.
    ///
    /// # Errors
    /// When it is of a type that was not asked for.
    pub fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Update, Unexpected> {
        let synced = self.synced;
        let others_wait = |w: &Watch| w.subscription.type_url != response.type_url && w.waits();
        let last = !synced && !self.watches.iter().any(others_wait);
        let Some(watch) = self.watch(&response.type_url) else { return Err(Unexpected::Type(response.type_url)) };
        let removals: Vec<Arc<str>> = response.removed_resources.into_iter().map(Arc::from).collect();
        let answered = watch.answered(&response.resources, &removals);
        for name in &removals {
            watch.held.remove(name);
        }
        let resources =
            response.resources.iter().map(|r| (r.name.as_str().into(), r.version.as_str().into())).collect();
        watch.phase = Phase::Applying(Applying { nonce: response.nonce, resources });
        Ok(Update {
            type_url: watch.subscription.type_url,
            upserts: response.resources,
            removals,
            answered,
            synced: last,
        })
    }

    /// Ends what [`Machine::receive`] began: notes what was applied and returns the ACK or NACK.
    pub fn conclude(&mut self, type_url: &str, rejections: &[Rejection]) -> Option<DeltaDiscoveryRequest> {
        let watch = self.watch(type_url)?;
        let Phase::Applying(applying) = std::mem::replace(&mut watch.phase, Phase::Asked) else { return None };
        for (name, version) in applying.resources {
            if !rejections.iter().any(|r| *r.name == *name) {
                watch.held.insert(name, version);
            }
        }
        let error_detail = (!rejections.is_empty()).then(|| nack(rejections));
        watch.ready |= error_detail.is_none();
        let ready = self.waiting_for().is_empty();
        self.synced |= ready;
        Some(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            response_nonce: applying.nonce,
            error_detail,
            ..Default::default()
        })
    }

    /// Wildcard types of which no response was acknowledged yet.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.watches.iter().filter(|w| w.waits()).map(|w| w.subscription.type_url).collect()
    }

    /// Names and versions of what is held of a type.
    pub fn held(&self, type_url: &str) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.watches.iter().filter(move |w| w.subscription.type_url == type_url).flat_map(|w| &w.held)
    }

    fn watch(&mut self, type_url: &str) -> Option<&mut Watch> {
        self.watches.iter_mut().find(|w| w.subscription.type_url == type_url)
    }
}

impl Watch {
    fn first_request(&mut self) -> DeltaDiscoveryRequest {
        self.phase = Phase::Asked;
        let star = match self.subscription.mode {
            // Subscribing to everything and at once not: the only way to say "nothing yet" (discovery.md 1).
            Mode::OnDemand => vec!["*".to_owned()],
            Mode::Wildcard => Vec::new(),
        };
        // What is held already is named below; a name under which nothing was found may stand for something by now.
        let absent = |name: &&Arc<str>| !self.held.contains_key(*name) && !self.pending.contains(*name);
        let asked = self.wanted.iter().filter(absent).map(|name| name.to_string());
        let held = self.held.iter().map(|(name, version)| (name.to_string(), version.to_string()));
        let pending = self.pending.iter().map(|name| (name.to_string(), String::new()));
        DeltaDiscoveryRequest {
            type_url: self.subscription.type_url.to_owned(),
            resource_names_subscribe: star.iter().cloned().chain(asked).collect(),
            resource_names_unsubscribe: star,
            initial_resource_versions: held.chain(pending).collect(),
            ..Default::default()
        }
    }

    fn waits(&self) -> bool {
        self.subscription.mode == Mode::Wildcard && !self.ready
    }

    /// Takes the names off the list that this response answers, by name, by alias or by their absence.
    fn answered(&mut self, resources: &[proto::discovery::Resource], removals: &[Arc<str>]) -> Vec<Arc<str>> {
        let names = resources.iter().flat_map(|r| std::iter::once(&r.name).chain(&r.aliases)).map(String::as_str);
        names.chain(removals.iter().map(|r| &**r)).filter_map(|name| self.pending.take(name)).collect()
    }
}

/// The code stays 0, as stock clients leave it. The text is bounded: it travels in a message and ends in a log.
fn nack(rejections: &[Rejection]) -> ErrorDetail {
    /// Enough to see what is wrong; a broken generator would break thousands alike.
    const SHOWN: usize = 20;
    let mut lines: Vec<_> = rejections.iter().take(SHOWN).map(|r| format!("{}: {}", r.name, r.reason)).collect();
    if rejections.len() > SHOWN {
        lines.push(format!("and {} more", rejections.len() - SHOWN));
    }
    ErrorDetail { code: 0, message: lines.join("; ") }
}
