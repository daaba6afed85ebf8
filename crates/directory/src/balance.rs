//! Which endpoint of a service (discovery.md 3, "Ranking").

use std::net::IpAddr;
use std::sync::Arc;

use mesh::addr::canonical;
use mesh::service::{HealthPolicy, IpFamilies, LoadBalancingMode, Scope, Service};
use mesh::workload::{Health, Workload};

use crate::snapshot::Snapshot;

/// What an endpoint is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The application's bytes.
    Application,
    /// To be the gateway of another network, on which it may lie.
    Gateway,
    /// To be a waypoint.
    Waypoint,
}

/// What is looked for.
pub(crate) struct Wish<'a> {
    pub(crate) source: &'a Workload,
    pub(crate) service: &'a Service,
    /// Service port.
    pub(crate) port: u16,
    /// The address that the application dialled: the same one or at least one of its family is preferred.
    pub(crate) dialled: IpAddr,
    pub(crate) purpose: Purpose,
    pub(crate) random: u64,
}

/// An endpoint that may be used.
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    /// Target port.
    pub(crate) port: u16,
    /// Absent when the workload is behind a gateway or has a host name only.
    pub(crate) ip: Option<IpAddr>,
}

/// How well an endpoint matches the preference; more is better.
type Match = (bool, usize);

impl Snapshot {
    /// Chooses among the endpoints of the best rank, at random by capacity. `None`: there is none that may be used.
    pub(crate) fn choose(&self, wish: &Wish<'_>) -> Option<Endpoint> {
        let key = wish.service.key().to_string();
        let fit = || {
            self.endpoints(&key).filter_map(|w| {
                let port = wish.target_port(&key, w)?;
                let rank = wish.rank(w).filter(|_| wish.reachable(w))?;
                Some((rank, w, port))
            })
        };
        let best = fit().map(|(rank, ..)| rank).max()?;
        let finalists = || fit().filter(move |(rank, ..)| *rank == best);
        let total: u64 = finalists().map(|(_, w, _)| u64::from(w.capacity)).sum();
        let mut left = scale(wish.random, total)?;
        let (_, workload, port) = finalists().find(|(_, w, _)| {
            let capacity = u64::from(w.capacity);
            let hit = left < capacity;
            left = left.saturating_sub(capacity);
            hit
        })?;
        Some(Endpoint { workload: workload.clone(), port, ip: wish.ip(workload) })
    }
}

impl Wish<'_> {
    /// The port behind the service port: the workload's own map overrides the service's, where 0 stands for a named
    /// port that only the workload can tell. A port that the service does not have leads nowhere; for a waypoint or
    /// gateway with an application tunnel it leads to itself (hbone.md 8).
    pub(crate) fn target_port(&self, key: &str, workload: &Workload) -> Option<u16> {
        let of_service = self.service.ports.0.get(&self.port).copied();
        if self.purpose == Purpose::Application && of_service.is_none() {
            return None;
        }
        let own = workload.services.get(key).and_then(|m| m.0.get(&self.port)).copied();
        let known = own.filter(|p| *p != 0).or(of_service.filter(|p| *p != 0));
        let tunnelled = self.purpose != Purpose::Application && workload.application_tunnel.is_some();
        known.or(tunnelled.then_some(self.port))
    }

    /// Whether traffic can and should get there: healthy (unless all are allowed), and with an address or, on another
    /// network, with a gateway.
    pub(crate) fn reachable(&self, workload: &Workload) -> bool {
        let all = self.service.load_balancing.as_ref().is_some_and(|lb| lb.health == HealthPolicy::AllowAll);
        let wanted = all || workload.health == Health::Healthy;
        let there = if self.purpose != Purpose::Gateway && workload.network != self.source.network {
            workload.network_gateway.is_some()
        } else {
            self.ip(workload).is_some() || workload.addresses.is_empty() && !workload.hostname.is_empty()
        };
        wanted && there
    }

    /// The address to use: the very one that was dialled, else one that the service's families allow, in the family
    /// that was dialled if there is one (hbone.md 7).
    pub(crate) fn ip(&self, workload: &Workload) -> Option<IpAddr> {
        let allowed = |ip: &IpAddr| match self.service.ip_families {
            IpFamilies::Automatic | IpFamilies::Dual => true,
            IpFamilies::Ipv4Only => ip.is_ipv4(),
            IpFamilies::Ipv6Only => ip.is_ipv6(),
        };
        let own = || workload.addresses.iter().copied().map(canonical);
        let dialled = canonical(self.dialled);
        own()
            .find(|ip| *ip == dialled)
            .or_else(|| own().filter(allowed).find(|ip| ip.is_ipv4() == dialled.is_ipv4()))
            .or_else(|| own().find(allowed))
    }

    /// How many leading scopes match, up to the first that does not; `None` when STRICT wants more. With NETWORK in
    /// front, an endpoint on another network is ranked by the rest, but below every one of the own network.
    pub(crate) fn rank(&self, workload: &Workload) -> Option<Match> {
        let Some(lb) = &self.service.load_balancing else { return Some((true, 0)) };
        let count = |scopes: &[Scope]| scopes.iter().take_while(|s| self.shares(**s, workload)).count();
        match lb.mode {
            LoadBalancingMode::Passthrough | LoadBalancingMode::Unspecified => Some((true, 0)),
            LoadBalancingMode::Strict => (count(&lb.preference) == lb.preference.len()).then_some((true, 0)),
            LoadBalancingMode::Failover => Some(match lb.preference.split_first() {
                Some((Scope::Network, rest)) => (self.shares(Scope::Network, workload), count(rest)),
                _ => (true, count(&lb.preference)),
            }),
        }
    }

    fn shares(&self, scope: Scope, workload: &Workload) -> bool {
        let (a, b) = (self.source, workload);
        match scope {
            Scope::Cluster => a.cluster_id == b.cluster_id,
            Scope::Network => a.network == b.network,
            Scope::Node => a.node == b.node,
            Scope::Region => a.locality.region == b.locality.region,
            Scope::Subzone => a.locality.subzone == b.locality.subzone,
            Scope::Zone => a.locality.zone == b.locality.zone,
        }
    }
}

/// Maps a random number to `0..total` evenly (up to a bias of `total` in 2^64); `None` when there is nothing to choose.
pub(crate) fn scale(random: u64, total: u64) -> Option<u64> {
    let product = u128::from(random) * u128::from(total);
    (total > 0).then_some((product >> 64) as u64)
}

/// Another random number from the same one, for the next choice on the way: the finaliser of SplitMix64.
pub(crate) fn next_random(random: u64) -> u64 {
    let mut z = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
