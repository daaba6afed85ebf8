//! From objects to discovery, as plain functions (fact sheet discovery.md 3).
//!
//! What follows from the objects around one object is translated as a unit: the services of a host name, the workloads of
//! an object, the status of an object. [`World::take`] translates the units that a change touches; [`translate_all`] all
//! of them.

mod members;
mod routing;
mod service;
mod status;
mod waypoint;
mod workload;

#[cfg(test)]
pub(crate) mod tests;

use mesh::authz::Authorization;
use mesh::{Service, Workload};

use crate::object::Key;
use crate::world::{Name, Routed, State, Status, World};
pub(crate) use routing::{Guard, companion};

/// Everything that follows from a world, each list sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Full {
    /// Services.
    pub services: Vec<Service>,
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Policies.
    pub policies: Vec<Authorization>,
    /// What waypoints know of services.
    pub routing: Vec<Routed>,
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
        full.routing.extend(routing(state, host));
    }
    for key in state.keys() {
        full.workloads.extend(workloads(state, &key));
        full.statuses.extend(status(state, &key));
    }
    full.routing.extend(state.gateways.names().filter_map(|g| passing(state, &g)));
    full.policies = state.policies.resources();
    let named: std::collections::BTreeSet<_> = full.workloads.iter().flat_map(|w| &w.authorization_policies).collect();
    full.policies.extend(named.into_iter().filter_map(|name| companion(&state.settings, name)));
    full.policies.sort_by_key(Authorization::key);
    full.routing.sort_by(|a, b| a.name.cmp(&b.name));
    full.services.sort_by_key(Service::key);
    full.workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
    full.statuses.sort_by(|a, b| a.object.cmp(&b.object));
    full
}

/// The services of a host name.
pub(crate) fn services(state: &State, host: &str) -> Vec<Service> {
    state.services(host)
}

/// What waypoints know of the services of a host name.
pub(crate) fn routing(state: &State, host: &str) -> Vec<Routed> {
    state.routing(host)
}

/// What a waypoint knows of itself.
pub(crate) fn passing(state: &State, gateway: &Name) -> Option<Routed> {
    state.passing(gateway)
}

/// Who may pass by the waypoint of a Service or a ServiceEntry.
pub(crate) fn guard(state: &State, key: &Key) -> Guard {
    state.guard(key)
}

/// The workloads of an object.
pub(crate) fn workloads(state: &State, key: &Key) -> Vec<Workload> {
    state.workloads(key)
}

/// What is to be said on an object.
pub(crate) fn status(state: &State, key: &Key) -> Option<Status> {
    state.status(key)
}
