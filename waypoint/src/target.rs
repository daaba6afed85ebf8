//! What a CONNECT is for: a service that is bound to this waypoint, or a workload whose waypoint we are (waypoint-api.md 5).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use directory::Snapshot;
use hbone::{Authority, BadRequest};
use mesh::{NetworkAddress, Outcome, Service, Workload};

use crate::bound::{Bound, Tables};
use crate::here::{Worker, is_own};
use crate::tunnel::Tunnel;

/// What a connection is for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What the caller named, as an address: the service's or the workload's. Where it named a host, the first address of
    /// that service, or none.
    pub(crate) named: SocketAddr,
    /// What it is.
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A service of ours, by its key; the port is a service port.
    Service(Arc<str>),
    /// A workload, by its own address. `governed` is the key of a bound service that leads to this very port: its policies
    /// hold here as well, its routes do not (gateway-api.md 2, "what is matched").
    Workload { workload: Arc<Workload>, governed: Option<Arc<str>> },
}

/// Why a CONNECT is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Bad(BadRequest),
    #[error("{0} is neither a service that is bound to this waypoint nor a workload of such a waypoint")]
    NotOurs(String),
    #[error("service {service} has no port {port}")]
    NoPort { service: Arc<str>, port: u16 },
    #[error("{0} is this waypoint itself")]
    Own(SocketAddr),
}

impl Refusal {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Bad(_) => Outcome::BadRequest,
            Self::NotOurs(_) | Self::NoPort { .. } => Outcome::UnknownDestination,
            Self::Own(_) => Outcome::IllegalDestination,
        }
    }
}

impl Target {
    /// Port that the caller named.
    pub(crate) fn port(&self) -> u16 {
        self.named.port()
    }

    /// Key of the service whose settings and policies hold.
    pub(crate) fn key(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Service(key) => Some(key),
            Kind::Workload { governed, .. } => governed.as_ref(),
        }
    }

    /// What is bound under that key, at this moment.
    pub(crate) fn bound(&self, tables: &Tables) -> Option<Arc<Bound>> {
        self.key().and_then(|key| tables.get(key)).cloned()
    }
}

/// Finds out; asks discovery for a workload that is not known yet.
pub(crate) async fn of(
    worker: &Worker,
    tunnel: &Tunnel,
    authority: &Result<Authority, BadRequest>,
) -> Result<Target, Refusal> {
    let authority = authority.as_ref().map_err(|bad| Refusal::Bad(*bad))?;
    let namespace = tunnel.caller.namespace();
    match authority {
        Authority::Host(host, port) => by_host(&worker.directory(), &worker.tables(), namespace, host, *port),
        Authority::Ip(address) if is_own(&worker.shared.config, address.ip()) => Err(Refusal::Own(*address)),
        Authority::Ip(address) => {
            let network = worker.shared.config.network.as_str();
            let key = NetworkAddress::new(network, address.ip());
            let look = || by_address(worker, namespace, &key, *address);
            match look() {
                Err(Refusal::NotOurs(_)) if worker.directory().workload_by_address(&key).is_none() => {
                    worker.shared.addresses.known(&key.to_string()).await;
                    worker.refresh();
                    look()
                }
                answer => answer,
            }
        }
    }
}

fn by_address(worker: &Worker, namespace: &str, key: &NetworkAddress, address: SocketAddr) -> Result<Target, Refusal> {
    let (directory, tables) = (worker.directory(), worker.tables());
    if let Some(service) = directory.service_by_address(key, namespace)
        && let Some(target) = of_service(&tables, &service, address)
    {
        return target;
    }
    let not_ours = || Refusal::NotOurs(address.to_string());
    let workload = directory.workload_by_address(key).ok_or_else(not_ours)?;
    // Whether we may answer for it is the same question that a node proxy asks (hbone.md 8).
    let own = worker.own();
    let local = own.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let asked = directory::Authority::Ip(address);
    directory.inbound(&own, local, &asked).map_err(|_| not_ours())?;
    // Without a service that leads there, the policies of the waypoint as a whole hold (routing.proto, "gateway:").
    let whole = || {
        let config = &worker.shared.config;
        let key: Arc<str> = format!("{}/gateway:{}", config.own_pod.namespace, config.gateway).into();
        tables.get(&key).is_some().then_some(key)
    };
    let governed = governing(&directory, &tables, &workload, address.port()).or_else(whole);
    Ok(Target { named: address, kind: Kind::Workload { workload, governed } })
}

/// Of several services of this host, the one of the caller's own namespace is meant, then the canonical one, then the
/// first by key; of those that are bound to us.
fn by_host(directory: &Snapshot, tables: &Tables, namespace: &str, host: &str, port: u16) -> Result<Target, Refusal> {
    let bound = directory.services_by_hostname(host).filter(|s| tables.get(&s.key().to_string()).is_some());
    let service = bound.min_by_key(|s| (*s.namespace != *namespace, !s.canonical));
    let service = service.ok_or_else(|| Refusal::NotOurs(format!("{host}:{port}")))?;
    let ip = service.vips.first().map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |vip| vip.ip);
    let target = of_service(tables, service, SocketAddr::new(ip, port));
    target.unwrap_or_else(|| Err(Refusal::NotOurs(format!("{host}:{port}"))))
}

/// `None` when the service is not bound to us.
fn of_service(tables: &Tables, service: &Service, named: SocketAddr) -> Option<Result<Target, Refusal>> {
    let key: Arc<str> = service.key().to_string().into();
    tables.get(&key)?;
    if !service.ports.0.contains_key(&named.port()) {
        return Some(Err(Refusal::NoPort { service: key, port: named.port() }));
    }
    Some(Ok(Target { named, kind: Kind::Service(key) }))
}

/// The first bound service that leads to this port of a workload.
fn governing(directory: &Snapshot, tables: &Tables, workload: &Workload, port: u16) -> Option<Arc<str>> {
    let leads = |key: &&Arc<str>| {
        let Some(service) = directory.service(key) else { return false };
        let own = workload.services.get(*key);
        let target =
            |(from, to): (&u16, &u16)| own.and_then(|map| map.0.get(from)).copied().filter(|p| *p != 0).unwrap_or(*to);
        service.ports.0.iter().any(|entry| target(entry) == port)
    };
    workload.services.keys().filter(|key| tables.get(key).is_some()).find(leads).cloned()
}
