//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh::addr::canonical;
use mesh::service::{AppProtocol, IpFamilies};

use super::{Faults, Labels, Meta, Pool, annotation, shown, text};

/// A service, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Names and labels.
    pub meta: Meta,
    /// It is a DNS alias (type ExternalName) and therefore not in discovery.
    pub external_name: bool,
    /// Cluster addresses; none for a headless service.
    pub vips: Vec<IpAddr>,
    /// Addresses of its load balancer at which the cluster itself answers: not those with `ipMode: Proxy`, which
    /// Kubernetes leads to the load balancer from everywhere.
    pub balanced: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its pods; `None` when it selects none and slices are written by others.
    pub selector: Option<Labels>,
    /// Endpoints that are not ready count too.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`: endpoints of the client's node only.
    pub local_only: bool,
    /// `spec.trafficDistribution`.
    pub distribution: Option<Distribution>,
    /// Annotation `networking.istio.io/traffic-distribution`.
    pub annotated: Option<Distribution>,
    /// Families.
    pub ip_families: IpFamilies,
    /// Annotation `istio.io/use-waypoint-canary-weight`.
    pub canary_weight: Option<Arc<str>>,
    /// Annotation `culvert.dev/waypoint: always`.
    pub waypoint_always: bool,
    /// Condition `culvert.dev/WaypointEnforced` is True in its status.
    pub enforced: bool,
    /// Conditions of ours are in its status.
    pub reported: bool,
    /// What is wrong with it.
    pub faults: Faults,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty for the only port of a service.
    pub name: Arc<str>,
    /// Number.
    pub port: u16,
    /// Where it leads to.
    pub target: Target,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// Where a port of a service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the workload's port of this name.
    Name(Arc<str>),
    /// To this port.
    Number(u16),
}

/// Whom traffic should prefer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Nobody: said, but not understood.
    Any,
    /// Endpoints of the same node.
    SameNode,
    /// Endpoints of the same zone (`PreferClose` and `PreferSameZone`).
    SameZone,
}

impl From<&v1::Service> for Service {
    fn from(service: &v1::Service) -> Self {
        let mut faults = Faults::default();
        let meta = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let selector = spec.selector.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()));
        let conditions = service.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let enforced = conditions.clone().any(|c| super::enforces(&c.type_, &c.status));
        Self {
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            vips: vips(&spec, &mut faults),
            balanced: balanced(service, &mut faults),
            ports: ports(&spec, &mut faults),
            selector: Some(Labels::new(selector)).filter(|s| !s.is_empty()),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            // Kubernetes adds values from time to time; one that is not known leaves the word to the annotations.
            distribution: spec.traffic_distribution.as_deref().and_then(|d| match d {
                "PreferClose" | "PreferSameZone" => Some(Distribution::SameZone),
                "PreferSameNode" => Some(Distribution::SameNode),
                _ => None,
            }),
            annotated: distribution(meta, &mut faults),
            ip_families: families(&spec),
            canary_weight: super::canary_weight(meta),
            waypoint_always: annotation(meta, super::WAYPOINT_ANNOTATION) == Some("always"),
            enforced,
            reported: super::reported(conditions.map(|c| c.type_.as_str())),
            meta: Meta::new(meta),
            faults,
        }
    }
}

impl Service {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
        if let Some(selector) = &mut self.selector {
            pool.labels(selector);
        }
        for port in &mut self.ports {
            pool.text(&mut port.name);
        }
    }
}

fn vips(spec: &v1::ServiceSpec, faults: &mut Faults) -> Vec<IpAddr> {
    let listed: Vec<&str> = spec.cluster_ips.iter().flatten().map(String::as_str).collect();
    let texts = if listed.is_empty() { spec.cluster_ip.as_deref().into_iter().collect() } else { listed };
    let mut found = Vec::new();
    for (i, text) in texts.into_iter().enumerate().filter(|(_, t)| !matches!(*t, "" | "None")) {
        match text.parse() {
            Ok(ip) => found.push(canonical(ip)),
            Err(_) => faults.add(
                format!("spec.clusterIPs[{i}]"),
                format!("{} is not an address, so it is left out", shown(text)),
                "delete and create the service again",
            ),
        }
    }
    found
}

/// `status.loadBalancer.ingress[].ip`, without those that are cluster addresses too.
fn balanced(service: &v1::Service, faults: &mut Faults) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    // What is left there of a service that has another type now is nobody's word.
    let balancer = balancer.filter(|_| spec.is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer")));
    let cluster: Vec<&str> = spec.iter().flat_map(|s| s.cluster_ips.iter().flatten().map(String::as_str)).collect();
    let mut found = Vec::new();
    for (i, ingress) in balancer.and_then(|b| b.ingress.as_ref()).into_iter().flatten().enumerate() {
        let proxied = ingress.ip_mode.as_deref() == Some("Proxy");
        let Some(text) = ingress.ip.as_deref().filter(|t| !t.is_empty() && !proxied && !cluster.contains(t)) else {
            continue;
        };
        match text.parse().map(canonical) {
            Ok(ip) if found.contains(&ip) => {}
            Ok(ip) => found.push(ip),
            Err(_) => faults.add(
                format!("status.loadBalancer.ingress[{i}].ip"),
                format!("{} is not an address, so it is left out", shown(text)),
                "repair the load balancer that reported it",
            ),
        }
    }
    found
}

/// Ports by number. Where two protocols share a number the TCP one counts: only TCP is carried.
fn ports(spec: &v1::ServiceSpec, faults: &mut Faults) -> Vec<ServicePort> {
    let mut found: BTreeMap<u16, (bool, ServicePort)> = BTreeMap::new();
    for (i, p) in spec.ports.iter().flatten().enumerate() {
        let Some(port) = super::port(i64::from(p.port)) else {
            faults.push(super::bad_port(format!("spec.ports[{i}].port"), i64::from(p.port)));
            continue;
        };
        let target = match &p.target_port {
            None => Target::Number(port),
            // 0 is what "not said" looks like once it went through another program.
            Some(IntOrString::Int(0)) => Target::Number(port),
            Some(IntOrString::Int(n)) => match super::port(i64::from(*n)) {
                Some(n) => Target::Number(n),
                None => {
                    faults.push(super::bad_port(format!("spec.ports[{i}].targetPort"), i64::from(*n)));
                    continue;
                }
            },
            Some(IntOrString::String(name)) if name.is_empty() => Target::Number(port),
            Some(IntOrString::String(name)) => Target::Name(name.as_str().into()),
        };
        let transport = p.protocol.as_deref().unwrap_or("TCP");
        let name = p.name.as_deref().unwrap_or_default();
        let protocol = protocol_of(port, name, transport, p.app_protocol.as_deref());
        let made = ServicePort { name: text(Some(name)), port, target, protocol };
        let tcp = transport == "TCP";
        if tcp || !found.contains_key(&port) {
            found.insert(port, (tcp, made));
        }
    }
    found.into_values().map(|(_, p)| p).collect()
}

fn families(spec: &v1::ServiceSpec) -> IpFamilies {
    let families: Vec<&str> = spec.ip_families.iter().flatten().map(String::as_str).collect();
    match families[..] {
        [] => IpFamilies::Automatic,
        ["IPv4"] => IpFamilies::Ipv4Only,
        [_] => IpFamilies::Ipv6Only,
        _ => IpFamilies::Dual,
    }
}

/// What a port speaks: `appProtocol` if there, else the port's name up to the first `-`; case does not count. Ports where
/// the server speaks first are TCP unless something else is said (the rules of Istio's `ConvertProtocol`).
fn protocol_of(port: u16, name: &str, transport: &str, app: Option<&str>) -> AppProtocol {
    /// SMTP, DNS, MySQL, MongoDB.
    const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];
    if transport != "TCP" {
        return AppProtocol::Unknown;
    }
    match app {
        Some("kubernetes.io/h2c") => return AppProtocol::Http2,
        Some("kubernetes.io/ws") => return AppProtocol::Http11,
        Some("kubernetes.io/wss") => return AppProtocol::Tls,
        _ => {}
    }
    let said = app.unwrap_or(name).to_ascii_lowercase();
    if said.starts_with("grpc-web") {
        return AppProtocol::Unknown;
    }
    match protocol(said.split('-').next().unwrap_or_default()) {
        Some(known) => known,
        None if SERVER_FIRST.contains(&port) => AppProtocol::Tcp,
        None => AppProtocol::Unknown,
    }
}

/// The wire's word for a protocol of Istio's list, or `None` if the list does not have it.
pub(super) fn protocol(name: &str) -> Option<AppProtocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "grpc" => AppProtocol::Grpc,
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        // In the list, and the wire has no word for them.
        "grpc-web" | "http_proxy" | "mongo" | "mysql" | "redis" | "udp" => AppProtocol::Unknown,
        _ => return None,
    })
}

/// Annotation `networking.istio.io/traffic-distribution` of a service, an entry or a namespace.
pub(super) fn distribution(meta: &ObjectMeta, faults: &mut Faults) -> Option<Distribution> {
    const KEY: &str = "networking.istio.io/traffic-distribution";
    let value = annotation(meta, KEY).filter(|v| !v.is_empty())?;
    if value.eq_ignore_ascii_case("PreferClose") || value.eq_ignore_ascii_case("PreferSameZone") {
        return Some(Distribution::SameZone);
    }
    if value.eq_ignore_ascii_case("PreferSameNode") {
        return Some(Distribution::SameNode);
    }
    if !value.eq_ignore_ascii_case("any") {
        faults.add(
            format!("metadata.annotations[{KEY}]"),
            format!("{} is not known, so every endpoint counts alike", shown(value)),
            "use PreferClose, PreferSameZone, PreferSameNode or Any",
        );
    }
    Some(Distribution::Any)
}
