//! A copy of what the API server has, kept by a watch.

use std::collections::BTreeMap;

/// A piece of news from a watch. A watch begins with a whole list, and begins anew when it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change<V> {
    /// A list begins; what is not in it is gone.
    Restart,
    /// One of the list.
    Listed(String, V),
    /// The list is whole.
    Done,
    /// New or changed.
    Applied(String, V),
    /// Gone.
    Deleted(String),
}

/// The copy. Until the first list is whole it says nothing.
#[derive(Debug)]
pub(crate) struct Mirror<V> {
    kept: BTreeMap<String, V>,
    /// The list that is being read.
    coming: Option<BTreeMap<String, V>>,
    synced: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), coming: None, synced: false }
    }
}

impl<V> Mirror<V> {
    /// Takes a change over.
    pub(crate) fn take(&mut self, change: Change<V>) {
        match change {
            Change::Restart => self.coming = Some(BTreeMap::new()),
            Change::Listed(key, value) => drop(self.coming.get_or_insert_default().insert(key, value)),
            Change::Done => {
                self.kept = self.coming.take().unwrap_or_default();
                self.synced = true;
            }
            Change::Applied(key, value) => drop(self.kept.insert(key, value)),
            Change::Deleted(key) => drop(self.kept.remove(&key)),
        }
    }

    /// Whether a whole list has been there.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.kept.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.kept.get_mut(key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.kept.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_what_was_there_when_it_is_whole() {
        let mut mirror = Mirror::default();
        let applied = |key: &str, value| Change::Applied(key.to_owned(), value);
        mirror.take(Change::Restart);
        mirror.take(Change::Listed("a".into(), 1));
        assert!(!mirror.is_synced() && mirror.get("a").is_none());
        mirror.take(Change::Done);
        mirror.take(applied("b", 2));
        assert!(mirror.is_synced());
        assert_eq!((mirror.get("a"), mirror.get("b")), (Some(&1), Some(&2)));
        // The watch was cut; `a` went meanwhile, and stays until the new list is whole.
        mirror.take(Change::Restart);
        mirror.take(Change::Listed("b".into(), 3));
        assert_eq!(mirror.get("a"), Some(&1));
        mirror.take(Change::Done);
        assert_eq!(mirror.values().collect::<Vec<_>>(), [&3]);
        mirror.take(Change::Deleted("b".into()));
        assert_eq!(mirror.values().count(), 0);
    }
}
