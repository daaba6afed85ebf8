//! What comes from outside of the objects: keys of issuers, and words of the nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Fetched, Layer7};
use crate::object::request::KeySource;
use crate::object::{Key, Kind};
use crate::translate::{self, Guard};
use crate::world::World;
use crate::world::index::Name;
use crate::world::touch::Unit;

impl World {
    /// Keys of an issuer were fetched, or could not be.
    pub fn set_keys(&mut self, source: &KeySource, keys: Fetched) {
        if self.state.layer7.keys.insert(source.clone(), keys.clone()) == Some(keys) {
            return;
        }
        let policies: Vec<Name> = self.state.layer7.by_keys.of(source).to_vec();
        for name in policies {
            let Some(policy) = self.state.requests.get(&name.namespace, &name.name).cloned() else { continue };
            policy.targets.iter().for_each(|t| self.mark_target(t));
            self.mark(Unit::Status(policy.meta.key(Kind::RequestAuthentication)));
        }
    }

    /// Where keys have to be fetched for the policies that there are.
    pub fn wanted_keys(&self) -> BTreeSet<KeySource> {
        let fetched = |s: &&KeySource| matches!(s, KeySource::Discovery(_) | KeySource::Uri(_));
        self.state.layer7.by_keys.iter().map(|(source, _)| source).filter(fetched).cloned().collect()
    }

    /// ConfigMaps whose content is needed.
    pub fn wanted_maps(&self) -> BTreeSet<(Arc<str>, Arc<str>)> {
        self.state.layer7.by_map.iter().map(|(name, _)| (name.namespace.clone(), name.name.clone())).collect()
    }

    /// Every node that we serve goes through the waypoints of these Services and ServiceEntries now, so that nobody else
    /// needs to be let in any more (design.md 5, "Order when enabling").
    pub fn acknowledge(&mut self, services: impl IntoIterator<Item = Key>) {
        for key in services {
            // One that waits no more has begun anew, or needs nobody.
            if self.waiting.contains_key(&key) && self.state.layer7.acknowledged.insert(key.clone()) {
                self.mark_bound(&key);
            }
        }
    }

    /// Notes whether a service waits for its nodes. One whose endpoints are shut stays so when its waypoint changes; one that
    /// nothing governs any more begins anew.
    pub(in crate::world) fn note_guard(&mut self, key: Key) {
        match translate::guard(&self.state, &key) {
            Guard::Open => {
                self.state.layer7.acknowledged.remove(&key);
                self.waiting.remove(&key);
            }
            Guard::Shut(_) => {
                self.waiting.remove(&key);
                self.state.layer7.acknowledged.insert(key);
            }
            Guard::Waiting => {
                if let Some(binding) = self.state.binding_of(&key).ok().flatten() {
                    self.waiting.insert(key, binding.gateway);
                }
            }
        }
    }

    /// Drops keys that no policy asks for any more.
    pub(in crate::world) fn sweep_keys(&mut self) {
        let Layer7 { keys, by_keys, .. } = &mut self.state.layer7;
        keys.retain(|source, _| !by_keys.of(source).is_empty());
    }
}
