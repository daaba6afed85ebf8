//! Which ConfigMaps with roots must be written. Pure: what is seen is told, what to write is asked for.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::config::OwnIstioNames;

/// Our own ConfigMap, and Istio's (ca.md 5).
pub(crate) const OURS: &str = "culvert-ca-root-cert";
pub(crate) const ISTIOS: &str = "istio-ca-root-cert";
/// The key in both.
pub(crate) const KEY: &str = "root-cert.pem";

/// A ConfigMap by namespace and name.
pub(crate) type Key = (String, &'static str);

/// What is known of the cluster, and what must be in it.
pub(crate) struct Board {
    bundle: String,
    istio_names: OwnIstioNames,
    excluded: HashSet<String>,
    /// Whether a Service of istiod exists.
    istiod: bool,
    /// Namespaces, and whether they are going away.
    namespaces: HashMap<String, bool>,
    maps: HashMap<Key, Map>,
}

/// A ConfigMap that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// What it says under the key.
    pub(crate) roots: Option<String>,
    /// Whether it carries our label.
    pub(crate) ours: bool,
}

impl Board {
    pub(crate) fn new(bundle: String, istio_names: OwnIstioNames, excluded: impl IntoIterator<Item = String>) -> Self {
        Self {
            bundle,
            istio_names,
            excluded: excluded.into_iter().collect(),
            istiod: false,
            namespaces: HashMap::new(),
            maps: HashMap::new(),
        }
    }

    /// What every ConfigMap must say.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Puts new roots in place of the former.
    pub(crate) fn set_bundle(&mut self, bundle: String) {
        self.bundle = bundle;
    }

    /// Whether a Service of istiod exists.
    pub(crate) fn set_istiod(&mut self, exists: bool) {
        self.istiod = exists;
    }

    /// A namespace exists.
    pub(crate) fn namespace(&mut self, name: String, terminating: bool) {
        self.namespaces.insert(name, terminating);
    }

    /// A namespace is gone, with all that was in it.
    pub(crate) fn namespace_gone(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.maps.retain(|(namespace, _), _| namespace != name);
    }

    /// Only these namespaces exist.
    pub(crate) fn set_namespaces(&mut self, all: HashMap<String, bool>) {
        self.namespaces = all;
    }

    /// A ConfigMap of one of our names exists, or not.
    pub(crate) fn map(&mut self, key: Key, map: Option<Map>) {
        match map {
            Some(map) => drop(self.maps.insert(key, map)),
            None => drop(self.maps.remove(&key)),
        }
    }

    /// Only these ConfigMaps of that name exist.
    pub(crate) fn set_maps(&mut self, name: &'static str, all: HashMap<String, Map>) {
        self.maps.retain(|(_, other), _| *other != name);
        self.maps.extend(all.into_iter().map(|(namespace, map)| ((namespace, name), map)));
    }

    /// Whether that ConfigMap must be written.
    pub(crate) fn must_write(&self, (namespace, name): &Key) -> bool {
        let lives = self.namespaces.get(namespace) == Some(&false);
        if !lives || self.excluded.contains(namespace) {
            return false;
        }
        let map = self.maps.get(&(namespace.clone(), *name));
        let may = *name == OURS
            || match self.istio_names {
                OwnIstioNames::Never => false,
                OwnIstioNames::Always => true,
                // Somebody else's object says that there is an istiod, whatever its Service is called.
                OwnIstioNames::Auto => !self.istiod && map.is_none_or(|map| map.ours),
            };
        may && map.is_none_or(|map| map.roots.as_deref() != Some(&self.bundle))
    }

    /// All that must be written.
    pub(crate) fn due(&self) -> BTreeSet<Key> {
        let keys =
            self.namespaces.keys().flat_map(|namespace| [(namespace.clone(), OURS), (namespace.clone(), ISTIOS)]);
        keys.filter(|key| self.must_write(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(istio_names: OwnIstioNames) -> Board {
        let mut board = Board::new("R".to_owned(), istio_names, ["kube-public".to_owned()]);
        for (name, terminating) in [("shop", false), ("kube-public", false), ("old", true), ("kube-system", false)] {
            board.namespace(name.to_owned(), terminating);
        }
        board
    }

    fn due(board: &Board) -> Vec<String> {
        board.due().into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    fn map(roots: &str, ours: bool) -> Option<Map> {
        Some(Map { roots: Some(roots.to_owned()), ours })
    }

    fn key(namespace: &str, name: &'static str) -> Key {
        (namespace.to_owned(), name)
    }

    #[test]
    fn every_living_namespace_gets_our_map_and_keeps_it() {
        let mut board = board(OwnIstioNames::Never);
        assert_eq!(due(&board), ["kube-system/culvert-ca-root-cert", "shop/culvert-ca-root-cert"]);
        board.map(key("shop", OURS), map("R", true));
        board.map(key("kube-system", OURS), map("R", false));
        assert!(due(&board).is_empty(), "what is right stays, whoever made it");
        board.map(key("shop", OURS), map("edited", false));
        assert_eq!(due(&board), ["shop/culvert-ca-root-cert"]);
        board.map(key("shop", OURS), Some(Map { roots: None, ours: true }));
        assert_eq!(due(&board), ["shop/culvert-ca-root-cert"]);
        board.namespace("shop".to_owned(), true);
        assert!(due(&board).is_empty());
        board.set_bundle("R2".to_owned());
        assert_eq!(due(&board), ["kube-system/culvert-ca-root-cert"]);
        board.map(key("kube-system", OURS), map("R2", true));
        board.namespace_gone("kube-system");
        board.namespace("kube-system".to_owned(), false);
        assert_eq!(due(&board), ["kube-system/culvert-ca-root-cert"], "made anew, it is empty");
        board.set_namespaces(HashMap::new());
        assert!(due(&board).is_empty());
    }

    #[test]
    fn istios_name_is_used_only_where_nobody_else_uses_it() {
        let istios = |board: &Board| due(board).iter().any(|key| key == "shop/istio-ca-root-cert");
        for (names, istiod, exists, wanted) in [
            (OwnIstioNames::Never, false, None, false),
            (OwnIstioNames::Auto, false, None, true),
            (OwnIstioNames::Auto, true, None, false),
            (OwnIstioNames::Auto, false, map("old", true), true),
            (OwnIstioNames::Auto, true, map("old", true), false),
            (OwnIstioNames::Auto, false, map("theirs", false), false),
            (OwnIstioNames::Always, true, None, true),
            (OwnIstioNames::Always, true, map("theirs", false), true),
            (OwnIstioNames::Always, true, map("R", false), false),
        ] {
            let mut board = board(names);
            board.set_istiod(istiod);
            board.set_maps(ISTIOS, exists.clone().into_iter().map(|map| ("shop".to_owned(), map)).collect());
            assert_eq!(istios(&board), wanted, "{names:?} {istiod} {exists:?}");
        }
    }
}
