//! Reading a NetworkPolicy. What cannot be read lets nothing through; a selector of pods that cannot be read selects.

use std::sync::Arc;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kubernetes::selector::Selector;
use mesh::addr::Cidr;

use super::{Allowance, Direction, Ends, NetworkPolicy, Peer, Ports, Where};
use crate::object::{Faults, Meta, shown};
use crate::policies::blocks::{merged, without};

impl From<&api::NetworkPolicy> for NetworkPolicy {
    fn from(policy: &api::NetworkPolicy) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&policy.metadata);
        let Some(spec) = &policy.spec else {
            // The API server lets none through: an absent spec selects no pod.
            faults.add("spec", "is missing, so the policy has no effect", "write a spec with a podSelector");
            return Self { meta, faults, selector: Selector::default(), ingress: None, egress: None };
        };
        let empty = LabelSelector::default();
        let selected = spec.pod_selector.as_ref().unwrap_or(&empty);
        let selector = selector(selected, "spec.podSelector", "so it counts as fulfilled", &mut faults);
        let (ingress, egress) = types(spec, &mut faults);
        let mut reader = Reader { own: &meta.namespace, direction: Direction::Ingress, faults: &mut faults };
        let rules = spec.ingress.iter().flatten().map(|r| (&r.from, &r.ports));
        let ingress = ingress.then(|| reader.allowances(rules, "ingress"));
        reader.direction = Direction::Egress;
        let rules = spec.egress.iter().flatten().map(|r| (&r.to, &r.ports));
        let egress = egress.then(|| reader.allowances(rules, "egress"));
        Self { ingress, egress, meta, faults, selector }
    }
}

/// Whether it speaks of ingress and of egress. Without types: of ingress always, of egress if it has rules for it.
fn types(spec: &api::NetworkPolicySpec, faults: &mut Faults) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let lets_out = spec.egress.as_ref().is_some_and(|e| !e.is_empty());
    if types.is_empty() {
        return (true, lets_out);
    }
    let (mut ingress, mut egress) = (false, false);
    for (i, name) in types.iter().enumerate() {
        match name.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                // Whatever was meant, the pods were to be isolated.
                ingress = true;
                egress |= lets_out;
                let what = format!("{} is not a type, so both are taken that have rules, and Ingress", shown(other));
                faults.add(format!("spec.policyTypes[{i}]"), what, "use Ingress or Egress");
            }
        }
    }
    (ingress, egress)
}

/// Peers and ports of a rule of either direction.
type Wire<'a> = (&'a Option<Vec<api::NetworkPolicyPeer>>, &'a Option<Vec<api::NetworkPolicyPort>>);

/// Reads the rules of one direction.
struct Reader<'a> {
    /// Namespace of the policy.
    own: &'a Arc<str>,
    direction: Direction,
    faults: &'a mut Faults,
}

impl Reader<'_> {
    /// What becomes of something that cannot be read.
    fn nobody(&self) -> &'static str {
        match self.direction {
            Direction::Egress => "lets nothing out",
            Direction::Ingress => "lets nobody in",
        }
    }

    fn allowances<'a>(&mut self, rules: impl Iterator<Item = Wire<'a>>, field: &str) -> Arc<[Allowance]> {
        let read = |(i, (peers, ports)): (usize, Wire<'_>)| {
            let field = format!("spec.{field}[{i}]");
            let peers = self.peers(peers.as_deref().unwrap_or_default(), &field);
            Allowance { peers, ports: self.ports(ports.as_deref().unwrap_or_default(), &field) }
        };
        rules.enumerate().map(read).collect()
    }

    fn peers(&mut self, list: &[api::NetworkPolicyPeer], field: &str) -> Ends {
        if list.is_empty() {
            return Ends::Any;
        }
        let word = match self.direction {
            Direction::Egress => "to",
            Direction::Ingress => "from",
        };
        let (mut blocks, mut pods) = (Vec::new(), Vec::new());
        for (i, peer) in list.iter().enumerate() {
            self.peer(peer, &format!("{field}.{word}[{i}]"), &mut blocks, &mut pods);
        }
        Ends::These { blocks: merged(blocks), pods }
    }

    fn peer(&mut self, peer: &api::NetworkPolicyPeer, field: &str, blocks: &mut Vec<Cidr>, pods: &mut Vec<Peer>) {
        let nobody = self.nobody();
        match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
            (Some(block), None, None) => blocks.extend(self.ip_block(block, &format!("{field}.ipBlock"))),
            (None, None, None) => {
                let remedy = "write a podSelector, a namespaceSelector or an ipBlock";
                self.faults.add(field, format!("is empty, so it {nobody}"), remedy);
            }
            (Some(_), _, _) => {
                let what = format!("has an ipBlock beside a selector, so it {nobody}");
                self.faults.add(field, what, "write them as two entries of the list");
            }
            (None, of_pods, of_namespaces) => {
                let then = format!("so the peer {nobody}");
                let mut read = |s: &Option<LabelSelector>, name: &str| {
                    Some(selector(s.as_ref()?, &format!("{field}.{name}"), &then, self.faults))
                };
                let selected = read(of_namespaces, "namespaceSelector");
                let namespaces = selected.map_or_else(|| Where::Own(self.own.clone()), Where::Selected);
                pods.push(Peer { namespaces, pods: read(of_pods, "podSelector").unwrap_or_default() });
            }
        }
    }

    /// The block without its exceptions. With an exception that cannot be read nobody knows what is let through: nothing is.
    fn ip_block(&mut self, block: &api::IPBlock, field: &str) -> Vec<Cidr> {
        let nobody = self.nobody();
        let mut bad = |field: String, text: &str| {
            let what = format!("{} is not a block of addresses, so the whole ipBlock {nobody}", shown(text));
            self.faults.add(field, what, "write it as 10.0.0.0/8 or fd00::/64");
        };
        let mut whole = true;
        let mut holes = Vec::new();
        for (i, text) in block.except.iter().flatten().enumerate() {
            match text.parse() {
                Ok(hole) => holes.push(hole),
                Err(_) => {
                    whole = false;
                    bad(format!("{field}.except[{i}]"), text);
                }
            }
        }
        match block.cidr.parse() {
            Ok(cidr) if whole => without(cidr, &holes),
            Ok(_) => Vec::new(),
            Err(_) => {
                bad(format!("{field}.cidr"), &block.cidr);
                Vec::new()
            }
        }
    }

    /// Only TCP is in the mesh: a rule for UDP or SCTP lets no TCP through.
    fn ports(&mut self, list: &[api::NetworkPolicyPort], field: &str) -> Ports {
        let (mut ranges, mut named) = (Vec::new(), Vec::new());
        for (i, port) in list.iter().enumerate() {
            let field = format!("{field}.ports[{i}]");
            match port.protocol.as_deref().unwrap_or("TCP") {
                "TCP" => {}
                "SCTP" | "UDP" => continue,
                other => {
                    let what = format!("{} is not a protocol, so it {}", shown(other), self.nobody());
                    self.faults.add(format!("{field}.protocol"), what, "use TCP, UDP or SCTP");
                    continue;
                }
            }
            match one_port(port) {
                Ok(Port::Named(name)) => named.push(name),
                Ok(Port::Range(first, last)) => ranges.push((first, last)),
                Err((what, remedy)) => self.faults.add(field, format!("{what}, so it {}", self.nobody()), remedy),
            }
        }
        if list.is_empty() {
            return Ports::All;
        }
        named.sort();
        named.dedup();
        Ports::Some { ranges, named }
    }
}

/// One entry of a list of ports.
enum Port {
    Named(Arc<str>),
    Range(u16, u16),
}

/// Reads an entry, or says what is wrong with it and what to do.
fn one_port(port: &api::NetworkPolicyPort) -> Result<Port, (String, &'static str)> {
    let number = |n: i32| u16::try_from(n).ok().filter(|p| *p != 0);
    match (&port.port, port.end_port) {
        (None, None) => Ok(Port::Range(1, u16::MAX)),
        (Some(IntOrString::String(name)), None) if !name.is_empty() => Ok(Port::Named(name.as_str().into())),
        (Some(IntOrString::String(_)), None) => {
            Err(("has an empty name as port".to_owned(), "write a number or a name"))
        }
        (Some(IntOrString::Int(first)), last) => {
            let last = last.unwrap_or(*first);
            let range = number(*first).zip(number(last)).filter(|(first, last)| first <= last);
            range.map(|(first, last)| Port::Range(first, last)).ok_or_else(|| {
                let what = format!("{first} to {last} is not a range of ports");
                (what, "write numbers from 1 to 65535, the smaller one first")
            })
        }
        (_, Some(_)) => Err(("has an endPort without a number as port".to_owned(), "write port as a number")),
    }
}

/// Reads a selector; `then` says what becomes of one that cannot be told.
fn selector(given: &LabelSelector, field: &str, then: &str, faults: &mut Faults) -> Selector {
    let (selector, broken) = Selector::new(given);
    for b in broken {
        faults.add(
            format!("{field}.matchExpressions[{}]", b.index),
            format!("{}, {then}", b.what),
            "use In or NotIn with values, Exists or DoesNotExist without",
        );
    }
    selector
}
