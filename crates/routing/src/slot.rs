//! Entries of one path, best first, and found without looking at all of them.

use std::collections::HashMap as Counts;

use hashbrown::HashMap;
use http::header::{HOST, HeaderName};

use crate::condition::{Entry, Text};
use crate::request::RequestView;

/// Entries of one path.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// By rank.
    entries: Vec<Entry>,
    index: Option<Box<Index>>,
}

/// From how many entries on an index pays: below, looking at each is as fast as one look-up in a map for each header.
const INDEX_FROM: usize = 8;

/// Which entries can hold at all, by one header or parameter that each of them wants to be exactly something.
#[derive(Debug, Default)]
struct Index {
    headers: HashMap<HeaderName, ByValue>,
    query: HashMap<Box<[u8]>, ByValue>,
    /// Entries that want nothing exactly.
    rest: Vec<u32>,
}

/// Places in the slot, ascending.
type ByValue = HashMap<Box<[u8]>, Vec<u32>>;

impl Slot {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Brings the entries in order. To be called once, after the last `push`.
    pub(crate) fn finish(&mut self) {
        self.entries.sort_by_key(Entry::rank);
        self.entries.shrink_to_fit();
        self.index = (self.entries.len() >= INDEX_FROM).then(|| Box::new(Index::new(&self.entries)));
    }

    /// The best entry that holds.
    pub(crate) fn find(&self, request: &RequestView<'_>) -> Option<&Entry> {
        match &self.index {
            None => self.entries.iter().find(|e| e.holds(request)),
            Some(index) => index.find(&self.entries, request),
        }
    }
}

impl Index {
    fn new(entries: &[Entry]) -> Self {
        // The rarest wish of an entry is its key: what all of them want tells nothing.
        let mut counts: Counts<Wish<'_>, u32> = Counts::new();
        for wish in entries.iter().flat_map(wishes) {
            *counts.entry(wish).or_default() += 1;
        }
        let mut made = Self::default();
        for (at, entry) in (0_u32..).zip(entries) {
            match wishes(entry).min_by_key(|w| counts.get(w).copied()) {
                None => made.rest.push(at),
                Some(Wish::Header(name, value)) => {
                    made.headers.entry(name.clone()).or_default().entry(value.into()).or_default().push(at);
                }
                Some(Wish::Parameter(name, value)) => {
                    made.query.entry(name.into()).or_default().entry(value.into()).or_default().push(at);
                }
            }
        }
        made
    }

    fn find<'e>(&self, entries: &'e [Entry], request: &RequestView<'_>) -> Option<&'e Entry> {
        let mut best = Best { entries, request, at: None };
        best.consider(&self.rest);
        // Over whichever is fewer: the names that entries want, or those that the request has.
        if self.headers.len() <= request.headers.keys_len() {
            self.headers.iter().for_each(|(name, values)| best.consider_header(name, values));
        } else {
            for name in request.headers.keys().filter(|n| **n != HOST).chain([&HOST]) {
                if let Some(values) = self.headers.get(name) {
                    best.consider_header(name, values);
                }
            }
        }
        if !self.query.is_empty() {
            for (name, value) in request.parameters() {
                if let Some(list) = self.query.get(&*name).and_then(|values| values.get(&*value)) {
                    best.consider(list);
                }
            }
        }
        best.at.and_then(|at| entries.get(at as usize))
    }
}

/// The first entry so far that holds.
struct Best<'e, 'r> {
    entries: &'e [Entry],
    request: &'r RequestView<'r>,
    at: Option<u32>,
}

impl Best<'_, '_> {
    fn consider_header(&mut self, name: &HeaderName, values: &ByValue) {
        if let Some(list) = self.request.header(name).and_then(|v| values.get(&*v)) {
            self.consider(list);
        }
    }

    fn consider(&mut self, list: &[u32]) {
        let better = list.iter().take_while(|at| self.at.is_none_or(|best| **at < best));
        let found = better.copied().find(|at| self.entries.get(*at as usize).is_some_and(|e| e.holds(self.request)));
        self.at = found.or(self.at);
    }
}

/// Something that an entry wants to be exactly this.
#[derive(PartialEq, Eq, Hash)]
enum Wish<'e> {
    Header(&'e HeaderName, &'e [u8]),
    Parameter(&'e [u8], &'e [u8]),
}

fn wishes(entry: &Entry) -> impl Iterator<Item = Wish<'_>> {
    let headers = entry.headers.iter().filter_map(|(n, t)| match t {
        Text::Exact(value) => Some(Wish::Header(n, value)),
        Text::Any | Text::Regex(_) => None,
    });
    let query = entry.query.iter().filter_map(|(n, t)| match t {
        Text::Exact(value) => Some(Wish::Parameter(n, value)),
        Text::Any | Text::Regex(_) => None,
    });
    headers.chain(query)
}
