//! Workloads: pods, WorkloadEntries, endpoints of ServiceEntries and of slices.

use std::net::IpAddr;
use std::sync::Arc;

use mesh::Workload;
use mesh::service::Visibility;
use mesh::workload::{
    ApplicationTunnel, Egress, GatewayAddress, Health, Locality, NetworkMode, PortMap, TunnelProtocol, WorkloadType,
};

use super::members::{Members, slice_port};
use super::routing::nowhere;
use super::waypoint::{Bindable, Binding, Refusal, Traffic};
use crate::object::entry::{Endpoint, Place};
use crate::object::slice;
use crate::object::{EndpointSlice, Key, Kind, Labels, Meta, Pod, ServiceEntry, WorkloadEntry, none};
use crate::world::{State, USE_WAYPOINT, named_waypoint};

impl State {
    /// The workloads of an object.
    pub(super) fn workloads(&self, key: &Key) -> Vec<Workload> {
        let (namespace, name) = (&key.namespace, &key.name);
        match key.kind {
            Kind::EndpointSlice => self.slices.get(namespace, name).map(|s| self.of_slice(s)).unwrap_or_default(),
            Kind::Pod => self.pods.get(namespace, name).and_then(|p| self.of_pod(p)).into_iter().collect(),
            Kind::ServiceEntry => self.entries.get(namespace, name).map(|e| self.of_entry(e)).unwrap_or_default(),
            Kind::WorkloadEntry => {
                let entry = self.workload_entries.get(namespace, name);
                entry.and_then(|e| self.of_workload_entry(e)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// A pod is there from the moment that it has an address (init containers have one too) until it has run to its end.
    fn of_pod(&self, pod: &Pod) -> Option<Workload> {
        if pod.finished || pod.addresses.is_empty() {
            return None;
        }
        let meta = &pod.meta;
        let node = self.nodes.get("", &pod.node);
        let ready = pod.ready && !pod.deleting;
        let instance = self.instance(&meta.namespace, &meta.labels);
        let waypoint = match instance {
            Some(_) => None,
            None => self.own_waypoint(&meta.key(Kind::Pod), &meta.labels, self.pod_binding(pod)),
        };
        let (tunnel, native_tunnel) = tunnel(pod.enrolled, &meta.labels);
        let services = self.services_of_pod(pod);
        let names = self.policies.names(&meta.namespace, &meta.labels, Some(&meta.name));
        let isolated = names.iter().any(|name| mesh::authz::is_network_policy(name));
        let node_addresses = node.filter(|_| isolated).map(|n| n.sources().collect());
        let authorization_policies = self.with_companions(names, &services, &instance);
        let egress = self.policies.egress(&meta.namespace, &meta.name).map(|policy| {
            let exempt = node.map(|n| n.addresses.clone()).unwrap_or_default();
            Arc::new(Egress { policies: vec![policy], exempt })
        });
        Some(Workload {
            uid: format!("{}//Pod/{}/{}", self.settings.cluster_id, meta.namespace, meta.name).into(),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            addresses: pod.addresses.to_vec(),
            tunnel,
            native_tunnel,
            service_account: pod.service_account.clone(),
            waypoint,
            node: pod.node.clone(),
            workload_type: pod.workload_type,
            workload_name: pod.workload_name.clone(),
            application_tunnel: instance.flatten(),
            services,
            health: if ready { Health::Healthy } else { Health::Unhealthy },
            locality: node.map(|n| n.locality.clone()).unwrap_or_default(),
            network_mode: if pod.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            authorization_policies,
            egress,
            node_addresses,
            ..self.workload(&meta.labels, &pod.workload_name)
        })
    }

    fn of_workload_entry(&self, entry: &WorkloadEntry) -> Option<Workload> {
        let meta = &entry.meta;
        let endpoint = entry.endpoint.as_ref()?;
        let instance = self.instance(&meta.namespace, &meta.labels);
        let waypoint = match instance {
            Some(_) => None,
            None => self.own_waypoint(&meta.key(Kind::WorkloadEntry), &meta.labels, self.workload_entry_binding(entry)),
        };
        let label = meta.labels.get("service.istio.io/workload-name");
        let workload_name = entry.group.as_ref().or(label).unwrap_or(&meta.name);
        let cluster = &self.settings.cluster_id;
        let uid = format!("{cluster}/networking.istio.io/WorkloadEntry/{}/{}", meta.namespace, meta.name);
        let (tunnel, native_tunnel) = tunnel(entry.enrolled, &meta.labels);
        let services = self.services_of_endpoint(&meta.namespace, &meta.labels, endpoint);
        let names = self.policies.names(&meta.namespace, &meta.labels, None);
        let authorization_policies = self.with_companions(names, &services, &instance);
        Some(Workload {
            uid: uid.into(),
            services,
            workload_name: workload_name.clone(),
            waypoint,
            application_tunnel: instance.flatten(),
            tunnel,
            native_tunnel,
            authorization_policies,
            ..self.endpoint(meta, endpoint, self.workload(&meta.labels, workload_name))
        })
    }

    /// Endpoints that are written into an entry, or where there are none its host names, if somebody resolves them.
    fn of_entry(&self, entry: &ServiceEntry) -> Vec<Workload> {
        if !entry.endpoints.is_empty() {
            let made = entry.endpoints.iter().map(|e| {
                let services = self.own_hosts(entry, Some(e));
                let waypoint = self.endpoint_waypoint(entry, e);
                let made = self.entry_endpoint(entry, e);
                let instance = self.instance(&entry.meta.namespace, &e.labels);
                let names = made.authorization_policies.clone();
                let authorization_policies = self.with_companions(names, &services, &instance);
                Workload { services, waypoint, authorization_policies, ..made }
            });
            return made.filter(|w| !w.services.is_empty()).collect();
        }
        if entry.selector.is_some() || !entry.resolution.by_dns() {
            return Vec::new();
        }
        let members = self.own_hosts(entry, None).into_iter().filter_map(|(key, ports)| {
            let host = key.split_once('/')?.1;
            // A pattern is no name that could be resolved; a waypoint knows the name that the client asked for.
            (!host.starts_with('*')).then(|| {
                let endpoint = Endpoint {
                    address: host.parse().map_or_else(|_| Place::Hostname(host.into()), Place::Ip),
                    ports: Default::default(),
                    labels: Labels::default(),
                    network: None,
                    locality: Locality::default(),
                    weight: 1,
                    service_account: none(),
                };
                Workload { services: [(key.clone(), ports)].into(), ..self.entry_endpoint(entry, &endpoint) }
            })
        });
        members.collect()
    }

    fn entry_endpoint(&self, entry: &ServiceEntry, endpoint: &Endpoint) -> Workload {
        let meta = &entry.meta;
        let place = match &endpoint.address {
            Place::Hostname(name) => name.to_string(),
            Place::Ip(ip) => ip.to_string(),
            Place::Network => String::new(),
        };
        let cluster = &self.settings.cluster_id;
        let uid = format!("{cluster}/networking.istio.io/ServiceEntry/{}/{}/{place}", meta.namespace, meta.name);
        let (tunnel, native_tunnel) = tunnel(entry.enrolled, &meta.labels);
        Workload {
            uid: uid.into(),
            workload_name: meta.name.clone(),
            tunnel,
            native_tunnel,
            application_tunnel: self.instance(&meta.namespace, &endpoint.labels).flatten(),
            authorization_policies: self.policies.names(&meta.namespace, &meta.labels, None),
            ..self.endpoint(meta, endpoint, self.workload(&meta.labels, &meta.name))
        }
    }

    /// What WorkloadEntries and endpoints of ServiceEntries have in common.
    fn endpoint(&self, meta: &Meta, endpoint: &Endpoint, base: Workload) -> Workload {
        let (addresses, hostname): (Vec<IpAddr>, Arc<str>) = match &endpoint.address {
            Place::Hostname(name) => (Vec::new(), name.clone()),
            Place::Ip(ip) => (vec![*ip], none()),
            Place::Network => (Vec::new(), none()),
        };
        Workload {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            addresses,
            hostname,
            network: endpoint.network.clone().unwrap_or_else(|| self.settings.network.clone()),
            service_account: endpoint.service_account.clone(),
            locality: endpoint.locality.clone(),
            capacity: endpoint.weight,
            ..base
        }
    }

    /// Endpoints of a slice that are no pods. Nothing is known of who is there: the address may be a node's or shared, so
    /// it is no key, and it has no identity.
    fn of_slice(&self, slice: &EndpointSlice) -> Vec<Workload> {
        let Some(service) = self.service_of(slice) else { return Vec::new() };
        let ports = service.ports.iter().filter_map(|p| Some((p.port, slice_port(slice, p)?)));
        let ports = PortMap(ports.collect());
        let key = self.service_key(service);
        let meta = &slice.meta;
        let made = slice.endpoints.iter().filter_map(|e| {
            let slice::Endpoint::Address { addresses, ready } = e else { return None };
            let (cluster, first) = (&self.settings.cluster_id, addresses.first()?);
            let uid = format!("{cluster}/discovery.k8s.io/EndpointSlice/{}/{}/{first}", meta.namespace, meta.name);
            Some(Workload {
                uid: uid.into(),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                addresses: addresses.clone(),
                services: [(key.clone(), ports.clone())].into(),
                health: if *ready { Health::Healthy } else { Health::Unhealthy },
                network_mode: NetworkMode::HostNetwork,
                network: self.settings.network.clone(),
                trust_domain: self.settings.trust_domain.clone(),
                cluster_id: self.settings.cluster_id.clone(),
                service_account: none(),
                ..Workload::default()
            })
        });
        made.collect()
    }

    /// Adds the companion rules of the services that a workload belongs to. A waypoint's own pods are not guarded by it.
    fn with_companions(
        &self,
        mut names: Vec<Arc<str>>,
        services: &Members,
        instance: &Option<Option<ApplicationTunnel>>,
    ) -> Vec<Arc<str>> {
        if instance.is_none() {
            names.extend(self.companions(services));
            names.sort();
        }
        names
    }

    /// What every workload has that labels speak for.
    fn workload(&self, labels: &Labels, workload_name: &Arc<str>) -> Workload {
        let first = |keys: [&str; 3]| keys.into_iter().find_map(|k| labels.get(k)).cloned();
        let name = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
        let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
        Workload {
            network: self.settings.network.clone(),
            trust_domain: self.settings.trust_domain.clone(),
            cluster_id: self.settings.cluster_id.clone(),
            canonical_name: first(name).unwrap_or_else(|| workload_name.clone()),
            canonical_revision: first(revision).unwrap_or_else(|| "latest".into()),
            workload_type: WorkloadType::Pod,
            ..Workload::default()
        }
    }

    /// What goes on the wire for a workload's own address. A workload that asks for a waypoint by its own label, which a
    /// security policy governs and which is not there, is not reached past it (design.md 5).
    fn own_waypoint(
        &self,
        key: &Key,
        labels: &Labels,
        binding: Result<Option<Binding>, Refusal>,
    ) -> Option<GatewayAddress> {
        match binding {
            Ok(binding) => binding?.waypoint(),
            Err(_) => {
                let gateway = named_waypoint(labels, USE_WAYPOINT, &key.namespace)?;
                self.gateway_governed(&gateway).then(nowhere)
            }
        }
    }

    /// The waypoint of a pod's own address.
    pub(super) fn pod_binding(&self, pod: &Pod) -> Result<Option<Binding>, Refusal> {
        self.workload_binding(&pod.meta.key(Kind::Pod), &pod.meta.labels, pod.waypoint_always)
    }

    /// The waypoint of a WorkloadEntry's own address.
    pub(super) fn workload_entry_binding(&self, entry: &WorkloadEntry) -> Result<Option<Binding>, Refusal> {
        self.workload_binding(&entry.meta.key(Kind::WorkloadEntry), &entry.meta.labels, entry.waypoint_always)
    }

    /// An endpoint has labels of its own, but nobody to tell what became of them.
    fn endpoint_waypoint(&self, entry: &ServiceEntry, endpoint: &Endpoint) -> Option<GatewayAddress> {
        if self.instance(&entry.meta.namespace, &endpoint.labels).is_some() {
            return None;
        }
        let key = entry.meta.key(Kind::ServiceEntry);
        self.workload_binding(&key, &endpoint.labels, entry.waypoint_always).ok().flatten()?.waypoint()
    }

    fn workload_binding(&self, key: &Key, labels: &Labels, always: bool) -> Result<Option<Binding>, Refusal> {
        let object = Bindable { key, labels, always, canary_weight: None, visibility: Visibility::Public };
        self.bind(object, Traffic::Workload, false)
    }
}

/// How to reach a workload: through a tunnel that its node's proxy ends (`enrolled`) or that it ends by itself (label
/// `networking.istio.io/tunnel`, a list that holds `http`).
fn tunnel(enrolled: bool, labels: &Labels) -> (TunnelProtocol, bool) {
    let native = labels.get("networking.istio.io/tunnel").is_some_and(|t| t.split(',').any(|t| t == "http"));
    let hbone = enrolled || native;
    (if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None }, native)
}
