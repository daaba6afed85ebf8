//! ConfigMaps, of which only roots of certificates are read.

use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::{Meta, Pool};

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    /// Names.
    pub meta: Meta,
    /// Value of `ca.crt` (gateway-api.md 7).
    pub roots: Option<Arc<str>>,
}

impl From<&v1::ConfigMap> for ConfigMap {
    fn from(map: &v1::ConfigMap) -> Self {
        let mut meta = Meta::new(&map.metadata);
        // Nothing selects them.
        meta.labels = super::Labels::default();
        Self { roots: map.data.iter().flatten().find(|(k, _)| *k == "ca.crt").map(|(_, v)| v.as_str().into()), meta }
    }
}

impl ConfigMap {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}
