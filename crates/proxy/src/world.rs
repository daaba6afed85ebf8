//! What a proxy knows: who is where, and which policies there are. Written by one task, read by every worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use directory::{Directory, Snapshot};
use mesh::Workload;
use mesh::addr::Cidr;
use mesh::authz::Scope;
use policy::PolicySet;
use tokio::sync::watch;
use tokio::time::timeout;
use xds::{Change, StandIn};

/// How long a connection waits for something that discovery has not said yet, before it is refused. Istio's own value
/// (hbone.md 5, 7): long enough for a discovery round trip under load, short enough for an application's connect.
pub const HOLD: Duration = Duration::from_secs(5);

/// A proxy's view of the mesh.
pub struct World {
    directory: Directory,
    policies: ArcSwap<PolicySet>,
    /// By policy key: why the policy could not be understood, for those that a stand-in holds the place of.
    stand_ins: ArcSwap<BTreeMap<Arc<str>, Arc<str>>>,
    /// Addresses of pods: what was configured and what discovery says, merged.
    pod_networks: ArcSwap<Vec<Cidr>>,
    configured: Vec<Cidr>,
    /// Counts every change.
    version: watch::Sender<u64>,
    /// Counts the changes that can take a permit away: policies, and the policies that a workload names.
    verdicts: watch::Sender<u64>,
    /// Counts the changes of what a known workload may dial: who names egress policies, not what is in them.
    restricted: watch::Sender<u64>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world that knows nobody and has no policy.
    pub fn new() -> Self {
        Self::with_pod_networks(Vec::new())
    }

    /// The same, for somebody who was told addresses of pods. They stay, whatever discovery says.
    pub fn with_pod_networks(configured: Vec<Cidr>) -> Self {
        Self {
            pod_networks: ArcSwap::from_pointee(Cidr::merged(configured.iter().copied())),
            configured,
            directory: Directory::new(),
            policies: ArcSwap::from_pointee(PolicySet::default()),
            stand_ins: ArcSwap::default(),
            version: watch::Sender::new(0),
            verdicts: watch::Sender::new(0),
            restricted: watch::Sender::new(0),
        }
    }

    /// Applies a change; connections see it from their next step on, live ones are judged again where it matters.
    pub fn apply(&self, change: Change) {
        let mut snapshot = Snapshot::clone(&self.directory.load());
        let mut policies = PolicySet::clone(&self.policies.load());
        let mut stand_ins = BTreeMap::clone(&self.stand_ins.load());
        let mut restricted = false;
        let mut verdicts =
            !change.policies.is_empty() || !change.removed_policies.is_empty() || !change.stand_ins.is_empty();
        // Removals first: a successor may hold the same address.
        for name in &change.removed {
            snapshot.remove(name);
        }
        for service in change.services {
            snapshot.insert_service(service);
        }
        for workload in change.workloads {
            if let Some(old) = snapshot.workload(&workload.uid) {
                verdicts |= old.authorization_policies != workload.authorization_policies
                    || old.node_addresses != workload.node_addresses;
                restricted |= old.egress != workload.egress;
            }
            snapshot.insert_workload(workload);
        }
        for key in &change.removed_policies {
            policies.remove(key);
            stand_ins.remove(key);
        }
        for authorization in change.policies {
            stand_ins.remove(authorization.key().as_str());
            policies.insert(authorization);
        }
        for StandIn { policy, reason } in change.stand_ins {
            let key: Arc<str> = policy.key().into();
            if policies.get(&key).is_some() && !stand_ins.contains_key(&key) {
                tracing::warn!(policy = %key, %reason, "a policy could not be understood; its former version stays in force");
                continue;
            }
            tracing::warn!(policy = %key, %reason, "a policy could not be understood; until it is, it permits nothing");
            policies.insert(policy);
            stand_ins.insert(key, reason);
        }
        // Before the directory: an address that a workload leaves must not look like a stranger's.
        change.pod_networks.into_iter().for_each(|blocks| self.set_pod_networks(blocks));
        // Policies first: a workload that names a new policy must never be seen without it (discovery.md 6.3).
        self.policies.store(Arc::new(policies));
        self.stand_ins.store(Arc::new(stand_ins));
        self.directory.store(snapshot);
        self.version.send_modify(|v| *v += 1);
        if verdicts || restricted {
            self.verdicts.send_modify(|v| *v += 1);
        }
        if restricted {
            self.restricted.send_modify(|v| *v += 1);
        }
    }

    fn set_pod_networks(&self, said: Vec<Cidr>) {
        let all = Cidr::merged(self.configured.iter().copied().chain(said));
        tracing::info!(blocks = %all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), "pod network");
        self.pod_networks.store(Arc::new(all));
    }

    /// Who is where, at this moment.
    pub fn directory(&self) -> Arc<Snapshot> {
        self.directory.load()
    }

    /// Addresses of pods, at this moment. Load the directory before: what has left it lies in the networks that are loaded then.
    pub fn pod_networks(&self) -> Arc<Vec<Cidr>> {
        self.pod_networks.load_full()
    }

    /// The policies in force.
    pub fn policies(&self) -> Arc<PolicySet> {
        self.policies.load_full()
    }

    /// Says which policies that apply to a workload could not be understood, if any.
    pub fn not_understood(&self, workload: &Workload) -> Option<String> {
        let (policies, stand_ins) = (self.policies.load(), self.stand_ins.load());
        let applies = |key: &Arc<str>| match policies.get(key)?.scope {
            Scope::Global => Some(()),
            Scope::Namespace => key.split_once('/').filter(|(ns, _)| *ns == &*workload.namespace).map(drop),
            Scope::WorkloadSelector => workload.authorization_policies.contains(key).then_some(()),
        };
        let said = stand_ins.iter().filter(|(key, _)| applies(key).is_some());
        let all: Vec<_> =
            said.map(|(key, why)| format!("policy {key} could not be understood and permits nothing: {why}")).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Why the policy of this key (`namespace/name`) could not be understood, if it could not.
    pub fn stands_in(&self, key: &str) -> Option<Arc<str>> {
        self.stand_ins.load().get(key).cloned()
    }

    /// Told whenever permits may have to be withdrawn.
    pub fn verdicts(&self) -> watch::Receiver<u64> {
        self.verdicts.subscribe()
    }

    /// Told whenever a workload may name other egress policies than before. Seldom: most pods have none, and who connects is
    /// told by [`World::verdicts`] of what is in them.
    pub fn restricted(&self) -> watch::Receiver<u64> {
        self.restricted.subscribe()
    }

    /// Told of every change.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Asks again after each change until there is an answer, for at most [`HOLD`].
    pub async fn held<T>(&self, ask: impl Fn() -> Option<T>) -> Option<T> {
        let mut version = self.version();
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let wait = async {
            // The sender lives as long as self: an error cannot happen, and would mean that no change comes any more.
            while version.changed().await.is_ok() {
                if let Some(answer) = ask() {
                    return Some(answer);
                }
            }
            None
        };
        timeout(HOLD, wait).await.ok().flatten()
    }
}
