//! All objects, and the indexes that say what touches what. Translation reads this and nothing else.

use kubernetes::object::GATEWAY_NAME;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::allocate::Allocator;
use super::index::{Index, Name, Table};
use super::layer7::Layer7;
use super::pod_network::PodNetwork;
use super::settings::Settings;
use crate::object::slice::Endpoint;
use crate::object::{
    BackendTlsPolicy, ConfigMap, DestinationRule, EndpointSlice, Gateway, GatewayClass, Key, Kind, Labels, Namespace,
    Node, Pod, ReferenceGrant, RequestAuthentication, RequestPolicy, Service, ServiceEntry, Telemetry, WorkloadEntry,
};
use crate::policies::Policies;

/// All objects, and indexes over them.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) pods: Table<Pod>,
    pub(crate) services: Table<Service>,
    pub(crate) slices: Table<EndpointSlice>,
    pub(crate) entries: Table<ServiceEntry>,
    pub(crate) workload_entries: Table<WorkloadEntry>,
    pub(crate) gateways: Table<Gateway>,
    /// Under the empty namespace, as all kinds without one.
    pub(crate) classes: Table<GatewayClass>,
    pub(crate) nodes: Table<Node>,
    pub(crate) namespaces: Table<Namespace>,
    pub(crate) backend_tls: Table<BackendTlsPolicy>,
    pub(crate) config_maps: Table<ConfigMap>,
    pub(crate) destinations: Table<DestinationRule>,
    pub(crate) grants: Table<ReferenceGrant>,
    pub(crate) requests: Table<RequestAuthentication>,
    pub(crate) request_policies: Table<RequestPolicy>,
    pub(crate) telemetries: Table<Telemetry>,
    /// By namespace: the distinct label sets of its pods, and who has them. A selector is tried once for each set.
    pub(crate) pods_by_labels: HashMap<Arc<str>, Index<Labels, Arc<str>>>,
    pub(crate) pods_by_node: Index<Arc<str>, Name>,
    /// Slices of a service.
    pub(crate) slices_by_service: Index<Name, Arc<str>>,
    /// Slices that name a pod.
    pub(crate) slices_by_pod: Index<Name, Name>,
    /// Services and ServiceEntries that define a host name.
    pub(crate) hosts: Index<Arc<str>, Key>,
    /// Services and ServiceEntries that claim an address.
    pub(crate) vips: Index<IpAddr, Key>,
    /// Addresses of pods and nodes.
    pub(crate) pod_network: PodNetwork,
    /// Objects whose own labels name a waypoint, and a waypoint's own pods, by the waypoint.
    pub(crate) waypoint_users: Index<Name, Key>,
    /// Routes, and who is attached to what.
    pub(crate) layer7: Layer7,
    pub(crate) allocator: Allocator,
    pub(crate) policies: Policies,
    /// Keys of what `policies` holds.
    pub(crate) policy_keys: BTreeSet<Key>,
}

impl State {
    /// Without objects.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            policies: Policies::new(settings.root_namespace.clone()),
            policy_keys: BTreeSet::new(),
            settings,
            pods: Table::default(),
            services: Table::default(),
            slices: Table::default(),
            entries: Table::default(),
            workload_entries: Table::default(),
            gateways: Table::default(),
            classes: Table::default(),
            nodes: Table::default(),
            namespaces: Table::default(),
            backend_tls: Table::default(),
            config_maps: Table::default(),
            destinations: Table::default(),
            grants: Table::default(),
            requests: Table::default(),
            request_policies: Table::default(),
            telemetries: Table::default(),
            pods_by_labels: HashMap::new(),
            pods_by_node: Index::default(),
            slices_by_service: Index::default(),
            slices_by_pod: Index::default(),
            hosts: Index::default(),
            vips: Index::default(),
            pod_network: PodNetwork::default(),
            waypoint_users: Index::default(),
            layer7: Layer7::default(),
            allocator: Allocator::default(),
        }
    }

    /// Keys of all objects.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        fn of<T>(kind: Kind, table: &Table<T>) -> impl Iterator<Item = Key> {
            table.names().map(move |n| Key { kind, namespace: n.namespace, name: n.name })
        }
        of(Kind::BackendTlsPolicy, &self.backend_tls)
            .chain(of(Kind::ConfigMap, &self.config_maps))
            .chain(of(Kind::DestinationRule, &self.destinations))
            .chain(of(Kind::ReferenceGrant, &self.grants))
            .chain(of(Kind::RequestAuthentication, &self.requests))
            .chain(of(Kind::RequestPolicy, &self.request_policies))
            .chain(of(Kind::Telemetry, &self.telemetries))
            .chain(self.layer7.routes.keys().cloned())
            .chain(of(Kind::EndpointSlice, &self.slices))
            .chain(of(Kind::Gateway, &self.gateways))
            .chain(of(Kind::GatewayClass, &self.classes))
            .chain(of(Kind::Namespace, &self.namespaces))
            .chain(of(Kind::Node, &self.nodes))
            .chain(of(Kind::Pod, &self.pods))
            .chain(of(Kind::Service, &self.services))
            .chain(of(Kind::ServiceEntry, &self.entries))
            .chain(of(Kind::WorkloadEntry, &self.workload_entries))
            .chain(self.policy_keys.iter().cloned())
    }

    /// Whether an object is there.
    pub(crate) fn holds(&self, key: &Key) -> bool {
        let (ns, name) = (&key.namespace, &key.name);
        match key.kind {
            Kind::BackendTlsPolicy => self.backend_tls.get(ns, name).is_some(),
            Kind::ConfigMap => self.config_maps.get(ns, name).is_some(),
            Kind::DestinationRule => self.destinations.get(ns, name).is_some(),
            Kind::GrpcRoute | Kind::HttpRoute | Kind::TcpRoute | Kind::TlsRoute => self.layer7.routes.contains_key(key),
            Kind::ReferenceGrant => self.grants.get(ns, name).is_some(),
            Kind::RequestAuthentication => self.requests.get(ns, name).is_some(),
            Kind::RequestPolicy => self.request_policies.get(ns, name).is_some(),
            Kind::Telemetry => self.telemetries.get(ns, name).is_some(),
            Kind::EndpointSlice => self.slices.get(ns, name).is_some(),
            Kind::Gateway => self.gateways.get(ns, name).is_some(),
            Kind::GatewayClass => self.classes.get(ns, name).is_some(),
            Kind::Namespace => self.namespaces.get(ns, name).is_some(),
            Kind::Node => self.nodes.get(ns, name).is_some(),
            Kind::Pod => self.pods.get(ns, name).is_some(),
            Kind::Service => self.services.get(ns, name).is_some(),
            Kind::ServiceEntry => self.entries.get(ns, name).is_some(),
            Kind::WorkloadEntry => self.workload_entries.get(ns, name).is_some(),
            Kind::AuthorizationPolicy | Kind::NetworkPolicy | Kind::PeerAuthentication => {
                self.policy_keys.contains(key)
            }
        }
    }

    /// Host name of a Kubernetes service.
    pub(crate) fn hostname(&self, namespace: &str, name: &str) -> Arc<str> {
        format!("{name}.{namespace}.svc.{}", self.settings.cluster_domain).into()
    }

    /// Host name of a service.
    pub(crate) fn host_of(&self, service: &Service) -> Arc<str> {
        self.hostname(&service.meta.namespace, &service.meta.name)
    }

    /// Names of a namespace's pods whose labels a selector matches.
    pub(crate) fn pods_selected<'a>(
        &'a self,
        namespace: &str,
        selects: impl Fn(&Labels) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let sets = self.pods_by_labels.get(namespace).into_iter().flat_map(Index::iter);
        sets.filter(move |(labels, _)| selects(labels)).flat_map(|(_, names)| names)
    }

    /// Puts an object into the indexes, or takes it out.
    pub(crate) fn index_pod(&mut self, pod: &Pod, present: bool) {
        let meta = &pod.meta;
        let name = Name::new(&meta.namespace, &meta.name);
        let sets = self.pods_by_labels.entry(meta.namespace.clone()).or_default();
        change(sets, meta.labels.clone(), meta.name.clone(), present);
        if sets.iter().next().is_none() {
            self.pods_by_labels.remove(&meta.namespace);
        }
        if !pod.node.is_empty() {
            change(&mut self.pods_by_node, pod.node.clone(), name, present);
        }
        self.pod_network.index_pod(pod, present);
        self.index_waypoint(meta.key(Kind::Pod), &meta.labels, present);
    }

    pub(crate) fn index_node(&mut self, node: &Node, present: bool) {
        self.pod_network.index_node(node, present);
    }

    pub(crate) fn index_service(&mut self, service: &Service, present: bool) {
        let key = service.meta.key(Kind::Service);
        if !service.external_name {
            let host = self.host_of(service);
            change(&mut self.hosts, host, key.clone(), present);
            for vip in service.vips.iter().chain(&service.balanced) {
                change(&mut self.vips, *vip, key.clone(), present);
            }
        }
        self.index_waypoint(key, &service.meta.labels, present);
    }

    pub(crate) fn index_entry(&mut self, entry: &ServiceEntry, present: bool) {
        let key = entry.meta.key(Kind::ServiceEntry);
        for host in &entry.hosts {
            change(&mut self.hosts, host.clone(), key.clone(), present);
        }
        for vip in claimed(entry) {
            change(&mut self.vips, vip, key.clone(), present);
        }
        for endpoint in &entry.endpoints {
            self.index_waypoint(key.clone(), &endpoint.labels, present);
        }
        self.index_waypoint(key, &entry.meta.labels, present);
    }

    pub(crate) fn index_workload_entry(&mut self, entry: &WorkloadEntry, present: bool) {
        self.index_waypoint(entry.meta.key(Kind::WorkloadEntry), &entry.meta.labels, present);
    }

    pub(crate) fn index_slice(&mut self, slice: &EndpointSlice, present: bool) {
        let Some(service) = &slice.service else { return };
        let meta = &slice.meta;
        change(&mut self.slices_by_service, Name::new(&meta.namespace, service), meta.name.clone(), present);
        let own = Name::new(&meta.namespace, &meta.name);
        for pod in pods_of(slice) {
            change(&mut self.slices_by_pod, pod, own.clone(), present);
        }
    }

    /// Namespaces whose labels bind what is in them to a Gateway.
    pub(crate) fn bound_namespaces(&self, gateway: &Name) -> Vec<Arc<str>> {
        let bound =
            self.namespaces.iter().filter(|n| named_waypoints(&n.meta.labels, &n.meta.name).any(|w| w == *gateway));
        bound.map(|n| n.meta.name.clone()).collect()
    }

    fn index_waypoint(&mut self, key: Key, labels: &Labels, present: bool) {
        let own = labels.get(GATEWAY_NAME).map(|name| Name::new(&key.namespace, name));
        for named in named_waypoints(labels, &key.namespace).chain(own) {
            change(&mut self.waypoint_users, named, key.clone(), present);
        }
    }
}

pub(super) fn change<K: Eq + std::hash::Hash, V: Ord>(index: &mut Index<K, V>, key: K, value: V, present: bool) {
    match present {
        true => index.add(key, value),
        false => index.drop(&key, &value),
    }
}

/// Single addresses that an entry claims, written or allocated.
pub(crate) fn claimed(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    let written = entry.addresses.iter().filter(|a| **a == mesh::addr::Cidr::host(a.addr())).map(|a| a.addr());
    written.chain(entry.allocated.iter().map(|(_, ip)| *ip))
}

/// Pods that a slice names.
pub(crate) fn pods_of(slice: &EndpointSlice) -> impl Iterator<Item = Name> {
    slice.endpoints.iter().filter_map(|e| match e {
        Endpoint::Pod { namespace, name, .. } => Some(Name::new(namespace, name)),
        Endpoint::Address { .. } => None,
    })
}

/// Labels that bind to a waypoint: its name (`none` binds to none), and its namespace where that is another one
/// (waypoint-api.md 2).
pub(crate) const USE_WAYPOINT: Use = ("istio.io/use-waypoint", "istio.io/use-waypoint-namespace");
/// Labels that name a second waypoint, for a share of the connections.
pub(crate) const USE_CANARY: Use = ("istio.io/use-waypoint-canary", "istio.io/use-waypoint-canary-namespace");

type Use = (&'static str, &'static str);

/// The waypoint that one level of labels names, in `namespace` unless the labels say another one. Where the word is
/// `none` there is no name.
pub(crate) fn named_waypoint(labels: &Labels, of: Use, namespace: &Arc<str>) -> Option<Name> {
    let name = labels.get(of.0).filter(|n| !matches!(&***n, "none" | ""))?;
    Some(Name::new(labels.get(of.1).unwrap_or(namespace), name))
}

/// All waypoints that one level of labels names.
pub(crate) fn named_waypoints(labels: &Labels, namespace: &Arc<str>) -> impl Iterator<Item = Name> {
    [USE_WAYPOINT, USE_CANARY].into_iter().filter_map(move |of| named_waypoint(labels, of, namespace))
}
