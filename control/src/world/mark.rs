//! What was given out, kept as small as telling a difference allows.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

use mesh::Workload;
use mesh::workload::PortMap;

/// Makes [`Mark`]s. The keys are this process's own, so that nobody can write two workloads that look the same.
#[derive(Debug, Default)]
pub(super) struct Marker(RandomState, RandomState);

/// Stands for a workload. 128 bits: that two of them are the same by chance will not happen, and 70 000 whole workloads
/// would be 90 MB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64, u64);

impl Marker {
    pub(super) fn mark(&self, workload: &Workload) -> Mark {
        let one = |keys: &RandomState| {
            let mut hasher = keys.build_hasher();
            feed(workload, &mut hasher);
            hasher.finish()
        };
        Mark(one(&self.0), one(&self.1))
    }
}

/// Every field: the pattern has no `..`, so that a new field cannot be forgotten.
fn feed(workload: &Workload, hasher: &mut impl Hasher) {
    let Workload {
        uid,
        name,
        namespace,
        addresses,
        hostname,
        network,
        tunnel,
        trust_domain,
        service_account,
        waypoint,
        network_gateway,
        node,
        canonical_name,
        canonical_revision,
        workload_type,
        workload_name,
        native_tunnel,
        application_tunnel,
        services,
        authorization_policies,
        egress,
        node_addresses,
        health,
        cluster_id,
        locality,
        network_mode,
        capacity,
        extensions,
    } = workload;
    (uid, name, namespace, addresses, hostname, network, tunnel, trust_domain).hash(hasher);
    (service_account, waypoint, network_gateway, node, canonical_name, canonical_revision).hash(hasher);
    (workload_type, workload_name, native_tunnel, authorization_policies, health, cluster_id).hash(hasher);
    (locality, network_mode, capacity, egress, node_addresses, extensions).hash(hasher);
    application_tunnel.map(|t| (t.protocol as u8, t.port)).hash(hasher);
    services.len().hash(hasher);
    for (key, PortMap(ports)) in services {
        (key, ports).hash(hasher);
    }
}
