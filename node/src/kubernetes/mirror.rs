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
    /// Gone, as it was last.
    Deleted(String, V),
}

/// What tells an object from a namesake of an earlier or later life. The agent may have asked for a newer one than the watch, which
/// is late, still tells of.
pub(crate) trait Life {
    /// Whether both are the same object.
    fn is_same(&self, other: &Self) -> bool;
    /// Whether it was made before the other.
    fn is_older(&self, other: &Self) -> bool;
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

impl<V: Life> Mirror<V> {
    /// Takes a change over.
    pub(crate) fn take(&mut self, change: Change<V>) {
        match change {
            Change::Restart => self.coming = Some(BTreeMap::new()),
            Change::Listed(key, value) => drop(self.coming.get_or_insert_default().insert(key, value)),
            Change::Done => {
                self.kept = self.coming.take().unwrap_or_default();
                self.synced = true;
            }
            Change::Applied(key, value) => {
                let outlived = |kept: &V| !value.is_same(kept) && value.is_older(kept);
                if !self.kept.get(&key).is_some_and(outlived) {
                    self.kept.insert(key, value);
                }
            }
            Change::Deleted(key, value) => {
                if self.kept.get(&key).is_some_and(|kept| value.is_same(kept)) {
                    self.kept.remove(&key);
                }
            }
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

    /// Which life, and a value.
    impl Life for (u32, u32) {
        fn is_same(&self, other: &Self) -> bool {
            self.0 == other.0
        }

        fn is_older(&self, other: &Self) -> bool {
            self.0 < other.0
        }
    }

    fn applied(key: &str, value: (u32, u32)) -> Change<(u32, u32)> {
        Change::Applied(key.to_owned(), value)
    }

    #[test]
    fn a_list_replaces_what_was_there_when_it_is_whole() {
        let mut mirror = Mirror::default();
        mirror.take(Change::Restart);
        mirror.take(Change::Listed("a".into(), (0, 1)));
        assert!(!mirror.is_synced() && mirror.get("a").is_none());
        mirror.take(Change::Done);
        mirror.take(applied("b", (0, 2)));
        assert!(mirror.is_synced());
        assert_eq!((mirror.get("a"), mirror.get("b")), (Some(&(0, 1)), Some(&(0, 2))));
        // The watch was cut; `a` went meanwhile, and stays until the new list is whole.
        mirror.take(Change::Restart);
        mirror.take(Change::Listed("b".into(), (0, 3)));
        assert_eq!(mirror.get("a"), Some(&(0, 1)));
        mirror.take(Change::Done);
        assert_eq!(mirror.values().collect::<Vec<_>>(), [&(0, 3)]);
        mirror.take(Change::Deleted("b".into(), (0, 3)));
        assert_eq!(mirror.values().count(), 0);
    }

    #[test]
    fn late_news_of_a_former_life_is_no_news() {
        let mut mirror = Mirror::default();
        mirror.take(applied("web-0", (1, 1)));
        // Asked for, because the CNI plug-in brought it before the watch.
        mirror.take(applied("web-0", (2, 1)));
        mirror.take(applied("web-0", (1, 2)));
        mirror.take(Change::Deleted("web-0".into(), (1, 2)));
        assert_eq!(mirror.get("web-0"), Some(&(2, 1)));
        mirror.take(applied("web-0", (2, 2)));
        assert_eq!(mirror.get("web-0"), Some(&(2, 2)));
        mirror.take(Change::Deleted("web-0".into(), (2, 2)));
        assert_eq!(mirror.get("web-0"), None);
    }
}
