//! Which pods are peers, kept up to date pod by pod.
//!
//! Every distinct selection of pods ([`Peer`]) is one set, whoever asks for it. A pod that comes, goes or changes touches
//! the sets of its namespace and those that select namespaces, and names the policies of those sets that changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use kubernetes::selector::Answer;
use mesh::addr::Cidr;

use super::{Peer, Where};
use crate::object::Labels;

/// A policy, by namespace and name.
pub(super) type PolicyKey = (Arc<str>, Arc<str>);

/// What a set asks of a pod.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) namespace: &'a str,
    /// Labels of the namespace.
    pub(super) around: &'a Labels,
    pub(super) labels: &'a Labels,
    pub(super) addresses: &'a [IpAddr],
}

#[derive(Debug)]
struct Set {
    /// How many pods have an address: two may, for a moment, when one has just ended.
    members: BTreeMap<IpAddr, usize>,
    users: BTreeSet<PolicyKey>,
}

/// All sets that somebody asks for.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Those of one namespace, by it.
    own: HashMap<Arc<str>, HashMap<Peer, Set>>,
    /// Those that select namespaces.
    wide: HashMap<Peer, Set>,
}

impl Peers {
    /// A policy asks for a set. `pods` are those it may hold, if it is new.
    pub(super) fn hold<'a>(&mut self, peer: &Peer, user: PolicyKey, pods: impl Iterator<Item = Candidate<'a>>) {
        let sets = match &peer.namespaces {
            Where::Own(namespace) => self.own.entry(namespace.clone()).or_default(),
            Where::Selected(_) => &mut self.wide,
        };
        let set = sets.entry(peer.clone()).or_insert_with(|| {
            let mut members = BTreeMap::new();
            for ip in pods.filter(|pod| selects(peer, pod)).flat_map(|pod| pod.addresses) {
                *members.entry(*ip).or_default() += 1;
            }
            Set { members, users: BTreeSet::new() }
        });
        set.users.insert(user);
    }

    /// A policy asks for a set no longer.
    pub(super) fn release(&mut self, peer: &Peer, user: &PolicyKey) {
        match &peer.namespaces {
            Where::Own(namespace) => {
                let Some(sets) = self.own.get_mut(namespace) else { return };
                release(sets, peer, user);
                if sets.is_empty() {
                    self.own.remove(namespace);
                }
            }
            Where::Selected(_) => release(&mut self.wide, peer, user),
        }
    }

    /// A pod was so and is so. Gives the policies to whom that makes a difference.
    pub(super) fn shift(&mut self, before: Option<Candidate<'_>>, after: Option<Candidate<'_>>) -> BTreeSet<PolicyKey> {
        let mut touched = BTreeSet::new();
        let Some(namespace) = before.or(after).map(|c| c.namespace) else { return touched };
        let own = self.own.get_mut(namespace).into_iter().flatten();
        for (peer, set) in own.chain(&mut self.wide) {
            let of = |c: Option<Candidate<'_>>| c.filter(|c| selects(peer, c)).map(|c| c.addresses.to_vec());
            let (old, new) = (of(before).unwrap_or_default(), of(after).unwrap_or_default());
            if old == new {
                continue;
            }
            let mut changed = false;
            for ip in &new {
                let count = set.members.entry(*ip).or_default();
                changed |= *count == 0 && !old.contains(ip);
                *count += 1;
            }
            for ip in &old {
                if let Some(count) = set.members.get_mut(ip) {
                    *count -= 1;
                    if *count == 0 {
                        set.members.remove(ip);
                        changed = true;
                    }
                }
            }
            if changed {
                touched.extend(set.users.iter().cloned());
            }
        }
        touched
    }

    /// The addresses of a set.
    pub(super) fn addresses(&self, peer: &Peer) -> impl Iterator<Item = Cidr> {
        let set = match &peer.namespaces {
            Where::Own(namespace) => self.own.get(namespace).and_then(|sets| sets.get(peer)),
            Where::Selected(_) => self.wide.get(peer),
        };
        set.into_iter().flat_map(|set| set.members.keys().map(|ip| Cidr::host(*ip)))
    }
}

fn release(sets: &mut HashMap<Peer, Set>, peer: &Peer, user: &PolicyKey) {
    if let Some(set) = sets.get_mut(peer) {
        set.users.remove(user);
        if set.users.is_empty() {
            sets.remove(peer);
        }
    }
}

/// Whether a pod is a peer. A selector that cannot be told selects none: it would let somebody in.
fn selects(peer: &Peer, pod: &Candidate<'_>) -> bool {
    let holds = |s: &kubernetes::selector::Selector, labels: &Labels| {
        s.answer(|key| labels.get(key).map(|v| &**v)) == Answer::Yes
    };
    let there = match &peer.namespaces {
        Where::Own(namespace) => **namespace == *pod.namespace,
        Where::Selected(selector) => holds(selector, pod.around),
    };
    there && holds(&peer.pods, pod.labels)
}
