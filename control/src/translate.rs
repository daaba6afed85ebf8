//! From objects to discovery, as plain functions (fact sheet discovery.md 3).
//!
//! What follows from the objects around one object is translated as a unit: the services of a host name, the workloads of
//! an object, the status of an object. [`World::take`] translates the units that a change touches; [`translate_all`] all
//! of them.

mod members;
mod service;
mod status;
mod waypoint;
mod workload;

#[cfg(test)]
pub(crate) mod tests;

use mesh::authz::Authorization;
use mesh::{Service, Workload};

use crate::object::Key;
use crate::world::{State, Status, World};

/// Everything that follows from a world, each list sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Full {
    /// Services.
    pub services: Vec<Service>,
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Policies.
    pub policies: Vec<Authorization>,
    /// What is to be said on objects.
    pub statuses: Vec<Status>,
}

/// Translates a whole world anew. [`World::take`] must come to the same step by step; this is the judge of that, and what
/// `culvert config dump` compares nodes with.
pub fn translate_all(world: &World) -> Full {
    let state = world.state();
    let mut full = Full::default();
    for (host, _) in state.hosts.iter() {
        full.services.extend(services(state, host));
    }
    for key in state.keys() {
        full.workloads.extend(workloads(state, &key));
        full.statuses.extend(status(state, &key));
    }
    full.policies = state.policies.resources();
    full.services.sort_by_key(Service::key);
    full.workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    full.statuses.sort_by(|a, b| a.object.cmp(&b.object));
    full
}

/// The services of a host name.
pub(crate) fn services(state: &State, host: &str) -> Vec<Service> {
    state.services(host)
}

/// The workloads of an object.
pub(crate) fn workloads(state: &State, key: &Key) -> Vec<Workload> {
    state.workloads(key)
}

/// What is to be said on an object.
pub(crate) fn status(state: &State, key: &Key) -> Option<Status> {
    state.status(key)
}
