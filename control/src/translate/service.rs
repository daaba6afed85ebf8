//! Services: who answers to a host name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh::Service;
use mesh::addr::{Cidr, NetworkAddress};
use mesh::service::{AppProtocol, CidrVip, HealthPolicy, LoadBalancing, LoadBalancingMode, Scope, Visibility};
use mesh::workload::{GatewayAddress, PortMap};

use super::routing::nowhere;
use super::waypoint::{Bindable, Binding, Refusal, Traffic};
use crate::object::entry::Resolution;
use crate::object::service::{Distribution, Target};
use crate::object::{self, Key, Kind};
use crate::world::State;

impl State {
    /// All services that answer to a host name: at most one in each namespace, at most one of them canonical.
    pub(super) fn services(&self, host: &str) -> Vec<Service> {
        let namespaces: BTreeSet<&Arc<str>> = self.hosts.of(host).iter().map(|k| &k.namespace).collect();
        let winners: Vec<&Key> = namespaces.into_iter().filter_map(|ns| self.winner(ns, host)).collect();
        let canonical = self.canonical(&winners);
        let made = winners.iter().filter_map(|key| {
            let mut service = match key.kind {
                Kind::Service => self.kubernetes_service(self.services.get(&key.namespace, &key.name)?),
                _ => self.entry_service(self.entries.get(&key.namespace, &key.name)?, host),
            };
            service.canonical = canonical == Some(*key);
            Some(service)
        });
        made.collect()
    }

    /// Whose host name it is in a namespace: a Kubernetes service's, else the oldest entry's. An entry that is exported
    /// to nobody takes no part.
    pub(crate) fn winner(&self, namespace: &str, host: &str) -> Option<&Key> {
        let here = self.hosts.of(host).iter().filter(|k| *k.namespace == *namespace);
        here.filter_map(|key| Some((self.seniority(key)?, key))).min().map(|(_, key)| key)
    }

    /// Services before entries, older before younger; `None` takes no part.
    fn seniority(&self, key: &Key) -> Option<(bool, i64)> {
        match key.kind {
            Kind::Service => Some((false, self.services.get(&key.namespace, &key.name)?.meta.created)),
            _ => {
                let entry = self.entries.get(&key.namespace, &key.name)?;
                entry.visibility.map(|_| (true, entry.meta.created))
            }
        }
    }

    /// Which of them clients of other namespaces mean by the host name: the Kubernetes service, else the oldest entry
    /// that they may see.
    pub(super) fn canonical_of(&self, host: &str) -> Option<&Key> {
        let namespaces: BTreeSet<&Arc<str>> = self.hosts.of(host).iter().map(|k| &k.namespace).collect();
        let winners: Vec<&Key> = namespaces.into_iter().filter_map(|ns| self.winner(ns, host)).collect();
        self.canonical(&winners)
    }

    /// Which of these it is.
    fn canonical<'a>(&self, winners: &[&'a Key]) -> Option<&'a Key> {
        let seen = winners.iter().filter(|key| {
            let entry = self.entries.get(&key.namespace, &key.name);
            key.kind == Kind::Service || entry.is_some_and(|e| e.visibility == Some(Visibility::Public))
        });
        seen.filter_map(|key| Some((self.seniority(key)?, *key))).min().map(|(_, key)| key)
    }

    fn kubernetes_service(&self, service: &object::Service) -> Service {
        let key = service.meta.key(Kind::Service);
        let binding = self.service_binding(service);
        let waypoint = self.waypoint_of(&key, &binding);
        let binding = binding.ok().flatten();
        let ports = service.ports.iter().map(|p| {
            let target = match p.target {
                Target::Number(n) => n,
                // Named: each workload says which port that is.
                Target::Name(_) => 0,
            };
            (p.port, target)
        });
        let protocols = service.ports.iter().map(|p| (p.port, p.protocol));
        // After the cluster's own: names are answered with those.
        let balanced = service.balanced.iter().filter(|ip| self.balanced(&key, **ip));
        Service {
            name: service.meta.name.clone(),
            namespace: service.meta.namespace.clone(),
            hostname: self.host_of(service),
            vips: service.vips.iter().chain(balanced).map(|ip| self.address(*ip)).collect(),
            ports: PortMap(ports.collect()),
            app_protocols: said(protocols),
            waypoint,
            weighted_waypoints: binding.as_ref().map(Binding::weighted).unwrap_or_default(),
            load_balancing: self.balancing(service),
            ip_families: service.ip_families,
            ..Service::default()
        }
    }

    fn entry_service(&self, entry: &object::ServiceEntry, host: &str) -> Service {
        let key = entry.meta.key(Kind::ServiceEntry);
        let binding = self.entry_binding(entry);
        let waypoint = self.waypoint_of(&key, &binding);
        let binding = binding.ok().flatten();
        let mut vips = Vec::new();
        let mut cidr_vips = Vec::new();
        for block in entry.addresses.iter().filter(|b| self.of_pods(**b).is_none()) {
            if *block != Cidr::host(block.addr()) {
                cidr_vips.push(CidrVip { network: self.settings.network.clone(), cidr: *block });
            } else if self.stronger(entry, block.addr(), false).is_none() {
                vips.push(self.address(block.addr()));
            }
        }
        if entry.allocate && entry.resolution.addressable(host) {
            vips.extend(self.kept(entry, host).into_iter().map(|ip| self.address(ip)));
        }
        let load_balancing = if entry.resolution == Resolution::None {
            // To where the client meant; the health policy is of no consequence then.
            Some(LoadBalancing {
                preference: Vec::new(),
                mode: LoadBalancingMode::Passthrough,
                health: HealthPolicy::AllowAll,
            })
        } else {
            entry.annotated.or_else(|| self.namespace_distribution(&entry.meta.namespace)).and_then(prefer)
        };
        Service {
            name: entry.meta.name.clone(),
            namespace: entry.meta.namespace.clone(),
            hostname: host.into(),
            vips,
            cidr_vips,
            ports: PortMap(entry.ports.iter().map(|p| (p.port, p.target)).collect()),
            app_protocols: said(entry.ports.iter().map(|p| (p.port, p.protocol))),
            subject_alt_names: entry.subject_alt_names.clone(),
            waypoint,
            weighted_waypoints: binding.as_ref().map(Binding::weighted).unwrap_or_default(),
            load_balancing,
            visibility: entry.visibility.unwrap_or_default(),
            ..Service::default()
        }
    }

    /// What goes on the wire. A security policy whose waypoint is not there, or not ready, is not passed by: traffic is sent
    /// to a waypoint that there cannot be (design.md 5).
    fn waypoint_of(&self, key: &Key, binding: &Result<Option<Binding>, Refusal>) -> Option<GatewayAddress> {
        match binding {
            Ok(Some(binding)) => binding.waypoint(),
            Ok(None) | Err(_) => self.governed(key).then(nowhere),
        }
    }

    /// The waypoint of a service.
    pub(super) fn service_binding(&self, service: &object::Service) -> Result<Option<Binding>, Refusal> {
        let object = Bindable {
            key: &service.meta.key(Kind::Service),
            labels: &service.meta.labels,
            always: service.waypoint_always,
            canary_weight: service.canary_weight.as_ref(),
            visibility: Visibility::Public,
        };
        self.bind(object, Traffic::Service, false)
    }

    /// The waypoint of an entry. Patterns of host names and names that each request brings along are nothing that a node
    /// proxy can resolve (waypoint-api.md 4).
    pub(super) fn entry_binding(&self, entry: &object::ServiceEntry) -> Result<Option<Binding>, Refusal> {
        let object = Bindable {
            key: &entry.meta.key(Kind::ServiceEntry),
            labels: &entry.meta.labels,
            always: entry.waypoint_always,
            canary_weight: entry.canary_weight.as_ref(),
            visibility: entry.visibility.unwrap_or_default(),
        };
        self.bind(object, Traffic::Service, needs_waypoint(entry))
    }

    fn balancing(&self, service: &object::Service) -> Option<LoadBalancing> {
        let balancing = if service.local_only {
            Some(LoadBalancing {
                preference: vec![Scope::Node],
                mode: LoadBalancingMode::Strict,
                health: HealthPolicy::OnlyHealthy,
            })
        } else {
            let said = service.distribution.or(service.annotated);
            said.or_else(|| self.namespace_distribution(&service.meta.namespace)).and_then(prefer)
        };
        if !service.publish_not_ready {
            return balancing;
        }
        let plain = LoadBalancing {
            preference: Vec::new(),
            mode: LoadBalancingMode::Unspecified,
            health: HealthPolicy::AllowAll,
        };
        Some(balancing.map_or(plain, |b| LoadBalancing { health: HealthPolicy::AllowAll, ..b }))
    }

    fn namespace_distribution(&self, namespace: &str) -> Option<Distribution> {
        self.namespaces.get("", namespace)?.distribution
    }

    fn address(&self, ip: std::net::IpAddr) -> NetworkAddress {
        NetworkAddress::new(self.settings.network.clone(), ip)
    }
}

/// Whether an entry works through a waypoint only.
pub(super) fn needs_waypoint(entry: &object::ServiceEntry) -> bool {
    entry.resolution == Resolution::DynamicDns || entry.hosts.iter().any(|h| h.starts_with('*'))
}

/// What the ports speak, where it is said.
fn said(ports: impl Iterator<Item = (u16, AppProtocol)>) -> BTreeMap<u16, AppProtocol> {
    ports.filter(|(_, p)| *p != AppProtocol::Unknown).collect()
}

/// discovery.md 3, table "Source, Sent".
fn prefer(distribution: Distribution) -> Option<LoadBalancing> {
    let preference = match distribution {
        Distribution::Any => return None,
        Distribution::SameNode => vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node],
        Distribution::SameZone => vec![Scope::Network, Scope::Region, Scope::Zone],
    };
    Some(LoadBalancing { preference, mode: LoadBalancingMode::Failover, health: HealthPolicy::OnlyHealthy })
}
