//! Pods that share a resource.

use std::net::IpAddr;
use std::sync::Arc;

use super::peers::Selection;
use super::{Allowance, Direction, Ends, NetworkPolicy, PREFIX, Peer, Ports};

/// Pods that the same policies isolate in one direction. For ingress also with the same numbers for the same names of ports;
/// what is let out by name has the number that the other end gives it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) direction: Direction,
    /// Names of the policies, sorted.
    pub(super) policies: Vec<Arc<str>>,
    pub(super) ports: Vec<(Arc<str>, Option<u16>)>,
}

/// Longest list of names that is shown in the name of a resource; a longer one is told by its hash.
const LONGEST: usize = 120;

impl Group {
    /// Name of the resource. It names the policies, so that whoever reads of a denial knows where to look. Names of policies
    /// are not empty and hold no `_`, so that what begins with `egress__` is none of ingress.
    pub(super) fn name(&self) -> Arc<str> {
        let prefix = match self.direction {
            Direction::Egress => format!("{PREFIX}egress__"),
            Direction::Ingress => PREFIX.to_owned(),
        };
        let number = |port: &Option<u16>| port.map_or_else(|| "none".to_owned(), |p| p.to_string());
        let ports = self.ports.iter().map(|(name, port)| format!("{name}={}", number(port)));
        let parts: Vec<String> = self.policies.iter().map(ToString::to_string).chain(ports).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let names = self.policies.iter().chain(self.ports.iter().map(|(name, _)| name));
        let text = parts.join("_");
        if text.len() <= LONGEST && names.into_iter().all(|n| !n.is_empty() && n.chars().all(plain)) {
            return format!("{prefix}{text}").into();
        }
        format!("{prefix}_{:032x}", hash(&parts)).into()
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

impl NetworkPolicy {
    /// The selections of pods that its rules ask for.
    pub(super) fn selections(&self) -> Vec<Selection> {
        let of_ingress = self.rules(Direction::Ingress).into_iter().flatten();
        let from = of_ingress.flat_map(|a| a.peers.pods()).map(|peer| Selection { peer: peer.clone(), port: None });
        let of_egress = self.rules(Direction::Egress).into_iter().flatten();
        from.chain(of_egress.flat_map(Allowance::destinations)).collect()
    }
}

impl Allowance {
    /// The selections of pods that an egress rule asks for.
    fn destinations(&self) -> Vec<Selection> {
        let pods = self.peers.pods();
        let plain = pods.iter().filter(|_| self.ports.by_number()).map(|p| Selection { peer: p.clone(), port: None });
        plain.chain(self.by_name().map(|(selection, _)| selection)).collect()
    }

    /// The selections of pods whose ports an egress rule names, each with whether only those in the rule's blocks are meant: a
    /// block holds pods too, and who lets out to anybody lets out to all pods that have such a port.
    pub(super) fn by_name(&self) -> impl Iterator<Item = (Selection, bool)> {
        let all = matches!(&self.peers, Ends::Any);
        let blocks = matches!(&self.peers, Ends::These { blocks, .. } if !blocks.is_empty());
        let every = (all || blocks).then(|| (Peer::every(), blocks));
        let peers = self.peers.pods().iter().map(|p| (p.clone(), false)).chain(every);
        let peers: Vec<(Peer, bool)> = peers.collect();
        self.ports.named().iter().flat_map(move |name| {
            let of =
                |(peer, blocks): &(Peer, bool)| (Selection { peer: peer.clone(), port: Some(name.clone()) }, *blocks);
            peers.iter().map(of).collect::<Vec<_>>()
        })
    }

    /// Whether an address is in one of its blocks.
    pub(super) fn block_holds(&self, ip: IpAddr) -> bool {
        matches!(&self.peers, Ends::These { blocks, .. } if blocks.iter().any(|b| b.contains(ip)))
    }
}

impl Ends {
    pub(super) fn pods(&self) -> &[Peer] {
        match self {
            Self::Any => &[],
            Self::These { pods, .. } => pods,
        }
    }
}

impl Ports {
    /// Whether it lets through more than names.
    pub(super) fn by_number(&self) -> bool {
        match self {
            Self::All => true,
            Self::Some { ranges, .. } => !ranges.is_empty(),
        }
    }

    /// The ports with numbers for their names; a name that a pod does not have is no port.
    pub(super) fn numbers(&self, known: &[(Arc<str>, Option<u16>)]) -> Option<Vec<(u16, u16)>> {
        let Self::Some { ranges, named } = self else { return None };
        let number = |name: &Arc<str>| known.iter().find(|(n, _)| n == name).and_then(|(_, port)| *port);
        Some(ranges.iter().copied().chain(named.iter().filter_map(number).map(|p| (p, p))).collect())
    }
}
