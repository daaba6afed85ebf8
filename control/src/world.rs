//! The state of the cluster, and what follows from it for discovery.
//!
//! Watches put trimmed objects in ([`World::upsert`], [`World::remove`]); [`World::take`] gives what changed since the last
//! call. There is no clock and no I/O in here.
//!
//! A change costs what it touches. Indexes (`state`) say which resources an object takes part in, an object's step marks
//! these (`touch`), and `take` translates what is marked and compares it with what it gave out the last time (`publish`).

mod allocate;
mod automatic;
mod index;
mod layer7;
mod mark;
mod output;
mod pod_network;
mod publish;
mod settings;
mod state;
mod touch;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::Cidr;

use crate::object::{Input, Key, Kind, Pool};
use publish::Published;
use touch::Unit;

pub(crate) use allocate::Addresses;
pub(crate) use index::Name;
pub use output::{Condition, Event, Output, ParentStatus, Routed, Status};
pub use settings::{Provider, Settings};
pub(crate) use state::{State, USE_CANARY, USE_WAYPOINT, named_waypoint};

/// The state of the cluster.
#[derive(Debug)]
pub struct World {
    state: State,
    pool: Pool,
    dirty: BTreeSet<Unit>,
    published: Published,
    /// Objects that a list under way has not named yet.
    unseen: HashMap<Kind, HashSet<Key>>,
    pod_cidrs: Vec<Cidr>,
    pod_cidrs_dirty: bool,
    /// Services and ServiceEntries that a security policy governs and past whose waypoint everybody may go still, by their
    /// Gateway.
    waiting: BTreeMap<Key, Name>,
    /// Namespaces of services that changed.
    neighbours: BTreeSet<Arc<str>>,
}

/// Where a pod runs, and as whom; for judging who may ask for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its node; empty before it is placed.
    pub node: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its addresses.
    pub addresses: Box<[IpAddr]>,
    /// It has run to its end.
    pub finished: bool,
}

impl World {
    /// An empty world.
    pub fn new(settings: Settings) -> Self {
        Self {
            state: State::new(settings),
            pool: Pool::default(),
            dirty: BTreeSet::new(),
            published: Published::default(),
            unseen: HashMap::new(),
            pod_cidrs: Vec::new(),
            waiting: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            // Blocks of the settings are there before any node is.
            pod_cidrs_dirty: true,
        }
    }

    /// What it was told besides objects.
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// An object is new or different. One that is as it was costs a comparison.
    pub fn upsert(&mut self, mut input: Input) {
        input.share(&mut self.pool);
        let key = input.key();
        if let Some(unseen) = self.unseen.get_mut(&key.kind) {
            unseen.remove(&key);
        }
        let (namespace, name) = (&key.namespace, &key.name);
        match input {
            Input::AuthorizationPolicy(x) => self.policy(&key, |p| p.set_authorization_policy(x), true),
            Input::BackendTlsPolicy(x) => self.replace(namespace, name, Some(x)),
            Input::ConfigMap(x) => self.replace(namespace, name, Some(x)),
            Input::DestinationRule(x) => self.replace(namespace, name, Some(x)),
            Input::EndpointSlice(x) => self.replace(namespace, name, Some(x)),
            Input::Gateway(x) => self.replace(namespace, name, Some(x)),
            Input::GatewayClass(x) => self.replace(namespace, name, Some(x)),
            Input::Namespace(x) => {
                let automatic = self.state.settings.automatic_waypoints;
                self.replace(namespace, name, Some(automatic::labelled(x, automatic)));
            }
            Input::NetworkPolicy(x) => self.policy(&key, |p| p.set_network_policy(x), true),
            Input::Node(x) => self.replace(namespace, name, Some(x)),
            Input::PeerAuthentication(x) => self.policy(&key, |p| p.set_peer_authentication(x), true),
            Input::Pod(x) => self.replace(namespace, name, Some(x)),
            Input::ReferenceGrant(x) => self.replace(namespace, name, Some(x)),
            Input::RequestAuthentication(x) => self.replace(namespace, name, Some(x)),
            Input::RequestPolicy(x) => self.replace(namespace, name, Some(x)),
            Input::Route(x) => self.route(&key, Some(x)),
            Input::Service(x) => self.replace(namespace, name, Some(x)),
            Input::ServiceEntry(x) => self.replace(namespace, name, Some(x)),
            Input::Telemetry(x) => self.replace(namespace, name, Some(x)),
            Input::WorkloadEntry(x) => self.replace(namespace, name, Some(x)),
        }
    }

    /// An object is gone. One that was not there is no mistake.
    pub fn remove(&mut self, key: &Key) {
        use crate::object;
        if let Some(unseen) = self.unseen.get_mut(&key.kind) {
            unseen.remove(key);
        }
        let (namespace, name) = (&key.namespace, &key.name);
        match key.kind {
            Kind::AuthorizationPolicy => self.policy(key, |p| p.remove_authorization_policy(namespace, name), false),
            Kind::BackendTlsPolicy => self.replace::<object::BackendTlsPolicy>(namespace, name, None),
            Kind::ConfigMap => self.replace::<object::ConfigMap>(namespace, name, None),
            Kind::DestinationRule => self.replace::<object::DestinationRule>(namespace, name, None),
            Kind::EndpointSlice => self.replace::<object::EndpointSlice>(namespace, name, None),
            Kind::Gateway => self.replace::<object::Gateway>(namespace, name, None),
            Kind::GatewayClass => self.replace::<object::GatewayClass>(namespace, name, None),
            Kind::GrpcRoute | Kind::HttpRoute | Kind::TcpRoute | Kind::TlsRoute => self.route(key, None),
            Kind::Namespace => self.replace::<object::Namespace>(namespace, name, None),
            Kind::NetworkPolicy => self.policy(key, |p| p.remove_network_policy(namespace, name), false),
            Kind::Node => self.replace::<object::Node>(namespace, name, None),
            Kind::PeerAuthentication => self.policy(key, |p| p.remove_peer_authentication(namespace, name), false),
            Kind::Pod => self.replace::<object::Pod>(namespace, name, None),
            Kind::ReferenceGrant => self.replace::<object::ReferenceGrant>(namespace, name, None),
            Kind::RequestAuthentication => self.replace::<object::RequestAuthentication>(namespace, name, None),
            Kind::RequestPolicy => self.replace::<object::RequestPolicy>(namespace, name, None),
            Kind::Service => self.replace::<object::Service>(namespace, name, None),
            Kind::ServiceEntry => self.replace::<object::ServiceEntry>(namespace, name, None),
            Kind::Telemetry => self.replace::<object::Telemetry>(namespace, name, None),
            Kind::WorkloadEntry => self.replace::<object::WorkloadEntry>(namespace, name, None),
        }
    }

    /// A watch starts to list all objects of a kind. Until [`World::finish`], what it lists comes by [`World::upsert`];
    /// what was known stays meanwhile. A list that breaks off is begun again.
    pub fn begin(&mut self, kind: Kind) {
        let known = self.state.keys().filter(|k| k.kind == kind).collect();
        self.unseen.insert(kind, known);
    }

    /// The list is complete: objects of the kind that were not in it are gone.
    pub fn finish(&mut self, kind: Kind) {
        let mut gone: Vec<Key> = self.unseen.remove(&kind).into_iter().flatten().collect();
        gone.sort();
        for key in gone {
            self.remove(&key);
        }
    }

    /// These are all objects of a kind.
    pub fn replace_all(&mut self, kind: Kind, inputs: impl IntoIterator<Item = Input>) {
        self.begin(kind);
        for input in inputs {
            self.upsert(input);
        }
        self.finish(kind);
    }

    /// Services and ServiceEntries that a security policy governs and past whose waypoint everybody may go still, until
    /// [`World::acknowledge`] says that no node needs to; and the Gateway of each, namespace and name: it is not programmed
    /// before (design.md 5). Call [`World::take`] before.
    pub fn waiting(&self) -> impl Iterator<Item = (&Key, (Arc<str>, Arc<str>))> {
        self.waiting.iter().map(|(key, g)| (key, (g.namespace.clone(), g.name.clone())))
    }

    /// What is to be said on every object, for a replica that begins to write statuses. Call [`World::take`] before.
    pub fn statuses(&self) -> Vec<Status> {
        let mut all: Vec<Status> = self.published.statuses().cloned().collect();
        all.sort_by(|a, b| a.object.cmp(&b.object));
        all
    }

    /// Where a pod runs, and as whom.
    pub fn pod_on_node(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let pod = self.state.pods.get(namespace, name)?;
        Some(PodFacts {
            uid: pod.meta.uid.clone(),
            node: pod.node.clone(),
            service_account: pod.service_account.clone(),
            addresses: pod.addresses.clone(),
            finished: pod.finished,
        })
    }

    /// The pod network: blocks of the settings and, if they say so, of nodes; merged and sorted.
    pub fn pod_cidrs(&self) -> Vec<Cidr> {
        let settings = &self.state.settings;
        let nodes = self.state.nodes.iter().filter(|_| settings.pod_cidrs_from_nodes);
        let blocks = nodes.flat_map(|n| n.pod_cidrs.iter().copied());
        Cidr::merged(blocks.chain(settings.pod_cidrs.iter().copied()))
    }

    /// Addresses of all nodes.
    pub fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.state.nodes.iter().flat_map(|n| n.addresses.iter().copied()).collect()
    }

    /// All objects.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}
