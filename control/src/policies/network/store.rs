//! The pods and the policies, and which pods share a resource.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use kubernetes::selector::Answer;
use mesh::addr::Cidr;
use mesh::authz::{Action, Authorization, Scope};

use super::lower::{Let, rule, whole};
use super::peers::{Candidate, Peers, PolicyKey};
use super::{Allowance, From, NetworkPolicy, PREFIX, Ports, Where};
use crate::object::pod::NamedPort;
use crate::object::{Labels, Pod};
use crate::policies::{Effects, key};
use crate::world::Event;

/// Label that the API server gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What is known of a pod.
#[derive(Debug)]
struct Facts {
    labels: Labels,
    /// Its own; none for a pod of the host's network and for one that has ended.
    addresses: Box<[IpAddr]>,
    ports: Arc<[NamedPort]>,
    /// It is in the mesh.
    meshed: bool,
    /// Name of the resource that it shares, if policies isolate it.
    group: Option<Arc<str>>,
}

/// Pods that the same policies isolate, with the same numbers for the same names of ports.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    /// Names of the policies, sorted.
    policies: Vec<Arc<str>>,
    ports: Vec<(Arc<str>, Option<u16>)>,
}

/// A group that there is.
#[derive(Debug)]
struct Shared {
    group: Group,
    /// How many pods are in it.
    pods: usize,
}

/// Everything NetworkPolicies are about.
#[derive(Debug, Default)]
pub(in crate::policies) struct Networks {
    namespaces: HashMap<Arc<str>, Labels>,
    /// By namespace and name.
    pods: HashMap<Arc<str>, HashMap<Arc<str>, Facts>>,
    /// By namespace and name.
    policies: HashMap<Arc<str>, BTreeMap<Arc<str>, NetworkPolicy>>,
    /// By namespace and name.
    groups: HashMap<Arc<str>, BTreeMap<Arc<str>, Shared>>,
    peers: Peers,
}

impl Networks {
    pub(in crate::policies) fn set_policy(&mut self, policy: NetworkPolicy) -> Effects {
        let (namespace, name) = (policy.meta.namespace.clone(), policy.meta.name.clone());
        if self.policy(&namespace, &name) == Some(&policy) {
            return Effects::default();
        }
        let user = (namespace.clone(), name.clone());
        // The new one first, so that a set that both ask for is not made anew.
        for peer in policy.peers() {
            let there = self.pods.iter().filter(|(ns, _)| match &peer.namespaces {
                Where::Own(own) => own == *ns,
                Where::Selected(_) => true,
            });
            let there: Vec<_> = there.map(|(ns, pods)| (ns, around(&self.namespaces, ns), pods)).collect();
            let pods = there.iter().flat_map(|(ns, labels, pods)| pods.values().map(|p| p.candidate(ns, labels)));
            self.peers.hold(peer, user.clone(), pods);
        }
        let old = self.policies.entry(namespace.clone()).or_default().insert(name.clone(), policy);
        self.after_policy(&user, old)
    }

    pub(in crate::policies) fn remove_policy(&mut self, namespace: &str, name: &str) -> Effects {
        let Some(here) = self.policies.get_mut(namespace) else { return Effects::default() };
        let Some(old) = here.remove(name) else { return Effects::default() };
        if here.is_empty() {
            self.policies.remove(namespace);
        }
        let user = (old.meta.namespace.clone(), old.meta.name.clone());
        self.after_policy(&user, Some(old))
    }

    fn after_policy(&mut self, user: &PolicyKey, old: Option<NetworkPolicy>) -> Effects {
        let (namespace, name) = user;
        let new = self.policies.get(namespace).and_then(|here| here.get(name));
        for gone in
            old.iter().flat_map(NetworkPolicy::peers).filter(|p| !new.iter().any(|n| n.peers().any(|x| x == *p)))
        {
            self.peers.release(gone, user);
        }
        let mut effects = Effects::default();
        effects.network_policies.insert(user.clone());
        let pods: Vec<Arc<str>> = self.pods.get(namespace).into_iter().flat_map(HashMap::keys).cloned().collect();
        pods.iter().for_each(|pod| self.regroup(namespace, pod, &mut effects));
        self.touch(user, &mut effects);
        effects
    }

    pub(in crate::policies) fn policy(&self, namespace: &str, name: &str) -> Option<&NetworkPolicy> {
        self.policies.get(namespace)?.get(name)
    }

    pub(in crate::policies) fn set_namespace(&mut self, name: &Arc<str>, labels: &Labels) -> Effects {
        let before = around(&self.namespaces, name);
        self.namespaces.insert(name.clone(), labels.clone());
        self.after_namespace(name, &before)
    }

    pub(in crate::policies) fn remove_namespace(&mut self, name: &str) -> Effects {
        let before = around(&self.namespaces, name);
        self.namespaces.remove(name);
        self.after_namespace(name, &before)
    }

    fn after_namespace(&mut self, name: &str, before: &Labels) -> Effects {
        let after = around(&self.namespaces, name);
        let mut effects = Effects::default();
        if *before == after {
            return effects;
        }
        let mut touched = BTreeSet::new();
        for pod in self.pods.get(name).into_iter().flat_map(HashMap::values) {
            let (was, is) = (pod.candidate(name, before), pod.candidate(name, &after));
            touched.extend(self.peers.shift(Some(was), Some(is)));
        }
        touched.iter().for_each(|policy| self.touch(policy, &mut effects));
        effects
    }

    pub(in crate::policies) fn set_pod(&mut self, pod: &Pod) -> Effects {
        let (namespace, name) = (&pod.meta.namespace, &pod.meta.name);
        let mut effects = Effects::default();
        let mut new = Facts::from(pod);
        let labels = around(&self.namespaces, namespace);
        let old = self.pods.get_mut(namespace).and_then(|here| here.remove(name));
        let was = old.as_ref().map(|o| o.candidate(namespace, &labels));
        let touched = self.peers.shift(was, Some(new.candidate(namespace, &labels)));
        touched.iter().for_each(|policy| self.touch(policy, &mut effects));
        let old_meshed = old.as_ref().is_some_and(|o| o.meshed);
        let same =
            old.as_ref().is_some_and(|o| o.meshed == new.meshed && o.labels == new.labels && o.ports == new.ports);
        new.group = old.and_then(|o| o.group);
        if old_meshed != new.meshed {
            self.notes(namespace, &new.labels, &mut effects);
        }
        self.pods.entry(namespace.clone()).or_default().insert(name.clone(), new);
        if !same {
            self.regroup(namespace, name, &mut effects);
        }
        effects
    }

    pub(in crate::policies) fn remove_pod(&mut self, namespace: &str, name: &str) -> Effects {
        let mut effects = Effects::default();
        let labels = around(&self.namespaces, namespace);
        let Some(here) = self.pods.get_mut(namespace) else { return effects };
        let Some((name, old)) = here.remove_entry(name) else { return effects };
        if here.is_empty() {
            self.pods.remove(namespace);
        }
        let touched = self.peers.shift(Some(old.candidate(namespace, &labels)), None);
        touched.iter().for_each(|policy| self.touch(policy, &mut effects));
        if let Some(group) = &old.group {
            self.leave(namespace, group, &mut effects);
            effects.workloads.pods.insert((namespace.into(), name));
        }
        effects
    }

    /// The resources of a policy are different.
    fn touch(&self, (namespace, name): &PolicyKey, effects: &mut Effects) {
        let here = self.groups.get(namespace).into_iter().flatten();
        let with = here.filter(|(_, shared)| shared.group.policies.contains(name));
        effects.resources.extend(with.map(|(short, _)| key(namespace, short)));
    }

    /// Egress policies of which more or less is to be said now.
    fn notes(&self, namespace: &Arc<str>, labels: &Labels, effects: &mut Effects) {
        let here = self.policies.get(namespace).into_iter().flatten();
        let said = here.filter(|(_, p)| p.egress && p.selects(labels));
        effects.network_policies.extend(said.map(|(name, _)| (namespace.clone(), name.clone())));
    }

    /// Finds the group of a pod anew.
    fn regroup(&mut self, namespace: &Arc<str>, name: &Arc<str>, effects: &mut Effects) {
        let Some(pod) = self.pods.get(namespace).and_then(|here| here.get(name)) else { return };
        let group = Some(pod).filter(|p| p.meshed).and_then(|p| self.group(namespace, p));
        let short = group.as_ref().map(Group::name);
        if pod.group == short {
            return;
        }
        effects.workloads.pods.insert((namespace.clone(), name.clone()));
        if let (Some(group), Some(short)) = (group, &short) {
            let here = self.groups.entry(namespace.clone()).or_default();
            let shared = here.entry(short.clone()).or_insert_with(|| {
                effects.resources.insert(key(namespace, short));
                Shared { group, pods: 0 }
            });
            shared.pods += 1;
        }
        let pod = self.pods.get_mut(namespace).and_then(|here| here.get_mut(name));
        let old = pod.and_then(|pod| std::mem::replace(&mut pod.group, short));
        old.iter().for_each(|old| self.leave(namespace, old, effects));
    }

    fn leave(&mut self, namespace: &str, group: &Arc<str>, effects: &mut Effects) {
        let Some(here) = self.groups.get_mut(namespace) else { return };
        let Some(shared) = here.get_mut(group) else { return };
        shared.pods -= 1;
        if shared.pods == 0 {
            here.remove(group);
            effects.resources.insert(key(namespace, group));
            if here.is_empty() {
                self.groups.remove(namespace);
            }
        }
    }

    /// The group that a pod is to be in. `None`: nothing isolates it, or everything is let in.
    fn group(&self, namespace: &str, pod: &Facts) -> Option<Group> {
        let here = self.policies.get(namespace)?.iter();
        let selecting: Vec<_> = here.filter(|(_, p)| p.ingress.is_some() && p.selects(&pod.labels)).collect();
        if selecting.is_empty() {
            return None;
        }
        let named = selecting.iter().flat_map(|(_, p)| p.allowances()).flat_map(|a| a.ports.named());
        let number = |name: &Arc<str>| pod.ports.iter().find(|p| p.name == *name).map(|p| p.port);
        let ports: BTreeMap<Arc<str>, Option<u16>> = named.map(|name| (name.clone(), number(name))).collect();
        let group = Group {
            policies: selecting.into_iter().map(|(name, _)| name.clone()).collect(),
            ports: ports.into_iter().collect(),
        };
        // Then there is nothing to deny. Whoever the peers are makes no difference.
        let open = |a: &Allowance| a.from == From::Anyone && a.ports.numbers(&group.ports).is_none_or(whole);
        let here = self.policies.get(namespace)?;
        let mut lets = group.policies.iter().filter_map(|name| here.get(name)).flat_map(NetworkPolicy::allowances);
        (!lets.any(open)).then_some(group)
    }

    fn rule_of(&self, namespace: &str, group: &Group) -> Option<mesh::authz::Rule> {
        let here = self.policies.get(namespace)?;
        let lets = group.policies.iter().filter_map(|name| here.get(name)).flat_map(NetworkPolicy::allowances);
        rule(lets.map(|a| Let { from: self.sources(&a.from), ports: a.ports.numbers(&group.ports) }))
    }

    fn sources(&self, from: &From) -> Option<Vec<Cidr>> {
        let From::Peers { blocks, pods } = from else { return None };
        let selected = pods.iter().flat_map(|peer| self.peers.addresses(peer));
        Some(blocks.iter().copied().chain(selected).collect())
    }

    /// The name of the resource that applies to a pod.
    pub(in crate::policies) fn name(&self, namespace: &str, pod: &str) -> Option<Arc<str>> {
        let group = self.pods.get(namespace)?.get(pod)?.group.as_ref()?;
        Some(key(namespace, group))
    }

    pub(in crate::policies) fn resource(&self, namespace: &str, name: &str) -> Option<Authorization> {
        let shared = self.groups.get(namespace)?.get(name)?;
        self.authorization(namespace, name, &shared.group)
    }

    fn authorization(&self, namespace: &str, name: &str, group: &Group) -> Option<Authorization> {
        Some(Authorization {
            name: name.into(),
            namespace: namespace.into(),
            scope: Scope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![self.rule_of(namespace, group)?],
            dry_run: false,
        })
    }

    pub(in crate::policies) fn resources(&self) -> impl Iterator<Item = Authorization> {
        let all =
            self.groups.iter().flat_map(|(ns, here)| here.iter().map(move |(name, shared)| (ns, name, &shared.group)));
        all.filter_map(|(ns, name, group)| self.authorization(ns, name, group))
    }

    /// What is to be said on a policy.
    pub(in crate::policies) fn events(&self, namespace: &str, name: &str) -> Vec<Event> {
        let Some(policy) = self.policy(namespace, name) else { return Vec::new() };
        let faulty = !policy.faults.is_empty();
        let faults = faulty.then(|| Event { reason: "UnsupportedValue", message: policy.faults.to_string() });
        let mut pods = self.pods.get(namespace).into_iter().flat_map(HashMap::values);
        let egress = policy.egress && pods.any(|pod| pod.meshed && policy.selects(&pod.labels));
        let egress = egress.then(|| Event { reason: "EgressOnOuterConnection", message: EGRESS.to_owned() });
        faults.into_iter().chain(egress).collect()
    }
}

/// What the owner of a policy with egress rules should know.
const EGRESS: &str = "egress of meshed pods is enforced by the CNI on the outer connection only: to pods of the mesh that \
                      is port 15008, so allow it to the peers that these rules allow";

impl NetworkPolicy {
    /// Whether it is for a pod. A selector that cannot be told selects: less is let in then.
    fn selects(&self, labels: &Labels) -> bool {
        self.selector.answer(|key| labels.get(key).map(|v| &**v)) != Answer::No
    }

    fn allowances(&self) -> impl Iterator<Item = &Allowance> {
        self.ingress.iter().flat_map(|list| list.iter())
    }

    fn peers(&self) -> impl Iterator<Item = &super::Peer> {
        self.allowances().flat_map(|a| match &a.from {
            From::Anyone => &[][..],
            From::Peers { pods, .. } => pods,
        })
    }
}

impl Ports {
    fn named(&self) -> &[Arc<str>] {
        match self {
            Self::All => &[],
            Self::Some { named, .. } => named,
        }
    }

    /// The ports with numbers for their names; a name that a pod does not have is no port.
    fn numbers(&self, known: &[(Arc<str>, Option<u16>)]) -> Option<Vec<(u16, u16)>> {
        let Self::Some { ranges, named } = self else { return None };
        let number = |name: &Arc<str>| known.iter().find(|(n, _)| n == name).and_then(|(_, port)| *port);
        Some(ranges.iter().copied().chain(named.iter().filter_map(number).map(|p| (p, p))).collect())
    }
}

impl Facts {
    fn candidate<'a>(&'a self, namespace: &'a str, around: &'a Labels) -> Candidate<'a> {
        Candidate { namespace, around, labels: &self.labels, addresses: &self.addresses }
    }
}

impl std::convert::From<&Pod> for Facts {
    fn from(pod: &Pod) -> Self {
        let own = !pod.host_network && !pod.finished;
        Self {
            labels: pod.meta.labels.clone(),
            addresses: if own { pod.addresses.clone() } else { Box::default() },
            ports: pod.ports.clone(),
            meshed: own && pod.enrolled,
            group: None,
        }
    }
}

/// Labels of a namespace. One whose object has not come yet has at least its name.
fn around(namespaces: &HashMap<Arc<str>, Labels>, name: &str) -> Labels {
    namespaces.get(name).cloned().unwrap_or_else(|| Labels::new([(NAMESPACE_NAME, name)]))
}

/// Longest list of names that is shown in the name of a resource; a longer one is told by its hash.
const LONGEST: usize = 120;

impl Group {
    /// Name of the resource. It names the policies, so that whoever reads of a denial knows where to look.
    fn name(&self) -> Arc<str> {
        let number = |port: &Option<u16>| port.map_or_else(|| "none".to_owned(), |p| p.to_string());
        let ports = self.ports.iter().map(|(name, port)| format!("{name}={}", number(port)));
        let parts: Vec<String> = self.policies.iter().map(ToString::to_string).chain(ports).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let names = self.policies.iter().chain(self.ports.iter().map(|(name, _)| name));
        let text = parts.join("_");
        if text.len() <= LONGEST && names.into_iter().all(|n| n.chars().all(plain)) {
            return format!("{PREFIX}{text}").into();
        }
        format!("{PREFIX}_{:032x}", hash(&parts)).into()
    }
}

/// FNV-1a of 128 bits, over the parts and their lengths. It is the same in every build and on every replica, and two sets of
/// policies of one namespace do not meet by chance. Who makes them meet on purpose made both of them.
fn hash(parts: &[String]) -> u128 {
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = parts.iter().flat_map(|p| p.len().to_le_bytes().into_iter().chain(p.bytes()));
    bytes.fold(START, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}
