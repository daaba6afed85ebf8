//! Which pods are node proxies, and which workloads run where: what judging a stream needs to know of the world.
//!
//! Kept beside the world, small and ready to be read by many streams: pods of the node proxies' service accounts only
//! (one or two a node), and the node of each workload.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::object::{Input, Key, Kind, Pod};

/// A pod of a node proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyPod {
    /// Its uid: a later pod of the same name is another one.
    pub uid: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// Its node; empty before it is placed.
    pub node: Arc<str>,
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
    pods: watch::Sender<HashMap<Name, ProxyPod>>,
    nodes: RwLock<HashMap<Arc<str>, Arc<str>>>,
    /// What the list of pods that is under way has brought so far.
    listed: Mutex<Option<HashSet<Name>>>,
}

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);

impl Account {
    /// Reads `namespace/name`; the configuration has been checked to be of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl Proxies {
    /// An empty index of the pods of these service accounts.
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        let accounts = accounts.into_iter().collect();
        Self(Arc::new(Inner {
            accounts,
            pods: watch::Sender::default(),
            nodes: RwLock::default(),
            listed: Mutex::default(),
        }))
    }

    /// Whether pods of this service account may be node proxies.
    pub fn allows(&self, namespace: &str, name: &str) -> bool {
        self.0.accounts.iter().any(|a| a.namespace == namespace && a.name == name)
    }

    /// Notes an object that is new or different.
    pub fn upsert(&self, input: &Input) {
        let Input::Pod(pod) = input else { return };
        let name = (pod.meta.namespace.clone(), pod.meta.name.clone());
        let proxy = self.proxy(pod);
        if proxy.is_some()
            && let Some(listed) = &mut *self.listed()
        {
            listed.insert(name.clone());
        }
        self.0.pods.send_if_modified(|pods| match proxy {
            Some(proxy) => pods.insert(name, proxy.clone()) != Some(proxy),
            None => pods.remove(&name).is_some(),
        });
    }

    /// Notes that an object is gone.
    pub fn remove(&self, key: &Key) {
        if key.kind == Kind::Pod {
            self.0.pods.send_if_modified(|pods| pods.remove(&(key.namespace.clone(), key.name.clone())).is_some());
        }
    }

    /// All pods are about to be listed.
    pub fn begin(&self) {
        *self.listed() = Some(HashSet::new());
    }

    /// The list of pods is complete: what was not in it is gone.
    pub fn finish(&self) {
        let Some(listed) = self.listed().take() else { return };
        self.0.pods.send_if_modified(|pods| {
            let before = pods.len();
            pods.retain(|name, _| listed.contains(name));
            pods.len() != before
        });
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Option<HashSet<Name>>> {
        self.0.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proxy(&self, pod: &Pod) -> Option<ProxyPod> {
        // A finished pod runs nothing: whoever shows its token is not it. One that is told to go still serves while it
        // drains, and needs to hear of revocations until it is gone.
        let runs = !pod.finished && self.allows(&pod.meta.namespace, &pod.service_account);
        runs.then(|| ProxyPod {
            uid: pod.meta.uid.clone(),
            service_account: pod.service_account.clone(),
            node: pod.node.clone(),
        })
    }

    /// A pod of a node proxy, as it is now.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<ProxyPod> {
        self.0.pods.borrow().get(&(namespace.into(), name.into())).cloned()
    }

    /// Waits until a pod of this name satisfies `wanted`; for ever if none does.
    pub async fn until(&self, namespace: &str, name: &str, wanted: impl Fn(Option<&ProxyPod>) -> bool) {
        let name: Name = (namespace.into(), name.into());
        let mut changes = self.0.pods.subscribe();
        // Cannot close: the sender lives in `self`.
        changes.wait_for(|pods| wanted(pods.get(&name))).await.map(drop).ok();
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
