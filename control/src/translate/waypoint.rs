//! Which waypoint an object is bound to, and whether its traffic passes it (waypoint-api.md 2, design.md 5).

use kubernetes::object::GATEWAY_NAME;
use std::sync::Arc;

use kubernetes::selector::Answer;
use mesh::addr::NetworkAddress;
use mesh::service::{Visibility, WeightedWaypoint};
use mesh::workload::{AppTunnelProtocol, ApplicationTunnel, GatewayAddress, GatewayDestination, NamespacedHostname};

use crate::object::gateway::{Address, Allowed, Gateway, Listener};
use crate::object::{Key, Labels};
use crate::world::{Name, State, USE_CANARY, USE_WAYPOINT, named_waypoint};

/// Port and protocol of a waypoint's listener (waypoint-api.md 1).
const HBONE: (u16, &str) = (15008, "HBONE");
/// Protocol of the listener of a waypoint whose pods expect a PROXY header.
const PROXY: &str = "istio.io/PROXY";
/// Class of gateways between networks, which have an HBONE listener too and are no waypoints.
const EAST_WEST: &str = "istio-east-west";

/// Label of a gateway's own objects, and its values for waypoints and gateways between networks, which have no waypoint
/// themselves (waypoint-api.md 2).
pub(crate) const MANAGED: (&str, &[&str]) =
    ("gateway.istio.io/managed", &["istio.io-mesh-controller", "istio.io-eastwest-controller"]);

/// Kind of traffic that a waypoint takes, by label `istio.io/waypoint-for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Addressed to a service.
    Service,
    /// Addressed to a workload's own address.
    Workload,
}

impl Traffic {
    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

/// An object that may be bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bindable<'a> {
    /// Which one.
    pub(crate) key: &'a Key,
    /// Its labels.
    pub(crate) labels: &'a Labels,
    /// Its annotation `culvert.dev/waypoint` says `always`.
    pub(crate) always: bool,
    /// Its annotation `istio.io/use-waypoint-canary-weight`.
    pub(crate) canary_weight: Option<&'a Arc<str>>,
    /// Who may see it.
    pub(crate) visibility: Visibility,
}

/// A waypoint that an object is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The Gateway.
    pub(crate) gateway: Name,
    /// Where it is.
    pub(crate) address: GatewayAddress,
    /// Whether traffic goes through it: something needs it to, or the user says so.
    pub(crate) used: bool,
    /// A second waypoint.
    pub(crate) canary: Option<Canary>,
    /// Why a second waypoint that was asked for is not there.
    pub(crate) canary_refusal: Option<Refusal>,
}

/// A second waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    /// The Gateway.
    pub(crate) gateway: Name,
    /// Where it is.
    pub(crate) address: GatewayAddress,
    /// Its share of the connections in percent.
    pub(crate) weight: u32,
}

impl Binding {
    /// What goes on the wire.
    pub(crate) fn waypoint(&self) -> Option<GatewayAddress> {
        self.used.then(|| self.address.clone())
    }

    /// The shares, when there are two waypoints.
    pub(crate) fn weighted(&self) -> Vec<WeightedWaypoint> {
        let Some(canary) = self.canary.as_ref().filter(|_| self.used) else { return Vec::new() };
        vec![
            WeightedWaypoint { destination: self.address.clone(), weight: 100 - canary.weight },
            WeightedWaypoint { destination: canary.address.clone(), weight: canary.weight },
        ]
    }
}

/// Why an object is not bound although it asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Reason of the condition.
    pub(crate) reason: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

impl Refusal {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

impl State {
    /// The waypoint of an object, if it asks for one. `needed`: without a waypoint the object does not work at all, so
    /// that it is used even while nothing of L7 is attached.
    pub(crate) fn bind(
        &self,
        object: Bindable<'_>,
        traffic: Traffic,
        needed: bool,
    ) -> Result<Option<Binding>, Refusal> {
        if object.labels.get(MANAGED.0).is_some_and(|m| MANAGED.1.contains(&&**m)) {
            return Ok(None);
        }
        let namespace = self.namespaces.get("", &object.key.namespace);
        let own = object.labels.get(USE_WAYPOINT.0).is_some();
        let level = if own { Some(object.labels) } else { namespace.map(|n| &n.meta.labels) };
        let Some(named) = level.and_then(|l| named_waypoint(l, USE_WAYPOINT, &object.key.namespace)) else {
            return Ok(None);
        };
        let (gateway, address) = match self.attach(&named, &object, traffic) {
            Ok(found) => found,
            // A waypoint for services that the namespace names is none for its pods, and nobody asked it to be.
            Err(refusal) if !own && traffic == Traffic::Workload && refusal.reason == UNSUPPORTED => return Ok(None),
            // It comes by itself as soon as something needs it.
            Err(_) if !own && self.is_unneeded(object.key, &named) => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        if object.visibility == Visibility::Namespace && gateway.meta.namespace != object.key.namespace {
            return Err(Refusal::new(
                "CrossNamespaceWaypointForbidden",
                format!(
                    "waypoint {} is in another namespace, and the entry is visible in its own alone; bind to a waypoint \
                     of its namespace, or export it to \"*\"",
                    show(&named)
                ),
            ));
        }
        let always = object.always || namespace.is_some_and(|n| n.waypoint_always);
        let used = needed || always || self.attached(object.key, &named);
        let (canary, canary_refusal) = match self.canary(&object, own, &named, traffic) {
            Ok(canary) => (canary, None),
            Err(refusal) => (None, Some(refusal)),
        };
        Ok(Some(Binding { gateway: named, address, used, canary, canary_refusal }))
    }

    /// The second waypoint, read at the level where the first one was.
    fn canary(
        &self,
        object: &Bindable<'_>,
        own: bool,
        primary: &Name,
        traffic: Traffic,
    ) -> Result<Option<Canary>, Refusal> {
        if traffic != Traffic::Service {
            return Ok(None);
        }
        let namespace = self.namespaces.get("", &object.key.namespace).filter(|_| !own);
        let levels = [Some(object.labels), namespace.map(|n| &n.meta.labels)];
        let level = levels.into_iter().flatten().find(|l| l.get(USE_CANARY.0).is_some());
        let Some(named) = level.and_then(|l| named_waypoint(l, USE_CANARY, &object.key.namespace)) else {
            return Ok(None);
        };
        if named == *primary {
            return Err(Refusal::new(
                "CanarySameAsPrimary",
                format!("canary waypoint {} is the primary one; name another one", show(&named)),
            ));
        }
        let weight = object.canary_weight.or_else(|| namespace.and_then(|n| n.canary_weight.as_ref()));
        let Some(weight) = weight.map_or(Some(0), |w| w.parse::<u32>().ok()).filter(|w| *w <= 100) else {
            return Err(Refusal::new(
                "CanaryInvalidWeight",
                format!(
                    "the weight of canary waypoint {} is not a number from 0 to 100; correct annotation \
                     istio.io/use-waypoint-canary-weight",
                    show(&named)
                ),
            ));
        };
        let (_, address) = self.attach(&named, object, traffic)?;
        Ok(Some(Canary { gateway: named, address, weight }))
    }

    /// The Gateway of this name, if it is a waypoint that takes the object.
    fn attach(
        &self,
        named: &Name,
        object: &Bindable<'_>,
        traffic: Traffic,
    ) -> Result<(&Gateway, GatewayAddress), Refusal> {
        let not_ready =
            |what: &str| Refusal::new("WaypointIsNotReady", format!("waypoint {} is not ready: {what}", show(named)));
        let Some(gateway) = self.gateways.get(&named.namespace, &named.name) else {
            return Err(not_ready("there is no such Gateway"));
        };
        if !self.is_waypoint(gateway) {
            return Err(not_ready("the Gateway has no listener with protocol HBONE and port 15008"));
        }
        let Some(address) = &gateway.address else {
            return Err(not_ready("its Gateway has no address in its status yet"));
        };
        if !self.allows(gateway, &object.key.namespace) {
            return Err(Refusal::new(
                "AttachmentDenied",
                format!(
                    "waypoint {} does not take objects of namespace {}; extend allowedRoutes.namespaces of its listener",
                    show(named),
                    object.key.namespace
                ),
            ));
        }
        let class = self.classes.get("", &gateway.class);
        let label = |l: &Labels| l.get("istio.io/waypoint-for").cloned();
        let takes = label(&gateway.meta.labels).or_else(|| class.and_then(|c| label(&c.meta.labels)));
        let takes = takes.as_deref().unwrap_or("service");
        if takes != "all" && takes != traffic.as_str() {
            return Err(Refusal::new(
                UNSUPPORTED,
                format!(
                    "waypoint {} takes traffic of type {}, not {}; label its Gateway istio.io/waypoint-for: all",
                    show(named),
                    crate::object::shown(takes),
                    traffic.as_str()
                ),
            ));
        }
        let destination = match address {
            Address::Hostname(hostname) => GatewayDestination::Hostname(NamespacedHostname {
                namespace: gateway.meta.namespace.clone(),
                hostname: hostname.clone(),
            }),
            Address::Ip(ip) => GatewayDestination::Address(NetworkAddress::new(self.settings.network.clone(), *ip)),
        };
        Ok((gateway, GatewayAddress { destination, hbone_port: HBONE.0 }))
    }

    /// Whether a Gateway is a waypoint. Istio takes any Gateway that has an address; traffic to an ingress gateway's HBONE
    /// port would be lost.
    pub(crate) fn is_waypoint(&self, gateway: &Gateway) -> bool {
        &*gateway.class != EAST_WEST && (hbone(gateway).is_some() || self.tunnel(gateway).is_some())
    }

    /// What a Gateway's pods expect around their bytes: its own word before its class's.
    fn tunnel(&self, gateway: &Gateway) -> Option<ApplicationTunnel> {
        gateway.binding.or_else(|| self.classes.get("", &gateway.class)?.binding)
    }

    /// What a pod expects around its bytes when it is a waypoint's pod; the outer `None`: it is not.
    pub(crate) fn instance(&self, namespace: &str, labels: &Labels) -> Option<Option<ApplicationTunnel>> {
        let gateway = self.gateways.get(namespace, labels.get(GATEWAY_NAME)?)?;
        Some(self.tunnel(gateway))
    }

    /// Whether objects of a namespace may attach: the word of the listener that the binding leads to, else of the HBONE
    /// one, else only the Gateway's own namespace.
    fn allows(&self, gateway: &Gateway, namespace: &str) -> bool {
        let bound = |l: &&Listener| match self.tunnel(gateway) {
            Some(ApplicationTunnel { port: Some(port), .. }) => l.port == port,
            Some(ApplicationTunnel { protocol: AppTunnelProtocol::Proxy, .. }) => &*l.protocol == PROXY,
            _ => false,
        };
        let listener = gateway.listeners.iter().find(bound).or_else(|| hbone(gateway));
        match listener.map_or(&Allowed::Same, |l| &l.allowed) {
            Allowed::All => true,
            Allowed::Namespaces(selector) => {
                // What cannot be told is not allowed.
                let yes = |l: &Labels| selector.answer(|key| l.get(key).map(|v| &**v)) == Answer::Yes;
                self.namespaces.get("", namespace).is_some_and(|n| yes(&n.meta.labels))
            }
            Allowed::Same => *gateway.meta.namespace == *namespace,
        }
    }
}

const UNSUPPORTED: &str = "UnsupportedTrafficType";

fn hbone(gateway: &Gateway) -> Option<&Listener> {
    gateway.listeners.iter().find(|l| (l.port, &*l.protocol) == HBONE)
}

fn show(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}
