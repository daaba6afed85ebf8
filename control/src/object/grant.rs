//! ReferenceGrants: who may lend a backend's reach to others.

use std::sync::Arc;

use kubernetes::object::route as api;

use super::{Key, Kind, Meta, Pool, request_policy};

/// A ReferenceGrant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Names. Its namespace is that of what it lets be named.
    pub meta: Meta,
    /// Kinds and namespaces of who may name it. Those of other groups are left out.
    from: Vec<(Arc<str>, Arc<str>)>,
    /// Kinds and, where they are said, names of what may be named.
    to: Vec<(Kind, Option<Arc<str>>)>,
}

impl From<&api::ReferenceGrant> for ReferenceGrant {
    fn from(grant: &api::ReferenceGrant) -> Self {
        let group = |kind: &str| match kind {
            "RequestPolicy" => request_policy::GROUP,
            _ => "gateway.networking.k8s.io",
        };
        let from = grant.spec.from.iter().filter(|f| f.group == group(&f.kind));
        let to = grant.spec.to.iter().filter_map(|t| {
            let kind = match (t.group.as_str(), t.kind.as_str()) {
                ("", "Service") => Kind::Service,
                ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
                _ => return None,
            };
            Some((kind, t.name.as_deref().map(Arc::from)))
        });
        Self {
            meta: Meta::new(&grant.metadata),
            from: from.map(|f| (f.kind.as_str().into(), f.namespace.as_str().into())).collect(),
            to: to.collect(),
        }
    }
}

impl ReferenceGrant {
    /// Whether a route or a policy may name an object of the grant's namespace.
    pub fn allows(&self, who: &Key, backend: &Key) -> bool {
        let from = |(kind, ns): &(Arc<str>, Arc<str>)| **kind == *who.kind.as_str() && *ns == who.namespace;
        let to = |(kind, name): &(Kind, Option<Arc<str>>)| {
            *kind == backend.kind && name.as_ref().is_none_or(|n| *n == backend.name)
        };
        *self.meta.namespace == *backend.namespace && self.from.iter().any(from) && self.to.iter().any(to)
    }

    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}
