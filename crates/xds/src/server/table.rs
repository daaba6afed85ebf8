//! The resources of one type, and what happened to them since when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::store::{Batch, Entry};

/// Removed names that are remembered at least, so that streams learn of a removal without comparing everything. Some 150
/// bytes each: 2.5 MB, for what a rollout of the largest services removes while a slow client looks away.
pub(super) const TOMBSTONES: usize = 16_384;

/// A resource with its version.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) version: u128,
    /// Revision that made it as it is.
    revision: u64,
}

/// How far somebody has read. Removals are read on their own, and always to the end: whoever takes changes in parts must not
/// get a successor before the end of what held its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Removals up to this revision are known.
    pub(super) removals: u64,
    /// Resources up to this place in the log are known: all of lower revisions, and of this revision those up to this name.
    upserts: (u64, Option<Arc<str>>),
}

impl Position {
    /// Everything of this revision.
    pub(super) fn at(revision: u64) -> Self {
        Self { removals: revision, upserts: (revision, None) }
    }

    /// Removals and resources up to here are known, and nothing after it.
    pub(super) fn through(&mut self, removals: u64, stored: &Stored) {
        *self = Self { removals, upserts: (stored.revision, Some(stored.entry.name.clone())) };
    }

    /// The revision of which everything is known.
    pub(super) fn complete(&self) -> u64 {
        match &self.upserts {
            (revision, None) => *revision,
            (revision, Some(_)) => revision.saturating_sub(1),
        }
    }
}

/// Names under a key. Nearly all keys are addresses, of one resource each: a set costs some 250 bytes.
#[derive(Debug)]
enum Names {
    One(Arc<str>),
    Many(BTreeSet<Arc<str>>),
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match self {
            Self::One(name) => (Some(name), None),
            Self::Many(names) => (None, Some(names)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, name: &Arc<str>) {
        match self {
            Self::One(one) if one == name => {}
            Self::One(one) => *self = Self::Many([one.clone(), name.clone()].into()),
            Self::Many(names) => drop(names.insert(name.clone())),
        }
    }

    /// Takes a name out and says whether none is left.
    fn remove(&mut self, name: &Arc<str>) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(names) => {
                names.remove(name);
                names.is_empty()
            }
        }
    }
}

/// The resources of one type.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Arc<str>, Arc<Stored>>,
    /// Names that exist, by the revision that touched them last.
    log: BTreeSet<(u64, Arc<str>)>,
    /// Names that do not exist any more, with the revision that removed them.
    gone: HashMap<Arc<str>, u64>,
    /// The same by revision.
    removals: BTreeSet<(u64, Arc<str>)>,
    /// Removals up to here may be forgotten.
    floor: u64,
    revision: u64,
    /// Names by alias and by what brings them along.
    index: HashMap<Arc<str>, Names>,
}

impl Table {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Stored>> {
        self.entries.get(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.entries.values()
    }

    /// Whether the removals after a position are remembered.
    pub(super) fn reaches(&self, from: &Position) -> bool {
        from.removals >= self.floor
    }

    /// Names that were removed after a position and are gone. Some may not have been there at the position.
    pub(super) fn removed(&self, from: &Position) -> impl Iterator<Item = &Arc<str>> {
        self.removals.range((from.removals + 1, Arc::from(""))..).map(|(_, name)| name)
    }

    /// Resources that changed after a position, in the order in which they did.
    pub(super) fn changed(&self, from: &Position) -> impl Iterator<Item = &Arc<Stored>> {
        let start = match &from.upserts {
            // No resource has an empty name, so this is before all of that revision.
            (revision, None) => Bound::Included((revision + 1, Arc::from(""))),
            (revision, Some(name)) => Bound::Excluded((*revision, name.clone())),
        };
        self.log.range((start, Bound::Unbounded)).filter_map(|(_, name)| self.entries.get(name))
    }

    /// What a key names: the resource of that name or alias.
    pub(super) fn named(&self, key: &str) -> Vec<&Arc<Stored>> {
        let by_alias = self.index.get(key).into_iter().flat_map(Names::iter).filter_map(|n| self.entries.get(n));
        let by_alias = by_alias.filter(|s| *s.entry.name != *key && s.entry.aliases.iter().any(|a| **a == *key));
        self.entries.get(key).into_iter().chain(by_alias).collect()
    }

    /// What comes along with a name.
    pub(super) fn along(&self, name: &str) -> impl Iterator<Item = &Arc<Stored>> {
        let all = self.index.get(name).into_iter().flat_map(Names::iter).filter_map(|n| self.entries.get(n));
        all.filter(move |s| s.entry.comes_with.iter().any(|w| **w == *name))
    }

    pub(super) fn apply(&mut self, batch: Batch) -> u64 {
        let revision = self.revision + 1;
        for name in batch.removals {
            if let Some(old) = self.entries.remove(&name) {
                self.unlist(&old);
                self.removals.insert((revision, name.clone()));
                self.gone.insert(name, revision);
                self.revision = revision;
            }
        }
        for entry in batch.upserts {
            self.upsert(entry, revision);
        }
        self.forget();
        self.revision
    }

    fn upsert(&mut self, mut entry: Entry, revision: u64) {
        let old = self.entries.get(&entry.name);
        if old.is_some_and(|old| old.entry == entry) {
            return;
        }
        if let Some(old) = self.entries.remove(&entry.name) {
            self.unlist(&old);
            // Streams hold names: one memory for all versions of a resource.
            entry.name = old.entry.name.clone();
        }
        if let Some(gone) = self.gone.remove(&entry.name) {
            self.removals.remove(&(gone, entry.name.clone()));
        }
        for key in entry.aliases.iter().chain(&entry.comes_with) {
            match self.index.get_mut(key) {
                Some(names) => names.insert(&entry.name),
                None => drop(self.index.insert(key.clone(), Names::One(entry.name.clone()))),
            }
        }
        self.log.insert((revision, entry.name.clone()));
        let stored = Stored { version: version(&entry), revision, entry };
        self.entries.insert(stored.entry.name.clone(), Arc::new(stored));
        self.revision = revision;
    }

    fn unlist(&mut self, old: &Stored) {
        self.log.remove(&(old.revision, old.entry.name.clone()));
        for key in old.entry.aliases.iter().chain(&old.entry.comes_with) {
            if self.index.get_mut(key).is_some_and(|names| names.remove(&old.entry.name)) {
                self.index.remove(key);
            }
        }
    }

    /// Half of them at once, the oldest: rare, and then cheap for each.
    fn forget(&mut self) {
        if self.removals.len() <= TOMBSTONES {
            return;
        }
        while self.removals.len() > TOMBSTONES / 2 {
            let Some((revision, name)) = self.removals.pop_first() else { return };
            self.floor = revision;
            self.gone.remove(&name);
        }
    }
}

/// The version of a resource: FNV-1a of 128 bits over body and aliases. It must be the same in every replica and after
/// every restart, or a reconnect would send the whole world again; it need not withstand forgery, since all that a
/// collision of two versions of one resource can do is to delay that resource's own update.
fn version(entry: &Entry) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let aliases = entry.aliases.iter().flat_map(|a| a.bytes().chain([0]));
    let bytes = entry.body.iter().copied().chain(aliases);
    bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
