//! Everything that discovery said, with the indexes that look-ups need.
//!
//! Every index is one ordered map whose key begins with what is looked up and ends with the name of the resource, so
//! that several resources under one key need no containers of their own: a look-up reads a range, and the order of the
//! key is the order of preference.

use std::cmp::Reverse;
use std::sync::Arc;

use imbl::OrdMap;
use mesh::addr::{Cidr, NetworkAddress, canonical};
use mesh::service::{Service, Visibility};
use mesh::workload::{NetworkMode, TunnelProtocol, Workload};

type Text = Arc<str>;
/// Namespace, name and service account of a workload.
type Name = (Text, Text, Text);

/// What discovery said, at one moment.
///
/// Workloads and services may come in any order: a workload that names a service which is not there yet is kept as its
/// endpoint and counts as soon as the service comes (discovery.md 1, "Order").
#[derive(Clone, Default, PartialEq)]
pub struct Snapshot {
    workloads: OrdMap<Text, Arc<Workload>>,
    /// Winner first (see [`Rank`]).
    by_address: OrdMap<(NetworkAddress, Rank, Text), Arc<Workload>>,
    by_name: OrdMap<(Name, Rank, Text), Arc<Workload>>,
    /// Service key and uid; the service need not be there.
    endpoints: OrdMap<(Text, Text), Arc<Workload>>,
    services: OrdMap<Text, Arc<Service>>,
    by_vip: OrdMap<(NetworkAddress, Text), Arc<Service>>,
    /// Network and block.
    by_cidr: OrdMap<((Text, Cidr), Text), Arc<Service>>,
    /// Host name in lower case, and key.
    by_hostname: OrdMap<(Text, Text), Arc<Service>>,
}

/// Who wins when several workloads claim one address (discovery.md 2); the order of the variants is the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    HbonePod,
    Pod,
    Hbone,
    Other,
}

impl Rank {
    fn of(workload: &Workload) -> Self {
        match (workload.is_pod(), workload.tunnel) {
            (true, TunnelProtocol::Hbone) => Self::HbonePod,
            (true, TunnelProtocol::None) => Self::Pod,
            (false, TunnelProtocol::Hbone) => Self::Hbone,
            (false, TunnelProtocol::None) => Self::Other,
        }
    }
}

impl Snapshot {
    /// Takes a workload; one of the same uid is replaced.
    pub fn insert_workload(&mut self, workload: Workload) {
        // Under the same keys it takes the place of what was there: half the cost, and the common case (health, locality).
        if !self.workloads.get(&workload.uid).is_some_and(|old| same_keys(old, &workload)) {
            self.remove_workload(&workload.uid);
        }
        let workload = Arc::new(workload);
        let uid = &workload.uid;
        for address in addresses(&workload) {
            self.by_address.insert((address, Rank::of(&workload), uid.clone()), workload.clone());
        }
        self.by_name.insert((name_of(&workload), Rank::of(&workload), uid.clone()), workload.clone());
        for service in workload.services.keys() {
            self.endpoints.insert((service.clone(), uid.clone()), workload.clone());
        }
        self.workloads.insert(uid.clone(), workload);
    }

    /// Removes a workload and its endpoints; false when there is none of this uid.
    pub fn remove_workload(&mut self, uid: &str) -> bool {
        let Some(workload) = self.workloads.remove(uid) else { return false };
        let uid = &workload.uid;
        for address in addresses(&workload) {
            self.by_address.remove(&(address, Rank::of(&workload), uid.clone()));
        }
        self.by_name.remove(&(name_of(&workload), Rank::of(&workload), uid.clone()));
        for service in workload.services.keys() {
            self.endpoints.remove(&(service.clone(), uid.clone()));
        }
        true
    }

    /// Takes a service; one of the same key is replaced. Its endpoints are untouched.
    pub fn insert_service(&mut self, service: Service) {
        let key: Text = service.key().to_string().into();
        self.remove_service(&key);
        let service = Arc::new(service);
        for vip in &service.vips {
            let vip = NetworkAddress::new(vip.network.clone(), vip.ip);
            self.by_vip.insert((vip, key.clone()), service.clone());
        }
        for vip in &service.cidr_vips {
            self.by_cidr.insert(((vip.network.clone(), vip.cidr), key.clone()), service.clone());
        }
        self.by_hostname.insert((lower(&service.hostname), key.clone()), service.clone());
        self.services.insert(key, service);
    }

    /// Removes a service by its key (`namespace/hostname`); false when there is none. Its workloads stay, and so do
    /// they as its endpoints, should it come back.
    pub fn remove_service(&mut self, key: &str) -> bool {
        let Some((key, service)) = self.services.remove_with_key(key) else { return false };
        for vip in &service.vips {
            self.by_vip.remove(&(NetworkAddress::new(vip.network.clone(), vip.ip), key.clone()));
        }
        for vip in &service.cidr_vips {
            self.by_cidr.remove(&((vip.network.clone(), vip.cidr), key.clone()));
        }
        self.by_hostname.remove(&(lower(&service.hostname), key));
        true
    }

    /// Removes whatever has this resource name: a workload's uid or a service's key. False when nothing has.
    pub fn remove(&mut self, name: &str) -> bool {
        // Both, without a short cut: a name that is used twice must be gone afterwards.
        self.remove_workload(name) | self.remove_service(name)
    }

    /// The workload of this uid.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.workloads.get(uid).cloned()
    }

    /// The workload behind a pod that the node agent handed over, found by the three names that both know (discovery.md
    /// 3, field 1). Pods win over other workloads of the same names.
    pub fn local_workload(&self, namespace: &str, name: &str, service_account: &str) -> Option<Arc<Workload>> {
        let wanted = (namespace.into(), name.into(), service_account.into());
        let start = (wanted, Rank::HbonePod, Text::default());
        let (key, workload) = self.by_name.range::<_, (_, _, _)>(&start..).next()?;
        (key.0 == start.0).then(|| workload.clone())
    }

    /// The workload that owns an address. A pod with HBONE wins over a pod, a pod over what speaks HBONE, and that over
    /// the rest (discovery.md 2); the smallest uid breaks a tie. Workloads on the host's network are never found so.
    pub fn workload_by_address(&self, address: &NetworkAddress) -> Option<Arc<Workload>> {
        let address = NetworkAddress::new(address.network.clone(), address.ip);
        let start = (address, Rank::HbonePod, Text::default());
        let (key, workload) = self.by_address.range::<_, (_, _, _)>(&start..).next()?;
        (key.0 == start.0).then(|| workload.clone())
    }

    /// The service of this key, `namespace/hostname`.
    pub fn service(&self, key: &str) -> Option<Arc<Service>> {
        self.services.get(key).cloned()
    }

    /// The service that a client of a namespace means by an address: by exact address, then by block (hbone.md 7.2).
    /// Among several the client's namespace wins, then the longer prefix, then `canonical`, then the smaller key.
    /// Services of other namespaces that are visible there only do not exist for the client, and no block holds the address of
    /// a pod or of a stranger that is reached by HBONE.
    pub fn service_by_address(&self, address: &NetworkAddress, client_ns: &str) -> Option<Arc<Service>> {
        let visible = |s: &Arc<Service>| s.visibility == Visibility::Public || *s.namespace == *client_ns;
        self.service_at(address, client_ns, visible)
    }

    /// The same without regard to who may see it: for gateways, which are not addressed by applications.
    pub(crate) fn gateway_service(&self, address: &NetworkAddress, client_ns: &str) -> Option<Arc<Service>> {
        self.service_at(address, client_ns, |_| true)
    }

    fn service_at(
        &self,
        address: &NetworkAddress,
        client_ns: &str,
        visible: impl Fn(&Arc<Service>) -> bool,
    ) -> Option<Arc<Service>> {
        let ip = canonical(address.ip);
        let score = |len: u8, s: &Service| (*s.namespace != *client_ns, Reverse(len), !s.canonical);
        let exact = self.services_at_vip(address).filter(|s| visible(s));
        if let Some(found) = exact.min_by_key(|s| score(0, s)) {
            return Some(found.clone());
        }
        if self.by_cidr.is_empty() {
            return None;
        }
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let blocks = (0..=bits).rev().filter_map(|len| Cidr::new(ip, len).ok());
        let held = blocks.flat_map(|block| self.services_at_block(&address.network, block).map(move |s| (block, s)));
        let owner = self.workload_by_address(address);
        let owned = |s: &Service| owner.as_ref().is_some_and(|w| outranks(w, s));
        let found = held.filter(|(_, s)| visible(s) && !owned(s)).min_by_key(|(block, s)| score(block.prefix_len(), s));
        found.map(|(_, s)| s.clone())
    }

    /// Every service that has this virtual address, in order of keys.
    pub(crate) fn services_at_vip(&self, address: &NetworkAddress) -> impl Iterator<Item = &Arc<Service>> {
        let start = (NetworkAddress::new(address.network.clone(), address.ip), Text::default());
        let wanted = start.0.clone();
        self.by_vip.range(start..).take_while(move |(k, _)| k.0 == wanted).map(|(_, s)| s)
    }

    fn services_at_block(&self, network: &Text, block: Cidr) -> impl Iterator<Item = &Arc<Service>> {
        let start = ((network.clone(), block), Text::default());
        let wanted = start.0.clone();
        self.by_cidr.range(start..).take_while(move |(k, _)| k.0 == wanted).map(|(_, s)| s)
    }

    /// Every service of this host name, in order of keys. Capitals do not count (RFC 4343). A wildcard (`*.example.com`)
    /// is found by its own text only.
    pub fn services_by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let start = (lower(&Text::from(hostname)), Text::default());
        let wanted = start.0.clone();
        self.by_hostname.range(start..).take_while(move |(k, _)| k.0 == wanted).map(|(_, s)| s)
    }

    /// All workloads, ordered by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, ordered by key.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The workloads that name this service (`namespace/hostname`), ordered by uid, whatever their health and whether or
    /// not the service is known.
    pub fn endpoints(&self, service: &str) -> impl Iterator<Item = &Arc<Workload>> {
        let start = (Text::from(service), Text::default());
        let wanted = start.0.clone();
        self.endpoints.range(start..).take_while(move |(k, _)| k.0 == wanted).map(|(_, w)| w)
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (workloads, services) = (self.workloads.len(), self.services.len());
        f.debug_struct("Snapshot").field("workloads", &workloads).field("services", &services).finish_non_exhaustive()
    }
}

/// The addresses that lead to a workload: none when they are the host's (discovery.md 3, field 25).
fn addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    let own = workload.network_mode == NetworkMode::Standard;
    let ips = workload.addresses.iter().filter(move |_| own);
    ips.map(|ip| NetworkAddress::new(workload.network.clone(), *ip))
}

/// Whether a workload's address is its own though a service has a block around it. What is known by a ServiceEntry's word
/// alone and has no tunnel is not: with it anybody could lead traffic past the waypoint of another's block.
fn outranks(workload: &Workload, block: &Service) -> bool {
    let member = || workload.services.contains_key(&*block.key().to_string());
    workload.is_pod() || (workload.tunnel == TunnelProtocol::Hbone && !member())
}

/// Whether two workloads of one uid are found under the same keys.
fn same_keys(old: &Workload, new: &Workload) -> bool {
    Rank::of(old) == Rank::of(new)
        && addresses(old).eq(addresses(new))
        && (&old.namespace, &old.name, &old.service_account) == (&new.namespace, &new.name, &new.service_account)
        && old.services.keys().eq(new.services.keys())
}

fn name_of(workload: &Workload) -> Name {
    (workload.namespace.clone(), workload.name.clone(), workload.service_account.clone())
}

/// The text itself where it has no capitals, as nearly every host name.
fn lower(text: &Text) -> Text {
    if text.bytes().any(|b| b.is_ascii_uppercase()) { text.to_ascii_lowercase().into() } else { text.clone() }
}
