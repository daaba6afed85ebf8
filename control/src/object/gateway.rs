//! Gateways, of which waypoints are some, and their classes.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kubernetes::object::gateway as api;
use kubernetes::selector::Selector;
use mesh::addr::canonical;
use mesh::workload::{AppTunnelProtocol, ApplicationTunnel};

use super::{Faults, Meta, annotation, shown};

/// A Gateway, as far as binding to it as a waypoint is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Names and labels.
    pub meta: Meta,
    /// Name of its class.
    pub class: Arc<str>,
    /// Service account of its pods (waypoint-api.md 1): the Gateway's name, unless annotations say otherwise.
    pub account: Arc<str>,
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// Where it is, from `status.addresses`, a host name before an address. `None` while it is not ready.
    pub address: Option<Address>,
    /// Annotation `ambient.istio.io/waypoint-inbound-binding`: what its pods expect around their bytes.
    pub binding: Option<ApplicationTunnel>,
    /// What is wrong with it.
    pub faults: Faults,
}

/// Where a Gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Under the host name of its service.
    Hostname(Arc<str>),
    /// Under an address.
    Ip(IpAddr),
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Port.
    pub port: u16,
    /// Protocol, `HBONE` for a waypoint.
    pub protocol: Arc<str>,
    /// Who may attach.
    pub allowed: Allowed,
}

/// From which namespaces objects may attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// From all.
    All,
    /// From those that it selects.
    Namespaces(Selector),
    /// From the Gateway's own.
    #[default]
    Same,
}

/// A class of Gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClass {
    /// Names and labels.
    pub meta: Meta,
    /// Annotation `ambient.istio.io/waypoint-inbound-binding`, for Gateways that have none of their own.
    pub binding: Option<ApplicationTunnel>,
    /// What is wrong with it.
    pub faults: Faults,
}

impl From<&api::Gateway> for Gateway {
    fn from(gateway: &api::Gateway) -> Self {
        let mut faults = Faults::default();
        let spec = &gateway.spec;
        let mut listeners = Vec::new();
        for (i, l) in spec.listeners.iter().enumerate() {
            match super::port(l.port) {
                Some(port) => listeners.push(Listener {
                    port,
                    protocol: l.protocol.as_str().into(),
                    allowed: allowed(l, &format!("spec.listeners[{i}].allowedRoutes.namespaces"), &mut faults),
                }),
                None => faults.push(super::bad_port(format!("spec.listeners[{i}].port"), l.port)),
            }
        }
        let addresses = gateway.status.iter().flat_map(|s| s.addresses.iter()).collect::<Vec<_>>();
        Self {
            class: spec.gateway_class_name.as_str().into(),
            account: account(&gateway.metadata),
            listeners,
            address: address(&addresses, &mut faults),
            binding: binding(&gateway.metadata, &mut faults),
            meta: Meta::new(&gateway.metadata),
            faults,
        }
    }
}

impl From<&api::GatewayClass> for GatewayClass {
    fn from(class: &api::GatewayClass) -> Self {
        let mut faults = Faults::default();
        Self { binding: binding(&class.metadata, &mut faults), meta: Meta::new(&class.metadata), faults }
    }
}

/// Annotations that are no names of service accounts count as not written: the deployer tells their fault.
fn account(meta: &ObjectMeta) -> Arc<str> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let annotated = ["gateway.istio.io/service-account", "gateway.istio.io/name-override"].into_iter();
    let mut named = annotated.filter_map(|key| annotation(meta, key));
    let account = named.find(|name| !name.is_empty() && name.bytes().all(legal));
    super::text(account.or(meta.name.as_deref()))
}

fn allowed(listener: &api::Listener, field: &str, faults: &mut Faults) -> Allowed {
    let Some(namespaces) = listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref()) else {
        return Allowed::Same;
    };
    match &namespaces.from {
        None | Some(api::FromNamespaces::Same) => Allowed::Same,
        Some(api::FromNamespaces::All) => Allowed::All,
        Some(api::FromNamespaces::Selector) => match &namespaces.selector {
            Some(selector) => {
                let (selector, broken) = Selector::new(selector);
                for b in broken {
                    faults.add(
                        format!("{field}.selector.matchExpressions[{}]", b.index),
                        format!("{}, so the selector allows nothing", b.what),
                        "use In and NotIn with values, Exists and DoesNotExist without",
                    );
                }
                Allowed::Namespaces(selector)
            }
            None => {
                faults.add(
                    format!("{field}.selector"),
                    "`from: Selector` without a selector allows no namespace but the Gateway's own",
                    "write the selector",
                );
                Allowed::Same
            }
        },
        Some(api::FromNamespaces::Other(other)) => {
            faults.add(
                format!("{field}.from"),
                format!("{} is not known, so only the Gateway's own namespace may attach", shown(other)),
                "use Same, All or Selector",
            );
            Allowed::Same
        }
    }
}

/// A host name is the better key: it is the service's own, and addresses are given to others later (waypoint-api.md 1).
fn address(addresses: &[&api::GatewayAddress], faults: &mut Faults) -> Option<Address> {
    let by_name = addresses.iter().find(|a| a.type_.as_deref() == Some("Hostname") && !a.value.is_empty());
    if let Some(name) = by_name {
        return Some(Address::Hostname(name.value.as_str().into()));
    }
    let by_ip = |t: &Option<String>| t.as_deref().is_none_or(|t| t == "IPAddress");
    for (i, a) in addresses.iter().enumerate().filter(|(_, a)| by_ip(&a.type_)) {
        match a.value.parse() {
            Ok(ip) => return Some(Address::Ip(canonical(ip))),
            Err(_) => faults.add(
                format!("status.addresses[{i}].value"),
                format!("{} is not an address, so it is left out", shown(&a.value)),
                "repair the controller of the Gateway's class, which wrote it",
            ),
        }
    }
    None
}

/// `NONE`, `PROXY`, or either with `/port` (waypoint-api.md 1).
fn binding(meta: &ObjectMeta, faults: &mut Faults) -> Option<ApplicationTunnel> {
    const KEY: &str = "ambient.istio.io/waypoint-inbound-binding";
    let value = annotation(meta, KEY)?;
    let (protocol, port) = match value.split_once('/') {
        Some((protocol, port)) => (protocol, Some(port)),
        None => (value, None),
    };
    let protocol = match protocol {
        "NONE" => Some(AppTunnelProtocol::None),
        "PROXY" => Some(AppTunnelProtocol::Proxy),
        _ => None,
    };
    let number = match port {
        None => Some(None),
        Some(text) => text.parse().ok().and_then(super::port).map(Some),
    };
    let Some((protocol, port)) = protocol.zip(number) else {
        faults.add(
            format!("metadata.annotations[{KEY}]"),
            format!("{} is not understood, so the waypoint's pods get bytes as they are", shown(value)),
            "write NONE or PROXY, with /port if need be",
        );
        return None;
    };
    Some(ApplicationTunnel { protocol, port })
}
