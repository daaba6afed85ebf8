//! Tables of objects and indexes over them.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// A namespace and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    /// Namespace; empty for objects without one.
    pub(crate) namespace: Arc<str>,
    /// Name.
    pub(crate) name: Arc<str>,
}

impl Name {
    /// A name.
    pub(crate) fn new(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        Self { namespace: namespace.clone(), name: name.clone() }
    }
}

/// Objects of one kind by namespace and name.
#[derive(Debug)]
pub(crate) struct Table<T>(HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Table<T> {
    /// Puts one in and gives the one that was there.
    pub(crate) fn put(&mut self, namespace: &Arc<str>, name: &Arc<str>, value: Arc<T>) -> Option<Arc<T>> {
        self.0.entry(namespace.clone()).or_default().insert(name.clone(), value)
    }

    /// Takes one out.
    pub(crate) fn take(&mut self, namespace: &str, name: &str) -> Option<Arc<T>> {
        let inner = self.0.get_mut(namespace)?;
        let taken = inner.remove(name);
        if inner.is_empty() {
            self.0.remove(namespace);
        }
        taken
    }

    /// One of them.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.0.get(namespace)?.get(name)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of a namespace, by name.
    pub(crate) fn within(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        self.0.get(namespace).into_iter().flat_map(BTreeMap::values)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// Namespaces and names of all.
    pub(crate) fn names(&self) -> impl Iterator<Item = Name> {
        self.0.iter().flat_map(|(ns, inner)| inner.keys().map(|name| Name::new(ns, name)))
    }
}

/// Many values under one key, each once and in order. Most keys of a large cluster have one or two values, so these are
/// vectors of exactly the length that they need.
#[derive(Debug)]
pub(crate) struct Index<K, V>(HashMap<K, Vec<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Ord> Index<K, V> {
    /// Adds a value.
    pub(crate) fn add(&mut self, key: K, value: V) {
        let list = self.0.entry(key).or_default();
        if let Err(at) = list.binary_search(&value) {
            if list.is_empty() {
                list.reserve_exact(1);
            }
            list.insert(at, value);
        }
    }

    /// Drops a value.
    pub(crate) fn drop<Q>(&mut self, key: &Q, value: &V)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let Some(list) = self.0.get_mut(key) else { return };
        if let Ok(at) = list.binary_search(value) {
            list.remove(at);
        }
        if list.is_empty() {
            self.0.remove(key);
        }
    }

    /// Values of a key.
    pub(crate) fn of<Q>(&self, key: &Q) -> &[V]
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key with its values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Vec<V>)> {
        self.0.iter()
    }
}
