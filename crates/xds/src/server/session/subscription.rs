//! One type of one stream.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proto::discovery::DeltaDiscoveryRequest;

use super::{TooFarBehind, TypeReport, View};
use crate::server::response::Response;
use crate::server::table::{Position, Stored};

/// Bytes of bodies in one response, about, once the first picture is there. Changes of a whole mesh are taken in by proxies
/// in steps: what one step makes new and old is there twice. A step of some 1500 workloads is well beyond what a
/// rollout changes at once, and some ten milliseconds of a proxy.
const PART: usize = 512 << 10;

/// What the client holds.
enum Held {
    /// Everything as of a position.
    All(Position),
    /// These: the version, or `None` when it is not one of ours. And what of the log it was compared with; `None` = nothing.
    These(HashMap<Arc<str>, Option<u128>>, Option<Position>),
}

/// A response that the client has not answered.
struct Unanswered {
    nonce: u64,
    /// Everything up to this revision is taken when it is acknowledged.
    revision: u64,
    names: Box<[Arc<str>]>,
}

/// How a client comes to follow a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Followed {
    /// For itself.
    Itself,
    /// Because it comes with something else. Ends when it does not any more.
    Along,
    No,
}

pub(super) struct Subscription {
    wildcard: bool,
    /// Names and aliases that this client follows, each for itself.
    keys: HashSet<Arc<str>>,
    /// Names asked for that are not answered yet.
    asked: Vec<Arc<str>>,
    /// Names that are not asked for any more; what came along with them goes.
    left: Vec<Arc<str>>,
    held: Held,
    /// Whether the first response was sent.
    greeted: bool,
    unanswered: Option<Unanswered>,
    /// Names that the client refused, as far as its words tell, and that were not taken since.
    refused: HashSet<Arc<str>>,
    /// Resources that it holds, where they are not listed.
    count: usize,
    acked: u64,
    nacks: u64,
    last_nack: Option<String>,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            wildcard: false,
            keys: HashSet::new(),
            asked: Vec::new(),
            left: Vec::new(),
            held: Held::These(HashMap::new(), None),
            greeted: false,
            unanswered: None,
            refused: HashSet::new(),
            count: 0,
            acked: 0,
            nacks: 0,
            last_nack: None,
        }
    }
}

/// A response in the making.
#[derive(Default)]
struct Draft {
    response: Response,
    /// Names in it that were asked for, so that nothing is in it twice.
    told: HashSet<Arc<str>>,
    bytes: usize,
}

impl Draft {
    fn remove(&mut self, name: &Arc<str>) {
        if !self.told.contains(name) {
            self.response.removed.push(name.clone());
        }
    }

    fn put(&mut self, stored: &Arc<Stored>) {
        if !self.told.contains(&stored.entry.name) {
            self.bytes += stored.entry.body.len();
            self.response.resources.push(stored.clone());
        }
    }

    fn full(&self) -> bool {
        self.bytes >= PART
    }
}

fn star(list: &[String]) -> bool {
    list.iter().any(|name| name == "*")
}

impl Subscription {
    pub(super) fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// How many names are kept for it.
    pub(super) fn names(&self) -> usize {
        let held = if let Held::These(names, _) = &self.held { names.len() } else { 0 };
        self.keys.len() + held
    }

    pub(super) fn report(&self) -> TypeReport {
        TypeReport {
            wildcard: self.wildcard,
            held: if let Held::These(names, _) = &self.held { names.len() } else { self.count },
            acked: self.acked,
            sent: self.unanswered.as_ref().map(|u| u.revision),
            refused: self.refused.len(),
            nacks: self.nacks,
            last_nack: self.last_nack.clone(),
        }
    }

    /// Takes the first request.
    pub(super) fn begin(&mut self, request: &DeltaDiscoveryRequest) {
        let (plus, minus) = (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
        self.wildcard = (plus.is_empty() || star(plus)) && !star(minus);
        self.brought(&request.initial_resource_versions);
        self.ask(request);
    }

    /// Takes a further request.
    pub(super) fn go_on(&mut self, request: &DeltaDiscoveryRequest) {
        self.answer(request);
        if star(&request.resource_names_unsubscribe) {
            self.narrow();
        } else if star(&request.resource_names_subscribe) {
            self.widen();
        }
        self.ask(request);
    }

    /// What the client brings along from an earlier stream. A name with an empty version is one that it asked for and
    /// never got.
    fn brought(&mut self, versions: &BTreeMap<String, String>) {
        let Held::These(held, _) = &mut self.held else { return };
        for (name, version) in versions {
            let name: Arc<str> = name.as_str().into();
            if !self.wildcard {
                self.keys.insert(name.clone());
            }
            if version.is_empty() && !self.wildcard {
                self.asked.push(name);
            } else {
                held.insert(name, u128::from_str_radix(version, 16).ok());
            }
        }
    }

    /// Takes an ACK or NACK. One for an older response says nothing.
    fn answer(&mut self, request: &DeltaDiscoveryRequest) {
        let answers = |u: &mut Unanswered| request.response_nonce.parse() == Ok(u.nonce);
        let Some(answered) = self.unanswered.take_if(answers) else { return };
        let Some(error) = &request.error_detail else {
            for name in &answered.names {
                self.refused.remove(name);
            }
            self.acknowledged(answered.revision);
            return;
        };
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
    }

    /// Whoever waits for an acknowledgement relies on it, so what was refused once holds it up until it is taken or gone.
    fn acknowledged(&mut self, revision: u64) {
        if self.refused.is_empty() {
            self.acked = self.acked.max(revision);
        }
    }

    /// From names to everything, in the middle of a stream.
    fn widen(&mut self) {
        if !std::mem::replace(&mut self.wildcard, true)
            && let Held::These(_, position) = &mut self.held
        {
            *position = None;
        }
    }

    /// From everything to the names that were asked for. The client drops the rest by itself, and which names count for
    /// it as asked for is its own affair: what is followed, it gets again.
    fn narrow(&mut self) {
        if std::mem::replace(&mut self.wildcard, false) {
            self.held = Held::These(self.keys.iter().map(|name| (name.clone(), None)).collect(), None);
        }
    }

    fn ask(&mut self, request: &DeltaDiscoveryRequest) {
        for name in request.resource_names_unsubscribe.iter().filter(|n| *n != "*") {
            self.keys.remove(name.as_str());
            self.left.push(name.as_str().into());
            self.asked.retain(|a| **a != **name);
            if let Held::These(held, _) = &mut self.held
                && !self.wildcard
            {
                held.remove(name.as_str());
            }
        }
        for name in request.resource_names_subscribe.iter().filter(|n| *n != "*") {
            let name: Arc<str> = name.as_str().into();
            self.keys.insert(name.clone());
            self.asked.push(name);
        }
    }

    /// The next response with this nonce, if there is something to say and the last one was answered.
    pub(super) fn next(&mut self, view: &View<'_>, nonce: u64) -> Result<Option<Response>, TooFarBehind> {
        if self.unanswered.is_some() {
            return Ok(None);
        }
        let mut draft = Draft::default();
        for key in std::mem::take(&mut self.asked) {
            self.tell_asked(view, &key, &mut draft);
        }
        let wildcard = self.wildcard;
        for key in std::mem::take(&mut self.left).into_iter().filter(|_| !wildcard) {
            // What is followed for another reason stays, and comes again where the client has dropped it.
            for stored in view.table.get(&key).into_iter().chain(view.table.along(&key)) {
                self.tell(view, stored, &mut draft);
            }
        }
        let now = match &self.held {
            Held::All(position) if view.table.reaches(position) => self.news(view, position.clone(), &mut draft),
            Held::All(_) => return Err(TooFarBehind),
            Held::These(_, Some(position)) if view.table.reaches(position) => {
                self.news(view, position.clone(), &mut draft)
            }
            Held::These(..) => self.compare(view, &mut draft),
        };
        let revision = now.complete();
        self.reached(view, now);
        if self.greeted && draft.response.is_empty() {
            // There is nothing to acknowledge.
            self.acknowledged(revision);
            return Ok(None);
        }
        self.greeted = true;
        let response = Response { type_url: view.type_url.clone(), nonce, ..draft.response };
        let names = response.resources.iter().map(|stored| stored.entry.name.clone()).collect();
        self.unanswered = Some(Unanswered { nonce, revision, names });
        Ok(Some(response))
    }

    /// What changed since a position, as far as one response takes it.
    fn news(&mut self, view: &View<'_>, from: Position, draft: &mut Draft) -> Position {
        let mut now = Position::at(view.table.revision());
        for name in view.table.removed(&from) {
            self.tell_gone(name, draft);
        }
        for stored in view.table.changed(&from) {
            self.tell(view, stored, draft);
            if draft.full() {
                now.through(view.table.revision(), stored);
                break;
            }
        }
        now
    }

    /// Compares all that there is with all that the client holds. In one response, as clients count themselves ready by
    /// the first.
    fn compare(&mut self, view: &View<'_>, draft: &mut Draft) -> Position {
        for stored in view.table.iter() {
            self.tell(view, stored, draft);
        }
        let Held::These(held, _) = &self.held else { return Position::at(view.table.revision()) };
        let gone: Vec<_> = held.keys().filter(|name| view.table.get(name).is_none()).cloned().collect();
        for name in gone {
            self.tell_gone(&name, draft);
        }
        Position::at(view.table.revision())
    }

    fn reached(&mut self, view: &View<'_>, now: Position) {
        self.count = view.table.len();
        let whole = self.wildcard && view.grant.whole(view.type_url);
        match &mut self.held {
            Held::These(_, position) if !whole => *position = Some(now),
            // All of them from now on, so they need not be listed.
            held => *held = Held::All(now),
        }
    }

    /// Answers a name, in any case: with what it stands for, or with its absence.
    fn tell_asked(&mut self, view: &View<'_>, key: &Arc<str>, draft: &mut Draft) {
        let named: Vec<_> = view.table.named(key).into_iter().filter(|s| view.sees(s)).collect();
        if named.is_empty() {
            draft.remove(key);
            draft.told.insert(key.clone());
            if let Held::These(held, _) = &mut self.held {
                held.remove(key);
            }
        }
        // Under the name itself there may be something although there is nothing of that name yet.
        let sources = named.iter().map(|stored| &stored.entry.name).chain([key]);
        let along = sources.flat_map(|name| view.table.along(name)).filter(|s| view.sees(s));
        let all = named.iter().map(|stored| (*stored, Followed::Itself));
        for (stored, how) in all.chain(along.map(|stored| (stored, Followed::Along))) {
            self.send(stored, how, draft);
            draft.told.insert(stored.entry.name.clone());
        }
    }

    /// Brings the client up to date with a resource, if it follows it; takes it away if not.
    fn tell(&mut self, view: &View<'_>, stored: &Arc<Stored>, draft: &mut Draft) {
        let name = &stored.entry.name;
        if !view.sees(stored) {
            return self.tell_gone(name, draft);
        }
        let how = self.followed(view, stored);
        match &mut self.held {
            Held::These(held, _) => match held.get(name) {
                None if how == Followed::No => {}
                Some(_) if how == Followed::No => self.tell_gone(name, draft),
                Some(version) if *version == Some(stored.version) => {}
                _ => self.send(stored, how, draft),
            },
            Held::All(_) => self.send(stored, how, draft),
        }
    }

    /// Tells of a name that does not exist for the client, if it holds it.
    fn tell_gone(&mut self, name: &Arc<str>, draft: &mut Draft) {
        self.refused.remove(name);
        let holds = match &mut self.held {
            Held::These(held, _) => held.remove(name).is_some(),
            // Or it came and went unseen: an end too many does no harm, and all that was there may be known.
            Held::All(_) => true,
        };
        if holds {
            draft.remove(name);
        }
    }

    fn followed(&self, view: &View<'_>, stored: &Stored) -> Followed {
        let entry = &stored.entry;
        let mut names = std::iter::once(&entry.name).chain(&entry.aliases);
        if self.wildcard || names.any(|n| self.keys.contains(n)) {
            Followed::Itself
        } else if entry.comes_with.iter().any(|n| self.keys.contains(n)) {
            Followed::Along
        } else if view.grant.unasked(view.type_url, entry) {
            Followed::Itself
        } else {
            Followed::No
        }
    }

    fn send(&mut self, stored: &Arc<Stored>, how: Followed, draft: &mut Draft) {
        let name = &stored.entry.name;
        if let Held::These(held, _) = &mut self.held {
            held.insert(name.clone(), Some(stored.version));
        }
        if !self.wildcard && how == Followed::Itself {
            // Followed from now on, whatever name it was asked by.
            self.keys.insert(name.clone());
        }
        draft.put(stored);
    }
}
