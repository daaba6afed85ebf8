//! Which pods are node proxies or waypoints, and which workloads run where: what judging a stream needs to know of the world.
//!
//! Kept beside the world, small and ready to be read by many streams: pods of the node proxies' service accounts (one or two a
//! node) and of waypoints, Gateways, and the node of each workload.

use kubernetes::object::GATEWAY_NAME;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::object::{Input, Key, Kind, Pod};

/// A pod that may ask for discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPod {
    /// Its uid: a later pod of the same name is another one.
    pub uid: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its node; empty before it is placed.
    pub node: Arc<str>,
    /// What it is.
    pub role: Role,
}

/// What a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node proxy.
    Node,
    /// A waypoint, of the Gateway of this name in its namespace.
    Waypoint(Arc<str>),
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The index. Clones share it.
#[derive(Clone, Debug)]
pub struct Proxies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    accounts: BTreeSet<Account>,
    pods: Listed<ProxyPod>,
    /// Gateways that have a listener for tunnels, and the service account of their pods: only these can be waypoints.
    gateways: Listed<Arc<str>>,
    nodes: RwLock<HashMap<Arc<str>, Arc<str>>>,
}

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

/// Some objects of one kind.
#[derive(Debug)]
struct Listed<T> {
    all: watch::Sender<HashMap<Name, T>>,
    /// What the list that is under way has brought so far.
    listed: Mutex<Option<HashSet<Name>>>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { all: watch::Sender::new(HashMap::new()), listed: Mutex::default() }
    }
}

impl<T: PartialEq + Clone> Listed<T> {
    fn set(&self, name: Name, value: Option<T>) {
        if value.is_some()
            && let Some(listed) = &mut *self.listed()
        {
            listed.insert(name.clone());
        }
        self.all.send_if_modified(|all| match value {
            Some(value) => all.insert(name, value.clone()) != Some(value),
            None => all.remove(&name).is_some(),
        });
    }

    fn begin(&self) {
        *self.listed() = Some(HashSet::new());
    }

    fn finish(&self) {
        let Some(listed) = self.listed().take() else { return };
        self.all.send_if_modified(|all| {
            let before = all.len();
            all.retain(|name, _| listed.contains(name));
            all.len() != before
        });
    }

    fn get(&self, namespace: &str, name: &str) -> Option<T> {
        self.all.borrow().get(&(namespace.into(), name.into())).cloned()
    }

    /// Waits until the one of this name satisfies; for ever if none does.
    async fn until(&self, namespace: &str, name: &str, wanted: impl Fn(Option<&T>) -> bool) {
        let name: Name = (namespace.into(), name.into());
        let mut changes = self.all.subscribe();
        // Cannot close: the sender lives in `self`.
        changes.wait_for(|all| wanted(all.get(&name))).await.map(drop).ok();
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Option<HashSet<Name>>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Reads `namespace/name`; the configuration has been checked to be of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl Proxies {
    /// An empty index of waypoints, and of the pods of these service accounts.
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        let accounts = accounts.into_iter().collect();
        Self(Arc::new(Inner {
            accounts,
            pods: Listed::default(),
            gateways: Listed::default(),
            nodes: RwLock::default(),
        }))
    }

    /// Whether pods of this service account may be node proxies.
    pub fn allows(&self, namespace: &str, name: &str) -> bool {
        self.0.accounts.iter().any(|a| a.namespace == namespace && a.name == name)
    }

    /// Notes an object that is new or different.
    pub fn upsert(&self, input: &Input) {
        match input {
            Input::Gateway(gateway) => {
                let name = (gateway.meta.namespace.clone(), gateway.meta.name.clone());
                let tunnels = gateway.listeners.iter().any(|l| &*l.protocol == "HBONE");
                self.0.gateways.set(name, tunnels.then(|| gateway.account.clone()));
            }
            Input::Pod(pod) => {
                let name = (pod.meta.namespace.clone(), pod.meta.name.clone());
                self.0.pods.set(name, self.proxy(pod));
            }
            _ => {}
        }
    }

    /// Notes that an object is gone.
    pub fn remove(&self, key: &Key) {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Gateway => self.0.gateways.set(name, None),
            Kind::Pod => self.0.pods.set(name, None),
            _ => {}
        }
    }

    /// All objects of a kind are about to be listed.
    pub fn begin(&self, kind: Kind) {
        match kind {
            Kind::Gateway => self.0.gateways.begin(),
            Kind::Pod => self.0.pods.begin(),
            _ => {}
        }
    }

    /// The list of a kind is complete: what was not in it is gone.
    pub fn finish(&self, kind: Kind) {
        match kind {
            Kind::Gateway => self.0.gateways.finish(),
            Kind::Pod => self.0.pods.finish(),
            _ => {}
        }
    }

    fn proxy(&self, pod: &Pod) -> Option<ProxyPod> {
        // A finished pod runs nothing: whoever shows its token is not it. One that is told to go still serves while it
        // drains, and needs to hear of revocations until it is gone.
        if pod.finished {
            return None;
        }
        let role = if self.allows(&pod.meta.namespace, &pod.service_account) {
            Role::Node
        } else {
            Role::Waypoint(pod.meta.labels.get(GATEWAY_NAME)?.clone())
        };
        Some(ProxyPod {
            uid: pod.meta.uid.clone(),
            service_account: pod.service_account.clone(),
            node: pod.node.clone(),
            role,
        })
    }

    /// A pod that may ask, as it is now.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<ProxyPod> {
        self.0.pods.get(namespace, name)
    }

    /// Waits until a pod of this name satisfies `wanted`; for ever if none does.
    pub async fn until(&self, namespace: &str, name: &str, wanted: impl Fn(Option<&ProxyPod>) -> bool) {
        self.0.pods.until(namespace, name, wanted).await;
    }

    /// Waits until there is a Gateway of this name whose pods have this service account and can be waypoints (`there`), or
    /// until there is none.
    pub async fn until_gateway(&self, namespace: &str, name: &str, account: &str, there: bool) {
        let is = |gateway: Option<&Arc<str>>| gateway.is_some_and(|a| **a == *account) == there;
        self.0.gateways.until(namespace, name, is).await;
    }

    /// Notes workloads as discovery has them now.
    pub fn apply(&self, change: &xds::Change) {
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        for name in &change.removed {
            nodes.remove(name);
        }
        for workload in &change.workloads {
            if workload.node.is_empty() {
                nodes.remove(&workload.uid);
            } else {
                nodes.insert(workload.uid.clone(), workload.node.clone());
            }
        }
    }

    /// Whether a workload runs on a node.
    pub fn runs_on(&self, uid: &str, node: &str) -> bool {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).get(uid).is_some_and(|n| **n == *node)
    }
}
