//! Reading a NetworkPolicy. What cannot be read lets nobody in; a selector of pods that cannot be read selects.

use std::sync::Arc;

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kubernetes::selector::Selector;
use mesh::addr::Cidr;

use super::{Allowance, From as Source, NetworkPolicy, Peer, Ports, Where};
use crate::object::{Faults, Meta, shown};
use crate::policies::blocks::{merged, without};

impl From<&api::NetworkPolicy> for NetworkPolicy {
    fn from(policy: &api::NetworkPolicy) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&policy.metadata);
        let Some(spec) = &policy.spec else {
            // The API server lets none through: an absent spec selects no pod.
            faults.add("spec", "is missing, so the policy has no effect", "write a spec with a podSelector");
            return Self { meta, faults, egress: false, selector: Selector::default(), ingress: None };
        };
        let empty = LabelSelector::default();
        let selector = selector(spec.pod_selector.as_ref().unwrap_or(&empty), "spec.podSelector", true, &mut faults);
        let (ingress, egress) = types(spec, &mut faults);
        let rules = spec.ingress.iter().flatten().enumerate();
        let rules = ingress.then(|| {
            rules.map(|(i, r)| allowance(r, &meta.namespace, &format!("spec.ingress[{i}]"), &mut faults)).collect()
        });
        Self { ingress: rules, meta, faults, egress, selector }
    }
}

/// Whether it speaks of ingress and of egress. Without types: of ingress always, of egress if it has rules for it.
fn types(spec: &api::NetworkPolicySpec, faults: &mut Faults) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.is_empty() {
        return (true, spec.egress.as_ref().is_some_and(|e| !e.is_empty()));
    }
    let (mut ingress, mut egress) = (false, false);
    for (i, name) in types.iter().enumerate() {
        match name.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                // Whatever was meant, the pods were to be isolated.
                ingress = true;
                let what = format!("{} is not a type, so Ingress is taken", shown(other));
                faults.add(format!("spec.policyTypes[{i}]"), what, "use Ingress or Egress");
            }
        }
    }
    (ingress, egress)
}

fn allowance(rule: &api::NetworkPolicyIngressRule, own: &Arc<str>, field: &str, faults: &mut Faults) -> Allowance {
    let from = match rule.from.as_deref().unwrap_or_default() {
        [] => Source::Anyone,
        peers => {
            let (mut blocks, mut pods) = (Vec::new(), Vec::new());
            for (i, peer) in peers.iter().enumerate() {
                one_peer(peer, own, &format!("{field}.from[{i}]"), faults, &mut blocks, &mut pods);
            }
            Source::Peers { blocks: merged(blocks), pods }
        }
    };
    Allowance { from, ports: ports(rule.ports.as_deref().unwrap_or_default(), field, faults) }
}

fn one_peer(
    peer: &api::NetworkPolicyPeer,
    own: &Arc<str>,
    field: &str,
    faults: &mut Faults,
    blocks: &mut Vec<Cidr>,
    pods: &mut Vec<Peer>,
) {
    match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
        (Some(block), None, None) => blocks.extend(ip_block(block, &format!("{field}.ipBlock"), faults)),
        (None, None, None) => {
            faults.add(
                field,
                "is empty, so it lets nobody in",
                "write a podSelector, a namespaceSelector or an ipBlock",
            );
        }
        (Some(_), _, _) => {
            let what = "has an ipBlock beside a selector, so it lets nobody in";
            faults.add(field, what, "write them as two entries of the list");
        }
        (None, of_pods, of_namespaces) => {
            let mut read = |s: &Option<LabelSelector>, name: &str| {
                let given = s.as_ref()?;
                Some(selector(given, &format!("{field}.{name}"), false, faults))
            };
            let selected = read(of_namespaces, "namespaceSelector");
            let namespaces = selected.map_or_else(|| Where::Own(own.clone()), Where::Selected);
            pods.push(Peer { namespaces, pods: read(of_pods, "podSelector").unwrap_or_default() });
        }
    }
}

/// The block without its exceptions. With an exception that cannot be read nobody knows who is let in: nobody is.
fn ip_block(block: &api::IPBlock, field: &str, faults: &mut Faults) -> Vec<Cidr> {
    let mut bad = |field: String, text: &str| {
        let what = format!("{} is not a block of addresses, so the whole ipBlock lets nobody in", shown(text));
        faults.add(field, what, "write it as 10.0.0.0/8 or fd00::/64");
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

/// Only TCP is in the mesh: a rule for UDP or SCTP lets no TCP in.
fn ports(list: &[api::NetworkPolicyPort], field: &str, faults: &mut Faults) -> Ports {
    let (mut ranges, mut named) = (Vec::new(), Vec::new());
    for (i, port) in list.iter().enumerate() {
        let field = format!("{field}.ports[{i}]");
        match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => {}
            "SCTP" | "UDP" => continue,
            other => {
                let what = format!("{} is not a protocol, so it lets nobody in", shown(other));
                faults.add(format!("{field}.protocol"), what, "use TCP, UDP or SCTP");
                continue;
            }
        }
        let number = |n: i32| u16::try_from(n).ok().filter(|p| *p != 0);
        match (&port.port, port.end_port) {
            (None, None) => ranges.push((1, u16::MAX)),
            (Some(IntOrString::String(name)), None) if !name.is_empty() => named.push(name.as_str().into()),
            (Some(IntOrString::Int(first)), last) => match (number(*first), number(last.unwrap_or(*first))) {
                (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
                _ => {
                    let what =
                        format!("{first} to {} is not a range of ports, so it lets nobody in", last.unwrap_or(*first));
                    faults.add(field, what, "write numbers from 1 to 65535, the smaller one first");
                }
            },
            (_, Some(_)) => {
                faults.add(
                    field,
                    "has an endPort without a number as port, so it lets nobody in",
                    "write port as a number",
                );
            }
            (Some(IntOrString::String(_)), None) => {
                faults.add(field, "has an empty name as port, so it lets nobody in", "write a number or a name");
            }
        }
    }
    if list.is_empty() {
        return Ports::All;
    }
    named.sort();
    named.dedup();
    Ports::Some { ranges, named }
}

fn selector(given: &LabelSelector, field: &str, selects: bool, faults: &mut Faults) -> Selector {
    let (selector, broken) = Selector::new(given);
    for b in broken {
        let then = if selects { "so it counts as fulfilled" } else { "so the peer lets nobody in" };
        faults.add(
            format!("{field}.matchExpressions[{}]", b.index),
            format!("{}, {then}", b.what),
            "use In or NotIn with values, Exists or DoesNotExist without",
        );
    }
    selector
}
