//! What a tunnel request that reaches a pod asks for (hbone.md 8).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use mesh::Outcome;
use mesh::addr::{NetworkAddress, canonical, canonical_socket};
use mesh::service::Service;
use mesh::workload::{AppTunnelProtocol, Workload};

use crate::PROXY_PORTS;
use crate::snapshot::Snapshot;

/// The `:authority` of a CONNECT request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// A host name and a service port.
    Host(String, u16),
    /// An address and a port, never v4-mapped.
    Ip(SocketAddr),
}

/// A text that is no authority of a CONNECT request (400, hbone.md 5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither address:port nor hostname:port")]
pub struct AuthorityError(pub String);

/// Longest host name in DNS (RFC 1035, 2.3.4); what is longer names nothing.
const MAX_HOST_LEN: usize = 253;

impl FromStr for Authority {
    type Err = AuthorityError;

    /// Reads `10.0.0.1:80`, `[fd00::1]:80` or `host:80`. What is not an address is taken for a host name (hbone.md 4),
    /// provided that it could be one. A port is needed and is not 0.
    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let fail = || AuthorityError(text.chars().take(MAX_HOST_LEN).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(fail)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|p| *p != 0 && digits).ok_or_else(fail)?;
        // A scope id (`%3`) is ours to give, not the peer's.
        let ip = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => Some(IpAddr::V6(inner.parse().map_err(|_| fail())?)),
            None => host.parse().ok().filter(IpAddr::is_ipv4),
        };
        if let Some(ip) = ip {
            return Ok(Self::Ip(canonical_socket(SocketAddr::new(ip, port))));
        }
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        // Digits and dots alone are an address that went wrong, such as 10.0.0.300.
        let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if host.is_empty() || host.len() > MAX_HOST_LEN || !plain || numeric {
            return Err(fail());
        }
        Ok(Self::Host(host.to_ascii_lowercase(), port))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Ip(addr) => addr.fmt(f),
        }
    }
}

/// What to connect to inside the pod. The address is always the pod's own, or its loopback; only the port is taken from
/// the request.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundTarget {
    /// Port of the application: the one that policy judges.
    pub port: u16,
    /// The service that was meant, when that is clear.
    pub service: Option<Arc<Service>>,
    /// A PROXY protocol header goes before the first byte.
    pub proxy_header: bool,
    /// Connect to the loopback, from the loopback.
    pub loopback: bool,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundRefusal {
    /// The port is one of the proxy itself.
    #[error("port {0} is a port of the proxy itself")]
    IllegalPort(u16),
    /// The authority is an address that is neither the pod's nor one that it may answer for.
    #[error("authority {authority} is not an address of this pod ({local})")]
    Mismatch {
        /// What was asked for.
        authority: SocketAddr,
        /// What the pod has.
        local: IpAddr,
    },
    /// The service has no such port, or one that only its endpoints could name.
    #[error("service {host} has no target port for port {port}")]
    NoPort {
        /// The host name that was asked for.
        host: String,
        /// The service port that was asked for.
        port: u16,
    },
    /// No service has this host name.
    #[error("no service has the host name {0}")]
    UnknownHost(String),
}

impl InboundRefusal {
    /// How a request that ends so is reported and answered (hbone.md 5).
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::IllegalPort(_) => Outcome::IllegalDestination,
            Self::Mismatch { .. } => Outcome::BadRequest,
            Self::NoPort { .. } | Self::UnknownHost(_) => Outcome::UnknownDestination,
        }
    }
}

impl Snapshot {
    /// What a tunnel request to a pod leads to. `local_ip` is the address that the tunnel's connection arrived on.
    ///
    /// # Errors
    /// When the request must be refused.
    pub fn inbound(
        &self,
        local: &Workload,
        local_ip: IpAddr,
        authority: &Authority,
    ) -> Result<InboundTarget, InboundRefusal> {
        let (port, service) = match authority {
            Authority::Host(host, port) => self.by_host(local, host, *port)?,
            Authority::Ip(addr) => {
                let addr = canonical_socket(*addr);
                if addr.ip() != canonical(local_ip) && !self.may_answer_for(local, addr.ip()) {
                    return Err(InboundRefusal::Mismatch { authority: addr, local: canonical(local_ip) });
                }
                (addr.port(), self.inbound_service(local, addr.port(), None))
            }
        };
        let tunnel = local.application_tunnel;
        let proxy = tunnel.is_some_and(|t| t.protocol == AppTunnelProtocol::Proxy);
        // The request's own port is looked at too: a tunnel on another port is no licence to name it.
        let last = tunnel.and_then(|t| t.port).unwrap_or(port);
        if let Some(illegal) = [port, last].into_iter().find(|p| PROXY_PORTS.contains(p)) {
            return Err(InboundRefusal::IllegalPort(illegal));
        }
        Ok(InboundTarget { port: last, service, proxy_header: proxy, loopback: proxy })
    }

    /// The service that traffic to a port of a pod was meant for: among the pod's services, the one of the host that the
    /// sender names (`forwarded: host=`), or the only one that leads to this port (hbone.md 4).
    pub fn inbound_service(&self, local: &Workload, port: u16, host: Option<&str>) -> Option<Arc<Service>> {
        let all = || local.services.keys().filter_map(|key| self.service(key));
        if let Some(named) = host.and_then(|h| all().find(|s| s.hostname.eq_ignore_ascii_case(h))) {
            return Some(named);
        }
        let leads = |s: &Arc<Service>| s.ports.0.keys().any(|p| target_port(s, local, *p) == Some(port));
        let mut fitting = all().filter(leads);
        let first = fitting.next()?;
        fitting.next().is_none().then_some(first)
    }

    /// A host name stands for a service. Of several, one that the pod belongs to is meant, then one of its namespace,
    /// then the canonical one, then the first by key.
    fn by_host(&self, local: &Workload, host: &str, port: u16) -> Result<(u16, Option<Arc<Service>>), InboundRefusal> {
        let belongs = |s: &Service| local.services.contains_key(&*s.key().to_string());
        let score = |s: &&Arc<Service>| (!belongs(s), s.namespace != local.namespace, !s.canonical);
        let service = self.services_by_hostname(host).min_by_key(score).cloned();
        let service = service.ok_or_else(|| InboundRefusal::UnknownHost(host.to_owned()))?;
        match target_port(&service, local, port) {
            Some(target) => Ok((target, Some(service))),
            None => Err(InboundRefusal::NoPort { host: host.to_owned(), port }),
        }
    }

    /// Whether a pod may take requests for an address that is not its own: it has an application tunnel, or it is the
    /// waypoint of whoever has that address.
    fn may_answer_for(&self, local: &Workload, ip: IpAddr) -> bool {
        if local.application_tunnel.is_some() {
            return true;
        }
        let address = NetworkAddress::new(local.network.clone(), ip);
        let workload = self.workload_by_address(&address);
        let of_workload = workload.as_ref().and_then(|w| w.waypoint.as_ref());
        if of_workload.is_some_and(|gateway| self.leads_to(gateway, local)) {
            return true;
        }
        let service = self.gateway_service(&address, &local.namespace);
        service.is_some_and(|s| {
            let several = s.weighted_waypoints.iter().map(|w| &w.destination);
            s.waypoint.iter().chain(several).any(|gateway| self.leads_to(gateway, local))
        })
    }
}

/// The endpoint's port, else the service's target port, unless that is a named one.
fn target_port(service: &Service, local: &Workload, port: u16) -> Option<u16> {
    let own = local.services.get(&*service.key().to_string()).and_then(|m| m.0.get(&port)).copied();
    own.filter(|p| *p != 0).or_else(|| service.ports.0.get(&port).copied().filter(|p| *p != 0))
}
