//! Automatic addresses of ServiceEntries, kept where Istio keeps them: in `status.addresses`.
//!
//! What the status says is what is published, on every replica alike. A proposal is made for a host that has no address;
//! the replica that writes statuses writes it there. Proposals come from a hash of the host, so that another replica
//! proposes the same, and nothing that anybody claims or was proposed is proposed again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mesh::addr::Cidr;

use super::index::Name;
use super::state::State;
use crate::object::{Key, Kind, Service, ServiceEntry};

/// Addresses by host, in the order of hosts.
pub(crate) type Addresses = Vec<(Arc<str>, IpAddr)>;

/// Tries for one host and family. A block that is so full that this many hashes all meet somebody is as good as exhausted
/// (at 90 % of 65 534 addresses, 256 tries fail once in 5e11).
const TRIES: u32 = 256;

/// Proposals that are not in any status yet.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    proposals: HashMap<Name, Proposal>,
    pending: HashMap<IpAddr, Name>,
}

/// What should be in an entry's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The whole list.
    pub(crate) addresses: Addresses,
    /// A block is full: some host has no address.
    pub(crate) exhausted: bool,
}

impl Allocator {
    /// What should be in an entry's status, if that is not what is there.
    pub(crate) fn proposal(&self, entry: &Name) -> Option<&Proposal> {
        self.proposals.get(entry)
    }

    /// The entry to which an address was proposed.
    pub(crate) fn pending(&self, ip: IpAddr) -> Option<&Name> {
        self.pending.get(&ip)
    }

    fn forget(&mut self, entry: &Name) {
        let Some(old) = self.proposals.remove(entry) else { return };
        for (_, ip) in old.addresses {
            if self.pending.get(&ip) == Some(entry) {
                self.pending.remove(&ip);
            }
        }
    }

    fn remember(&mut self, entry: &Name, proposal: Proposal) {
        for (_, ip) in &proposal.addresses {
            self.pending.insert(*ip, entry.clone());
        }
        self.proposals.insert(entry.clone(), proposal);
    }
}

impl State {
    /// Makes the proposal for an entry anew.
    pub(crate) fn allocate(&mut self, name: &Name) {
        self.allocator.forget(name);
        let Some(entry) = self.entries.get(&name.namespace, &name.name).cloned() else { return };
        if let Some(proposal) = self.propose(&entry) {
            self.allocator.remember(name, proposal);
        }
    }

    fn propose(&self, entry: &ServiceEntry) -> Option<Proposal> {
        if !entry.allocate {
            let stale = !entry.allocated.is_empty();
            return stale.then(|| Proposal { addresses: Vec::new(), exhausted: false });
        }
        let mut addresses: Addresses = Vec::new();
        let mut exhausted = false;
        for host in entry.hosts.iter().filter(|h| entry.resolution.addressable(h)) {
            let kept = self.kept(entry, host);
            // A status that knows one family is left as it is, as Istio does.
            let whole = !kept.is_empty() && kept.len() == entry.given(host).count();
            let mut own: Vec<IpAddr> = kept.into_iter().filter(|ip| !addresses.iter().any(|(_, a)| a == ip)).collect();
            for block in [self.settings.allocate_v4, self.settings.allocate_v6] {
                if whole || own.iter().any(|ip| ip.is_ipv4() == block.addr().is_ipv4()) {
                    continue;
                }
                match self.free(entry, host, block, &addresses) {
                    Some(ip) => own.push(ip),
                    None => exhausted = true,
                }
            }
            addresses.extend(own.into_iter().map(|ip| (host.clone(), ip)));
        }
        let same = addresses == entry.allocated || sorted(&addresses) == sorted(&entry.allocated);
        (!same || exhausted).then_some(Proposal { addresses, exhausted })
    }

    /// Addresses in a host's status that the entry may keep.
    pub(crate) fn kept(&self, entry: &ServiceEntry, host: &str) -> Vec<IpAddr> {
        let free = |ip: &IpAddr| self.stronger(entry, *ip, true).is_none() && self.of_pods(Cidr::host(*ip)).is_none();
        entry.given(host).filter(free).collect()
    }

    /// Who claims an address with more right than an entry that was given it (`given`) or has it written: Kubernetes'
    /// services have most (pods' own addresses are [`State::of_pods`]), written addresses come before given ones, and among equals the older object is first. Two
    /// entries that have the same address *written* both keep it: a namespace may see a host of its own in that way.
    pub(crate) fn stronger(&self, entry: &ServiceEntry, ip: IpAddr, given: bool) -> Option<&Key> {
        let own = entry.meta.key(Kind::ServiceEntry);
        self.vips.of(&ip).iter().filter(|k| **k != own).find(|k| {
            if k.kind == Kind::Service {
                let has = |s: &Arc<Service>| s.vips.contains(&ip) || self.balanced(k, ip);
                return self.services.get(&k.namespace, &k.name).is_some_and(has);
            }
            let Some(other) = self.entries.get(&k.namespace, &k.name).filter(|_| given) else { return false };
            let written = other.addresses.contains(&Cidr::host(ip));
            let older = (other.meta.created, *k) < (entry.meta.created, &own);
            written || (other.allocate && older)
        })
    }

    fn free(&self, entry: &ServiceEntry, host: &str, block: Cidr, taken: &Addresses) -> Option<IpAddr> {
        (0..TRIES).map(|attempt| nth(block, hash(&entry.meta.namespace, &entry.meta.name, host, attempt))).find(|ip| {
            let claimed = !self.vips.of(ip).is_empty() || self.of_pods(Cidr::host(*ip)).is_some();
            let free = !claimed && self.allocator.pending(*ip).is_none();
            free && !taken.iter().any(|(_, a)| a == ip)
        })
    }
}

impl ServiceEntry {
    /// Addresses that its status gives to a host.
    fn given(&self, host: &str) -> impl Iterator<Item = IpAddr> {
        self.allocated.iter().filter(move |(h, _)| **h == *host).map(|(_, ip)| *ip)
    }
}

fn sorted(addresses: &Addresses) -> Vec<&(Arc<str>, IpAddr)> {
    let mut list: Vec<_> = addresses.iter().collect();
    list.sort();
    list
}

/// FNV-1a, 64 bits: the same on every replica and in every version, which `std`'s hashers do not promise.
fn hash(namespace: &str, name: &str, host: &str, attempt: u32) -> u64 {
    let parts = [namespace.as_bytes(), name.as_bytes(), host.as_bytes(), &attempt.to_be_bytes()];
    // Offset basis and prime of FNV-1a.
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.into_iter().flat_map(|p| p.iter().chain(&[0])) {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits alone choose the address; fold the high ones in.
    state ^ (state >> 32)
}

/// An address of a block, neither its first nor its last.
fn nth(block: Cidr, random: u64) -> IpAddr {
    match block.addr() {
        IpAddr::V4(base) => {
            let size = u64::from(u32::MAX >> block.prefix_len().min(31)) + 1;
            let offset = 1 + random % size.saturating_sub(2).max(1);
            IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(u32::try_from(offset).unwrap_or(1))))
        }
        IpAddr::V6(base) => {
            let size = (u128::MAX >> block.prefix_len().min(127)).saturating_add(1);
            let offset = 1 + u128::from(random) % size.saturating_sub(2).max(1);
            IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(offset)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_inside_their_block() {
        for block in ["240.240.0.0/16", "10.0.0.0/30", "2001:2::/48", "2001:2::/126"] {
            let block: Cidr = block.parse().unwrap();
            for random in [0, 1, 2, 3, 65_533, 65_534, u64::MAX] {
                let ip = nth(block, random);
                assert!(block.contains(ip) && ip != block.addr(), "{block} {random} {ip}");
            }
        }
    }

    #[test]
    fn the_hash_is_the_same_forever() {
        assert_eq!(
            nth("240.240.0.0/16".parse().unwrap(), hash("shop", "api", "api.example.com", 0)).to_string(),
            "240.240.150.158"
        );
    }
}
