//! Texts and label sets that many objects have in common, kept once.
//!
//! 70 000 pods come from some thousand templates: their labels, service accounts, nodes and namespaces are few.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use super::pod::NamedPort;

/// The empty text.
pub fn none() -> Arc<str> {
    Arc::from("")
}

/// Labels of an object, sorted by key. Clones share one allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Labels from pairs; of two with the same key the later one counts.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let map: std::collections::BTreeMap<&str, &str> = pairs.into_iter().collect();
        Self(map.into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| v)
    }

    /// Whether every pair of `self`, read as an equality selector, is among `labels`. No pair at all is in every set.
    pub fn subset_of(&self, labels: &Self) -> bool {
        self.iter().all(|(k, v)| labels.get(k).is_some_and(|x| x == v))
    }

    /// Pairs in order of key.
    pub fn iter(&self) -> std::slice::Iter<'_, (Arc<str>, Arc<str>)> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is shared. Grows with distinct texts and is swept now and then, so that names of the dead do not stay.
#[derive(Debug, Default)]
pub struct Pool {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[NamedPort]>>,
    /// Size at which the next sweep is due.
    sweep_at: usize,
}

/// A pool smaller than this is never swept: it holds under a megabyte.
const SWEEP_FROM: usize = 8192;

impl Pool {
    /// Puts the shared copy of a text in its place.
    pub fn text(&mut self, text: &mut Arc<str>) {
        share(&mut self.texts, text);
    }

    /// Puts the shared copy of a label set in its place.
    pub fn labels(&mut self, labels: &mut Labels) {
        if let Some(known) = self.labels.get(labels) {
            *labels = known.clone();
            return;
        }
        let pairs = labels.0.iter().map(|(k, v)| {
            let (mut k, mut v) = (k.clone(), v.clone());
            share(&mut self.texts, &mut k);
            share(&mut self.texts, &mut v);
            (k, v)
        });
        *labels = Labels(pairs.collect());
        self.labels.insert(labels.clone());
    }

    /// Puts the shared copy of a pod's named ports in its place.
    pub fn ports(&mut self, ports: &mut Arc<[NamedPort]>) {
        share(&mut self.ports, ports);
    }

    /// Drops what nobody but the pool holds, when the pool has doubled since the last time.
    pub fn sweep(&mut self) {
        if self.texts.len() + self.labels.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.ports.retain(|p| Arc::strong_count(p) > 1);
        self.labels.retain(|l| Arc::strong_count(&l.0) > 1);
        self.texts.retain(|t| Arc::strong_count(t) > 1);
        self.sweep_at = 2 * (self.texts.len() + self.labels.len());
    }
}

fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, value: &mut T) {
    match known.get(value) {
        Some(shared) => *value = shared.clone(),
        None => _ = known.insert(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_label_sets_become_one_allocation() {
        let mut pool = Pool::default();
        let mut a = Labels::new([("app", "web"), ("tier", "front")]);
        let mut b = Labels::new([("tier", "front"), ("app", "web")]);
        pool.labels(&mut a);
        pool.labels(&mut b);
        assert!(Arc::ptr_eq(&a.0, &b.0));
        let mut c = Labels::new([("app", "web")]);
        pool.labels(&mut c);
        assert!(Arc::ptr_eq(a.get("app").unwrap(), c.get("app").unwrap()));
    }

    #[test]
    fn a_selector_is_a_subset() {
        let pod = Labels::new([("app", "web"), ("tier", "front")]);
        assert!(Labels::new([("app", "web")]).subset_of(&pod));
        assert!(Labels::default().subset_of(&pod));
        assert!(!Labels::new([("app", "db")]).subset_of(&pod));
        assert!(!Labels::new([("x", "")]).subset_of(&pod));
    }

    #[test]
    fn texts_of_the_dead_are_swept_and_those_of_the_living_stay() {
        let mut pool = Pool::default();
        let mut kept: Arc<str> = "kept".into();
        pool.text(&mut kept);
        for i in 0..SWEEP_FROM {
            pool.text(&mut format!("pod-{i}").into());
        }
        pool.sweep();
        assert_eq!(pool.texts.len(), 1);
        assert!(pool.texts.contains(&kept));
    }
}
