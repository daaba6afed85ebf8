//! The pods and the policies, and which pods share a resource.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::Cidr;
use mesh::authz::{Action, Authorization, Rule, Scope};

use super::group::Group;
use super::lower::{Let, rule, whole};
use super::peers::{Candidate, Peers, PolicyKey, Selection};
use super::{Allowance, Direction, Ends, NetworkPolicy, Where};
use crate::object::pod::NamedPort;
use crate::object::{Labels, Pod};
use crate::policies::{Effects, key};

/// Label that the API server gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What is known of a pod.
#[derive(Debug)]
struct Facts {
    labels: Labels,
    /// Its own; none for a pod of the host's network and for one that has ended.
    addresses: Box<[IpAddr]>,
    ports: Arc<[NamedPort]>,
    /// It has a network of its own, and has not ended.
    own: bool,
    /// It is in the mesh.
    meshed: bool,
    /// It is being deleted.
    ending: bool,
    /// Names of the resources that it shares, if policies isolate it.
    groups: Groups,
}

/// A name for each direction.
#[derive(Debug, Default)]
struct Groups {
    ingress: Option<Arc<str>>,
    egress: Option<Arc<str>>,
}

impl Groups {
    fn of(&mut self, direction: Direction) -> &mut Option<Arc<str>> {
        match direction {
            Direction::Egress => &mut self.egress,
            Direction::Ingress => &mut self.ingress,
        }
    }
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
        for selection in policy.selections() {
            let there = self.pods.iter().filter(|(ns, _)| match &selection.peer.namespaces {
                Where::Own(own) => own == *ns,
                Where::Selected(_) => true,
            });
            let there: Vec<_> = there.map(|(ns, pods)| (ns, around(&self.namespaces, ns), pods)).collect();
            let pods = there.iter().flat_map(|(ns, labels, pods)| pods.values().map(|p| p.candidate(ns, labels)));
            self.peers.hold(&selection, user.clone(), pods);
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
        let asked = new.map(NetworkPolicy::selections).unwrap_or_default();
        let before = old.iter().flat_map(NetworkPolicy::selections);
        before.filter(|s| !asked.contains(s)).for_each(|gone| self.peers.release(&gone, user));
        let mut effects = Effects::default();
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
        let alike =
            |o: &Facts| (o.own, o.meshed, &o.labels, &o.ports) == (new.own, new.meshed, &new.labels, &new.ports);
        let same = old.as_ref().is_some_and(alike);
        new.groups = old.map(|o| o.groups).unwrap_or_default();
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
        for group in old.groups.ingress.iter().chain(&old.groups.egress) {
            self.leave(namespace, group, &mut effects);
            effects.workloads.pods.insert((namespace.into(), name.clone()));
        }
        effects
    }

    /// The resources of a policy are different.
    fn touch(&self, (namespace, name): &PolicyKey, effects: &mut Effects) {
        let here = self.groups.get(namespace).into_iter().flatten();
        let with = here.filter(|(_, shared)| shared.group.policies.contains(name));
        effects.resources.extend(with.map(|(short, _)| key(namespace, short)));
    }

    /// Finds the groups of a pod anew.
    fn regroup(&mut self, namespace: &Arc<str>, name: &Arc<str>, effects: &mut Effects) {
        for direction in Direction::BOTH {
            let Some(pod) = self.pods.get(namespace).and_then(|here| here.get(name)) else { return };
            let group = Some(pod).filter(|p| p.judged(direction)).and_then(|p| self.group(namespace, p, direction));
            let short = group.as_ref().map(Group::name);
            let pod = self.pods.get_mut(namespace).and_then(|here| here.get_mut(name));
            let Some(place) = pod.map(|pod| pod.groups.of(direction)).filter(|place| **place != short) else {
                continue;
            };
            let old = std::mem::replace(place, short.clone());
            effects.workloads.pods.insert((namespace.clone(), name.clone()));
            if let (Some(group), Some(short)) = (group, &short) {
                let here = self.groups.entry(namespace.clone()).or_default();
                let shared = here.entry(short.clone()).or_insert_with(|| {
                    effects.resources.insert(key(namespace, short));
                    Shared { group, pods: 0 }
                });
                shared.pods += 1;
            }
            old.iter().for_each(|old| self.leave(namespace, old, effects));
        }
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

    /// The group that a pod is to be in. `None`: nothing isolates it, or everything is let through.
    fn group(&self, namespace: &str, pod: &Facts, direction: Direction) -> Option<Group> {
        let here = self.policies.get(namespace)?;
        let selecting = here.iter().filter(|(_, p)| p.selects(&pod.labels));
        let speaking: Vec<(&Arc<str>, &[Allowance])> =
            selecting.filter_map(|(name, p)| Some((name, p.rules(direction)?))).collect();
        if speaking.is_empty() {
            return None;
        }
        let allowances = || speaking.iter().flat_map(|(_, rules)| rules.iter());
        let number = |name: &Arc<str>| pod.ports.iter().find(|p| p.name == *name).map(|p| p.port);
        let ports: BTreeMap<Arc<str>, Option<u16>> = match direction {
            Direction::Egress => BTreeMap::new(),
            Direction::Ingress => {
                allowances().flat_map(|a| a.ports.named()).map(|name| (name.clone(), number(name))).collect()
            }
        };
        let policies = speaking.iter().map(|(name, _)| (*name).clone()).collect();
        let group = Group { direction, policies, ports: ports.into_iter().collect() };
        // Then there is nothing to deny. Whoever the peers are makes no difference.
        let open = |a: &Allowance| a.peers == Ends::Any && a.ports.numbers(&group.ports).is_none_or(whole);
        (!allowances().any(open)).then_some(group)
    }

    fn rule_of(&self, namespace: &str, group: &Group) -> Option<Rule> {
        let here = self.policies.get(namespace)?;
        let policies = group.policies.iter().filter_map(|name| here.get(name));
        let allowances = policies.filter_map(|p| p.rules(group.direction)).flatten();
        match group.direction {
            Direction::Egress => rule(group.direction, allowances.flat_map(|a| self.lets_out(a))),
            Direction::Ingress => {
                let ports = |a: &Allowance| a.ports.numbers(&group.ports);
                rule(group.direction, allowances.map(|a| Let { peers: self.ends(&a.peers), ports: ports(a) }))
            }
        }
    }

    /// What a rule of egress lets out to. A port that it names has the number that each pod gives it, so that for every number
    /// there are other pods.
    fn lets_out(&self, allowance: &Allowance) -> Vec<Let> {
        let mut lets = Vec::new();
        if allowance.ports.by_number() {
            lets.push(Let { peers: self.ends(&allowance.peers), ports: allowance.ports.numbers(&[]) });
        }
        let mut by_number: BTreeMap<u16, Vec<Cidr>> = BTreeMap::new();
        for (selection, in_blocks) in allowance.by_name() {
            let members = self.peers.members(&selection);
            for (ip, port) in members.filter(|(ip, _)| !in_blocks || allowance.block_holds(*ip)) {
                by_number.entry(port).or_default().push(Cidr::host(ip));
            }
        }
        let named = by_number.into_iter().map(|(port, ips)| Let { peers: Some(ips), ports: Some(vec![(port, port)]) });
        lets.extend(named);
        lets
    }

    fn ends(&self, ends: &Ends) -> Option<Vec<Cidr>> {
        let Ends::These { blocks, pods } = ends else { return None };
        let of = |peer: &super::Peer| {
            let selection = Selection { peer: peer.clone(), port: None };
            self.peers.members(&selection).map(|(ip, _)| Cidr::host(ip)).collect::<Vec<_>>()
        };
        Some(blocks.iter().copied().chain(pods.iter().flat_map(of)).collect())
    }

    /// The name of the resource that judges what a pod takes.
    pub(in crate::policies) fn name(&self, namespace: &str, pod: &str) -> Option<Arc<str>> {
        let group = self.pods.get(namespace)?.get(pod)?.groups.ingress.as_ref()?;
        Some(key(namespace, group))
    }

    /// The name of the resource that judges what a pod opens.
    pub(in crate::policies) fn egress(&self, namespace: &str, pod: &str) -> Option<Arc<str>> {
        let group = self.pods.get(namespace)?.get(pod)?.groups.egress.as_ref()?;
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
}

impl Facts {
    /// Whether policies are judged for it by a proxy. What a pod opens is judged before it is known to be in the mesh: it is
    /// captured before that is said of it, its first connections may be tunnels already, and a tunnel is all that the
    /// network plug-in sees then. What it takes comes in clear until then, and the plug-in judges it.
    fn judged(&self, direction: Direction) -> bool {
        match direction {
            Direction::Egress => self.own,
            Direction::Ingress => self.meshed,
        }
    }

    fn candidate<'a>(&'a self, namespace: &'a str, around: &'a Labels) -> Candidate<'a> {
        let Self { labels, addresses, ports, ending, .. } = self;
        Candidate { namespace, around, labels, addresses, ports, ending: *ending }
    }
}

impl From<&Pod> for Facts {
    fn from(pod: &Pod) -> Self {
        let own = !pod.host_network && !pod.finished;
        Self {
            labels: pod.meta.labels.clone(),
            addresses: if own { pod.addresses.clone() } else { Box::default() },
            ports: pod.ports.clone(),
            own,
            meshed: own && pod.enrolled,
            ending: pod.deleting,
            groups: Groups::default(),
        }
    }
}

/// Labels of a namespace. One whose object has not come yet has at least its name.
fn around(namespaces: &HashMap<Arc<str>, Labels>, name: &str) -> Labels {
    namespaces.get(name).cloned().unwrap_or_else(|| Labels::new([(NAMESPACE_NAME, name)]))
}
