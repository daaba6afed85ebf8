//! The companion rule: what a NetworkPolicy lacks when the pods that it selects are in the mesh.
//!
//! Inside the mesh pods reach each other by a tunnel to port 15008 (hbone.md), so that a network plug-in, which sees only
//! that, must let it through wherever a policy lets anything through by TCP. What goes into the tunnel is judged by the node
//! proxy of the source against the egress policies, and what comes out of it by that of the destination against the ingress
//! policies, so that opening 15008 opens no other port.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::object::{MANAGED_BY, MANAGED_BY_US};
use crate::selector::{Answer, Selector};

/// Port of tunnels between pods (hbone.md).
pub const HBONE: u16 = 15008;

/// Annotation of a companion: name of the policy that it belongs to.
pub const COMPANION_OF: &str = "culvert.dev/companion-of";

/// A pod that is in the mesh, or is to be.
#[derive(Clone, Copy, Debug)]
pub struct Meshed<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Whose connections a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the selected pods.
    Egress,
    /// To the selected pods.
    Ingress,
}

impl Direction {
    /// The field of `spec` that holds its rules.
    pub fn field(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// A policy that selects pods of the mesh and does not let tunnels through where it lets other connections through.
#[derive(Clone, Debug, PartialEq)]
pub struct Lacking {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub name: String,
    /// The rules that lack the port, by direction and index, sorted.
    pub rules: Vec<(Direction, usize)>,
    /// A policy to be put beside it, which lets tunnels of the same peers through.
    pub companion: NetworkPolicy,
}

impl Lacking {
    /// What to change in the policy itself instead: a JSON patch (RFC 6902) for `kubectl patch --type=json`.
    pub fn patch(&self) -> Value {
        let port = |(direction, i): &(Direction, usize)| {
            let path = format!("/spec/{}/{i}/ports/-", direction.field());
            json!({ "op": "add", "path": path, "value": { "protocol": "TCP", "port": HBONE } })
        };
        Value::Array(self.rules.iter().map(port).collect())
    }

    /// The companion as a document for `kubectl apply`.
    ///
    /// # Errors
    /// When it cannot be serialised, which would be a fault of ours.
    pub fn yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(&self.companion)
    }
}

impl Lacking {
    /// What it does not do, without its name.
    pub fn what(&self) -> String {
        let rule = |(direction, index): &(Direction, usize)| format!("spec.{}[{index}]", direction.field());
        let rules: Vec<String> = self.rules.iter().map(rule).collect();
        format!("lets no tunnels (TCP {HBONE}) through in {}", rules.join(", "))
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkPolicy {}/{} {}", self.namespace, self.name, self.what())
    }
}

/// Which of the policies lack an allowance for tunnels, in their order.
///
/// A policy without rules for a direction lets nobody through and lacks nothing; so does a rule that lets no TCP through,
/// and one whose peers another rule for the same pods (of this policy or of another one of the namespace) lets through on
/// 15008. Applying the companions makes the list empty.
pub fn lacking(policies: &[NetworkPolicy], pods: &[Meshed<'_>]) -> Vec<Lacking> {
    policies.iter().filter_map(|policy| one(policy, policies, pods)).collect()
}

fn one(policy: &NetworkPolicy, all: &[NetworkPolicy], pods: &[Meshed<'_>]) -> Option<Lacking> {
    let spec = policy.spec.as_ref()?;
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    if !selects(spec, namespace, pods) {
        return None;
    }
    let beside: Vec<&NetworkPolicySpec> = all.iter().filter_map(|p| covering(p, spec, namespace)).collect();
    let mut rules = Vec::new();
    let mut missing: BTreeMap<Direction, Peers> = BTreeMap::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        let open: Vec<Rule<'_>> =
            beside.iter().flat_map(|s| rules_of(s, direction)).filter(|r| tcp(r.ports) == Tcp::Tunnels).collect();
        for (i, rule) in rules_of(spec, direction).into_iter().enumerate().filter(|(_, r)| tcp(r.ports) == Tcp::Some) {
            let lacks = rule.lacks(&open);
            if lacks == Peers::These(Vec::new()) {
                continue;
            }
            rules.push((direction, i));
            missing.entry(direction).or_insert_with(|| Peers::These(Vec::new())).add(lacks);
        }
    }
    let name = policy.metadata.name.clone().unwrap_or_default();
    let companion = companion(&name, namespace, spec, missing);
    (!rules.is_empty()).then(|| Lacking { namespace: namespace.to_owned(), name, rules, companion })
}

fn selects(spec: &NetworkPolicySpec, namespace: &str, pods: &[Meshed<'_>]) -> bool {
    let empty = LabelSelector::default();
    let (selector, _) = Selector::new(spec.pod_selector.as_ref().unwrap_or(&empty));
    // A selector that cannot be told selects, as it does in the proxy.
    let selected = |p: &Meshed<'_>| selector.answer(|key| p.labels.get(key).map(String::as_str)) != Answer::No;
    pods.iter().any(|p| p.namespace == namespace && selected(p))
}

/// The spec of a policy that surely is for all pods which `spec` selects: the same selector, or one for all.
fn covering<'a>(policy: &'a NetworkPolicy, spec: &NetworkPolicySpec, namespace: &str) -> Option<&'a NetworkPolicySpec> {
    let other = policy.spec.as_ref()?;
    let read = |s: &NetworkPolicySpec| s.pod_selector.as_ref().map(|p| Selector::new(p).0).unwrap_or_default();
    let here = policy.metadata.namespace.as_deref().unwrap_or_default() == namespace;
    (here && (read(other).is_empty() || read(other) == read(spec))).then_some(other)
}

/// A rule of either direction.
struct Rule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

/// Whom tunnels are to be let through for.
#[derive(Debug, PartialEq)]
enum Peers {
    Anyone,
    These(Vec<NetworkPolicyPeer>),
}

impl Peers {
    fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Anyone, _) => {}
            (Self::These(_), Self::Anyone) => *self = Self::Anyone,
            (Self::These(list), Self::These(more)) => {
                more.into_iter().for_each(|peer| {
                    if !list.contains(&peer) {
                        list.push(peer);
                    }
                });
            }
        }
    }

    fn into_list(self) -> Option<Vec<NetworkPolicyPeer>> {
        match self {
            Self::Anyone => None,
            Self::These(list) => Some(list),
        }
    }
}

impl Rule<'_> {
    /// The peers that no rule of `open` lets through.
    fn lacks(&self, open: &[Rule<'_>]) -> Peers {
        if open.iter().any(|o| o.peers.is_empty()) {
            return Peers::These(Vec::new());
        }
        if self.peers.is_empty() {
            return Peers::Anyone;
        }
        let closed = |peer: &&NetworkPolicyPeer| !open.iter().any(|o| o.peers.contains(peer));
        Peers::These(self.peers.iter().filter(closed).cloned().collect())
    }
}

/// The rules that count; none where the policy does not speak of the direction.
fn rules_of(spec: &NetworkPolicySpec, direction: Direction) -> Vec<Rule<'_>> {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let says = |name: &str| types.is_empty() || types.iter().any(|t| t == name);
    match direction {
        Direction::Egress if says("Egress") => {
            let rules = spec.egress.iter().flatten();
            rules.map(|r| Rule { peers: list(&r.to), ports: list(&r.ports) }).collect()
        }
        Direction::Ingress if says("Ingress") => {
            let rules = spec.ingress.iter().flatten();
            rules.map(|r| Rule { peers: list(&r.from), ports: list(&r.ports) }).collect()
        }
        Direction::Egress | Direction::Ingress => Vec::new(),
    }
}

fn list<T>(given: &Option<Vec<T>>) -> &[T] {
    given.as_deref().unwrap_or_default()
}

#[derive(PartialEq)]
enum Tcp {
    /// No TCP at all.
    None,
    /// Some, but not that of tunnels.
    Some,
    /// That of tunnels, too.
    Tunnels,
}

fn tcp(ports: &[NetworkPolicyPort]) -> Tcp {
    let mut of_tcp = ports.iter().filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP").peekable();
    if ports.is_empty() {
        return Tcp::Tunnels;
    }
    if of_tcp.peek().is_none() {
        return Tcp::None;
    }
    let tunnels = of_tcp.any(|p| match &p.port {
        None => true,
        Some(IntOrString::Int(first)) => (*first..=p.end_port.unwrap_or(*first)).contains(&i32::from(HBONE)),
        // A name that stands for 15008 would be a tunnel's, and pods have no such port of their own.
        Some(IntOrString::String(_)) => false,
    });
    if tunnels { Tcp::Tunnels } else { Tcp::Some }
}

/// What the name of a companion ends with.
const SUFFIX: &str = "-culvert-hbone";
/// Longest name of an object (RFC 1123 subdomain).
const LONGEST: usize = 253;

fn companion(
    of: &str,
    namespace: &str,
    spec: &NetworkPolicySpec,
    mut missing: BTreeMap<Direction, Peers>,
) -> NetworkPolicy {
    let ports = Some(vec![NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(IntOrString::Int(HBONE.into())),
        end_port: None,
    }]);
    let egress = missing.remove(&Direction::Egress);
    let ingress = missing.remove(&Direction::Ingress);
    // Only directions in which the pods are isolated anyway: a companion isolates nobody.
    let types = [("Ingress", ingress.is_some()), ("Egress", egress.is_some())];
    let types = types.into_iter().filter(|(_, isolated)| *isolated).map(|(name, _)| name.to_owned()).collect();
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name(of)),
            namespace: Some(namespace.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), MANAGED_BY_US.to_owned())].into()),
            annotations: Some([(COMPANION_OF.to_owned(), of.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(spec.pod_selector.clone().unwrap_or_default()),
            policy_types: Some(types),
            ingress: ingress
                .map(|peers| vec![NetworkPolicyIngressRule { from: peers.into_list(), ports: ports.clone() }]),
            egress: egress.map(|peers| vec![NetworkPolicyEgressRule { to: peers.into_list(), ports }]),
        }),
    }
}

/// The name of a companion. Of a name that is too long the end is replaced by its hash (FNV-1a of 32 bits): two policies
/// whose long names differ get companions of their own.
fn name(of: &str) -> String {
    if of.len() + SUFFIX.len() <= LONGEST {
        return format!("{of}{SUFFIX}");
    }
    let hash = of.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let kept: String = of.chars().take(LONGEST - SUFFIX.len() - 9).collect();
    format!("{kept}-{hash:08x}{SUFFIX}")
}

#[cfg(test)]
mod tests;
