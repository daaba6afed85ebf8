//! BackendTLSPolicy: which one counts, and whose roots (gateway-api.md 7).

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::routing as wire;

use crate::object::backend_tls::Roots;
use crate::object::{BackendTlsPolicy, Key};
use crate::world::State;

/// Why a ConfigMap is no root: its reason, and words.
pub(super) type NoRoots = (&'static str, String);

impl State {
    /// Adds the TLS that policies ask for.
    pub(super) fn add_tls(&self, key: &Key, traffic: &mut wire::Traffic) {
        let names = self.layer7.tls.of(key);
        let mut policies: Vec<&Arc<BackendTlsPolicy>> =
            names.iter().filter_map(|n| self.backend_tls.get(&n.namespace, &n.name)).collect();
        policies.sort_by_key(|p| (p.meta.created, p.meta.name.clone()));
        let ports = if policies.is_empty() { Vec::new() } else { self.ports_of(key) };
        let (mut whole, mut single) = (None, BTreeMap::new());
        for policy in policies {
            for (_, section) in policy.targets.iter().filter(|(target, _)| target == key) {
                match section {
                    None if whole.is_none() => whole = Some(self.tls_of(policy)),
                    None => {}
                    Some(name) => {
                        for port in ports.iter().filter(|p| p.name == *name) {
                            let number = u32::from(port.number);
                            single.entry(number).or_insert_with(|| self.tls_of(policy));
                        }
                    }
                }
            }
        }
        // Whatever a DestinationRule says of ports, a policy for the whole service is before it.
        if whole.is_some() {
            traffic.tls = whole;
            traffic.port_tls.clear();
        }
        traffic.port_tls.extend(single);
    }

    /// Whether a policy is the one that counts for a target of it.
    pub(super) fn tls_counts(&self, policy: &BackendTlsPolicy, key: &Key, section: Option<&Arc<str>>) -> bool {
        let names = self.layer7.tls.of(key).iter();
        let rivals = names.filter_map(|n| self.backend_tls.get(&n.namespace, &n.name));
        let same = rivals.filter(|p| p.targets.iter().any(|(k, s)| k == key && s.as_ref() == section));
        same.min_by_key(|p| (p.meta.created, p.meta.name.clone()))
            .is_none_or(|first| first.meta.name == policy.meta.name)
    }

    fn tls_of(&self, policy: &BackendTlsPolicy) -> wire::BackendTls {
        let mut made = policy.ready.clone();
        match self.roots_of(policy) {
            Ok((roots, _)) => made.roots = roots,
            Err((_, reason)) => {
                made.invalid.get_or_insert(wire::Invalid { reason });
            }
        }
        made
    }

    /// Roots of a policy as PEM, empty for the system's, and what is wrong with some of them; an error when there are none.
    pub(super) fn roots_of(&self, policy: &BackendTlsPolicy) -> Result<(String, Vec<NoRoots>), NoRoots> {
        let maps = match &policy.roots {
            Roots::System => return Ok((String::new(), Vec::new())),
            Roots::Unclear => {
                return Err(("InvalidCACertificateRef", "it does not say whose roots to trust".to_owned()));
            }
            Roots::Maps(maps) => maps,
        };
        let mut roots = String::new();
        let mut wrong = Vec::new();
        for map in maps {
            match map {
                Err(what) => wrong.push(("InvalidKind", what.clone())),
                Ok(name) => {
                    let found = self.config_maps.get(&policy.meta.namespace, name).and_then(|m| m.roots.as_ref());
                    match found.filter(|pem| pem.contains("-----BEGIN CERTIFICATE-----")) {
                        Some(pem) => {
                            roots.push_str(pem);
                            roots.push('\n');
                        }
                        None => {
                            let what =
                                format!("ConfigMap {}/{name} has no certificates under ca.crt", policy.meta.namespace);
                            wrong.push(("InvalidCACertificateRef", what));
                        }
                    }
                }
            }
        }
        match wrong.first() {
            Some(first) if roots.is_empty() => Err(first.clone()),
            _ => Ok((roots, wrong)),
        }
    }
}
