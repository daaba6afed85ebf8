//! How endpoints are treated: DestinationRule and BackendTLSPolicy.

use std::sync::Arc;

use proto::routing as wire;

use crate::object::{DestinationRule, Key};
use crate::world::State;

impl State {
    /// How the endpoints of a Service or a ServiceEntry are treated under one of its host names.
    pub(super) fn traffic(&self, key: &Key, host: &str) -> Option<wire::Traffic> {
        let rule = self.destination_of(&key.namespace, host);
        let mut traffic = rule.map(|r| r.traffic.clone()).unwrap_or_default();
        // A DestinationRule without `sni` means the name of its host.
        for tls in traffic.tls.iter_mut().chain(traffic.port_tls.values_mut()).filter(|t| t.server_name.is_empty()) {
            host.clone_into(&mut tls.server_name);
        }
        self.add_tls(key, &mut traffic);
        (traffic != wire::Traffic::default()).then_some(traffic)
    }

    /// The same by `namespace/hostname`.
    pub(super) fn traffic_of_name(&self, name: &str) -> Option<wire::Traffic> {
        let (namespace, host) = name.split_once('/')?;
        self.traffic(self.winner(namespace, host)?, host)
    }

    /// The rule for a host: one of the service's own namespace before one of the root namespace, the oldest first. Rules of
    /// clients' namespaces are for proxies beside clients, which there are none of.
    pub(super) fn destination_of(&self, namespace: &str, host: &str) -> Option<&Arc<DestinationRule>> {
        let all = self.layer7.destinations.of(host).iter();
        let rules = all.filter_map(|n| self.destinations.get(&n.namespace, &n.name));
        let root = &*self.settings.root_namespace;
        let place = |rule: &DestinationRule| match &*rule.meta.namespace {
            ns if ns == namespace => Some(0),
            ns if ns == root && rule.exported => Some(1),
            _ => None,
        };
        let placed = rules.filter_map(|r| Some((place(r)?, r.meta.created, r.meta.name.clone(), r)));
        placed.min_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2))).map(|(_, _, _, rule)| rule)
    }

    /// Whether TLS is made to a port of a host.
    pub(super) fn has_tls(&self, key: &Key, host: &str, port: u16) -> bool {
        self.traffic(key, host).is_some_and(|t| match t.port_tls.get(&port.into()) {
            Some(own) => !own.off,
            None => t.tls.is_some(),
        })
    }
}
