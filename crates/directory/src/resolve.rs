//! The outbound decision, in the order of hbone.md 7, but for one thing: there a service's block of addresses goes before
//! whoever has the address. A ServiceEntry over `10.0.0.0/8` without resolution would so send every call to a pod's own
//! address in clear. Here a block is for what is nobody's: a pod, whatever is reached by HBONE, and the pod networks go first.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::addr::{Cidr, NetworkAddress, canonical_socket};
use mesh::service::{LoadBalancingMode, Service};
use mesh::workload::{GatewayAddress, GatewayDestination, Workload};
use mesh::{OriginalDst, TunnelAddr};

use crate::PROXY_PORTS;
use crate::balance::{Endpoint, Purpose, Wish, next_random, scale};
use crate::route::{Delivery, Named, PassthroughReason, Route, Unresolved, expected};
use crate::snapshot::Snapshot;

/// A connection that leaves a pod.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The pod's own workload.
    pub source: &'a Workload,
    /// Where the application wants to go.
    pub destination: OriginalDst,
    /// The blocks that pods get their addresses from; in them, unknown is not plaintext. Empty: Istio's behaviour.
    pub pod_cidrs: &'a [Cidr],
    /// The caller's randomness, for every choice on the way.
    pub random: u64,
}

/// The next hop that a [`GatewayAddress`] led to.
struct Hop {
    workload: Arc<Workload>,
    service: Option<Arc<Service>>,
    /// Absent when it has none or is behind a gateway of its own.
    at: Option<SocketAddr>,
}

impl Snapshot {
    /// Where a connection goes.
    ///
    /// # Errors
    /// When it must go nowhere; [`Unresolved`] says why.
    pub fn resolve(&self, query: &Query<'_>) -> Result<Route, Unresolved> {
        let to = canonical_socket(query.destination.0);
        // Linux takes the unspecified address for the loopback.
        if (to.ip().is_loopback() || to.ip().is_unspecified()) && PROXY_PORTS.contains(&to.port()) {
            return Err(Unresolved::IllegalDestination(to));
        }
        let address = NetworkAddress::new(query.source.network.clone(), to.ip());
        let of_pods = query.pod_cidrs.iter().any(|c| c.contains(to.ip()));
        let service = self.service_by_address(&address, &query.source.namespace);
        if let Some(service) = service.filter(|s| !of_pods || s.vips.contains(&address)) {
            return self.to_service(query, to, service);
        }
        if let Some(workload) = self.workload_by_address(&address) {
            return self.to_workload(query, to, workload);
        }
        if of_pods {
            return Err(Unresolved::UnknownPod { address: to.ip() });
        }
        Ok(Route::Passthrough { to, why: PassthroughReason::Unknown })
    }

    /// Step 2: a virtual address was dialled.
    fn to_service(&self, query: &Query<'_>, to: SocketAddr, service: Arc<Service>) -> Result<Route, Unresolved> {
        let key = || service.key().to_string().into();
        if let Some(gateway) = waypoint_of(&service, query.random) {
            let fail = || Unresolved::WaypointUnresolved { waypoint: gateway.destination.clone(), of: key() };
            let hop = self.hop(gateway, query, to.ip(), Purpose::Waypoint).ok_or_else(fail)?;
            if hop.workload.network != query.source.network {
                return self.across(query, to, service, hop.workload);
            }
            let tunnel = TunnelAddr(hop.at.ok_or_else(fail)?);
            let expected = expected(Some(&hop.workload), hop.service.as_deref());
            let waypoint = hop.workload;
            return Ok(Route::Waypoint {
                tunnel,
                authority: to,
                waypoint,
                service: Some(service),
                workload: None,
                expected,
            });
        }
        if service.load_balancing.as_ref().is_some_and(|lb| lb.mode == LoadBalancingMode::Passthrough) {
            return Ok(Route::Passthrough { to, why: PassthroughReason::Service(service) });
        }
        let wish = Wish {
            source: query.source,
            service: &service,
            port: to.port(),
            dialled: to.ip(),
            purpose: Purpose::Application,
            random: next_random(query.random),
        };
        let Some(Endpoint { workload, port, ip }) = self.choose(&wish) else {
            return Err(Unresolved::NoHealthyUpstream { service: key(), port: to.port() });
        };
        if workload.network != query.source.network {
            return self.across(query, to, service, workload);
        }
        let same_node = same_node(query.source, &workload);
        let delivery = Delivery { workload, service: Some(service), port, same_node };
        Ok(match ip {
            Some(ip) => delivery.at(ip),
            None => Route::Named(Named { delivery, prefers_ipv6: to.is_ipv6() }),
        })
    }

    /// Steps 3, 5 and 6: a workload's own address was dialled.
    fn to_workload(&self, query: &Query<'_>, to: SocketAddr, workload: Arc<Workload>) -> Result<Route, Unresolved> {
        match &workload.waypoint {
            Some(gateway) if !self.leads_to(gateway, query.source) => {
                let of = workload.uid.clone();
                let fail = || Unresolved::WaypointUnresolved { waypoint: gateway.destination.clone(), of: of.clone() };
                let hop = self.hop(gateway, query, to.ip(), Purpose::Waypoint).ok_or_else(fail)?;
                if hop.workload.network != query.source.network {
                    return Err(Unresolved::NotAService { workload: of });
                }
                Ok(Route::Waypoint {
                    tunnel: TunnelAddr(hop.at.ok_or_else(fail)?),
                    authority: to,
                    expected: expected(Some(&hop.workload), hop.service.as_deref()),
                    waypoint: hop.workload,
                    service: None,
                    workload: Some(workload),
                })
            }
            _ => {
                let same_node = same_node(query.source, &workload);
                Ok(Delivery { workload, service: None, port: to.port(), same_node }.at(to.ip()))
            }
        }
    }

    /// Step 4 and hbone.md 9: the endpoint or waypoint is on another network, behind that network's gateway.
    fn across(
        &self,
        query: &Query<'_>,
        to: SocketAddr,
        service: Arc<Service>,
        workload: Arc<Workload>,
    ) -> Result<Route, Unresolved> {
        let fail = || Unresolved::GatewayUnresolved { network: workload.network.clone() };
        let address = workload.network_gateway.as_ref().ok_or_else(fail)?;
        let hop = self.hop(address, query, to.ip(), Purpose::Gateway).ok_or_else(fail)?;
        Ok(Route::Gateway {
            tunnel: TunnelAddr(hop.at.ok_or_else(fail)?),
            authority: (service.hostname.clone(), to.port()),
            expected: expected(Some(&hop.workload), hop.service.as_deref()),
            inner_expected: expected(None, Some(&service)),
            gateway: hop.workload,
            service,
            workload,
        })
    }

    /// Finds a waypoint or gateway: by host name, or by address, where a service goes before a workload (hbone.md 8).
    fn hop(&self, gateway: &GatewayAddress, query: &Query<'_>, dialled: IpAddr, purpose: Purpose) -> Option<Hop> {
        let service = match &gateway.destination {
            GatewayDestination::Hostname(name) => Some(self.service(&name.to_string())?),
            GatewayDestination::Address(address) => self.gateway_service(address, &query.source.namespace),
        };
        if let Some(service) = service {
            // A second and third choice on one way must not hang together.
            let random = next_random(next_random(query.random) ^ u64::from(purpose == Purpose::Gateway));
            let port = gateway.hbone_port;
            let wish = Wish { source: query.source, service: &service, port, dialled, purpose, random };
            let Endpoint { workload, port, ip } = self.choose(&wish)?;
            let at = ip.map(|ip| SocketAddr::new(ip, port));
            return Some(Hop { workload, service: Some(service), at });
        }
        let GatewayDestination::Address(address) = &gateway.destination else { return None };
        let workload = self.workload_by_address(address)?;
        let at = canonical_socket(SocketAddr::new(address.ip, gateway.hbone_port));
        Some(Hop { workload, service: None, at: Some(at) })
    }

    /// Whether a waypoint's or gateway's address names this workload, by itself or as an endpoint of its service.
    pub(crate) fn leads_to(&self, gateway: &GatewayAddress, workload: &Workload) -> bool {
        let serves = |key: String| workload.services.contains_key(&*key);
        match &gateway.destination {
            GatewayDestination::Hostname(name) => serves(name.to_string()),
            GatewayDestination::Address(address) => {
                let owner = self.workload_by_address(address);
                owner.is_some_and(|w| w.uid == workload.uid)
                    || self.services_at_vip(address).any(|s| serves(s.key().to_string()))
            }
        }
    }
}

/// The waypoint of a service: one of several by weight, or the only one (discovery.md 3, field 13).
fn waypoint_of(service: &Service, random: u64) -> Option<&GatewayAddress> {
    let total = service.weighted_waypoints.iter().map(|w| u64::from(w.weight)).sum();
    let Some(mut left) = scale(random, total) else { return service.waypoint.as_ref() };
    let chosen = service.weighted_waypoints.iter().find(|w| {
        let weight = u64::from(w.weight);
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    });
    chosen.map(|w| &w.destination)
}

fn same_node(a: &Workload, b: &Workload) -> bool {
    !a.node.is_empty() && a.node == b.node && a.cluster_id == b.cluster_id
}
