//! Which pods are peers, kept up to date pod by pod.
//!
//! Every distinct selection of pods is one set, whoever asks for it. A pod that comes, goes or changes touches the sets of
//! its namespace and those that select namespaces, and names the policies of those sets that changed.
//!
//! **An address of several pods.** Policies know pods by their addresses, and an address is given to a new pod as soon as the
//! network of the old one is gone, which may be before its object is. So an address is a peer's only when every pod is a
//! peer that has it; pods that are being deleted do not count beside one that is not. A new owner who is no peer takes
//! the address out of the set in the step in which he becomes known, and one who is a peer puts it in at once, although the
//! old one was none. A pod that has ended (phase Succeeded or Failed) has no address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use kubernetes::selector::{Answer, Selector};

use super::{Peer, Where};
use crate::object::Labels;
use crate::object::pod::NamedPort;

/// A policy, by namespace and name.
pub(super) type PolicyKey = (Arc<str>, Arc<str>);

/// Pods, and which of their ports. Without a name of a port it is all of them, and the number stays 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    pub(super) peer: Peer,
    pub(super) port: Option<Arc<str>>,
}

/// What a set asks of a pod.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) namespace: &'a str,
    /// Labels of the namespace.
    pub(super) around: &'a Labels,
    pub(super) labels: &'a Labels,
    pub(super) addresses: &'a [IpAddr],
    pub(super) ports: &'a [NamedPort],
    /// It is being deleted.
    pub(super) ending: bool,
}

/// How many pods have an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    lasting: usize,
    ending: usize,
}

impl Share {
    fn of(&mut self, ending: bool) -> &mut usize {
        if ending { &mut self.ending } else { &mut self.lasting }
    }

    /// Whether these are all that count, of those that there are.
    fn decides(self, all: Self) -> bool {
        match all.lasting {
            0 => self.ending > 0 && self.ending == all.ending,
            count => self.lasting == count,
        }
    }
}

#[derive(Debug, Default)]
struct Set {
    /// Addresses and ports of pods that are selected.
    members: BTreeMap<(IpAddr, u16), Share>,
    users: BTreeSet<PolicyKey>,
}

/// What a step did to those who have an address.
struct Claim {
    ip: IpAddr,
    was: Share,
    is: Share,
}

/// All sets that somebody asks for.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Those of one namespace, by it.
    own: HashMap<Arc<str>, HashMap<Selection, Set>>,
    /// Those that select namespaces.
    wide: HashMap<Selection, Set>,
    /// Who has which address, selected or not.
    claims: HashMap<IpAddr, Share>,
}

impl Peers {
    /// A policy asks for a set. `pods` are those it may hold, if it is new.
    pub(super) fn hold<'a>(
        &mut self,
        selection: &Selection,
        user: PolicyKey,
        pods: impl Iterator<Item = Candidate<'a>>,
    ) {
        let sets = match &selection.peer.namespaces {
            Where::Own(namespace) => self.own.entry(namespace.clone()).or_default(),
            Where::Selected(_) => &mut self.wide,
        };
        let set = sets.entry(selection.clone()).or_insert_with(|| {
            let mut new = Set::default();
            for pod in pods {
                for member in selection.members(&pod) {
                    *new.members.entry(member).or_default().of(pod.ending) += 1;
                }
            }
            new
        });
        set.users.insert(user);
    }

    /// A policy asks for a set no longer.
    pub(super) fn release(&mut self, selection: &Selection, user: &PolicyKey) {
        match &selection.peer.namespaces {
            Where::Own(namespace) => {
                let Some(sets) = self.own.get_mut(namespace) else { return };
                release(sets, selection, user);
                if sets.is_empty() {
                    self.own.remove(namespace);
                }
            }
            Where::Selected(_) => release(&mut self.wide, selection, user),
        }
    }

    /// A pod was so and is so. Gives the policies to whom that makes a difference.
    pub(super) fn shift(&mut self, before: Option<Candidate<'_>>, after: Option<Candidate<'_>>) -> BTreeSet<PolicyKey> {
        let mut touched = BTreeSet::new();
        let Some(namespace) = before.or(after).map(|c| c.namespace) else { return touched };
        let step = self.claim(before, after);
        // Then it makes a difference to whoever selects another pod that has the address, in whatever namespace.
        let contested = step.iter().any(|c| c.was.lasting + c.was.ending > 1 || c.is.lasting + c.is.ending > 1);
        let mut shift = |sets: &mut HashMap<Selection, Set>| {
            for (selection, set) in sets {
                if set.shift(selection, before, after, &step, contested) {
                    touched.extend(set.users.iter().cloned());
                }
            }
        };
        shift(&mut self.wide);
        match contested {
            true => self.own.values_mut().for_each(shift),
            false => self.own.get_mut(namespace).into_iter().for_each(shift),
        }
        touched
    }

    /// Counts who has the addresses of a pod.
    fn claim(&mut self, before: Option<Candidate<'_>>, after: Option<Candidate<'_>>) -> Vec<Claim> {
        let all = [before, after].into_iter().flatten().flat_map(|c| c.addresses);
        let ips: BTreeSet<IpAddr> = all.copied().collect();
        let share = |claims: &HashMap<IpAddr, Share>, ip: IpAddr| claims.get(&ip).copied().unwrap_or_default();
        let mut step: Vec<Claim> =
            ips.into_iter().map(|ip| Claim { ip, was: share(&self.claims, ip), is: Share::default() }).collect();
        if let Some(pod) = after {
            pod.addresses.iter().for_each(|ip| *self.claims.entry(*ip).or_default().of(pod.ending) += 1);
        }
        if let Some(pod) = before {
            for ip in pod.addresses {
                let Some(claim) = self.claims.get_mut(ip) else { continue };
                *claim.of(pod.ending) -= 1;
                if *claim == Share::default() {
                    self.claims.remove(ip);
                }
            }
        }
        step.iter_mut().for_each(|c| c.is = share(&self.claims, c.ip));
        step
    }

    /// Addresses and ports of a set.
    pub(super) fn members(&self, selection: &Selection) -> impl Iterator<Item = (IpAddr, u16)> {
        let set = match &selection.peer.namespaces {
            Where::Own(namespace) => self.own.get(namespace).and_then(|sets| sets.get(selection)),
            Where::Selected(_) => self.wide.get(selection),
        };
        let members = set.into_iter().flat_map(|set| &set.members);
        members.filter(|(at, share)| self.claims.get(&at.0).is_some_and(|all| share.decides(*all))).map(|(at, _)| *at)
    }
}

impl Set {
    /// Whether the step makes a difference.
    fn shift(
        &mut self,
        selection: &Selection,
        before: Option<Candidate<'_>>,
        after: Option<Candidate<'_>>,
        step: &[Claim],
        contested: bool,
    ) -> bool {
        let of = |c: Option<Candidate<'_>>| c.map(|c| selection.members(&c)).unwrap_or_default();
        let (old, new) = (of(before), of(after));
        let ending = |c: Option<Candidate<'_>>| c.is_some_and(|c| c.ending);
        if !contested && old == new && (new.is_empty() || ending(before) == ending(after)) {
            return false;
        }
        let was = self.decided(step, |c| c.was);
        for member in new {
            *self.members.entry(member).or_default().of(ending(after)) += 1;
        }
        for member in old {
            let Some(share) = self.members.get_mut(&member) else { continue };
            *share.of(ending(before)) -= 1;
            if *share == Share::default() {
                self.members.remove(&member);
            }
        }
        was != self.decided(step, |c| c.is)
    }

    /// Those of the addresses of a step that are in the set.
    fn decided(&self, step: &[Claim], share: fn(&Claim) -> Share) -> Vec<(IpAddr, u16)> {
        let of = |claim: &Claim| {
            let (ip, all) = (claim.ip, share(claim));
            let members = self.members.range((ip, 0)..=(ip, u16::MAX));
            members.filter(move |(_, share)| share.decides(all)).map(|(at, _)| *at)
        };
        step.iter().flat_map(of).collect()
    }
}

fn release(sets: &mut HashMap<Selection, Set>, selection: &Selection, user: &PolicyKey) {
    if let Some(set) = sets.get_mut(selection) {
        set.users.remove(user);
        if set.users.is_empty() {
            sets.remove(selection);
        }
    }
}

impl Selection {
    /// What a pod adds to the set: nothing unless it is a peer, and has a port of that name.
    fn members(&self, pod: &Candidate<'_>) -> Vec<(IpAddr, u16)> {
        let port = match &self.port {
            None => Some(0),
            Some(name) => pod.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        };
        let Some(port) = port.filter(|_| selects(&self.peer, pod)) else { return Vec::new() };
        pod.addresses.iter().map(|ip| (*ip, port)).collect()
    }
}

/// Whether a pod is a peer. A selector that cannot be told selects none: it would let something through.
fn selects(peer: &Peer, pod: &Candidate<'_>) -> bool {
    let holds = |s: &Selector, labels: &Labels| s.answer(|key| labels.get(key).map(|v| &**v)) == Answer::Yes;
    let there = match &peer.namespaces {
        Where::Own(namespace) => **namespace == *pod.namespace,
        Where::Selected(selector) => holds(selector, pod.around),
    };
    there && holds(&peer.pods, pod.labels)
}
