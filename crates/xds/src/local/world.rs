//! A whole world, and what differs between two.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::authz::Authorization;
use mesh::{Service, Workload};

use crate::Change;

/// Everything that a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Workloads in the order of the file.
    pub workloads: Vec<Workload>,
    /// Services in the order of the file.
    pub services: Vec<Service>,
    /// Policies in the order of the file.
    pub policies: Vec<Authorization>,
    /// What is legal but probably not meant; one sentence each. No part of what differs between two worlds.
    pub warnings: Vec<String>,
}

impl World {
    /// The change from nothing to this world; it is complete by itself ([`Change::synced`]).
    pub fn change(&self) -> Change {
        Change { synced: true, ..Self::default().difference(self) }
    }

    /// The change from this world to a newer one.
    pub fn difference(&self, new: &Self) -> Change {
        let service_key = |s: &Service| Arc::<str>::from(s.key().to_string());
        let policy_key = |p: &Authorization| Arc::<str>::from(p.key());
        let (mut removed, workloads) = differ(&self.workloads, &new.workloads, |w| w.uid.clone());
        let (gone, services) = differ(&self.services, &new.services, service_key);
        removed.extend(gone);
        let (removed_policies, policies) = differ(&self.policies, &new.policies, policy_key);
        Change { removed, services, workloads, removed_policies, policies, ..Change::default() }
    }
}

fn differ<T: Clone + PartialEq>(old: &[T], new: &[T], key: impl Fn(&T) -> Arc<str>) -> (Vec<Arc<str>>, Vec<T>) {
    let mut left: BTreeMap<Arc<str>, &T> = old.iter().map(|t| (key(t), t)).collect();
    let upserted = new.iter().filter(|t| left.remove(&key(t)) != Some(t)).cloned().collect();
    (left.into_keys().collect(), upserted)
}
