//! Where a connection goes, or why it goes nowhere.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::addr::canonical;
use mesh::workload::{GatewayDestination, TunnelProtocol};
use mesh::{Identity, Outcome, Service, TunnelAddr, Workload};

use crate::HBONE_PORT;

/// Where a connection goes (hbone.md 7).
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// Plain TCP to a workload that has no tunnel.
    Direct {
        /// The workload's address and port.
        to: SocketAddr,
        /// The workload.
        workload: Arc<Workload>,
        /// The service that was addressed.
        service: Option<Arc<Service>>,
    },
    /// A tunnel inside a tunnel to another network, by way of its gateway ("double HBONE", hbone.md 9).
    Gateway {
        /// Where the outer tunnel is dialled.
        tunnel: TunnelAddr,
        /// Authority of both requests: the service's host name and port.
        authority: (Arc<str>, u16),
        /// The gateway.
        gateway: Arc<Workload>,
        /// The service that was addressed; only services can be reached across networks.
        service: Arc<Service>,
        /// The endpoint or waypoint on the other network that led to the gateway.
        workload: Arc<Workload>,
        /// Who may answer the outer tunnel.
        expected: Vec<Identity>,
        /// Who may answer the inner tunnel: the service's subject alternative names alone. None means that nobody may.
        inner_expected: Vec<Identity>,
    },
    /// The endpoint has a name in place of an address, to be looked up in DNS.
    Named(Named),
    /// Plain TCP to the original destination.
    Passthrough {
        /// The original destination.
        to: SocketAddr,
        /// Why.
        why: PassthroughReason,
    },
    /// A tunnel to the destination's own proxy.
    Tunnel {
        /// Where it is dialled.
        tunnel: TunnelAddr,
        /// The workload's address and target port.
        authority: SocketAddr,
        /// The workload.
        workload: Arc<Workload>,
        /// The service that was addressed.
        service: Option<Arc<Service>>,
        /// Who may answer: the workload, and the service's subject alternative names.
        expected: Vec<Identity>,
        /// Both ends are on one node.
        same_node: bool,
    },
    /// A tunnel to a waypoint.
    Waypoint {
        /// Where it is dialled.
        tunnel: TunnelAddr,
        /// The original destination, not translated.
        authority: SocketAddr,
        /// The waypoint.
        waypoint: Arc<Workload>,
        /// The service that was addressed, when the waypoint is a service's.
        service: Option<Arc<Service>>,
        /// The workload that was addressed, when the waypoint is a workload's.
        workload: Option<Arc<Workload>>,
        /// Who may answer: the waypoint, and its service's subject alternative names.
        expected: Vec<Identity>,
    },
}

/// Why a connection goes to its original destination as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum PassthroughReason {
    /// The service asks for it (load balancing mode PASSTHROUGH).
    Service(Arc<Service>),
    /// Nobody in the mesh has this address.
    Unknown,
}

/// Why a connection goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The destination is on another network, and its gateway is not set or not known.
    #[error("no gateway leads to network {network:?}")]
    GatewayUnresolved {
        /// The other network.
        network: Arc<str>,
    },
    /// A port of the proxy itself on the loopback, which would be a loop (hbone.md 1).
    #[error("{0} is a port of the proxy itself")]
    IllegalDestination(SocketAddr),
    /// No endpoint of the service may be used.
    #[error("no healthy upstream: {service} has no usable endpoint for port {port}")]
    NoHealthyUpstream {
        /// Key of the service.
        service: Arc<str>,
        /// The port that was asked for.
        port: u16,
    },
    /// Only traffic that is addressed to a service may cross networks (hbone.md 9).
    #[error("the waypoint of workload {workload} is on another network, which only traffic to a service may cross to")]
    NotAService {
        /// Uid of the workload.
        workload: Arc<str>,
    },
    /// The address is one of a pod, but discovery does not know whose. May be resolved after an on-demand look-up;
    /// whether it may be reached in clear is for the caller's configuration to say (design.md 4.3).
    #[error("{address} is a pod's address that discovery does not know")]
    UnknownPod {
        /// The address.
        address: IpAddr,
    },
    /// The destination has a waypoint that cannot be found. Never go around it.
    #[error("waypoint {waypoint} of {of} cannot be resolved")]
    WaypointUnresolved {
        /// The waypoint as it is named.
        waypoint: GatewayDestination,
        /// Key of the service or uid of the workload that it is for.
        of: Arc<str>,
    },
}

impl Unresolved {
    /// How a connection that ends so is reported.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::GatewayUnresolved { .. } | Self::NoHealthyUpstream { .. } | Self::NotAService { .. } => {
                Outcome::NoHealthyUpstream
            }
            Self::IllegalDestination(_) => Outcome::IllegalDestination,
            Self::UnknownPod { .. } => Outcome::UnknownDestination,
            Self::WaypointUnresolved { .. } => Outcome::WaypointUnresolved,
        }
    }
}

/// An endpoint that has a name in place of an address. Look the name up, then ask [`Named::at`] for the route.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub(crate) delivery: Delivery,
    pub(crate) prefers_ipv6: bool,
}

impl Named {
    /// The name to look up.
    pub fn hostname(&self) -> &Arc<str> {
        &self.delivery.workload.hostname
    }

    /// The family that the application dialled, to be preferred among the answers.
    pub fn prefers_ipv6(&self) -> bool {
        self.prefers_ipv6
    }

    /// The route by way of one of the addresses that DNS gave.
    pub fn at(self, ip: IpAddr) -> Route {
        self.delivery.at(canonical(ip))
    }
}

/// A workload and port that were chosen, whose address is the only thing still missing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) workload: Arc<Workload>,
    pub(crate) service: Option<Arc<Service>>,
    pub(crate) port: u16,
    pub(crate) same_node: bool,
}

impl Delivery {
    /// Step 6 of hbone.md 7.
    pub(crate) fn at(self, ip: IpAddr) -> Route {
        let Self { workload, service, port, same_node } = self;
        let to = SocketAddr::new(ip, port);
        match workload.tunnel {
            TunnelProtocol::Hbone => Route::Tunnel {
                tunnel: TunnelAddr(SocketAddr::new(ip, HBONE_PORT)),
                authority: to,
                expected: expected(Some(&workload), service.as_deref()),
                workload,
                service,
                same_node,
            },
            TunnelProtocol::None => Route::Direct { to, workload, service },
        }
    }
}

/// Who may answer: a workload, and the subject alternative names of a service that are SPIFFE identities (hbone.md 2).
/// A workload without a valid identity adds none; nobody at all then means that every handshake fails.
pub(crate) fn expected(workload: Option<&Arc<Workload>>, service: Option<&Service>) -> Vec<Identity> {
    let own = workload.and_then(|w| w.identity().ok());
    let names = service.into_iter().flat_map(|s| s.subject_alt_names.iter().filter_map(|n| n.parse().ok()));
    let mut all = Vec::new();
    for identity in own.into_iter().chain(names) {
        if !all.contains(&identity) {
            all.push(identity);
        }
    }
    all
}

impl fmt::Display for PassthroughReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(s) => write!(f, "service {} asks for passthrough", s.key()),
            Self::Unknown => f.write_str("destination not in the mesh"),
        }
    }
}
