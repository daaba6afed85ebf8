//! Whom a reference of a route or a policy leads to (gateway-api.md 3.5).
//!
//! For a route of a Service no ReferenceGrant is asked (GEP-1294), with one exception. A waypoint calls with its own identity,
//! and what stands before a backend at its own waypoint is not asked again. Where a security policy governs the backend, a
//! route of another namespace would lend a way around it: there the backend's namespace has to allow it.

use std::sync::Arc;

use mesh::service::{AppProtocol, Visibility};

use super::Port;
use crate::object::route::{BackendReference, Route, RouteKind, Target};
use crate::object::{Key, Kind, shown};
use crate::world::State;

/// Who names a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The route or the policy.
    pub(super) key: Key,
    /// It is spoken to in HTTP.
    pub(super) http: bool,
}

impl From<&Route> for Origin {
    fn from(route: &Route) -> Self {
        Self { key: route.key(), http: matches!(route.kind, RouteKind::Grpc | RouteKind::Http) }
    }
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `namespace/hostname`.
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) protocol: AppProtocol,
}

/// Why there is none: reason of `ResolvedRefs`, and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl State {
    /// Whom a reference of somebody that is attached to `parent` means.
    pub(super) fn find(&self, origin: &Origin, to: &BackendReference, parent: &Key) -> Result<Found, Wrong> {
        let own = &origin.key.namespace;
        let wrong = |reason, what: String| Wrong { reason, message: format!("{}: {what}", to.field) };
        let not_found = |what: String| wrong("BackendNotFound", what);
        let (key, host) = match &to.target {
            Target::Unknown(what) => {
                return Err(wrong("InvalidKind", format!("{what} cannot be a backend; name a Service")));
            }
            Target::Host(host) => {
                let key = self.seen_from(own, host);
                let missing = || not_found(format!("no Service and no ServiceEntry has the host name {}", shown(host)));
                (key.ok_or_else(missing)?.clone(), host.clone())
            }
            Target::Object(key) => (key.clone(), self.main_host(key, own).map_err(not_found)?),
        };
        let ports = self.ports_of(&key);
        let number = match (to.port, &ports[..]) {
            (Some(number), _) => number,
            // Istio's references by host name may leave the port out where there is one alone.
            (None, [one]) if matches!(to.target, Target::Host(_)) => one.number,
            (None, _) => return Err(not_found(format!("there is no port; name one of {}", list(&ports)))),
        };
        if &key != parent && !self.permitted(&origin.key, &key) {
            let what = format!(
                "a security policy governs {key}, and a way around it is not lent to another namespace; allow it by a \
                 ReferenceGrant in namespace {}",
                key.namespace
            );
            return Err(wrong("RefNotPermitted", what));
        }
        self.checked(origin, &key, &host, &ports, number).map_err(|(reason, what)| wrong(reason, what))
    }

    fn checked(
        &self,
        origin: &Origin,
        key: &Key,
        host: &str,
        ports: &[Port],
        number: u16,
    ) -> Result<Found, (&'static str, String)> {
        let Some(port) = ports.iter().find(|p| p.number == number) else {
            return Err(("BackendNotFound", format!("{key} has no port {number}, but {}", list(ports))));
        };
        if origin.http && port.protocol == AppProtocol::Tls && !self.has_tls(key, host, number) {
            let what = format!(
                "port {number} of {key} takes TLS, and nobody says how to make it; attach a BackendTLSPolicy to it, or correct \
                 its appProtocol"
            );
            return Err(("UnsupportedProtocol", what));
        }
        Ok(Found { name: format!("{}/{host}", key.namespace), port: number, protocol: port.protocol })
    }

    /// The host name that stands for an object.
    fn main_host(&self, key: &Key, from: &str) -> Result<Arc<str>, String> {
        let missing = || format!("there is no {key}");
        match key.kind {
            Kind::Service => {
                let service = self.services.get(&key.namespace, &key.name).ok_or_else(missing)?;
                if service.external_name {
                    return Err(format!(
                        "{key} is an alias (type ExternalName), which has no endpoints; name a ServiceEntry"
                    ));
                }
                Ok(self.host_of(service))
            }
            _ => {
                let entry = self.entries.get(&key.namespace, &key.name).ok_or_else(missing)?;
                let seen = match entry.visibility {
                    Some(Visibility::Public) => true,
                    Some(Visibility::Namespace) => *key.namespace == *from,
                    None => false,
                };
                let mut own = entry.hosts.iter().filter(|h| self.winner(&key.namespace, h) == Some(key));
                let host = own.next().filter(|_| seen);
                host.cloned().ok_or_else(|| format!("{key} has no host name that namespace {from} may see"))
            }
        }
    }

    /// Who is meant by a host name in a namespace.
    pub(super) fn seen_from(&self, namespace: &str, host: &str) -> Option<&Key> {
        self.winner(namespace, host).or_else(|| self.canonical_of(host))
    }

    fn permitted(&self, who: &Key, key: &Key) -> bool {
        who.namespace == key.namespace
            || !self.governed(key)
            || self.grants.within(&key.namespace).any(|g| g.allows(who, key))
    }
}

fn list(ports: &[Port]) -> String {
    match ports {
        [] => "none at all".to_owned(),
        _ => ports.iter().map(|p| p.number.to_string()).collect::<Vec<_>>().join(", "),
    }
}
