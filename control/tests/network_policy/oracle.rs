//! What a NetworkPolicy means, read straight off the objects: slow, plain, and sharing no code with control.
//!
//! The words are those of Kubernetes' concept page "Network Policies" and of the API's own documentation
//! (`networking.k8s.io/v1`), where they leave it open those of `control::policies::network`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::cluster::Cluster;

type Map = BTreeMap<String, String>;

/// Whether the policies let a TCP connection into a pod.
pub(crate) fn allows(cluster: &Cluster, policies: &[NetworkPolicy], pod: &v1::Pod, source: IpAddr, port: u16) -> bool {
    // "A Pod cannot block access to itself" (Kubernetes, "Network Policies"; the first address is the one that is called), and
    // "traffic to and from the node where a Pod is running is always allowed".
    let status = pod.status.as_ref().unwrap();
    let own = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|own| &own.ip);
    if own.into_iter().chain(&status.host_ip).any(|ip| ip.parse() == Ok(source)) {
        return true;
    }
    let empty = Map::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let mut isolated = false;
    for policy in policies.iter().filter(|p| p.metadata.namespace == pod.metadata.namespace) {
        let spec = policy.spec.as_ref().unwrap();
        let types = spec.policy_types.clone().unwrap_or_default();
        let ingress = types.is_empty() || types.iter().any(|t| t != "Egress");
        if !ingress || !select(spec.pod_selector.as_ref(), labels, true) {
            continue;
        }
        isolated = true;
        for rule in spec.ingress.iter().flatten() {
            let from = rule.from.clone().unwrap_or_default();
            let ports = rule.ports.clone().unwrap_or_default();
            let own = policy.metadata.namespace.as_deref().unwrap();
            let peers_hold = from.is_empty() || from.iter().any(|p| is_peer(cluster, p, own, source, |_| true));
            let ports_hold = ports.is_empty() || ports.iter().any(|p| is_port(p, Some(pod), port));
            if peers_hold && ports_hold {
                return true;
            }
        }
    }
    !isolated
}

/// Whether the policies let a pod open a TCP connection to an address.
pub(crate) fn lets_out(cluster: &Cluster, policies: &[NetworkPolicy], pod: &v1::Pod, to: IpAddr, port: u16) -> bool {
    let status = pod.status.as_ref().unwrap();
    // Itself; and "traffic to and from the node where a Pod is running is always allowed".
    let own = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.host_ip);
    if own.into_iter().any(|ip| ip.parse() == Ok(to)) {
        return true;
    }
    let empty = Map::new();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let mut isolated = false;
    for policy in policies.iter().filter(|p| p.metadata.namespace == pod.metadata.namespace) {
        let spec = policy.spec.as_ref().unwrap();
        let types = spec.policy_types.clone().unwrap_or_default();
        let rules = spec.egress.clone().unwrap_or_default();
        let unclear = types.is_empty() || types.iter().any(|t| t != "Egress" && t != "Ingress");
        let egress = types.iter().any(|t| t == "Egress") || unclear && !rules.is_empty();
        if !egress || !select(spec.pod_selector.as_ref(), labels, true) {
            continue;
        }
        isolated = true;
        for rule in rules {
            let peers = rule.to.unwrap_or_default();
            let ports = rule.ports.unwrap_or_default();
            let own = policy.metadata.namespace.as_deref().unwrap();
            let by_number = ports.is_empty() || ports.iter().any(|p| is_port(p, None, port));
            let anybody = peers.is_empty();
            // A named port is what the pod says that is connected to, so it takes a pod to have one.
            let by_name = |named: &dyn Fn(&v1::Pod) -> bool| {
                let holders = holders(cluster, to);
                let all = !holders.is_empty() && holders.iter().all(|p| named(p));
                anybody && all || peers.iter().any(|p| all && is_peer(cluster, p, own, to, named))
            };
            if by_number && (anybody || peers.iter().any(|p| is_peer(cluster, p, own, to, |_| true)))
                || ports.iter().any(|p| by_name(&|pod| is_port(p, Some(pod), port)))
            {
                return true;
            }
        }
    }
    !isolated
}

/// The pods that an address stands for: those that have one of their own. While one of them is there to stay, those that are
/// being deleted do not count.
fn holders(cluster: &Cluster, address: IpAddr) -> Vec<&v1::Pod> {
    let has = |pod: &&v1::Pod| {
        let status = pod.status.as_ref().unwrap();
        let there = status.pod_ips.iter().flatten().any(|ip| ip.ip.parse() == Ok(address));
        let host = pod.spec.as_ref().unwrap().host_network == Some(true);
        there && !host && status.phase.as_deref() == Some("Running")
    };
    let all: Vec<&v1::Pod> = cluster.pods.iter().filter(has).collect();
    let stay = |pod: &&v1::Pod| pod.metadata.deletion_timestamp.is_none();
    if all.iter().any(stay) { all.into_iter().filter(stay).collect() } else { all }
}

/// Whether an address is a peer's. One of pods is when all pods are peers that it stands for, and `more` holds for them.
fn is_peer(
    cluster: &Cluster,
    peer: &NetworkPolicyPeer,
    own: &str,
    source: IpAddr,
    more: impl Fn(&v1::Pod) -> bool,
) -> bool {
    match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
        (Some(block), None, None) => {
            let except = block.except.clone().unwrap_or_default();
            let sound = std::iter::once(&block.cidr).chain(&except).all(|c| parse(c).is_some());
            sound && inside(&block.cidr, source) && !except.iter().any(|e| inside(e, source))
        }
        (Some(_), _, _) | (None, None, None) => false,
        (None, pods, namespaces) => {
            let holders = holders(cluster, source);
            let selected = |pod: &&v1::Pod| {
                let namespace = pod.metadata.namespace.as_deref().unwrap();
                let around = match namespaces {
                    None => namespace == own,
                    some => select(some.as_ref(), &cluster.namespaces[namespace], false),
                };
                let empty = Map::new();
                let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
                around && select(pods.as_ref(), labels, false) && more(pod)
            };
            !holders.is_empty() && holders.iter().all(selected)
        }
    }
}

/// Whether a port is what a rule says. A name is one of a pod; without a pod it is none.
fn is_port(wanted: &NetworkPolicyPort, pod: Option<&v1::Pod>, port: u16) -> bool {
    if wanted.protocol.as_deref().unwrap_or("TCP") != "TCP" {
        return false;
    }
    let port = i32::from(port);
    match (&wanted.port, wanted.end_port) {
        (None, None) => true,
        (Some(IntOrString::Int(first)), None) => port == *first,
        (Some(IntOrString::Int(first)), Some(last)) => *first >= 1 && last <= 65535 && (*first..=last).contains(&port),
        (Some(IntOrString::String(name)), None) => {
            let containers = pod.iter().flat_map(|p| &p.spec.as_ref().unwrap().containers);
            let mut ports = containers.flat_map(|c| c.ports.iter().flatten());
            !name.is_empty() && ports.any(|p| p.name.as_ref() == Some(name) && p.container_port == port)
        }
        (_, Some(_)) => false,
    }
}

/// Whether a selector selects; `unsure` is the answer where it cannot be told.
fn select(selector: Option<&LabelSelector>, labels: &Map, unsure: bool) -> bool {
    let Some(selector) = selector else { return true };
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let mut answer = Some(equal);
    for e in selector.match_expressions.iter().flatten() {
        let values = e.values.clone().unwrap_or_default();
        let has = labels.get(&e.key);
        let holds = match (e.operator.as_str(), values.is_empty()) {
            ("In", false) => Some(has.is_some_and(|v| values.contains(v))),
            ("NotIn", false) => Some(!has.is_some_and(|v| values.contains(v))),
            ("Exists", true) => Some(has.is_some()),
            ("DoesNotExist", true) => Some(has.is_none()),
            _ => None,
        };
        answer = match (answer, holds) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
    }
    answer.unwrap_or(unsure)
}

fn parse(cidr: &str) -> Option<(IpAddr, u32)> {
    let (ip, len) = cidr.split_once('/')?;
    let (ip, len): (IpAddr, u32) = (ip.parse().ok()?, len.parse().ok()?);
    (len <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, len))
}

/// Whether the first bits are the same.
fn inside(cidr: &str, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| -> Vec<bool> {
        let bytes = match ip {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1 == 1)).collect()
    };
    let Some((net, len)) = parse(cidr) else { return false };
    net.is_ipv4() == ip.is_ipv4() && bits(net)[..len as usize] == bits(ip)[..len as usize]
}
