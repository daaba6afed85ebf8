//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1;
use mesh::addr::canonical;

use super::{Faults, Meta, Pool, shown, text};

/// An EndpointSlice of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Names; labels are not kept.
    pub meta: Meta,
    /// Name of the service, from label `kubernetes.io/service-name`. A slice without one is of no concern.
    pub service: Option<Arc<str>>,
    /// TCP ports: name of the service's port, and the target.
    pub ports: Vec<(Arc<str>, u16)>,
    /// The endpoints. Empty for a slice of host names, which discovery does not serve.
    pub endpoints: Box<[Endpoint]>,
    /// What is wrong with it.
    pub faults: Option<Box<Faults>>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Somebody wrote an address by hand, or mirrored it from Endpoints.
    Address {
        /// The addresses; the first one names the endpoint.
        addresses: Vec<IpAddr>,
        /// Whether it wants traffic; not said means yes.
        ready: bool,
    },
    /// A pod; the pod itself says more.
    Pod {
        /// Namespace.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
        /// Uid; empty when it was not said.
        uid: Arc<str>,
    },
}

impl From<&v1::EndpointSlice> for EndpointSlice {
    fn from(slice: &v1::EndpointSlice) -> Self {
        let mut faults = Faults::default();
        let mut meta = Meta::new(&slice.metadata);
        let service = meta.labels.get("kubernetes.io/service-name").cloned();
        meta.labels = super::Labels::default();
        let by_name = slice.address_type == "FQDN";
        if by_name && service.is_some() {
            faults.add(
                "addressType",
                "FQDN endpoints are not served",
                "write a ServiceEntry with resolution DNS for the host name",
            );
        }
        let wanted = service.is_some() && !by_name;
        Self {
            ports: if wanted { ports(slice, &mut faults) } else { Vec::new() },
            endpoints: if wanted { endpoints(slice, &meta.namespace, &mut faults) } else { Box::default() },
            faults: (!faults.is_empty()).then(|| Box::new(faults)),
            meta,
            service,
        }
    }
}

impl EndpointSlice {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
        if let Some(service) = &mut self.service {
            pool.text(service);
        }
        for (name, _) in &mut self.ports {
            pool.text(name);
        }
        for endpoint in &mut self.endpoints {
            if let Endpoint::Pod { namespace, name, uid } = endpoint {
                pool.text(namespace);
                pool.text(name);
                pool.text(uid);
            }
        }
    }
}

fn ports(slice: &v1::EndpointSlice, faults: &mut Faults) -> Vec<(Arc<str>, u16)> {
    let mut found = Vec::new();
    for (i, p) in slice.ports.iter().flatten().enumerate() {
        // A port without name or number stands for "all ports", which no service has; only TCP is carried.
        let (Some(name), Some(number), "TCP") = (&p.name, p.port, p.protocol.as_deref().unwrap_or("TCP")) else {
            continue;
        };
        match super::port(i64::from(number)) {
            Some(port) => found.push((text(Some(name)), port)),
            None => faults.push(super::bad_port(format!("ports[{i}].port"), i64::from(number))),
        }
    }
    found
}

fn endpoints(slice: &v1::EndpointSlice, own: &Arc<str>, faults: &mut Faults) -> Box<[Endpoint]> {
    let mut found: Vec<Endpoint> = Vec::with_capacity(slice.endpoints.len());
    let mut firsts = std::collections::HashSet::new();
    for (i, e) in slice.endpoints.iter().enumerate() {
        let target = e.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
        if let Some(target) = target {
            found.push(Endpoint::Pod {
                namespace: target.namespace.as_deref().map_or_else(|| own.clone(), Arc::from),
                name: text(target.name.as_deref()),
                uid: text(target.uid.as_deref()),
            });
            continue;
        }
        let mut addresses = Vec::with_capacity(1);
        for (j, address) in e.addresses.iter().enumerate() {
            match address.parse() {
                Ok(ip) => addresses.push(canonical(ip)),
                Err(_) => faults.add(
                    format!("endpoints[{i}].addresses[{j}]"),
                    format!("{} is not an address, so it is left out", shown(address)),
                    "write an IPv4 or IPv6 address",
                ),
            }
        }
        let Some(first) = addresses.first().copied() else { continue };
        if !firsts.insert(first) {
            faults.add(
                format!("endpoints[{i}].addresses[0]"),
                format!("{first} is already in this slice, so the endpoint is left out"),
                "list each address once",
            );
            continue;
        }
        let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        found.push(Endpoint::Address { addresses, ready });
    }
    found.into()
}
