//! Policies: which of them apply to a workload, and what they become on the wire (discovery.md 4).
//!
//! Three kinds of objects come in, each trimmed on arrival: [`AuthorizationPolicy`], [`PeerAuthentication`],
//! [`NetworkPolicy`]. [`Policies`] holds them beside the facts of pods and namespaces that NetworkPolicies ask for. It
//! answers three questions, [`Policies::names`], [`Policies::egress`] and [`Policies::resource`], and every change says by its
//! [`Effects`] which answers may be different now. There is no clock and no I/O in here; the same objects give the same answers in
//! whatever order they came.
//!
//! What a user wrote is never made weaker than it was. Where a fault leaves open what was meant, the stricter reading
//! counts, and the fault is told; the one exception is a rule that would then forbid everything (see
//! [`authorization`], "What L4 cannot see").

pub mod authorization;
mod blocks;
pub mod network;
pub mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::authz::Authorization;

pub use authorization::AuthorizationPolicy;
pub use network::NetworkPolicy;
pub use peer::PeerAuthentication;

use crate::object::{Labels, Pod};

/// What may have changed. Asking again costs what is named here; what is not named is as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Names (`namespace/name`) of resources that are new, different or gone.
    pub resources: BTreeSet<Arc<str>>,
    /// Workloads whose list of names may be different.
    pub workloads: Workloads,
}

/// Workloads whose names ([`Policies::names`], [`Policies::egress`]) may be different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workloads {
    /// Those of every namespace.
    pub all: bool,
    /// Those of these namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// These pods, by namespace and name.
    pub pods: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl Effects {
    /// Adds those of another change.
    pub fn extend(&mut self, other: Self) {
        self.resources.extend(other.resources);
        self.workloads.all |= other.workloads.all;
        self.workloads.namespaces.extend(other.workloads.namespaces);
        self.workloads.pods.extend(other.workloads.pods);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The workloads of a namespace; those of all for the root namespace.
    fn select(&mut self, root: &str, namespace: &Arc<str>) {
        if **namespace == *root {
            self.workloads.all = true;
        } else {
            self.workloads.namespaces.insert(namespace.clone());
        }
    }
}

/// All policies.
#[derive(Debug)]
pub struct Policies {
    root: Arc<str>,
    /// By namespace and name.
    authorization: BTreeMap<Arc<str>, BTreeMap<Arc<str>, AuthorizationPolicy>>,
    peer: peer::Peers,
    network: network::Networks,
}

impl Policies {
    /// None yet. Policies without selector in the root namespace are for the whole mesh.
    pub fn new(root_namespace: impl Into<Arc<str>>) -> Self {
        let root = root_namespace.into();
        Self {
            authorization: BTreeMap::new(),
            peer: peer::Peers::new(root.clone()),
            network: network::Networks::default(),
            root,
        }
    }

    /// An AuthorizationPolicy is new or different.
    pub fn set_authorization_policy(&mut self, policy: AuthorizationPolicy) -> Effects {
        let (namespace, name) = (policy.meta.namespace.clone(), policy.meta.name.clone());
        let here = self.authorization.entry(namespace.clone()).or_default();
        let old = here.insert(name.clone(), policy);
        self.authorization_effects(&namespace, &name, old.as_ref())
    }

    /// An AuthorizationPolicy is gone.
    pub fn remove_authorization_policy(&mut self, namespace: &str, name: &str) -> Effects {
        let Some(here) = self.authorization.get_mut(namespace) else { return Effects::default() };
        let Some(old) = here.remove(name) else { return Effects::default() };
        if here.is_empty() {
            self.authorization.remove(namespace);
        }
        let meta = old.meta.clone();
        self.authorization_effects(&meta.namespace, &meta.name, Some(&old))
    }

    fn authorization_effects(&self, namespace: &Arc<str>, name: &str, old: Option<&AuthorizationPolicy>) -> Effects {
        let new = self.authorization.get(namespace).and_then(|here| here.get(name));
        let sent = |p: Option<&AuthorizationPolicy>| p.and_then(|p| p.resource(&self.root));
        let (before, after) = (sent(old), sent(new));
        let mut effects = Effects::default();
        if before != after {
            effects.resources.insert(key(namespace, name));
        }
        let selects = |p: Option<&AuthorizationPolicy>| p.and_then(AuthorizationPolicy::selects).cloned();
        if selects(old) != selects(new) {
            effects.select(&self.root, namespace);
        }
        effects
    }

    /// A PeerAuthentication is new or different.
    pub fn set_peer_authentication(&mut self, policy: PeerAuthentication) -> Effects {
        self.peer.set(policy)
    }

    /// A PeerAuthentication is gone.
    pub fn remove_peer_authentication(&mut self, namespace: &str, name: &str) -> Effects {
        self.peer.remove(namespace, name)
    }

    /// A NetworkPolicy is new or different.
    pub fn set_network_policy(&mut self, policy: NetworkPolicy) -> Effects {
        self.network.set_policy(policy)
    }

    /// A NetworkPolicy is gone.
    pub fn remove_network_policy(&mut self, namespace: &str, name: &str) -> Effects {
        self.network.remove_policy(namespace, name)
    }

    /// A namespace is new, or has other labels.
    pub fn set_namespace(&mut self, name: &Arc<str>, labels: &Labels) -> Effects {
        self.network.set_namespace(name, labels)
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) -> Effects {
        self.network.remove_namespace(name)
    }

    /// A pod is new or different. It need not be in the mesh: the addresses of others decide what may reach those that
    /// are.
    pub fn set_pod(&mut self, pod: &Pod) -> Effects {
        self.network.set_pod(pod)
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, namespace: &str, name: &str) -> Effects {
        self.network.remove_pod(namespace, name)
    }

    /// Names (`namespace/name`) of the selector policies that apply to a workload, sorted: `Workload.authorization_policies`.
    /// `pod` is its name if it is a pod; NetworkPolicies are for pods that are in the mesh.
    pub fn names(&self, namespace: &str, labels: &Labels, pod: Option<&str>) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = self.selecting(namespace, labels).collect();
        names.extend(self.peer.names(namespace, labels));
        names.extend(pod.and_then(|pod| self.network.name(namespace, pod)));
        names.sort();
        names
    }

    /// Name (`namespace/name`) of the policy that judges what a pod dials, if there is one: `Workload.egress`. It is for pods
    /// that have a network of their own, whether or not they are known to be in the mesh yet.
    pub fn egress(&self, namespace: &str, pod: &str) -> Option<Arc<str>> {
        self.network.egress(namespace, pod)
    }

    fn selecting<'a>(&'a self, namespace: &'a str, labels: &'a Labels) -> impl Iterator<Item = Arc<str>> + 'a {
        let root = Some(&*self.root).filter(|root| *root != namespace);
        let there = [Some(namespace), root].into_iter().flatten().filter_map(|ns| self.authorization.get(ns));
        let policies = there.flat_map(BTreeMap::values);
        policies
            .filter(move |p| p.selects().is_some_and(|s| s.subset_of(labels)))
            .map(|p| key(&p.meta.namespace, &p.meta.name))
    }

    /// The resource of a name (`namespace/name`), as it is now. `None`: there is none, or there is none any more.
    pub fn resource(&self, name: &str) -> Option<Authorization> {
        let (namespace, short) = name.split_once('/')?;
        self.authorization
            .get(namespace)
            .and_then(|here| here.get(short)?.resource(&self.root))
            .or_else(|| self.peer.resource(namespace, short))
            .or_else(|| self.network.resource(namespace, short))
    }

    /// All resources, sorted by name.
    pub fn resources(&self) -> Vec<Authorization> {
        let policies = self.authorization.values().flat_map(BTreeMap::values);
        let mut all: Vec<Authorization> = policies.filter_map(|p| p.resource(&self.root)).collect();
        all.extend(self.peer.resources());
        all.extend(self.network.resources());
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }

    /// A policy that is held.
    pub fn authorization_policy(&self, namespace: &str, name: &str) -> Option<&AuthorizationPolicy> {
        self.authorization.get(namespace)?.get(name)
    }

    /// A policy that is held.
    pub fn peer_authentication(&self, namespace: &str, name: &str) -> Option<&PeerAuthentication> {
        self.peer.get(namespace, name)
    }

    /// A policy that is held.
    pub fn network_policy(&self, namespace: &str, name: &str) -> Option<&NetworkPolicy> {
        self.network.policy(namespace, name)
    }
}

/// The name of a resource.
fn key(namespace: &str, name: &str) -> Arc<str> {
    format!("{namespace}/{name}").into()
}
