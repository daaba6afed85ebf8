//! Which services a workload belongs to, and which of its ports stands behind each of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh::workload::PortMap;

use crate::object::entry::Endpoint;
use crate::object::service::{Service, ServicePort, Target};
use crate::object::slice;
use crate::object::{EndpointSlice, Kind, Labels, Pod, ServiceEntry};
use crate::world::{Name, State};

/// Ports by `namespace/hostname`, as a workload carries them.
pub(super) type Members = BTreeMap<Arc<str>, PortMap>;

impl State {
    /// Services of a pod: those that select it, and those whose slices name it.
    pub(super) fn services_of_pod(&self, pod: &Pod) -> Members {
        let namespace = &pod.meta.namespace;
        let mut members = Members::new();
        for service in self.selecting(namespace, &pod.meta.labels) {
            let ports = service.ports.iter().filter_map(|p| Some((p.port, pod_port(pod, p)?)));
            members.insert(self.service_key(service), PortMap(ports.collect()));
        }
        for entry in self.entries_selecting(namespace, &pod.meta.labels) {
            let named = |name: &str| pod.ports.iter().find(|p| &*p.name == name).map(|p| p.port);
            self.join(entry, &named, &mut members);
        }
        for slice in self.slices_by_pod.of(&Name::new(namespace, &pod.meta.name)) {
            let Some(slice) = self.slices.get(&slice.namespace, &slice.name).filter(|s| names(s, pod)) else {
                continue;
            };
            let Some(service) = self.service_of(slice) else { continue };
            // A selector says the same, and says it sooner.
            members.entry(self.service_key(service)).or_insert_with(|| {
                let resolved = |p: &ServicePort| slice_port(slice, p).or_else(|| pod_port(pod, p));
                PortMap(service.ports.iter().filter_map(|p| Some((p.port, resolved(p)?))).collect())
            });
        }
        members
    }

    /// Services of a WorkloadEntry: those that select it.
    pub(super) fn services_of_endpoint(&self, namespace: &str, labels: &Labels, endpoint: &Endpoint) -> Members {
        let mut members = Members::new();
        for service in self.selecting(namespace, labels) {
            let ports = service.ports.iter().filter_map(|p| {
                let target = match &p.target {
                    Target::Name(name) => *endpoint.ports.get(name)?,
                    Target::Number(n) => endpoint.ports.get(&p.name).copied().unwrap_or(*n),
                };
                Some((p.port, target))
            });
            members.insert(self.service_key(service), PortMap(ports.collect()));
        }
        for entry in self.entries_selecting(namespace, labels) {
            self.join(entry, &|name| endpoint.ports.get(name).copied(), &mut members);
        }
        members
    }

    /// Hosts of a ServiceEntry that are its own, with the ports of one of its endpoints.
    pub(super) fn own_hosts(&self, entry: &ServiceEntry, endpoint: Option<&Endpoint>) -> Members {
        let mut members = Members::new();
        self.join(entry, &|name| endpoint?.ports.get(name).copied(), &mut members);
        members
    }

    fn join(&self, entry: &ServiceEntry, named: &dyn Fn(&str) -> Option<u16>, members: &mut Members) {
        let own = entry.meta.key(Kind::ServiceEntry);
        let ports = || PortMap(entry.ports.iter().map(|p| (p.port, named(&p.name).unwrap_or(p.target))).collect());
        for host in &entry.hosts {
            if self.winner(&own.namespace, host) == Some(&own) {
                members.insert(format!("{}/{host}", own.namespace).into(), ports());
            }
        }
    }

    /// Services that select labels. One without selector selects nothing.
    fn selecting<'a>(&'a self, namespace: &str, labels: &'a Labels) -> impl Iterator<Item = &'a Arc<Service>> {
        let all = self.services.within(namespace).filter(|s| !s.external_name);
        all.filter(|s| s.selector.as_ref().is_some_and(|s| s.subset_of(labels)))
    }

    fn entries_selecting<'a>(
        &'a self,
        namespace: &str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<ServiceEntry>> {
        self.entries.within(namespace).filter(|e| e.selector.as_ref().is_some_and(|s| s.subset_of(labels)))
    }

    /// The service of a slice, if discovery has it.
    pub(super) fn service_of(&self, slice: &EndpointSlice) -> Option<&Arc<Service>> {
        self.services.get(&slice.meta.namespace, slice.service.as_ref()?).filter(|s| !s.external_name)
    }

    /// `namespace/hostname`.
    pub(super) fn service_key(&self, service: &Service) -> Arc<str> {
        format!("{}/{}", service.meta.namespace, self.host_of(service)).into()
    }
}

/// The pod's port behind a service's port; `None` where the pod has no port of that name.
fn pod_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        Target::Name(name) => pod.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        Target::Number(n) => Some(*n),
    }
}

/// The port that a slice has for a service's port; slices carry the names of the service's ports.
pub(super) fn slice_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    slice.ports.iter().find(|(name, _)| *name == port.name).map(|(_, number)| *number)
}

/// Whether a slice means this pod, and not an earlier one of the same name.
fn names(slice: &EndpointSlice, pod: &Pod) -> bool {
    slice.endpoints.iter().any(|e| match e {
        slice::Endpoint::Pod { namespace, name, uid } => {
            *namespace == pod.meta.namespace && *name == pod.meta.name && (uid.is_empty() || *uid == pod.meta.uid)
        }
        slice::Endpoint::Address { .. } => false,
    })
}
