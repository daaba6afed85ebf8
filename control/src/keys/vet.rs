//! Which addresses may be dialled on a user's word.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use mesh::addr::{Cidr, canonical};

/// Blocks that no user's word leads to: this host, loopback, link-local (where clouds keep the metadata and credentials of
/// nodes), multicast, and the two metadata addresses that are elsewhere (Alibaba Cloud's, and that of AWS in IPv6).
const FORBIDDEN: [&str; 12] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "100.100.100.200/32",
    "::/127",
    "fe80::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
    "64:ff9b::/96",
    "2002::/16",
];

/// Ports of the mesh's own programs (design.md 7), and the kubelet's.
const PORTS: [u16; 12] = [15000, 15001, 15004, 15006, 15008, 15012, 15014, 15016, 15020, 15021, 15090, 10250];

/// The rule. Clones share what is known of nodes.
#[derive(Clone, Debug, Default)]
pub struct Vet {
    forbidden: Arc<[Cidr]>,
    ports: Arc<[u16]>,
    nodes: Arc<RwLock<BTreeSet<IpAddr>>>,
}

impl Vet {
    /// The rule for users' words.
    pub fn strict() -> Self {
        Self {
            forbidden: FORBIDDEN.iter().filter_map(|block| block.parse().ok()).collect(),
            ports: PORTS.into(),
            nodes: Arc::default(),
        }
    }

    /// These are the addresses of nodes.
    pub fn set_nodes(&self, nodes: BTreeSet<IpAddr>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// Passes when an address may be dialled.
    ///
    /// # Errors
    /// Why not.
    pub fn pass(&self, address: SocketAddr) -> Result<(), &'static str> {
        let ip = canonical(address.ip());
        if self.forbidden.iter().any(|block| block.contains(ip)) {
            return Err("an address of this host, link-local, or of a metadata service");
        }
        if self.nodes.read().unwrap_or_else(PoisonError::into_inner).contains(&ip) {
            return Err("an address of a node");
        }
        if self.ports.contains(&address.port()) {
            return Err("a port of the mesh's own programs");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_one() {
        assert_eq!(Vet::strict().forbidden.len(), FORBIDDEN.len());
    }

    #[test]
    fn what_a_user_may_lead_us_to() {
        let vet = Vet::strict();
        vet.set_nodes(["192.168.7.1".parse().unwrap()].into());
        for (address, passes) in [
            ("203.0.113.7:443", true),
            ("10.96.0.10:443", true),
            ("[2001:db8::1]:8443", true),
            ("[::ffff:203.0.113.7]:443", true),
            ("127.0.0.1:443", false),
            ("127.8.8.8:443", false),
            ("0.0.0.0:443", false),
            ("[::1]:443", false),
            ("[::]:443", false),
            ("[::ffff:127.0.0.1]:443", false),
            ("[::ffff:169.254.169.254]:443", false),
            ("169.254.169.254:443", false),
            ("169.254.170.2:443", false),
            ("100.100.100.200:443", false),
            ("[fd00:ec2::254]:443", false),
            ("[fe80::1]:443", false),
            ("[64:ff9b::7f00:1]:443", false),
            ("[2002:7f00:1::]:443", false),
            ("224.0.0.1:443", false),
            ("255.255.255.255:443", false),
            ("192.168.7.1:443", false),
            ("[::ffff:192.168.7.1]:443", false),
            ("192.168.7.2:443", true),
            ("10.0.0.1:15000", false),
            ("10.0.0.1:15012", false),
            ("10.0.0.1:10250", false),
        ] {
            assert_eq!(vet.pass(address.parse().unwrap()).is_ok(), passes, "{address}");
        }
    }
}
