//! Istio's ServiceEntry and WorkloadEntry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kubernetes::object::networking as api;
use mesh::addr::{Cidr, canonical};
use mesh::service::{AppProtocol, Visibility};
use mesh::workload::Locality;

use super::service::{Distribution, distribution};
use super::{Faults, Labels, Meta, annotation, shown, text};

/// A ServiceEntry, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Names and labels.
    pub meta: Meta,
    /// Host names, each once.
    pub hosts: Vec<Arc<str>>,
    /// Addresses and blocks. A single address is a block of full length.
    pub addresses: Vec<Cidr>,
    /// Ports.
    pub ports: Vec<EntryPort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints written into it.
    pub endpoints: Vec<Endpoint>,
    /// Labels of pods and WorkloadEntries that are its endpoints.
    pub selector: Option<Labels>,
    /// Who may see it, from `exportTo`; `None` = nobody.
    pub visibility: Option<Visibility>,
    /// Identities accepted in addition.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Addresses given automatically, by host, from `status.addresses`.
    pub allocated: Vec<(Arc<str>, IpAddr)>,
    /// Whether its hosts get addresses automatically: it has none of its own, they are resolved by somebody, and label
    /// `networking.istio.io/enable-autoallocate-ip` does not say `false`.
    pub allocate: bool,
    /// Annotation `networking.istio.io/traffic-distribution`.
    pub annotated: Option<Distribution>,
    /// Annotation `ambient.istio.io/redirection: enabled`, for its endpoints.
    pub enrolled: bool,
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

/// How the endpoints of a ServiceEntry are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// By DNS.
    Dns,
    /// By DNS, one answer after the other.
    DnsRoundRobin,
    /// By DNS, for the host that each request names.
    DynamicDns,
    /// Not at all: traffic goes where the client sent it.
    #[default]
    None,
    /// From the list.
    Static,
}

impl Resolution {
    /// Whether an address can be given to a host: to a pattern only where each request says which name it means.
    pub fn addressable(self, host: &str) -> bool {
        self == Self::DynamicDns || !host.starts_with('*')
    }

    /// Whether the host names themselves are endpoints when none is listed.
    pub fn by_dns(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin | Self::DynamicDns)
    }
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// Name.
    pub name: Arc<str>,
    /// Number.
    pub port: u16,
    /// Port of the endpoints, unless an endpoint maps the name.
    pub target: u16,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// An endpoint of a ServiceEntry, or what a WorkloadEntry says of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address, host name, or empty when only a network's gateway leads there.
    pub address: Place,
    /// Ports by name.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Labels.
    pub labels: Labels,
    /// Network, when it is not the cluster's own.
    pub network: Option<Arc<str>>,
    /// Where it is.
    pub locality: Locality,
    /// Weight in load balancing; at least 1.
    pub weight: u32,
    /// Service account.
    pub service_account: Arc<str>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// Under a host name.
    Hostname(Arc<str>),
    /// Under an address.
    Ip(IpAddr),
    /// Behind the gateway of its network.
    #[default]
    Network,
}

/// A WorkloadEntry, as far as discovery is concerned with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Names, and the labels of metadata and spec together (metadata's count).
    pub meta: Meta,
    /// What it says; `None` when its address cannot be used.
    pub endpoint: Option<Endpoint>,
    /// Annotation `ambient.istio.io/redirection: enabled`.
    pub enrolled: bool,
    /// Annotation `istio.io/autoRegistrationGroup`: its group's name stands for the workload's.
    pub group: Option<Arc<str>>,
    /// Annotation `culvert.dev/waypoint: always`.
    pub waypoint_always: bool,
    /// Conditions of ours are in its status.
    pub reported: bool,
    /// What is wrong with it.
    pub faults: Faults,
}

const ENROLLED: &str = "ambient.istio.io/redirection";

impl From<&api::ServiceEntry> for ServiceEntry {
    fn from(entry: &api::ServiceEntry) -> Self {
        let mut faults = Faults::default();
        let meta = &entry.metadata;
        let spec = &entry.spec;
        let resolution = resolution(spec, &mut faults);
        let made = Meta::new(meta);
        let allocate = made.labels.get("networking.istio.io/enable-autoallocate-ip");
        let selector = spec.workload_selector.as_ref().map(|s| &s.labels);
        let selector = selector.map(|s| Labels::new(s.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
        let conditions = entry.status.iter().flat_map(|s| s.conditions.iter());
        let enforced = conditions.clone().any(|c| super::enforces(&c.type_, &c.status));
        Self {
            enforced,
            hosts: hosts(spec, &mut faults),
            addresses: addresses(spec, &mut faults),
            ports: ports(spec, &mut faults),
            resolution,
            endpoints: endpoints(spec, &mut faults),
            selector: selector.filter(|s| !s.is_empty()),
            visibility: visibility(spec, &mut faults),
            subject_alt_names: spec.subject_alt_names.iter().map(|s| s.as_str().into()).collect(),
            allocated: allocated(entry),
            allocate: spec.addresses.is_empty()
                && resolution != Resolution::None
                && !allocate.is_some_and(|v| v.eq_ignore_ascii_case("false")),
            annotated: distribution(meta, &mut faults),
            enrolled: annotation(meta, ENROLLED) == Some("enabled"),
            canary_weight: super::canary_weight(meta),
            waypoint_always: annotation(meta, super::WAYPOINT_ANNOTATION) == Some("always"),
            reported: super::reported(conditions.map(|c| c.type_.as_str())),
            meta: made,
            faults,
        }
    }
}

impl From<&api::WorkloadEntry> for WorkloadEntry {
    fn from(entry: &api::WorkloadEntry) -> Self {
        let mut faults = Faults::default();
        let mut meta = Meta::new(&entry.metadata);
        let endpoint = endpoint(&entry.spec, "spec", &mut faults);
        // Labels may stand in both places; metadata's count.
        if let Some(endpoint) = &endpoint {
            let both = endpoint.labels.iter().chain(meta.labels.iter());
            meta.labels = Labels::new(both.map(|(k, v)| (&**k, &**v)));
        }
        let conditions = entry.status.iter().flat_map(|s| s.conditions.iter());
        Self {
            endpoint,
            enrolled: annotation(&entry.metadata, ENROLLED) == Some("enabled"),
            group: annotation(&entry.metadata, "istio.io/autoRegistrationGroup").map(Arc::from),
            waypoint_always: annotation(&entry.metadata, super::WAYPOINT_ANNOTATION) == Some("always"),
            reported: super::reported(conditions.map(|c| c.type_.as_str())),
            meta,
            faults,
        }
    }
}

fn resolution(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Resolution {
    match &spec.resolution {
        None | Some(api::Resolution::None) => Resolution::None,
        Some(api::Resolution::Dns) => Resolution::Dns,
        Some(api::Resolution::DnsRoundRobin) => Resolution::DnsRoundRobin,
        Some(api::Resolution::DynamicDns) => Resolution::DynamicDns,
        Some(api::Resolution::Static) => Resolution::Static,
        Some(api::Resolution::Other(other)) => {
            faults.add(
                "spec.resolution",
                format!("{} is not known; the entry counts as STATIC, with the endpoints that it lists", shown(other)),
                "use NONE, STATIC, DNS, DNS_ROUND_ROBIN or DYNAMIC_DNS",
            );
            Resolution::Static
        }
    }
}

/// Host names: DNS names, of which the first label may be `*`.
fn hosts(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Vec<Arc<str>> {
    let mut found: Vec<Arc<str>> = Vec::new();
    for (i, host) in spec.hosts.iter().enumerate() {
        let host = host.to_ascii_lowercase();
        let rest = host.strip_prefix("*.").unwrap_or(&host);
        // A name of DNS has at most 253 characters (RFC 1035 3.1).
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if rest.is_empty() || rest.len() > 253 || !rest.bytes().all(legal) {
            faults.add(
                format!("spec.hosts[{i}]"),
                format!("{} is not a host name, so it is left out", shown(&host)),
                "write a DNS name such as api.example.com or *.example.com",
            );
        } else if !found.iter().any(|h| **h == *host) {
            found.push(host.into());
        }
    }
    found
}

fn addresses(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Vec<Cidr> {
    let mut found = Vec::new();
    for (i, text) in spec.addresses.iter().enumerate() {
        match text.parse::<Cidr>() {
            Ok(block) if found.contains(&block) => {}
            Ok(block) => found.push(block),
            Err(_) => faults.add(
                format!("spec.addresses[{i}]"),
                format!("{} is neither an address nor a block of addresses, so it is left out", shown(text)),
                "write 203.0.113.7, 203.0.113.0/24 or the same in IPv6",
            ),
        }
    }
    found
}

fn ports(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Vec<EntryPort> {
    let mut found: BTreeMap<u16, EntryPort> = BTreeMap::new();
    for (i, p) in spec.ports.iter().enumerate() {
        let Some(port) = super::port(p.number) else {
            faults.push(super::bad_port(format!("spec.ports[{i}].number"), p.number));
            continue;
        };
        let target = match p.target_port {
            None | Some(0) => port,
            Some(n) => match super::port(n) {
                Some(n) => n,
                None => {
                    faults.push(super::bad_port(format!("spec.ports[{i}].targetPort"), n));
                    continue;
                }
            },
        };
        let said = p.protocol.as_deref().filter(|s| !s.is_empty());
        let protocol = said.and_then(super::service::protocol);
        if let (Some(said), None) = (said, protocol) {
            faults.add(
                format!("spec.ports[{i}].protocol"),
                format!("{} is not known, so the protocol counts as not said", shown(said)),
                "use HTTP, HTTPS, HTTP2, GRPC, MONGO, TCP or TLS",
            );
        }
        let made =
            EntryPort { name: text(Some(&p.name)), port, target, protocol: protocol.unwrap_or(AppProtocol::Unknown) };
        if found.insert(port, made).is_some() {
            faults.add(
                format!("spec.ports[{i}].number"),
                format!("{port} is already there, and the later one counts"),
                "list each port once",
            );
        }
    }
    found.into_values().collect()
}

fn endpoints(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Vec<Endpoint> {
    let mut found: Vec<Endpoint> = Vec::new();
    let mut places = std::collections::HashSet::new();
    for (i, e) in spec.endpoints.iter().flatten().enumerate() {
        let field = format!("spec.endpoints[{i}]");
        let Some(made) = endpoint(e, &field, faults) else { continue };
        // The place is part of the workload's uid, so there can be one of each.
        if places.insert(made.address.clone()) {
            found.push(made);
        } else {
            faults.add(
                format!("{field}.address"),
                "the same address is already in the list, so the endpoint is left out",
                "list each address once, with all of its ports",
            );
        }
    }
    found
}

fn endpoint(spec: &api::WorkloadEntrySpec, field: &str, faults: &mut Faults) -> Option<Endpoint> {
    let address = place(spec, field, faults)?;
    let mut ports = BTreeMap::new();
    for (name, number) in &spec.ports {
        match super::port(*number) {
            Some(port) => _ = ports.insert(Arc::from(name.as_str()), port),
            None => faults.push(super::bad_port(format!("{field}.ports[{}]", shown(name)), *number)),
        }
    }
    let mut parts = spec.locality.as_deref().unwrap_or_default().splitn(3, '/');
    let mut part = || text(parts.next());
    let locality = Locality { region: part(), zone: part(), subzone: part() };
    let weight = spec.weight.unwrap_or_default();
    let capacity = u32::try_from(weight).ok();
    if capacity.is_none() {
        faults.add(
            format!("{field}.weight"),
            format!("{weight} is not a weight, so 1 counts"),
            "write a number from 1 to 4294967295",
        );
    }
    Some(Endpoint {
        address,
        ports,
        labels: Labels::new(spec.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()))),
        network: spec.network.as_deref().filter(|n| !n.is_empty()).map(Arc::from),
        locality,
        // 0 is "not said", which is 1.
        weight: capacity.unwrap_or(1).max(1),
        service_account: text(spec.service_account.as_deref()),
    })
}

fn place(spec: &api::WorkloadEntrySpec, field: &str, faults: &mut Faults) -> Option<Place> {
    let address = spec.address.as_deref().unwrap_or_default();
    if let Ok(ip) = address.parse() {
        return Some(Place::Ip(canonical(ip)));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fault = match address {
        "" if spec.network.as_deref().is_some_and(|n| !n.is_empty()) => return Some(Place::Network),
        "" => "there is neither an address nor a network, so it is left out".to_owned(),
        unix if unix.starts_with("unix:") => {
            "a Unix socket cannot be reached from other pods, so it is left out".into()
        }
        // A name of DNS has at most 253 characters (RFC 1035 3.1).
        name if name.len() <= 253 && name.bytes().all(legal) => return Some(Place::Hostname(name.into())),
        other => format!("{} is neither an address nor a host name, so it is left out", shown(other)),
    };
    faults.add(format!("{field}.address"), fault, "write an IPv4 or IPv6 address or a DNS name, without port");
    None
}

/// The wire knows "everybody" and "its own namespace" alone (discovery.md 3): a list of other namespaces is everybody.
fn visibility(spec: &api::ServiceEntrySpec, faults: &mut Faults) -> Option<Visibility> {
    let list: Vec<&str> = spec.export_to.iter().map(String::as_str).collect();
    match list[..] {
        [] => Some(Visibility::Public),
        ["."] => Some(Visibility::Namespace),
        ["~"] => None,
        _ if list.contains(&"*") => Some(Visibility::Public),
        _ => {
            faults.add(
                "spec.exportTo",
                "a list of namespaces cannot be told to node proxies, so every namespace sees the entry",
                "use \".\" for its own namespace or \"*\" for all",
            );
            Some(Visibility::Public)
        }
    }
}

fn allocated(entry: &api::ServiceEntry) -> Vec<(Arc<str>, IpAddr)> {
    let listed = entry.status.iter().flat_map(|s| s.addresses.iter());
    // What cannot be read is as good as not there: the allocator writes the list anew.
    listed.filter_map(|a| Some((Arc::from(a.host.as_str()), canonical(a.value.parse().ok()?)))).collect()
}
