//! The policies that are held, ordered so that judging touches only those that can matter.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdMap;
use mesh::authz::{Authorization, Scope};

use crate::verdict::Subject;

/// Policies by name. A clone is cheap and is a snapshot: edits to one are not seen by the other.
///
/// Policies are ordered by name, so that of several that match it is always the same one that a verdict names.
#[derive(Clone, Default)]
pub struct PolicySet {
    all: Policies,
    global: Policies,
    by_namespace: OrdMap<Arc<str>, Policies>,
}

/// By key, `namespace/name`.
type Policies = OrdMap<Arc<str>, Arc<Authorization>>;

impl PolicySet {
    /// Takes a policy; one of the same name is replaced.
    pub fn insert(&mut self, policy: Authorization) {
        let key: Arc<str> = policy.key().into();
        self.remove(&key);
        let policy = Arc::new(policy);
        match policy.scope {
            Scope::Global => {
                self.global.insert(key.clone(), policy.clone());
            }
            Scope::Namespace => {
                let mut there = self.by_namespace.get(&policy.namespace).cloned().unwrap_or_default();
                there.insert(key.clone(), policy.clone());
                self.by_namespace.insert(policy.namespace.clone(), there);
            }
            Scope::WorkloadSelector => {}
        }
        self.all.insert(key, policy);
    }

    /// Removes the policy of this key (`namespace/name`); false when there is none.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(policy) = self.all.remove(key) else { return false };
        match policy.scope {
            Scope::Global => {
                self.global.remove(key);
            }
            Scope::Namespace => {
                if let Some(mut there) = self.by_namespace.remove(&policy.namespace) {
                    there.remove(key);
                    if !there.is_empty() {
                        self.by_namespace.insert(policy.namespace.clone(), there);
                    }
                }
            }
            Scope::WorkloadSelector => {}
        }
        true
    }

    /// The policy of this key (`namespace/name`).
    pub fn get(&self, key: &str) -> Option<Arc<Authorization>> {
        self.all.get(key).cloned()
    }

    /// All policies, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.all.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What applies to a subject: global policies, those of its namespace, and those that it names.
    pub(crate) fn applicable<'a>(&'a self, subject: &'a Subject) -> Applicable<'a> {
        let namespace = self.by_namespace.get(&subject.namespace);
        let mut held: Vec<(&Arc<str>, &Authorization)> =
            self.global.iter().chain(namespace.into_iter().flat_map(OrdMap::iter)).map(|(k, p)| (k, &**p)).collect();
        // A workload may name a policy that applies to it anyway.
        let mut taken: HashSet<&str> = HashSet::new();
        let mut not_held = Vec::new();
        for name in subject.policies.iter().filter(|n| taken.insert(n)) {
            match self.all.get_key_value(&**name) {
                None => not_held.push(name.clone()),
                Some((key, policy)) => {
                    let anyway = match policy.scope {
                        Scope::Global => true,
                        Scope::Namespace => policy.namespace == subject.namespace,
                        Scope::WorkloadSelector => false,
                    };
                    if !anyway {
                        held.push((key, policy));
                    }
                }
            }
        }
        Applicable { held, not_held }
    }
}

impl std::fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.all.keys()).finish()
    }
}

/// What applies to a subject.
pub(crate) struct Applicable<'a> {
    /// Key and policy: global ones first, then the namespace's, then the named ones.
    pub(crate) held: Vec<(&'a Arc<str>, &'a Authorization)>,
    /// Named by the subject, but not in the set.
    pub(crate) not_held: Vec<Arc<str>>,
}
